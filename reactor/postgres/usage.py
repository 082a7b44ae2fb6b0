"""Repairs the table storage_usage, which counts the usage of each user."""

from collections import Counter

from reactor.postgres import statements
from reactor.postgres.connection import QueryRunner

_BATCH = 1000


class StorageUsage:
    """Calls the SQL function that repairs storage_usage."""

    def __init__(self, database: QueryRunner) -> None:
        self._database = database

    async def repair(self) -> dict[str, int]:
        """Release leaked reservations, and begin new billing months; return the number of rows of each kind.

        Raises DatabaseUnavailable.
        """
        repaired: Counter[str] = Counter()
        while True:
            counts = dict(await self._database.call(statements.REPAIR_USAGE, (_BATCH,)))
            repaired.update(counts)
            if all(count < _BATCH for count in counts.values()):
                return repaired
