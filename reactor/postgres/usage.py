"""The users' books, as reconciliation looks after them."""

from reactor.postgres import statements
from reactor.postgres.connection import QueryRunner

_BATCH = 1000


class StorageUsage:
    """storage_usage and what is counted in it."""

    def __init__(self, database: QueryRunner) -> None:
        self._database = database

    async def repair(self) -> dict[str, int]:
        """Give leaked reservations back, turn months over; return how many of each kind. Raises DatabaseUnavailable."""
        repaired: dict[str, int] = {}
        while True:
            rows = await self._database.call(statements.REPAIR_USAGE, (_BATCH,))
            for kind, count in rows:
                repaired[kind] = repaired.get(kind, 0) + count
            if all(count < _BATCH for _, count in rows):
                return repaired
