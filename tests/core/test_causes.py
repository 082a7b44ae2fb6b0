"""Tests of the causes of an exception."""

import pytest

from reactor.core.causes import causes


def raised(error: Exception, cause: Exception | None) -> Exception:
    with pytest.raises(type(error)) as caught:
        raise error from cause
    return caught.value


def test_causes_are_yielded_from_the_exception_to_the_last_cause() -> None:
    last = OSError("last")
    first = raised(ValueError("first"), last)

    assert list(causes(first, with_suppressed=False)) == [first, last]
    assert list(causes(last, with_suppressed=False)) == [last]


def test_a_suppressed_context_is_a_cause_only_on_request() -> None:
    error = ValueError("first")
    error.__context__ = OSError("last")
    assert len(list(causes(error, with_suppressed=False))) == 2

    error.__suppress_context__ = True
    assert list(causes(error, with_suppressed=False)) == [error]
    assert len(list(causes(error, with_suppressed=True))) == 2


def test_a_circle_of_causes_ends() -> None:
    """urllib3 and botocore may raise such a circle when a connection breaks."""
    first, second = ValueError("first"), OSError("second")
    first.__cause__, second.__context__ = second, first

    assert list(causes(first, with_suppressed=True)) == [first, second]
