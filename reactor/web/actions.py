"""What an operator does to rows: each a call of reactor.operate(), which writes it down in the same transaction."""

from collections.abc import Callable, Sequence
from typing import Any, Final, LiteralString
from uuid import UUID, uuid4

from anyio import to_thread
from attrs import frozen
from loguru import logger
from psycopg.types.json import Jsonb

from reactor.core.error_codes import CATALOGUE
from reactor.core.errors import ReactorError
from reactor.core.operations import WHY_UNCHANGED
from reactor.postgres import statements
from reactor.postgres.connection import QueryRunner
from reactor.storage.spool import Spool
from reactor.web.auth import Operator
from reactor.web.filters import FIRST, Filter, Place

AT_ONCE: Final = 500
AT_MOST: Final = 10_000
"""How many uploads one "retry all" puts back; the others are told of, and it may be repeated."""

_MATCHING: Final[LiteralString] = """
    select q.id, q.updated_at, to_jsonb(q.updated_at) #>> '{}' as moment
      from public.upload_queue as q
     where q.status = %s and q.status in ('dead', 'cancelled')
       and (%s::uuid is null or q.user_id = %s) and (%s::text is null or q.error_code = %s)
       and (q.updated_at, q.id) > (%s::timestamptz, %s::uuid) and q.updated_at <= %s::timestamptz
     order by q.updated_at, q.id
     limit %s
"""

_COUNT: Final[LiteralString] = f"select count(*)::int as count from ({_MATCHING}) as m"

_NOW: Final[LiteralString] = "select to_jsonb(clock_timestamp()) #>> '{}' as now_at"

_EVER: Final = "infinity"

RETRIABLE: Final = ("dead", "cancelled")
"""The states out of which a whole filter may be put back; what waits is tried by itself."""


@frozen(kw_only=True)
class Done:
    """What an action came to."""

    changed: list[UUID]
    left: dict[UUID, str]
    """Why each of the others stayed as it was."""

    notes: list[str]


class Actions:
    """What may be done, by whoever has shown that they may."""

    def __init__(self, database: QueryRunner, *, spool: Spool, reconcile: Callable[[], None]) -> None:
        self._database = database
        self._spool = spool
        self._reconcile = reconcile

    async def do(self, action: str, ids: Sequence[UUID], operator: Operator, *, message: str | None = None) -> Done:
        """Do something to these rows."""
        outcome = await self._operate(operator, action, ids, message=message)
        notes = [note for file in outcome["files"] if (note := await to_thread.run_sync(self._discard, file))]
        changed = [UUID(text) for text in outcome["changed"]]
        kept = {UUID(text): f"stays as it is: {CATALOGUE[code].message}" for text, code in outcome["kept"].items()}
        left = {row_id: kept.get(row_id, WHY_UNCHANGED[action]) for row_id in ids if row_id not in set(changed)}
        return Done(changed=changed, left=left, notes=notes)

    async def reconcile(self, operator: Operator) -> None:
        """Begin a whole pass now."""
        await self._operate(operator, "reconcile", ())
        self._reconcile()

    async def count(self, wanted: Filter) -> int:
        """Count what a filter chooses, no further than a little above `AT_MOST`."""
        [(count,)] = await self._database.call(_COUNT, _arguments(wanted, FIRST, _EVER, AT_MOST + 1))
        return int(count)

    async def retry_all(self, wanted: Filter, operator: Operator) -> Done:
        """Put back what a filter chooses, in batches, the longest dead first; what dies meanwhile is left alone."""
        [(until,)] = await self._database.call(_NOW)
        place = FIRST
        changed: list[UUID] = []
        left: dict[UUID, str] = {}
        seen = 0
        while seen < AT_MOST:
            limit = min(AT_ONCE, AT_MOST - seen)
            batch = await self._database.call(_MATCHING, _arguments(wanted, place, until, limit))
            if not batch:
                break
            seen += len(batch)
            last_id, _, moment = batch[-1]
            place = Place(moment, last_id)
            outcome = await self._operate(operator, "retry", [row[0] for row in batch], wanted=wanted)
            changed += [UUID(text) for text in outcome["changed"]]
            left |= {UUID(text): CATALOGUE[code].message for text, code in outcome["kept"].items()}
        [(more,)] = await self._database.call(_COUNT, _arguments(wanted, place, until, AT_MOST + 1))
        notes = []
        if more:
            words = f"more than {AT_MOST:,}" if more > AT_MOST else f"{more:,}"
            notes.append(f"{words} remain: one action puts back {AT_MOST:,} at most, do it again")
        return Done(changed=changed, left=left, notes=notes)

    async def _operate(
        self,
        operator: Operator,
        action: str,
        ids: Sequence[UUID],
        *,
        wanted: Filter | None = None,
        message: str | None = None,
    ) -> dict[str, Any]:
        record = None if wanted is None else Jsonb(wanted.record())
        arguments = (uuid4(), operator.actor, operator.remote_address, action, list(ids), record, message)
        [(outcome,)] = await self._database.call(statements.OPERATE, arguments)
        logger.info("{} by {} from {}: {} of {}", action, operator.actor, operator.remote_address,
                    len(outcome["changed"]), len(ids))  # fmt: skip
        return dict(outcome)

    def _discard(self, file: tuple[str, str, str | None]) -> str | None:
        """Remove a purged upload's spooled file; return what is to be said of it."""
        row_id, spool, path = file
        try:
            removed = self._spool.discard(spool, path or "")
        except ReactorError as error:
            return f"the spooled file of {row_id} stays: {error}"
        return None if removed else f"{row_id} had no spooled file any more"


def _arguments(wanted: Filter, place: Place, until: str, limit: int) -> tuple[Any, ...]:
    passes = (wanted.status, wanted.user, wanted.user, wanted.code, wanted.code)
    return (*passes, place.moment, place.row_id, until, limit)
