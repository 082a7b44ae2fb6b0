"""Splits a batch that the database refuses, until each refused row stands alone. The other rows are done."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

from attrs import define, field

from reactor.core.errors import DatabaseFailure, DatabaseRefused, DatabaseUnavailable

T = TypeVar("T")

_MOST_BUSY: Final = 3
"""After so many rows that failed alone because the database is busy, the others are not tried: each costs seconds."""


@define(kw_only=True)
class Undone(Generic[T]):
    """The rows of a batch that weren't done."""

    refused: list[tuple[T, DatabaseRefused]] = field(factory=list)
    """Rows that the database refuses alone."""

    failed: list[T] = field(factory=list)
    """Rows to try again soon: the database is away or busy."""

    error: DatabaseFailure | None = None
    """Why `failed` isn't empty."""


async def in_parts(rows: Sequence[T], call: Callable[[Sequence[T]], Awaitable[None]]) -> Undone[T]:
    """Call `call` with all rows. If the database refuses them or is busy with them, call it with each half, and so on.

    `call` raises DatabaseFailure, and then has done nothing.
    """
    undone = Undone[T]()
    parts = [rows] if rows else []
    while parts:
        part = parts.pop()
        try:
            await call(part)
        except DatabaseFailure as error:
            is_refused = isinstance(error, DatabaseRefused)
            is_busy = isinstance(error, DatabaseUnavailable) and error.is_busy
            if len(part) > 1 and (is_refused or is_busy):
                half = len(part) // 2
                parts += [part[half:], part[:half]]
            elif isinstance(error, DatabaseRefused):
                undone.refused.append((part[0], error))
            else:
                undone.failed += part
                undone.error = error
                if not is_busy or len(undone.failed) >= _MOST_BUSY:
                    undone.failed += [row for each in parts for row in each]
                    return undone
    return undone
