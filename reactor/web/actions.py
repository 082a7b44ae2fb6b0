"""What an operator does to rows. Each action calls reactor.operate(), which logs it in the same transaction."""

from collections.abc import Callable, Sequence
from typing import Any, Final, LiteralString
from uuid import UUID, uuid4

from anyio import to_thread
from attrs import frozen
from loguru import logger
from psycopg.types.json import Jsonb

from reactor.core.error_codes import CATALOGUE
from reactor.core.errors import ReactorError
from reactor.core.model import WHY_UNCHANGED
from reactor.postgres import statements
from reactor.postgres.connection import QueryRunner
from reactor.storage.spool import Spool
from reactor.web.auth import Operator
from reactor.web.filters import LOWEST, Cursor, Filter

BATCH_ROWS: Final = 500
"""How many rows one call of reactor.operate() changes at most."""

MAX_RETRIED: Final = 10_000
"""How many uploads one "retry all" retries; the result counts the rest."""

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

RETRIABLE_STATUSES: Final = ("dead", "cancelled")
"""Statuses that "retry all" accepts; the reactor retries waiting uploads without an operator."""


@frozen(kw_only=True)
class ActionResult:
    """What an action changed."""

    changed: list[UUID]
    unchanged: dict[UUID, str]
    """Why each other row did not change."""

    notes: list[str]


class Actions:
    """The changes that an authorised operator can make."""

    def __init__(self, database: QueryRunner, *, spool: Spool, request_reconcile: Callable[[], None]) -> None:
        self._database = database
        self._spool = spool
        self._request_reconcile = request_reconcile

    async def apply(
        self, action: str, ids: Sequence[UUID], operator: Operator, *, message: str | None = None
    ) -> ActionResult:
        """Apply 'retry', 'cancel', 'purge' or 'fail' to the rows. `message` is a failed run's error message."""
        outcome = await self._operate(operator, action, ids, message=message)
        notes = [note for file in outcome["files"] if (note := await to_thread.run_sync(self._discard, file))]
        changed = [UUID(text) for text in outcome["changed"]]
        kept = {UUID(text): f"stays as it is: {CATALOGUE[code].message}" for text, code in outcome["kept"].items()}
        unchanged = {row_id: kept.get(row_id, WHY_UNCHANGED[action]) for row_id in ids if row_id not in set(changed)}
        return ActionResult(changed=changed, unchanged=unchanged, notes=notes)

    async def reconcile(self, operator: Operator) -> None:
        """Start a reconciliation now."""
        await self._operate(operator, "reconcile", ())
        self._request_reconcile()

    async def count(self, wanted: Filter) -> int:
        """Count the uploads that match, up to MAX_RETRIED + 1."""
        parameters = _parameters(wanted, LOWEST, until="infinity", limit=MAX_RETRIED + 1)
        [(count,)] = await self._database.call(_COUNT, parameters)
        return int(count)

    async def retry_all(self, wanted: Filter, operator: Operator) -> ActionResult:
        """Retry the uploads that match, in batches, the longest dead first; none that died after the start."""
        [(until,)] = await self._database.call(_NOW)
        after = LOWEST
        changed: list[UUID] = []
        unchanged: dict[UUID, str] = {}
        seen = 0
        while seen < MAX_RETRIED:
            limit = min(BATCH_ROWS, MAX_RETRIED - seen)
            batch = await self._database.call(_MATCHING, _parameters(wanted, after, until=until, limit=limit))
            if not batch:
                break
            seen += len(batch)
            last_id, _, moment = batch[-1]
            after = Cursor(moment, last_id)
            outcome = await self._operate(operator, "retry", [row[0] for row in batch], wanted=wanted)
            changed += [UUID(text) for text in outcome["changed"]]
            unchanged |= {UUID(text): CATALOGUE[code].message for text, code in outcome["kept"].items()}
        parameters = _parameters(wanted, after, until=until, limit=MAX_RETRIED + 1)
        [(remaining,)] = await self._database.call(_COUNT, parameters)
        notes = []
        if remaining:
            count = f"more than {MAX_RETRIED:,}" if remaining > MAX_RETRIED else f"{remaining:,}"
            notes.append(f"{count} remain: one action retries at most {MAX_RETRIED:,}; repeat it")
        return ActionResult(changed=changed, unchanged=unchanged, notes=notes)

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
        parameters = (uuid4(), operator.actor, operator.remote_address, action, list(ids), record, message)
        [(outcome,)] = await self._database.call(statements.OPERATE, parameters)
        logger.info("{} by {} from {}: {} of {}", action, operator.actor, operator.remote_address,
                    len(outcome["changed"]), len(ids))  # fmt: skip
        return dict(outcome)

    def _discard(self, file: tuple[str, str, str | None]) -> str | None:
        """Delete a purged upload's spooled file. Return a note when there was none, or when it can't be deleted."""
        row_id, spool, path = file
        try:
            removed = self._spool.discard(spool, path or "")
        except ReactorError as error:
            return f"the spooled file of {row_id} stays: {error}"
        return None if removed else f"{row_id} had no spooled file any more"


def _parameters(wanted: Filter, after: Cursor, *, until: str, limit: int) -> tuple[Any, ...]:
    matches = (wanted.status, wanted.user, wanted.user, wanted.code, wanted.code)
    return (*matches, after.moment, after.row_id, until, limit)
