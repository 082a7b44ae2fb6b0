"""The causes of an exception."""

from collections.abc import Iterator


def causes(error: BaseException, *, with_suppressed: bool) -> Iterator[BaseException]:
    """Yield the exception and what caused it, the last cause last; each only once, because causes may form a circle.

    `with_suppressed`: also the exceptions that `raise … from None` hides.
    """
    seen = set[int]()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        yield cause
        seen.add(id(cause))
        hides_context = cause.__suppress_context__ and not with_suppressed
        cause = cause.__cause__ or (None if hides_context else cause.__context__)
