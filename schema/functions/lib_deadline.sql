-- Return when a run becomes stale: the earlier of p_timeout_at and p_heartbeat_at + p_heartbeat_timeout.
--
-- Returns    null if p_timeout_at is null and p_heartbeat_at or p_heartbeat_timeout is null. Otherwise a finite time.
--            Limits replace times such as 'infinity' and very long timeouts, because an overflow in one run would raise
--            an error, and then the call would fail none of its runs
-- Requires   a heartbeat timeout above 0. A NOT VALID check ensures it for rows written after the migration
-- Inlined    into the calling query; a pinned search_path would prevent that (schema/README.md, decision 8)
create or replace function reactor.deadline(p_timeout_at timestamptz, p_heartbeat_at timestamptz,
        p_heartbeat_timeout interval)
    returns timestamptz
    language sql
    stable
as $$
    select least(
        case when p_timeout_at is not null
             then least(greatest(p_timeout_at, 'epoch'), '9999-01-01 00:00:00+00') end,
        case when p_heartbeat_at is not null and p_heartbeat_timeout is not null
             then least(greatest(p_heartbeat_at, 'epoch'), '9999-01-01 00:00:00+00')
                  + least(p_heartbeat_timeout, interval '1000 years') end)
$$;

-- Return whether a run's deadline has passed; false if the run has no deadline.
--
-- Inlined    like deadline()
create or replace function reactor.is_overdue(p_timeout_at timestamptz, p_heartbeat_at timestamptz,
        p_heartbeat_timeout interval)
    returns boolean
    language sql
    stable
as $$
    select coalesce(reactor.deadline(p_timeout_at, p_heartbeat_at, p_heartbeat_timeout) <= statement_timestamp(), false)
$$;

revoke all on function reactor.deadline(timestamptz, timestamptz, interval) from public;
grant execute on function reactor.deadline(timestamptz, timestamptz, interval) to reactor_worker, service_role;
revoke all on function reactor.is_overdue(timestamptz, timestamptz, interval) from public;
