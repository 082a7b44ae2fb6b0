-- A run's worker lives. Whoever is told "ok": false has lost the run, and stops.
--
-- Answers    {"ok": true}
-- Refuses    as refuse_ended: INTERPRETATION_TIMEOUT or INTERPRETATION_HEARTBEAT_LOST once the run's deadline has passed,
--            whether a reactor has failed it yet or not; the code that it was failed with; NOT_ALLOWED when it was
--            completed; NOT_FOUND
-- Locks      the run
create or replace function public.heartbeat_interpretation(p_run_id uuid)
    returns jsonb
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_caller constant uuid := reactor.caller();
begin
    update public.interpretation_runs as r
       set heartbeat_at = clock_timestamp()
     where r.id = p_run_id and r.status = 'running' and reactor.acts_for(v_caller, r.user_id)
       and coalesce(reactor.deadline(r.timeout_at, r.heartbeat_at, r.heartbeat_timeout) > statement_timestamp(), true);
    if not found then
        return coalesce(reactor.refuse_ended(p_run_id, v_caller), public.heartbeat_interpretation(p_run_id));
    end if;
    return '{"ok": true}';
end $$;

revoke all on function public.heartbeat_interpretation(uuid) from public, anon, authenticated;
grant execute on function public.heartbeat_interpretation(uuid) to authenticated, service_role;
