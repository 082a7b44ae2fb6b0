-- Record a heartbeat of a run. A worker that gets "ok": false has lost the run and must stop.
--
-- Answers    {"ok": true}
-- Refuses    as refuse_ended: INTERPRETATION_TIMEOUT or INTERPRETATION_HEARTBEAT_LOST once the run's deadline has
--            passed, also before a reactor has failed it; INTERPRETATION_FAILED; NOT_ALLOWED when it is completed;
--            NOT_FOUND
-- Locks      the run
create or replace function public.heartbeat_interpretation(p_run_id uuid)
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
           set heartbeat_at = clock_timestamp()
         where r.id = p_run_id
           and r.status = 'running'
           and reactor.acts_for(v_caller, r.user_id)
           and not reactor.is_overdue(r.timeout_at, r.heartbeat_at, r.heartbeat_timeout);
        exit when found;
        v_refusal := reactor.refuse_ended(p_run_id, v_caller);
        if v_refusal is not null then
            return v_refusal;
        end if;
        -- another session's heartbeat moved the deadline meanwhile: try again
    end loop;
    return '{"ok": true}';
end $$;

revoke all on function public.heartbeat_interpretation(uuid) from public, anon, authenticated;
grant execute on function public.heartbeat_interpretation(uuid) to authenticated, service_role;
