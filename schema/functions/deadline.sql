-- When a run is stale: the earlier of its time limit and its last heartbeat plus its patience; null: never.
--
-- Promises   never raises and is always finite, whatever an app wrote: 'infinity', the year 290000 or a patience of as
--            many years. One such run must not keep all others of its batch from being failed.
-- No pinned search_path: this is inlined into the statements that use it, and calls nothing but operators.
create or replace function reactor.deadline(p_timeout_at timestamptz, p_heartbeat_at timestamptz, p_patience interval)
    returns timestamptz
    language sql
    stable
as $$
    select least(
        case when p_timeout_at is not null
             then least(greatest(p_timeout_at, 'epoch'), '9999-01-01 00:00:00+00') end,
        case when p_heartbeat_at is not null and p_patience is not null
             then least(greatest(p_heartbeat_at, 'epoch'), '9999-01-01 00:00:00+00')
                  + least(p_patience, interval '1000 years') end)
$$;

revoke all on function reactor.deadline(timestamptz, timestamptz, interval) from public;
grant execute on function reactor.deadline(timestamptz, timestamptz, interval) to reactor_worker, service_role;
