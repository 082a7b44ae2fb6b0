-- Record that a run's worker has finished.
--
-- Answers    {"ok", "run_id", "status": "completed"}; a second call changes nothing and answers the same
-- Refuses    as refuse_ended: a run that was failed, or whose deadline has passed, can no longer be completed
-- Locks      the run
create or replace function public.complete_interpretation(p_run_id uuid)
    returns jsonb
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_caller constant uuid := reactor.caller();
    v_refusal jsonb;
begin
    loop
        update public.interpretation_runs as r
           set status = 'completed',
               completed_at = clock_timestamp()
         where r.id = p_run_id
           and r.status = 'running'
           and reactor.acts_for(v_caller, r.user_id)
           and not reactor.is_overdue(r.timeout_at, r.heartbeat_at, r.heartbeat_timeout);
        exit when found or exists (select from public.interpretation_runs as r
                                    where r.id = p_run_id
                                      and r.status = 'completed'
                                      and reactor.acts_for(v_caller, r.user_id));
        v_refusal := reactor.refuse_ended(p_run_id, v_caller);
        if v_refusal is not null then
            return v_refusal;
        end if;
        -- another session's heartbeat moved the deadline meanwhile: try again
    end loop;
    return jsonb_build_object('ok', true, 'run_id', p_run_id, 'status', 'completed');
end $$;

revoke all on function public.complete_interpretation(uuid) from public, anon, authenticated;
grant execute on function public.complete_interpretation(uuid) to authenticated, service_role;
