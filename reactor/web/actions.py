"""The actions of an operator. Each calls reactor.operate(), which writes the audit log in the same transaction."""

from collections.abc import Callable, Sequence
from typing import Any, Final, LiteralString
from uuid import UUID, uuid4

from anyio import to_thread
from attrs import frozen
from loguru import logger
from psycopg.types.json import Jsonb

from reactor.core.error_codes import CATALOGUE
from reactor.core.errors import ReactorError
from reactor.core.health import count_text
from reactor.core.model import WHY_UNCHANGED
from reactor.postgres import statements
from reactor.postgres.connection import QueryRunner
from reactor.storage.spool import Spool
from reactor.web.auth import Operator
from reactor.web.filters import Filter

BATCH_ROWS: Final = 500
"""Maximum number of rows that one call of reactor.operate() changes."""

MAX_RETRIED: Final = 10_000
"""Maximum number of uploads that one "retry all" retries. The result says how many uploads remain."""

_MATCHING: Final[LiteralString] = """
    select q.id
      from public.upload_queue as q
     where q.status = %s and q.status in ('dead', 'cancelled')
       and (%s::uuid is null or q.user_id = %s) and (%s::text is null or q.error_code = %s)
       and (%s::uuid[] is null or q.id = any (%s))
     order by q.updated_at, q.id
     limit %s
"""

_DONE_TEXTS: Final = {"retry": "due again", "cancel": "cancelled", "purge": "purged", "fail": "failed"}

RETRIABLE_STATUSES: Final = ("dead", "cancelled")
"""Statuses that "retry all" accepts; the reactor retries waiting uploads without an operator."""


@frozen
class ActionResult:
    """The result of an action. `changed` has the ids of the changed rows."""

    changed: list[str]
    unchanged: dict[str, str]
    """Maps the id of each unchanged row to the reason."""

    notes: list[str]
    done_text: str = ""
    """What happened to the changed rows; empty for an action without rows."""


@frozen(kw_only=True)
class Actions:
    """The changes that an authorised operator can make."""

    _database: QueryRunner
    _spool: Spool
    _request_reconcile: Callable[[], None]

    async def apply(self, action: str, ids: Sequence[UUID], operator: Operator, message: str) -> ActionResult:
        """Apply 'retry', 'cancel', 'purge' or 'fail' to the rows. 'fail' sets `message` as the runs' error message."""
        outcome = await self._operate(operator, action, ids, message=message)
        notes = [note for file in outcome["files"] if (note := await to_thread.run_sync(self._discard, file))]
        kept = {row_id: f"stays as it is: {CATALOGUE[code].message}" for row_id, code in outcome["kept"].items()}
        unchanged = {str(row_id): kept.get(str(row_id), WHY_UNCHANGED[action]) for row_id in ids}
        for row_id in outcome["changed"]:
            del unchanged[row_id]
        return ActionResult(outcome["changed"], unchanged, notes, _DONE_TEXTS[action])

    async def reconcile(self, operator: Operator) -> ActionResult:
        """Start a reconciliation now."""
        await self._operate(operator, "reconcile", ())
        self._request_reconcile()
        return ActionResult([], {}, ["a reconciliation has started"])

    async def count(self, wanted: Filter) -> int:
        """Return the number of uploads that match `wanted`, but at most MAX_RETRIED + 1."""
        return len(await self._matching(wanted, MAX_RETRIED + 1))

    async def retry_all(self, wanted: Filter, operator: Operator) -> ActionResult:
        """Retry the uploads that match `wanted`, in batches, the oldest change first.

        Uploads that die after the start are not retried.
        """
        ids = await self._matching(wanted, 2 * MAX_RETRIED + 1)
        chosen, remaining = ids[:MAX_RETRIED], len(ids) - MAX_RETRIED
        result = ActionResult([], {}, [], _DONE_TEXTS["retry"])
        for first in range(0, len(chosen), BATCH_ROWS):
            # select again, because another operator may have cancelled or retried some of them since
            batch = await self._matching(wanted, BATCH_ROWS, among=chosen[first : first + BATCH_ROWS])
            outcome = await self._operate(operator, "retry", batch, wanted=wanted)
            result.changed.extend(outcome["changed"])
            result.unchanged.update({row_id: CATALOGUE[code].message for row_id, code in outcome["kept"].items()})
        if remaining > 0:
            left = f"{count_text(remaining, MAX_RETRIED)} {'remains' if remaining == 1 else 'remain'}"
            result.notes.append(f"{left}: one action retries at most {MAX_RETRIED:,}; repeat it")
        return result

    async def _matching(self, wanted: Filter, limit: int, *, among: list[UUID] | None = None) -> list[UUID]:
        parameters = (wanted.status, wanted.user, wanted.user, wanted.code, wanted.code, among, among, limit)
        return [row_id for (row_id,) in await self._database.call(_MATCHING, parameters)]

    async def _operate(
        self, operator: Operator, action: str, ids: Sequence[UUID], *, wanted: Filter | None = None, message: str = ""
    ) -> dict[str, Any]:
        record = None if wanted is None else Jsonb(wanted.record())
        parameters = (uuid4(), operator.actor, operator.remote_address, action, list(ids), record, message)
        [(outcome,)] = await self._database.call(statements.OPERATE, parameters)
        logger.info("{} by {} from {}: {} of {}", action, operator.actor, operator.remote_address,
                    len(outcome["changed"]), len(ids))  # fmt: skip
        return dict(outcome)

    def _discard(self, file: tuple[str, str, str | None]) -> str | None:
        """Delete a purged upload's spooled file. Return a note if it is missing or can't be deleted."""
        row_id, spool, path = file
        try:
            removed = self._spool.discard(spool, path or "")
        except ReactorError as error:
            return f"the spooled file of {row_id} stays: {error}"
        return None if removed else f"{row_id} had no spooled file any more"
