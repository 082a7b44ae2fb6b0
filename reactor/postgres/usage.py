"""Repairs of what is counted per user in storage_usage."""

from collections import Counter

from reactor.postgres import statements
from reactor.postgres.connection import QueryRunner

_BATCH = 1000


class StorageUsage:
    """The table storage_usage."""

    def __init__(self, database: QueryRunner) -> None:
        self._database = database

    async def repair(self) -> dict[str, int]:
        """Release old reservations, start months; return how many of each kind. Raises DatabaseUnavailable."""
        repaired: Counter[str] = Counter()
        while True:
            counts = dict(await self._database.call(statements.REPAIR_USAGE, (_BATCH,)))
            repaired.update(counts)
            if all(count < _BATCH for count in counts.values()):
                return repaired
