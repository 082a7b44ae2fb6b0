"""Splits the rows of a statement that the database refuses, down to the rows that it refuses alone."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from reactor.core.errors import DatabaseFailure, DatabaseRefused, DatabaseUnavailable

T = TypeVar("T")

_SIZE: Final = 500
"""Rows in one statement: the size of the engine's batches."""

_SIZE_IF_REFUSED: Final = 150
"""Rows in one statement after a refusal: a refused row costs its statement, so smaller ones waste less."""

_CAREFUL_FOR: Final = 50
"""Number of statements, after a refusal, that have at most _SIZE_IF_REFUSED rows."""

_PARTS: Final = 8

_SPLIT_FOR_S: Final = 0.4
"""Maximum time for splitting a part that waits for locks: each try may wait for 0.1 s."""


class StatementParts:
    """The number of rows in one statement, which depends on recent refusals."""

    def __init__(self) -> None:
        self._careful_for = 0

    def size(self) -> int:
        """Return the number of rows for the next statement."""
        if self._careful_for:
            self._careful_for -= 1
            return _SIZE_IF_REFUSED
        return _SIZE

    def record_refusal(self) -> None:
        """Make the next statements smaller."""
        self._careful_for = _CAREFUL_FOR

    async def call(
        self, run: Callable[[Sequence[T]], Awaitable[None]], items: Sequence[T]
    ) -> list[tuple[T, DatabaseFailure]]:
        """Run a statement for all items, and split a part that the database refuses; return the items refused alone.

        Also splits a part that waits for a lock, for _SPLIT_FOR_S, and returns the items of what is left. Raises
        what is no item's fault.
        """
        now, split_until = asyncio.get_running_loop().time, math.inf
        refused: list[tuple[T, DatabaseFailure]] = []
        parts = _divided(items, self.size())
        while parts:
            part = parts.pop()
            try:
                await run(part)
            except DatabaseFailure as failure:
                if not part or not concerns_rows(failure):
                    raise
                self.record_refusal()
                is_refused = isinstance(failure, DatabaseRefused)
                if not is_refused:
                    split_until = min(split_until, now() + _SPLIT_FOR_S)
                if len(part) == 1 or (not is_refused and now() >= split_until):
                    refused += [(item, failure) for item in part]
                else:
                    parts += _divided(part, math.ceil(len(part) / _PARTS))
        return refused


def concerns_rows(failure: DatabaseFailure) -> bool:
    """Return whether the statement may succeed for fewer rows: the database refuses some, or waits for their locks."""
    return isinstance(failure, DatabaseRefused) or (isinstance(failure, DatabaseUnavailable) and failure.is_busy)


def _divided(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """Divide a sequence into parts of `size`. An empty sequence is one empty part."""
    return [items[first : first + size] for first in range(0, max(1, len(items)), size)]
