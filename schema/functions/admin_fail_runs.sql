-- Fail pending and running runs with the code INTERPRETATION_FAILED.
--
-- p_message  becomes the runs' error_message
-- Returns    the ids of the failed runs
-- Locks      the runs, in order of id; waits for a heartbeat that is being written
create or replace function reactor.fail_runs(p_ids uuid[], p_message text)
    returns setof uuid
    language sql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
    with chosen as materialized (
        select r.id
          from public.interpretation_runs as r
         where r.id = any(p_ids) and r.status in ('pending', 'running')
         order by r.id
           for no key update
    )
    update public.interpretation_runs as r
       set status = 'failed',
           error_code = 'INTERPRETATION_FAILED',
           error_message = p_message,
           completed_at = clock_timestamp()
      from chosen as c
     where r.id = c.id
    returning r.id
$$;

revoke all on function reactor.fail_runs(uuid[], text) from public;
grant execute on function reactor.fail_runs(uuid[], text) to reactor_worker, service_role;
