-- Record a heartbeat of a run. A worker that gets "ok": false has lost the run and must stop.
--
-- Returns    {"ok": true}
-- Refuses    INTERPRETATION_TIMEOUT or INTERPRETATION_HEARTBEAT_LOST: the run's deadline has passed, even if no reactor
--            has failed the run yet; INTERPRETATION_FAILED: its worker or an operator failed it; NOT_ALLOWED: it is
--            completed or pending; NOT_FOUND; INVALID_ARGUMENT: p_run_id is null. See refuse_ended
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
        -- another session's heartbeat has moved the deadline: try again
    end loop;
    return '{"ok": true}';
end $$;

revoke all on function public.heartbeat_interpretation(uuid) from public, anon, authenticated;
grant execute on function public.heartbeat_interpretation(uuid) to authenticated, service_role;
