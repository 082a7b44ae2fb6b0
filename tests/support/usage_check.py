"""Compares storage_usage with the sums over the sources and runs of each user, after every test."""

from typing import Any

import psycopg

_WRONG = """
    with counted as (
        select user_id, coalesce(sum(size) filter (where storage_status = 'uploaded'), 0) as total,
               coalesce(sum(size) filter (where storage_status = 'pending'), 0) as reserved,
               count(*) filter (where storage_status = 'uploaded') as stored
          from (select user_id, storage_status, coalesce(byte_size, (to_jsonb(s) ->> 'file_size')::bigint) as size
                  from public.sources as s) as source
         group by user_id
    ), started as (
        select user_id, sum(n) as runs
          from (select user_id, billing_month, 1 as n from public.interpretation_runs
                union all
                select user_id, billing_month, count from reactor.deleted_interpretation) as run
         where billing_month = to_char(now() at time zone 'utc', 'YYYY-MM')
         group by user_id
    )
    select user_id, c.total, u.total_bytes, c.reserved, u.reserved_bytes, c.stored, u.total_sources,
           s.runs, u.interpretation_count_month
      from counted as c full join public.storage_usage as u using (user_id) full join started as s using (user_id)
     where user_id is not null
       and ((coalesce(c.total, 0), coalesce(c.reserved, 0), coalesce(c.stored, 0))
            is distinct from
            (coalesce(u.total_bytes, 0), coalesce(u.reserved_bytes, 0), coalesce(u.total_sources, 0)::bigint)
            or coalesce(s.runs, 0) is distinct from
               case when u.billing_month = to_char(now() at time zone 'utc', 'YYYY-MM')
                    then u.interpretation_count_month else 0 end)
"""


def wrong_usage(conn: psycopg.Connection[Any]) -> list[Any]:
    """Return a row for each user whose storage_usage differs from their sources and runs."""
    return conn.execute(_WRONG.encode()).fetchall()


def assert_usage_matches_rows(url: str) -> None:
    """Assert that storage_usage equals the sums over the rows. Does nothing if the database isn't migrated."""
    with psycopg.connect(url) as conn:
        if conn.execute("select to_regclass('reactor.deleted_interpretation')").fetchone() != (None,):
            assert wrong_usage(conn) == [], "storage_usage differs from the sum of the rows"
