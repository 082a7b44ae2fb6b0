-- Make one operator's change to uploads or runs, and record it in the audit log, in one transaction.
--
-- p_request  identifies this call. A second call with the same p_request changes nothing and returns the first call's
--            `changed` and `kept`, so a caller may repeat a call whose reply was lost
-- p_action   'retry', 'cancel' or 'purge' (uploads), 'fail' (runs), or 'reconcile' (only logged; the caller starts it)
-- p_filter   the filter that selected the ids (only logged); null: the operator listed the ids
-- p_message  the error_message of failed runs
-- Returns    changed: the ids that changed; kept: a code for each id that was refused; files: for 'purge', the paths of
--            the spooled files, which the caller removes. The log doesn't contain `files`: a second call returns none
-- Locks      the rows that requeue_uploads, cancel_uploads, purge_uploads or fail_runs locks
-- Invariant  the change and its entry in the log commit together
create or replace function reactor.operate(p_request uuid, p_actor text, p_remote_address text, p_action text,
        p_ids uuid[], p_filter jsonb, p_message text)
    returns jsonb
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_outcome jsonb;
    v_files jsonb := '[]';
begin
    select a.outcome into v_outcome from reactor.audit_log as a where a.id = p_request;
    if found then
        return v_outcome || jsonb_build_object('files', v_files);
    end if;
    case p_action
        when 'retry' then
            select jsonb_build_object(
                       'changed', coalesce(jsonb_agg(r.id order by r.id) filter (where r.code is null), '[]'),
                       'kept', coalesce(jsonb_object_agg(r.id, r.code) filter (where r.code is not null), '{}'))
              into v_outcome
              from reactor.requeue_uploads(p_ids) as r;
        when 'cancel' then
            select jsonb_build_object('changed', coalesce(jsonb_agg(c.id order by c.id), '[]'), 'kept', '{}'::jsonb)
              into v_outcome
              from reactor.cancel_uploads(p_ids) as c (id);
        when 'purge' then
            select jsonb_build_object('changed', coalesce(jsonb_agg(g.id order by g.id), '[]'), 'kept', '{}'::jsonb),
                   coalesce(jsonb_agg(jsonb_build_array(g.id, g.spool, g.temp_file_path) order by g.id), '[]')
              into v_outcome, v_files
              from reactor.purge_uploads(p_ids) as g;
        when 'fail' then
            select jsonb_build_object('changed', coalesce(jsonb_agg(f.id order by f.id), '[]'), 'kept', '{}'::jsonb)
              into v_outcome
              from reactor.fail_runs(p_ids, p_message) as f (id);
        when 'reconcile' then
            v_outcome := '{"changed": [], "kept": {}}';
        else
            raise exception 'no such action: %', p_action using errcode = 'invalid_parameter_value';
    end case;
    insert into reactor.audit_log (id, actor, remote_address, action, ids, filter, changed, outcome)
    values (p_request, p_actor, p_remote_address, p_action, p_ids, p_filter,
            jsonb_array_length(v_outcome -> 'changed'), v_outcome);
    return v_outcome || jsonb_build_object('files', v_files);
end $$;

revoke all on function reactor.operate(uuid, text, text, text, uuid[], jsonb, text) from public;
grant execute on function reactor.operate(uuid, text, text, text, uuid[], jsonb, text) to reactor_worker, service_role;
