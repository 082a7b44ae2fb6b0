-- A run's worker gives up.
--
-- p_code     a word for programs: capitals, digits and _; kept as the run's error_code
-- p_message  why, for people; cut to 2000 characters
-- Answers    {"ok", "run_id", "status": "failed", "code"}; twice with the same code is once
-- Refuses    as refuse_ended: a run that was failed otherwise, or whose deadline has passed
-- Locks      the run
create or replace function public.fail_interpretation(p_run_id uuid, p_code text default 'INTERPRETATION_FAILED',
        p_message text default null)
    returns jsonb
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_caller constant uuid := reactor.caller();
begin
    if coalesce(p_code !~ '^[A-Z][A-Z0-9_]{0,63}$', true) then
        return reactor.refuse_argument('p_code must be a word of capitals, digits and _, such as INTERPRETATION_FAILED');
    end if;
    update public.interpretation_runs as r
       set status = 'failed', error_code = p_code, error_message = left(p_message, 2000), completed_at = clock_timestamp()
     where r.id = p_run_id and r.status = 'running' and reactor.acts_for(v_caller, r.user_id)
       and coalesce(reactor.deadline(r.timeout_at, r.heartbeat_at, r.heartbeat_timeout) > statement_timestamp(), true);
    if not found and not exists (select from public.interpretation_runs as r
                                  where r.id = p_run_id and r.status = 'failed' and r.error_code = p_code
                                    and reactor.acts_for(v_caller, r.user_id)) then
        return coalesce(reactor.refuse_ended(p_run_id, v_caller), public.fail_interpretation(p_run_id, p_code, p_message));
    end if;
    return jsonb_build_object('ok', true, 'run_id', p_run_id, 'status', 'failed', 'code', p_code);
end $$;

revoke all on function public.fail_interpretation(uuid, text, text) from public, anon, authenticated;
grant execute on function public.fail_interpretation(uuid, text, text) to authenticated, service_role;
