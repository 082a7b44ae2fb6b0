-- Fail the running runs of p_ids whose deadline has passed. For the other running runs, return when to call again.
--
-- p_heartbeat_timeout  for runs without heartbeat_timeout; null: the deadline of such a run is timeout_at
-- Returns    one row per run that this call has failed: `code`, `late_s` (seconds from deadline to now), `failed_at`
--            one row per run that is still running and has a deadline: `due_at`, when to call again
--            no row for runs without a deadline and for runs that weren't running. Times are seconds since 1970
-- Locks      the stale rows, in order of id. Skips a stale run that another session has locked, for example to write a
--            heartbeat: its `due_at` is in 0.5 s
-- Invariant  a run is failed only if its deadline has passed by the database's clock: PostgreSQL checks the condition
--            again on the locked row
create or replace function reactor.expire_runs(p_ids uuid[], p_heartbeat_timeout interval)
    returns table (id uuid, due_at float8, code text, late_s float8, traceparent text, failed_at float8, user_id uuid)
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    -- keep one plan for all calls: it looks rows up by key and never scans (schema/README.md, decision 2)
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
    set enable_bitmapscan = off
as $$
begin
    return query
    with stale as materialized (
        select r.id, r.timeout_at,
               reactor.deadline(r.timeout_at, r.heartbeat_at, coalesce(r.heartbeat_timeout, p_heartbeat_timeout))
                   as due_at
          from public.interpretation_runs as r
         where r.id = any(p_ids)
           and r.status = 'running'
           and reactor.is_overdue(r.timeout_at, r.heartbeat_at, coalesce(r.heartbeat_timeout, p_heartbeat_timeout))
         order by r.id
           for update skip locked
    ), expired as (
        update public.interpretation_runs as r
           set status = 'failed',
               error_code = case when s.timeout_at <= statement_timestamp() then 'INTERPRETATION_TIMEOUT'
                                 else 'INTERPRETATION_HEARTBEAT_LOST' end,
               error_message = case when s.timeout_at <= statement_timestamp()
                   then 'the run passed its deadline'
                   else 'no heartbeat since ' || to_char(r.heartbeat_at at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS"Z"')
                   end,
               completed_at = clock_timestamp()
          from stale as s
         where r.id = s.id
        returning r.id, r.error_code, r.completed_at - s.due_at as late, r.traceparent, r.completed_at, r.user_id
    )
    select e.id, null::float8, e.error_code, date_part('epoch', e.late), e.traceparent,
           date_part('epoch', e.completed_at), e.user_id
      from expired as e
    union all
    select r.id,
           date_part('epoch', case
               -- stale, but another session has locked it: call again soon
               when d.due_at <= statement_timestamp() then statement_timestamp() + interval '0.5 s'
               -- in 5 ms at the earliest: the reactor's estimate of the database's clock may be slightly ahead
               else greatest(d.due_at, statement_timestamp() + interval '5 ms') end),
           null, null, null, null::float8, null::uuid
      from public.interpretation_runs as r
     cross join lateral (select reactor.deadline(r.timeout_at, r.heartbeat_at,
               coalesce(r.heartbeat_timeout, p_heartbeat_timeout)) as due_at) as d
     where r.id = any(p_ids)
       and r.status = 'running'
       and d.due_at is not null
       and not exists (select from expired as e where e.id = r.id);
end $$;

revoke all on function reactor.expire_runs(uuid[], interval) from public;
grant execute on function reactor.expire_runs(uuid[], interval) to reactor_worker, service_role;
