"""Lists straight from the database, a page at a time: each walks an index from where the last page ended.

A filter that hardly anything passes would walk all of a long queue. So a page looks at so many rows and no more; where
it found too few, it says how far it has looked, and the next one goes on from there.
"""

from collections.abc import Sequence
from typing import Any, Final, LiteralString
from uuid import UUID

from attrs import frozen

from reactor.postgres.connection import QueryRunner
from reactor.web.filters import FIRST, LAST, Filter, Place

PAGE: Final = 50
LOOK: Final = 20_000

Row = dict[str, Any]

_UPLOAD: Final[LiteralString] = """
    select q.id, q.user_id, q.status, q.retry_count, q.max_retries, left(q.bucket, 200) as bucket,
           left(q.object_path, 200) as object_path, q.byte_size, q.next_retry_at, left(q.error_code, 80) as error_code,
           left(q.error_message, 200) as error_message, q.created_at, q.updated_at,
"""

_RUN: Final[LiteralString] = """
    select r.id, r.user_id, r.source_id, r.status, left(r.error_code, 80) as error_code,
           left(r.error_message, 200) as error_message, r.started_at, r.heartbeat_at, r.timeout_at, r.completed_at,
           coalesce(r.created_at, '-infinity') as place
      from public.interpretation_runs as r
     where (coalesce(r.created_at, '-infinity'), r.id) < (%s::timestamptz, %s::uuid)
"""

_NEWEST_RUN_FIRST: Final[LiteralString] = """
     order by coalesce(r.created_at, '-infinity') desc, r.id desc
"""


def _given_up(status: LiteralString) -> LiteralString:
    return f"""{_UPLOAD}
           q.updated_at as place
      from public.upload_queue as q
     where q.status = '{status}' and (q.updated_at, q.id) < (%s::timestamptz, %s::uuid)
     order by q.updated_at desc, q.id desc
"""


_UPLOADS_WALKED: Final[dict[str, LiteralString]] = {
    "failed": f"""{_UPLOAD}
           greatest(q.next_retry_at, 'epoch') as place
      from public.upload_queue as q
     where q.status = 'failed' and (greatest(q.next_retry_at, 'epoch'), q.id) > (%s::timestamptz, %s::uuid)
     order by greatest(q.next_retry_at, 'epoch'), q.id
""",
    "uploading": f"""{_UPLOAD}
           q.updated_at as place
      from public.upload_queue as q
     where q.status = 'uploading' and (q.updated_at, q.id) > (%s::timestamptz, %s::uuid)
     order by q.updated_at, q.id
""",
    "dead": _given_up("dead"),
    "cancelled": _given_up("cancelled"),
}

_AUDIT: Final[LiteralString] = """
    select a.id, a.at, a.actor, a.remote_address, a.action, a.ids[1:5] as ids, cardinality(a.ids) as asked, a.filter,
           a.changed, a.at as place
      from reactor.audit_log as a
     where (a.at, a.id) < (%s::timestamptz, %s::uuid)
     order by a.at desc, a.id desc
"""

_PASSES: Final[LiteralString] = """
         where (%s::uuid is null or l.user_id = %s) and (%s::text is null or l.error_code = %s)
           and (%s::text is null or l.status = %s)
"""


def _page_of(walk: LiteralString, passes: LiteralString) -> LiteralString:
    """Return the statement of a page. The filter isn't in the walk: that must end after so many rows, passed or not."""
    return f"""
    with looked as materialized (select w.*, row_number() over () as n from ({walk}
         limit %s) as w
    ), found as materialized (
        select l.* from looked as l {passes}
         order by l.n
         limit %s
    )
    select (select count(*)::int from looked) as looked,
           (select to_jsonb(l.place) #>> '{{}}' from looked as l order by l.n desc limit 1) as last_moment,
           (select l.id from looked as l order by l.n desc limit 1) as last_id,
           (select coalesce(jsonb_agg(to_jsonb(f) order by f.n), '[]') from found as f) as rows
"""


UPLOADS: Final = {status: _page_of(walk, _PASSES) for status, walk in _UPLOADS_WALKED.items()}
"""By status. Parameters: the place (moment, id), how many to look at; user, code, status, each twice; how many rows."""

RUNNING: Final = _page_of(_RUN + " and r.status = 'running'" + _NEWEST_RUN_FIRST, _PASSES)
RUNS: Final = _page_of(_RUN + _NEWEST_RUN_FIRST, _PASSES)
AUDIT: Final = _page_of(_AUDIT, "")


@frozen(kw_only=True)
class Page:
    """Some rows of a list."""

    rows: list[Row]
    after: str | None
    """The cursor of the page after this one; None: this is the last."""

    looked: int | None
    """How many rows were looked at, where a page is short for that and not for want of rows."""


class Lists:
    """The lists of one database."""

    def __init__(self, database: QueryRunner) -> None:
        self._database = database

    async def uploads(self, wanted: Filter, place: Place) -> Page:
        """Return a page of uploads: the waiting by when they are due, the others by when they last changed."""
        return await self._chosen(UPLOADS[wanted.status], wanted, place)

    async def runs(self, wanted: Filter, place: Place) -> Page:
        """Return a page of runs, the newest first."""
        if wanted.status == "running":
            return await self._chosen(RUNNING, wanted, place)
        return await self._chosen(RUNS, wanted, place, status=wanted.status)

    async def audit(self, place: Place) -> Page:
        """Return a page of the audit log, the newest first."""
        return await self._page(AUDIT, place, (), look=PAGE + 1)

    async def _chosen(
        self, statement: LiteralString, wanted: Filter, place: Place, *, status: str | None = None
    ) -> Page:
        is_picky = wanted.user is not None or wanted.code is not None or status is not None
        passes = [value for value in (wanted.user, wanted.code, status) for _ in range(2)]
        return await self._page(statement, place, passes, look=LOOK if is_picky else PAGE + 1)

    async def _page(self, statement: LiteralString, place: Place, passes: Sequence[Any], *, look: int) -> Page:
        arguments = (place.moment, place.row_id, look, *passes, PAGE + 1)
        [(looked, last_moment, last_id, found)] = await self._database.call(statement, arguments)
        rows: list[Row] = found[:PAGE]
        if len(found) > PAGE:
            return Page(rows=rows, after=Place(rows[-1]["place"], UUID(rows[-1]["id"])).cursor(), looked=None)
        if looked == look:
            return Page(rows=rows, after=Place(last_moment, last_id).cursor(), looked=look)
        return Page(rows=rows, after=None, looked=None)


def start_of(wanted: Filter) -> Place:
    """Return where a list of uploads begins: the waiting with the earliest, all others with the newest."""
    return FIRST if wanted.status in {"failed", "uploading"} else LAST
