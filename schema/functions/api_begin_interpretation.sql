-- Begin one interpretation of a stored source, and count it in the current month.
--
-- p_config             JSON of at most 256 KiB
-- p_timeout            after this time the reactor fails the run; at most 30 days
-- p_heartbeat_timeout  after this time without a heartbeat the reactor fails the run; at most 30 days; null: 60 s
-- p_traceparent        the caller's trace, which the run continues; null or invalid: a new trace
-- p_run_id             the run's id. A second call with the same id while the run is running begins no second run
-- Returns    {"ok", "run_id", "source_id", "started_at", "timeout_at", "heartbeat_timeout_s", "traceparent"}
-- Refuses    STORAGE_PENDING, STORAGE_UPLOAD_FAILED, INTERPRETATION_IN_PROGRESS (details: run_id, timeout_at),
--            INTERPRETATION_QUOTA_EXCEEDED (details: plan, limit, used, resets_at), NOT_FOUND, INVALID_ARGUMENT (also
--            for the p_run_id of a run that has ended or has another source), NOT_ALLOWED
-- Locks      the source, then a run of this source whose deadline has passed, then the user's usage row (in the trigger
--            that counts runs)
-- Invariant  begins no run while another run of the source is running: it locks the source before it reads the runs
create or replace function public.begin_interpretation(p_source_id uuid, p_config jsonb default '{}',
        p_timeout interval default '10 minutes', p_heartbeat_timeout interval default null,
        p_traceparent text default null, p_run_id uuid default gen_random_uuid())
    returns jsonb
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_caller constant uuid := reactor.caller();
    v_heartbeat_timeout constant interval := coalesce(p_heartbeat_timeout, '60 s');
    v_problem constant text := case
        when p_source_id is null then 'p_source_id must be the id of a source'
        when coalesce(length(p_config::text) > 262144, true) then 'p_config must be JSON of at most 256 KiB'
        when coalesce(p_timeout not between '1 microsecond' and '30 days', true)
            then 'p_timeout must be more than 0 and at most 30 days'
        when v_heartbeat_timeout not between '1 microsecond' and '30 days'
            then 'p_heartbeat_timeout must be more than 0 and at most 30 days'
        when p_run_id is null then 'p_run_id must be a UUID of the caller''s choice, or left out'
    end;
    v_source record;
    v_run record;
    v_detail text;
begin
    if v_problem is not null then
        return reactor.refuse_argument(v_problem);
    end if;
    select s.id, s.user_id, s.storage_status into v_source
      from public.sources as s where s.id = p_source_id for no key update;
    if not found or not reactor.acts_for(v_caller, v_source.user_id) then
        return reactor.refuse_unknown('p_source_id', v_caller);
    elsif v_source.storage_status = 'pending' then
        return reactor.refuse('STORAGE_PENDING', null, jsonb_build_object('source_id', p_source_id));
    elsif v_source.storage_status = 'failed' then
        return reactor.refuse('STORAGE_UPLOAD_FAILED', null, jsonb_build_object('source_id', p_source_id));
    end if;
    -- fail a run whose deadline has passed, if no reactor has failed it yet: it must not block a new run
    perform from public.interpretation_runs as r
      cross join lateral reactor.expire_runs(array[r.id], null)
      where r.source_id = p_source_id and r.status = 'running' and r.id <> p_run_id;
    select r.id, r.timeout_at, r.started_at, r.heartbeat_timeout, r.traceparent into v_run
      from public.interpretation_runs as r
     where r.source_id = p_source_id and r.status = 'running'
     order by r.id = p_run_id desc limit 1;
    if found and v_run.id <> p_run_id then
        return reactor.refuse('INTERPRETATION_IN_PROGRESS', null,
                              jsonb_build_object('run_id', v_run.id, 'timeout_at', v_run.timeout_at));
    elsif not found then
        begin
            insert into public.interpretation_runs as r (id, user_id, source_id, interpretation_config, status,
                    started_at, timeout_at, heartbeat_timeout, traceparent)
            select p_run_id, v_source.user_id, p_source_id, p_config, 'running', n.now, n.now + p_timeout,
                   v_heartbeat_timeout, reactor.traceparent(p_traceparent)
              from (select clock_timestamp() as now) as n
            returning r.id, r.timeout_at, r.started_at, r.heartbeat_timeout, r.traceparent into v_run;
        exception
            when sqlstate 'RX102' then
                get stacked diagnostics v_detail = pg_exception_detail;
                return reactor.refuse_quota(sqlstate, v_detail);
            when unique_violation then
                return reactor.refuse_argument('p_run_id is the id of a run that exists already');
        end;
    end if;
    return jsonb_build_object('ok', true, 'run_id', v_run.id, 'source_id', p_source_id, 'started_at', v_run.started_at,
                              'timeout_at', v_run.timeout_at,
                              'heartbeat_timeout_s', date_part('epoch', v_run.heartbeat_timeout),
                              'traceparent', v_run.traceparent);
end $$;

revoke all on function public.begin_interpretation(uuid, jsonb, interval, interval, text, uuid)
    from public, anon, authenticated;
grant execute on function public.begin_interpretation(uuid, jsonb, interval, interval, text, uuid)
    to authenticated, service_role;
