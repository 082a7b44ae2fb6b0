"""Reads lists from the database, one page at a time. Each page scans an index from the end of the previous page.

If few rows match a filter, filling a page could require a scan of the whole queue. A page therefore scans a limited
number of rows. If it reaches the limit, it reports how many rows it scanned, and the next page continues the scan.
"""

from typing import Any, Final, LiteralString
from uuid import UUID

from attrs import frozen

from reactor.postgres.connection import QueryRunner
from reactor.web.filters import HIGHEST, LOWEST, Cursor, Filter, parse_cursor

PAGE_ROWS: Final = 50
MAX_SCANNED_ROWS: Final = 20_000

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


_ASCENDING: Final = (">", "asc")
_DESCENDING: Final = ("<", "desc")


def _upload_walk(
    status: LiteralString, order: tuple[LiteralString, LiteralString], moment: LiteralString = "q.updated_at"
) -> LiteralString:
    beyond, direction = order
    return f"""
    select q.id, q.user_id, q.status, q.retry_count, q.max_retries, left(q.bucket, 200) as bucket,
           left(q.object_path, 200) as object_path, q.byte_size, q.next_retry_at, left(q.error_code, 80) as error_code,
           left(q.error_message, 200) as error_message, q.created_at, q.updated_at,
           {moment} as moment
      from public.upload_queue as q
     where q.status = '{status}' and ({moment}, q.id) {beyond} (%s::timestamptz, %s::uuid)
     order by {moment} {direction}, q.id {direction}
"""


def _run_walk(only: LiteralString) -> LiteralString:
    return f"""
    select r.id, r.user_id, r.source_id, r.status, left(r.error_code, 80) as error_code,
           left(r.error_message, 200) as error_message, r.started_at, r.heartbeat_at, r.timeout_at, r.completed_at,
           coalesce(r.created_at, '-infinity') as moment
      from public.interpretation_runs as r
     where (coalesce(r.created_at, '-infinity'), r.id) < (%s::timestamptz, %s::uuid) {only}
     order by coalesce(r.created_at, '-infinity') desc, r.id desc
"""


def _page_statement(walk: LiteralString, matches: LiteralString) -> LiteralString:
    """Return the statement of one page. The filter is outside of the walk, so the limit counts all scanned rows."""
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


UPLOADS: Final = {
    "failed": _page_statement(_upload_walk("failed", _ASCENDING, "greatest(q.next_retry_at, 'epoch')"), _MATCHES),
    "uploading": _page_statement(_upload_walk("uploading", _ASCENDING), _MATCHES),
    "dead": _page_statement(_upload_walk("dead", _DESCENDING), _MATCHES),
    "cancelled": _page_statement(_upload_walk("cancelled", _DESCENDING), _MATCHES),
}
"""Maps a status to its statement.

Parameters: cursor (moment, id); rows to scan; user, code and status, each twice; rows to return."""

RUNNING: Final = _page_statement(_run_walk("and r.status = 'running'"), _MATCHES)
RUNS: Final = _page_statement(_run_walk(""), _MATCHES)
AUDIT: Final = _page_statement(_AUDIT, "")


ListPage = dict[str, Any]
"""Keys: `rows`; `after`, the cursor of the next page, None on the last page; and `scanned`, the number of rows scanned
if the page reached the limit of the scan, else None."""


@frozen
class Listings:
    """The lists of one database."""

    _database: QueryRunner

    async def uploads(self, wanted: Filter, after: str | None) -> ListPage:
        """Return a page of uploads. Raises HttpError.

        Order: 'failed' by due time and 'uploading' by last change, both the earliest first; 'dead' and 'cancelled' by
        last change, the newest first.
        """
        start = LOWEST if wanted.status in {"failed", "uploading"} else HIGHEST
        return await self._page(UPLOADS[wanted.status], after, wanted.user, wanted.code, None, start=start)

    async def runs(self, wanted: Filter, after: str | None) -> ListPage:
        """Return a page of runs, the newest first. Raises HttpError."""
        if wanted.status == "running":
            return await self._page(RUNNING, after, wanted.user, wanted.code, None)
        return await self._page(RUNS, after, wanted.user, wanted.code, wanted.status)

    async def audit(self, after: str | None) -> ListPage:
        """Return a page of the audit log, the newest first. Raises HttpError."""
        return await self._page(AUDIT, after)

    async def _page(
        self, statement: LiteralString, after: str | None, *matches: Any, start: Cursor = HIGHEST
    ) -> ListPage:
        cursor = parse_cursor(after, start)
        scan_rows = PAGE_ROWS + 1 if set(matches) <= {None} else MAX_SCANNED_ROWS
        twice = (value for value in matches for _ in range(2))
        parameters = (cursor.moment, cursor.row_id, scan_rows, *twice, PAGE_ROWS + 1)
        [(scanned, last_moment, last_id, found)] = await self._database.call(statement, parameters)
        rows: list[dict[str, Any]] = found[:PAGE_ROWS]
        if len(found) > PAGE_ROWS:
            return {"rows": rows, "after": Cursor(rows[-1]["moment"], UUID(rows[-1]["id"])).encode(), "scanned": None}
        if scanned == scan_rows:
            return {"rows": rows, "after": Cursor(last_moment, last_id).encode(), "scanned": scan_rows}
        return {"rows": rows, "after": None, "scanned": None}
