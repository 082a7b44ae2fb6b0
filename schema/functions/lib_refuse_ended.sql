-- Refuse a worker's call for a run that has ended, and say why it ended. If the run's deadline has passed and no
-- reactor has failed the run yet, fail it here. For a run without heartbeat_timeout, the deadline is timeout_at.
--
-- Returns  null when the run is still running: another session's heartbeat has moved its deadline. Otherwise a
--          refusal: INTERPRETATION_TIMEOUT or INTERPRETATION_HEARTBEAT_LOST (its deadline passed),
--          INTERPRETATION_FAILED (its worker or an operator failed it; details: error_code), NOT_ALLOWED (it is
--          completed or pending, or the caller has no valid JWT), NOT_FOUND, INVALID_ARGUMENT (p_run_id is null)
-- Locks    the run; waits for a heartbeat that is being written
create or replace function reactor.refuse_ended(p_run_id uuid, p_caller uuid)
    returns jsonb
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_run record;
begin
    if p_run_id is null then
        return reactor.refuse_argument('p_run_id must be the id of a run');
    end if;
    perform from public.interpretation_runs as r
      where r.id = p_run_id and reactor.acts_for(p_caller, r.user_id) for no key update;
    perform from reactor.expire_runs(array(select r.id from public.interpretation_runs as r
                                            where r.id = p_run_id and reactor.acts_for(p_caller, r.user_id)), null);
    select r.status, r.error_code into v_run
      from public.interpretation_runs as r where r.id = p_run_id and reactor.acts_for(p_caller, r.user_id);
    if not found then
        return reactor.refuse_unknown('p_run_id', p_caller);
    elsif v_run.error_code in ('INTERPRETATION_TIMEOUT', 'INTERPRETATION_HEARTBEAT_LOST') then
        return reactor.refuse(v_run.error_code, null, jsonb_build_object('run_id', p_run_id, 'status', v_run.status));
    elsif v_run.status = 'failed' then
        return reactor.refuse('INTERPRETATION_FAILED', null, jsonb_build_object(
            'run_id', p_run_id, 'status', v_run.status, 'error_code', v_run.error_code));
    elsif v_run.status = 'running' then
        return null;
    end if;
    return reactor.refuse('NOT_ALLOWED', format('The run is %s.', v_run.status),
                          jsonb_build_object('run_id', p_run_id, 'status', v_run.status), 'Stop working on it.');
end $$;

revoke all on function reactor.refuse_ended(uuid, uuid) from public;
