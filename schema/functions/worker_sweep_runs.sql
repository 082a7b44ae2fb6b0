-- List up to p_limit running runs whose deadline is before now + p_horizon, the earliest first.
--
-- p_heartbeat_timeout  for runs without heartbeat_timeout
-- Returns  one row per run; `changed_at` is the earliest time at which a reactor could have scheduled this deadline.
--          Times are seconds since 1970
-- Locks    nothing
create or replace function reactor.sweep_runs(p_horizon interval, p_heartbeat_timeout interval, p_limit int)
    returns table (id uuid, tenant int, due_at float8, changed_at float8)
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select r.id, coalesce(uuid_hash(r.user_id), 0), date_part('epoch', d.due_at),
           date_part('epoch', coalesce(r.heartbeat_at, r.started_at, r.created_at))
      from public.interpretation_runs as r
     cross join lateral (select reactor.deadline(r.timeout_at, r.heartbeat_at,
               coalesce(r.heartbeat_timeout, p_heartbeat_timeout)) as due_at) as d
     where r.status = 'running'
       and d.due_at <= statement_timestamp() + p_horizon
     order by d.due_at
     limit p_limit;
end $$;

revoke all on function reactor.sweep_runs(interval, interval, int) from public;
grant execute on function reactor.sweep_runs(interval, interval, int) to reactor_worker, service_role;
