-- Fail the runs among p_ids whose deadline has passed; tell of the others when to look again.
--
-- A deadline is the earlier of timeout_at and the last heartbeat plus the run's heartbeat timeout (p_heartbeat_timeout
-- where it names none); the database's clock decides.
--
-- Returns    one row per run that is or was running: with `code` and `late_s` (seconds from deadline to now) when it
--            was failed, at `failed_at`, with `due_at` (seconds since 1970) when it is alive; nothing for ended runs
-- Locks      the stale rows in order of id. A run whose heartbeat is being written is skipped and looked at again
-- Invariant  a run with a live heartbeat and time left is never failed: the condition is checked under the lock
create or replace function reactor.expire_runs(p_ids uuid[], p_heartbeat_timeout interval)
    returns table (id uuid, due_at float8, code text, late_s float8, traceparent text, failed_at float8)
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    -- always a look-up by key: plan it once, and never as a scan of the table or of a whole partial index
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
    set enable_bitmapscan = off
as $$
begin
    return query
    with stale as materialized (
        select r.id, r.timeout_at,
               reactor.deadline(r.timeout_at, r.heartbeat_at, coalesce(r.heartbeat_timeout, p_heartbeat_timeout)) as due_at
          from public.interpretation_runs as r
         where r.id = any(p_ids)
           and r.status = 'running'
           and reactor.deadline(r.timeout_at, r.heartbeat_at, coalesce(r.heartbeat_timeout, p_heartbeat_timeout))
               <= statement_timestamp()
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
        returning r.id, r.error_code, r.completed_at - s.due_at as late, r.traceparent, r.completed_at
    )
    select e.id, null::float8, e.error_code, date_part('epoch', e.late), e.traceparent,
           date_part('epoch', e.completed_at)
      from expired as e
    union all
    select r.id,
           date_part('epoch', case
               -- stale and yet not ours: its row is locked, look again soon
               when d.due_at <= statement_timestamp() then statement_timestamp() + interval '0.5 s'
               -- the reactor's idea of our clock may be early by a little: it needn't ask again at once
               else greatest(d.due_at, statement_timestamp() + interval '5 ms') end),
           null, null, null, null::float8
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
