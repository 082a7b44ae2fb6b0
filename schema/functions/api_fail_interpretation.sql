-- Record that a run's worker has failed.
--
-- p_code     becomes the run's error_code: a capital, then up to 63 capitals, digits or _
-- p_message  becomes the run's error_message; cut to 2000 characters
-- Returns    {"ok", "run_id", "status": "failed", "code"}; a second call with the same code changes nothing and returns
--            the same
-- Refuses    INVALID_ARGUMENT: p_code isn't of this form, or p_run_id is null; INTERPRETATION_TIMEOUT or
--            INTERPRETATION_HEARTBEAT_LOST: the run's deadline has passed; INTERPRETATION_FAILED: it failed with
--            another code; NOT_ALLOWED: it is completed or pending; NOT_FOUND. See refuse_ended
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
        -- another session's heartbeat has moved the deadline: try again
    end loop;
    return jsonb_build_object('ok', true, 'run_id', p_run_id, 'status', 'failed', 'code', p_code);
end $$;

revoke all on function public.fail_interpretation(uuid, text, text) from public, anon, authenticated;
grant execute on function public.fail_interpretation(uuid, text, text) to authenticated, service_role;
