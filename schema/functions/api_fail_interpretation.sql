-- Record that a run's worker has failed.
--
-- p_code     a word for programs: capitals, digits and _; becomes the run's error_code
-- p_message  why, for people; cut to 2000 characters
-- Answers    {"ok", "run_id", "status": "failed", "code"}; a second call with the same code changes nothing and answers
--            the same
-- Refuses    as refuse_ended: a run that failed with another code, or whose deadline has passed
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
    v_refusal jsonb;
begin
    if coalesce(p_code !~ '^[A-Z][A-Z0-9_]{0,63}$', true) then
        return reactor.refuse_argument(
            'p_code must be a word of capitals, digits and _, such as INTERPRETATION_FAILED');
    end if;
    loop
        update public.interpretation_runs as r
           set status = 'failed',
               error_code = p_code,
               error_message = left(p_message, 2000),
               completed_at = clock_timestamp()
         where r.id = p_run_id
           and r.status = 'running'
           and reactor.acts_for(v_caller, r.user_id)
           and not reactor.is_overdue(r.timeout_at, r.heartbeat_at, r.heartbeat_timeout);
        exit when found or exists (select from public.interpretation_runs as r
                                    where r.id = p_run_id
                                      and r.status = 'failed'
                                      and r.error_code = p_code
                                      and reactor.acts_for(v_caller, r.user_id));
        v_refusal := reactor.refuse_ended(p_run_id, v_caller);
        if v_refusal is not null then
            return v_refusal;
        end if;
        -- another session's heartbeat moved the deadline meanwhile: try again
    end loop;
    return jsonb_build_object('ok', true, 'run_id', p_run_id, 'status', 'failed', 'code', p_code);
end $$;

revoke all on function public.fail_interpretation(uuid, text, text) from public, anon, authenticated;
grant execute on function public.fail_interpretation(uuid, text, text) to authenticated, service_role;
