"""Audit triggers for the test database, because the rows don't keep the whole history.

They record every claim with the end of the lease that the claim replaces, and every expired run with its lateness.
They also record a violation when a statement does one of these things, which must never happen:
- it claims a row whose lease is still valid, or a row before its due time
- it counts an attempt wrongly, or beyond max_retries
- it deletes a row that isn't leased
- it fails a run before its deadline, or changes the status of a run that has ended
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.rows import dict_row

_INSTALL = """
create schema db_audit;
create table db_audit.claim (
    at timestamptz not null default clock_timestamp(), upload_id uuid not null, token uuid not null,
    attempt int not null, due_at timestamptz, previous_lease timestamptz);
create table db_audit.expiry (
    at timestamptz not null default clock_timestamp(), run_id uuid not null, late interval not null);
create table db_audit.violation (
    at timestamptz not null default clock_timestamp(), rule text not null, what text not null);

create function db_audit.audit_upload()
    returns trigger language plpgsql security definer set search_path = pg_catalog as $$
begin
    if tg_op = 'DELETE' then
        if old.status <> 'uploading' or old.lease_token is null then
            insert into db_audit.violation (rule, what) values ('a row was deleted without a lease', old::text);
        end if;
        return old;
    end if;
    if new.lease_token is not null and new.lease_token is distinct from old.lease_token then
        insert into db_audit.claim (upload_id, token, attempt, due_at, previous_lease)
        values (new.id, new.lease_token, new.retry_count, old.next_retry_at, old.lease_expires_at);
        if old.status = 'uploading' and old.lease_expires_at > clock_timestamp() then
            insert into db_audit.violation (rule, what) values ('a valid lease was taken over', old::text);
        elsif old.status = 'failed' and old.next_retry_at > clock_timestamp() then
            insert into db_audit.violation (rule, what) values ('a row was claimed before its due time', old::text);
        end if;
        if new.retry_count > new.max_retries or new.retry_count <> old.retry_count + 1 then
            insert into db_audit.violation (rule, what)
            values ('an attempt was counted wrongly or exceeds max_retries', new::text);
        end if;
    end if;
    return new;
end $$;
create trigger db_audit before update or delete on public.upload_queue
    for each row execute function db_audit.audit_upload();

create function db_audit.audit_run()
    returns trigger language plpgsql security definer set search_path = pg_catalog as $$
declare
    v_deadline constant timestamptz
        := least(old.timeout_at, old.heartbeat_at + coalesce(old.heartbeat_timeout, '60 s'));
begin
    if old.status in ('completed', 'failed') and new.status is distinct from old.status then
        insert into db_audit.violation (rule, what) values ('the status of an ended run was changed', old::text);
    elsif new.status = 'failed' and new.error_code in ('INTERPRETATION_TIMEOUT', 'INTERPRETATION_HEARTBEAT_LOST') then
        insert into db_audit.expiry (run_id, late) values (new.id, clock_timestamp() - v_deadline);
        if v_deadline > clock_timestamp() then
            insert into db_audit.violation (rule, what) values ('a run was failed before its deadline', old::text);
        end if;
    end if;
    return new;
end $$;
create trigger db_audit before update on public.interpretation_runs
    for each row when (old.status is distinct from new.status) execute function db_audit.audit_run();
"""


def install(conn: psycopg.Connection[Any]) -> None:
    """Install the audit triggers in a migrated database."""
    conn.execute(_INSTALL.encode())


@contextmanager
def connection_to(url: str) -> Iterator[psycopg.Connection[dict[str, Any]]]:
    """Open an autocommit connection whose rows are dicts."""
    with psycopg.connect(url, autocommit=True, row_factory=dict_row, connect_timeout=10) as conn:
        yield conn


def violations(conn: psycopg.Connection[dict[str, Any]]) -> list[str]:
    return [f"{row['rule']}: {row['what']}" for row in conn.execute("select * from db_audit.violation limit 20")]


def takeovers_s(conn: psycopg.Connection[dict[str, Any]]) -> list[float]:
    """Return, for each claim that took over a lease, the seconds between the lease's expiry and the claim."""
    rows = conn.execute(
        "select extract(epoch from at - previous_lease)::float8 as late from db_audit.claim"
        " where previous_lease is not null"
    )
    return [row["late"] for row in rows]


def expiries_s(conn: psycopg.Connection[dict[str, Any]]) -> list[float]:
    """Return the lateness in seconds of each run that was failed at its deadline."""
    return [row["late"] for row in conn.execute("select extract(epoch from late)::float8 as late from db_audit.expiry")]
