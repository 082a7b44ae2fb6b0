"""Lists from the database, one page at a time. Each page walks an index from where the previous page ended.

With a rare filter a page would walk all of a long queue. A page therefore scans a limited number of rows; when it found
too few, it says how many it scanned, and the next page continues there.
"""

from collections.abc import Sequence
from typing import Any, Final, LiteralString
from uuid import UUID

from attrs import frozen

from reactor.postgres.connection import QueryRunner
from reactor.web.filters import HIGHEST, LOWEST, Cursor, Filter

PAGE_ROWS: Final = 50
MAX_SCANNED_ROWS: Final = 20_000

_UPLOAD: Final[LiteralString] = """
    select q.id, q.user_id, q.status, q.retry_count, q.max_retries, left(q.bucket, 200) as bucket,
           left(q.object_path, 200) as object_path, q.byte_size, q.next_retry_at, left(q.error_code, 80) as error_code,
           left(q.error_message, 200) as error_message, q.created_at, q.updated_at,
"""

_RUN: Final[LiteralString] = """
    select r.id, r.user_id, r.source_id, r.status, left(r.error_code, 80) as error_code,
           left(r.error_message, 200) as error_message, r.started_at, r.heartbeat_at, r.timeout_at, r.completed_at,
           coalesce(r.created_at, '-infinity') as moment
      from public.interpretation_runs as r
     where (coalesce(r.created_at, '-infinity'), r.id) < (%s::timestamptz, %s::uuid)
"""

_NEWEST_RUN_FIRST: Final[LiteralString] = """
     order by coalesce(r.created_at, '-infinity') desc, r.id desc
"""


def _last_changed_first(status: LiteralString) -> LiteralString:
    return f"""{_UPLOAD}
           q.updated_at as moment
      from public.upload_queue as q
     where q.status = '{status}' and (q.updated_at, q.id) < (%s::timestamptz, %s::uuid)
     order by q.updated_at desc, q.id desc
"""


_UPLOAD_WALKS: Final[dict[str, LiteralString]] = {
    "failed": f"""{_UPLOAD}
           greatest(q.next_retry_at, 'epoch') as moment
      from public.upload_queue as q
     where q.status = 'failed' and (greatest(q.next_retry_at, 'epoch'), q.id) > (%s::timestamptz, %s::uuid)
     order by greatest(q.next_retry_at, 'epoch'), q.id
""",
    "uploading": f"""{_UPLOAD}
           q.updated_at as moment
      from public.upload_queue as q
     where q.status = 'uploading' and (q.updated_at, q.id) > (%s::timestamptz, %s::uuid)
     order by q.updated_at, q.id
""",
    "dead": _last_changed_first("dead"),
    "cancelled": _last_changed_first("cancelled"),
}

_AUDIT: Final[LiteralString] = """
    select a.id, a.at, a.actor, a.remote_address, a.action, a.ids[1:5] as ids, cardinality(a.ids) as asked, a.filter,
           a.changed, a.at as moment
      from reactor.audit_log as a
     where (a.at, a.id) < (%s::timestamptz, %s::uuid)
     order by a.at desc, a.id desc
"""

_MATCHES: Final[LiteralString] = """
         where (%s::uuid is null or s.user_id = %s) and (%s::text is null or s.error_code = %s)
           and (%s::text is null or s.status = %s)
"""


def _page_statement(walk: LiteralString, matches: LiteralString) -> LiteralString:
    """Return the statement of one page. The filter is outside of the walk, so that the walk's limit counts all rows."""
    return f"""
    with scanned as materialized (select w.*, row_number() over () as n from ({walk}
         limit %s) as w
    ), found as materialized (
        select s.* from scanned as s {matches}
         order by s.n
         limit %s
    )
    select (select count(*)::int from scanned) as scanned,
           (select to_jsonb(s.moment) #>> '{{}}' from scanned as s order by s.n desc limit 1) as last_moment,
           (select s.id from scanned as s order by s.n desc limit 1) as last_id,
           (select coalesce(jsonb_agg(to_jsonb(f) order by f.n), '[]') from found as f) as rows
"""


UPLOADS: Final = {status: _page_statement(walk, _MATCHES) for status, walk in _UPLOAD_WALKS.items()}
"""By status. Parameters: the cursor (moment, id), rows to scan; user, code, status, each twice; rows to return."""

RUNNING: Final = _page_statement(_RUN + " and r.status = 'running'" + _NEWEST_RUN_FIRST, _MATCHES)
RUNS: Final = _page_statement(_RUN + _NEWEST_RUN_FIRST, _MATCHES)
AUDIT: Final = _page_statement(_AUDIT, "")


@frozen(kw_only=True)
class ListPage:
    """Some rows of a list."""

    rows: list[dict[str, Any]]
    after: str | None
    """The next page's cursor; None on the last page."""

    scanned: int | None
    """How many rows were scanned, if the page is short because the scan ended; else None."""


class Listings:
    """The lists of one database."""

    def __init__(self, database: QueryRunner) -> None:
        self._database = database

    async def uploads(self, wanted: Filter, after: Cursor) -> ListPage:
        """Return a page of uploads: waiting ones by due time, the others by their last change."""
        return await self._filtered(UPLOADS[wanted.status], wanted, after)

    async def runs(self, wanted: Filter, after: Cursor) -> ListPage:
        """Return a page of runs, the newest first."""
        if wanted.status == "running":
            return await self._filtered(RUNNING, wanted, after)
        return await self._filtered(RUNS, wanted, after, status=wanted.status)

    async def audit(self, after: Cursor) -> ListPage:
        """Return a page of the audit log, the newest first."""
        return await self._page(AUDIT, after, (), scan_rows=PAGE_ROWS + 1)

    async def _filtered(
        self, statement: LiteralString, wanted: Filter, after: Cursor, *, status: str | None = None
    ) -> ListPage:
        is_filtered = wanted.user is not None or wanted.code is not None or status is not None
        matches = [value for value in (wanted.user, wanted.code, status) for _ in range(2)]
        scan_rows = MAX_SCANNED_ROWS if is_filtered else PAGE_ROWS + 1
        return await self._page(statement, after, matches, scan_rows=scan_rows)

    async def _page(
        self, statement: LiteralString, after: Cursor, matches: Sequence[Any], *, scan_rows: int
    ) -> ListPage:
        parameters = (after.moment, after.row_id, scan_rows, *matches, PAGE_ROWS + 1)
        [(scanned, last_moment, last_id, found)] = await self._database.call(statement, parameters)
        rows: list[dict[str, Any]] = found[:PAGE_ROWS]
        if len(found) > PAGE_ROWS:
            return ListPage(rows=rows, after=Cursor(rows[-1]["moment"], UUID(rows[-1]["id"])).encode(), scanned=None)
        if scanned == scan_rows:
            return ListPage(rows=rows, after=Cursor(last_moment, last_id).encode(), scanned=scan_rows)
        return ListPage(rows=rows, after=None, scanned=None)


def first_page(wanted: Filter) -> Cursor:
    """Return where a list of uploads starts: waiting and uploading ones ascend, the others descend."""
    return LOWEST if wanted.status in {"failed", "uploading"} else HIGHEST
