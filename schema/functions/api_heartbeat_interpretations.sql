-- Record a heartbeat of each of many runs. For a process that works on many runs; services only.
--
-- p_run_ids  1 to 1000 ids
-- Returns    {"ok": true, "refused": {run_id: the refusal that heartbeat_interpretation would return}, "busy": [run_id]}.
--            A busy run is locked by another session, and got no heartbeat: call again soon. Runs in neither list got one
-- Refuses    INVALID_ARGUMENT
-- Locks      the runs, in order of id. Skips runs that another session has locked, so that one locked row delays no
--            other run's heartbeat
create or replace function public.heartbeat_interpretations(p_run_ids uuid[])
    returns jsonb
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_caller constant uuid := reactor.caller();
    v_alive uuid[];
    v_run_id uuid;
    v_refusal jsonb;
    v_refused jsonb := '{}';
    v_busy jsonb := '[]';
begin
    if coalesce(cardinality(p_run_ids), 0) not between 1 and 1000 or array_position(p_run_ids, null) is not null then
        return reactor.refuse_argument('p_run_ids must be 1 to 1000 ids of runs');
    end if;
    with running as materialized (
        select r.id
          from public.interpretation_runs as r
         where r.id = any(p_run_ids)
           and r.status = 'running'
           and reactor.acts_for(v_caller, r.user_id)
           and not reactor.is_overdue(r.timeout_at, r.heartbeat_at, r.heartbeat_timeout)
         order by r.id
           for no key update skip locked
    ), alive as (
        update public.interpretation_runs as r
           set heartbeat_at = clock_timestamp()
          from running as u
         where r.id = u.id
        returning r.id
    )
    select coalesce(array_agg(a.id), '{}') into v_alive from alive as a;
    for v_run_id in
        select distinct given.id from unnest(p_run_ids) as given (id) where given.id <> all(v_alive) order by given.id
    loop
        v_refusal := null;
        perform from public.interpretation_runs as r where r.id = v_run_id for no key update skip locked;
        if found or not exists (select from public.interpretation_runs as r where r.id = v_run_id) then
            v_refusal := reactor.refuse_ended(v_run_id, v_caller);
        end if;
        if v_refusal is null then
            v_busy := v_busy || to_jsonb(v_run_id);
        else
            v_refused := v_refused || jsonb_build_object(v_run_id, v_refusal);
        end if;
    end loop;
    perform set_config('response.status', '', true); -- the call has succeeded, even if runs were refused
    return jsonb_build_object('ok', true, 'refused', v_refused, 'busy', v_busy);
end $$;

revoke all on function public.heartbeat_interpretations(uuid[]) from public, anon, authenticated;
grant execute on function public.heartbeat_interpretations(uuid[]) to service_role;
