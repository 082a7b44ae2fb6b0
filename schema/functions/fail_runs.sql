-- Fail running interpretations by an operator's word. Answers the ids that were running.
create or replace function reactor.fail_runs(p_ids uuid[], p_message text)
    returns setof uuid
    language sql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
    update public.interpretation_runs as r
       set status = 'failed', error_code = 'INTERPRETATION_FAILED', error_message = p_message,
           completed_at = clock_timestamp()
     where r.id = any(p_ids) and r.status in ('pending', 'running')
    returning r.id
$$;

revoke all on function reactor.fail_runs(uuid[], text) from public;
grant execute on function reactor.fail_runs(uuid[], text) to reactor_worker, service_role;
