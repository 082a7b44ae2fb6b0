-- Refuse what a worker wants of a run that isn't its own any more, and say why. A run whose deadline has passed is failed
-- here, if no reactor has done it yet; how long a run may be silent that doesn't say, only a reactor knows.
--
-- Answers  null when the run is its worker's after all: its heartbeat was being written as the deadline passed
-- Locks    the run, so that whoever is writing it has written
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
    select r.status, r.error_code, r.error_message into v_run
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
