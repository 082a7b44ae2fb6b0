-- A run's worker is done.
--
-- Answers    {"ok", "run_id", "status": "completed"}; twice is once
-- Refuses    as refuse_ended: a run that was failed, or whose deadline has passed, can't be completed any more
-- Locks      the run
create or replace function public.complete_interpretation(p_run_id uuid)
    returns jsonb
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_caller constant uuid := reactor.caller();
begin
    update public.interpretation_runs as r
       set status = 'completed', completed_at = clock_timestamp()
     where r.id = p_run_id and r.status = 'running' and reactor.acts_for(v_caller, r.user_id)
       and coalesce(reactor.deadline(r.timeout_at, r.heartbeat_at, r.heartbeat_timeout) > statement_timestamp(), true);
    if not found and not exists (select from public.interpretation_runs as r
                                  where r.id = p_run_id and r.status = 'completed'
                                    and reactor.acts_for(v_caller, r.user_id)) then
        return coalesce(reactor.refuse_ended(p_run_id, v_caller), public.complete_interpretation(p_run_id));
    end if;
    return jsonb_build_object('ok', true, 'run_id', p_run_id, 'status', 'completed');
end $$;

revoke all on function public.complete_interpretation(uuid) from public, anon, authenticated;
grant execute on function public.complete_interpretation(uuid) to authenticated, service_role;
