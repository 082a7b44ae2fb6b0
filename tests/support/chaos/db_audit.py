"""A witness inside the database: triggers of the tests' own that write down what no row remembers.

Every claim with the lease that it took over from, and, as violations, what must never happen at any commit: a claim of
a row under somebody else's lease, an attempt before its time or past the allowed number, a row that goes without having
been held, and a healthy run that is failed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.rows import dict_row

_INSTALL = """
create schema witness;
create table witness.claim (
    at timestamptz not null default clock_timestamp(), upload_id uuid not null, token uuid not null,
    attempt int not null, due_at timestamptz, previous_lease timestamptz);
create table witness.expiry (
    at timestamptz not null default clock_timestamp(), run_id uuid not null, late interval not null);
create table witness.violation (
    at timestamptz not null default clock_timestamp(), rule text not null, what text not null);

create function witness.see_upload()
    returns trigger language plpgsql security definer set search_path = pg_catalog as $$
begin
    if tg_op = 'DELETE' then
        if old.status <> 'uploading' or old.lease_token is null then
            insert into witness.violation (rule, what) values ('a row goes only while it is held', old::text);
        end if;
        return old;
    end if;
    if new.lease_token is not null and new.lease_token is distinct from old.lease_token then
        insert into witness.claim (upload_id, token, attempt, due_at, previous_lease)
        values (new.id, new.lease_token, new.retry_count, old.next_retry_at, old.lease_expires_at);
        if old.status = 'uploading' and old.lease_expires_at > clock_timestamp() then
            insert into witness.violation (rule, what) values ('a lease that holds is not taken', old::text);
        elsif old.status = 'failed' and old.next_retry_at > clock_timestamp() then
            insert into witness.violation (rule, what) values ('no attempt before its time', old::text);
        end if;
        if new.retry_count > new.max_retries or new.retry_count <> old.retry_count + 1 then
            insert into witness.violation (rule, what) values ('attempts are counted and bounded', new::text);
        end if;
    end if;
    return new;
end $$;
create trigger witness before update or delete on public.upload_queue
    for each row execute function witness.see_upload();

create function witness.see_run()
    returns trigger language plpgsql security definer set search_path = pg_catalog as $$
declare
    v_deadline constant timestamptz
        := least(old.timeout_at, old.heartbeat_at + coalesce(old.heartbeat_timeout, '60 s'));
begin
    if old.status in ('completed', 'failed') and new.status is distinct from old.status then
        insert into witness.violation (rule, what) values ('what has ended stays as it is', old::text);
    elsif new.status = 'failed' and new.error_code in ('INTERPRETATION_TIMEOUT', 'INTERPRETATION_HEARTBEAT_LOST') then
        insert into witness.expiry (run_id, late) values (new.id, clock_timestamp() - v_deadline);
        if v_deadline > clock_timestamp() then
            insert into witness.violation (rule, what) values ('a healthy run is never failed', old::text);
        end if;
    end if;
    return new;
end $$;
create trigger witness before update on public.interpretation_runs
    for each row when (old.status is distinct from new.status) execute function witness.see_run();
"""


def install(conn: psycopg.Connection[Any]) -> None:
    """Put the witness into a migrated database."""
    conn.execute(_INSTALL.encode())


@contextmanager
def connection_to(url: str) -> Iterator[psycopg.Connection[dict[str, Any]]]:
    """Open a connection whose rows are dicts."""
    with psycopg.connect(url, autocommit=True, row_factory=dict_row, connect_timeout=10) as conn:
        yield conn


def violations(conn: psycopg.Connection[dict[str, Any]]) -> list[str]:
    return [f"{row['rule']}: {row['what']}" for row in conn.execute("select * from witness.violation limit 20")]


def takeovers_s(conn: psycopg.Connection[dict[str, Any]]) -> list[float]:
    """Return how long after the end of the lease each row was claimed whose holder never came back.

    A row that a rescue had released in between is claimed without a lease to take over; its wait counts from the last
    lease that was seen of it.
    """
    rows = conn.execute(
        "select extract(epoch from at - previous_lease)::float8 as late from witness.claim"
        " where previous_lease is not null"
    )
    return [row["late"] for row in rows]


def expiries_s(conn: psycopg.Connection[dict[str, Any]]) -> list[float]:
    """Return how long after its deadline each run was failed that was failed for its deadline."""
    return [row["late"] for row in conn.execute("select extract(epoch from late)::float8 as late from witness.expiry")]
