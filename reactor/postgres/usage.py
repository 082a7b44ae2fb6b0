"""The users' books, as reconciliation looks after them."""

from reactor.postgres import statements
from reactor.postgres.connection import QueryRunner

_BATCH = 1000


class Books:
    """storage_usage and what is counted in it."""

    def __init__(self, database: QueryRunner) -> None:
        self._database = database

    async def mend(self) -> dict[str, int]:
        """Give leaked reservations back, turn months over; return how many of each kind. Raises DatabaseUnavailable."""
        mended: dict[str, int] = {}
        while True:
            rows = await self._database.call(statements.MEND_BOOKS, (_BATCH,))
            for kind, count in rows:
                mended[kind] = mended.get(kind, 0) + count
            if all(count < _BATCH for _, count in rows):
                return mended
