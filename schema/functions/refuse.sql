-- Answer a refusal: {"ok": false, "code", "message", "retryable", "details"}; under PostgREST also the HTTP status.
--
-- p_message    what was refused, in a sentence; null: the catalogue's
-- p_next_step  what the caller can do now, which is added to it; null: the catalogue's
create or replace function reactor.refuse(p_code text, p_message text default null, p_details jsonb default '{}',
        p_next_step text default null)
    returns jsonb
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_error record;
begin
    select c.message, c.retryable, c.http_status, c.next_step into strict v_error
      from reactor.error_catalogue() as c where c.code = p_code;
    perform set_config('response.status', v_error.http_status::text, true);
    return jsonb_build_object('ok', false, 'code', p_code,
                              'message', coalesce(p_message, v_error.message) || ' '
                                         || coalesce(p_next_step, v_error.next_step),
                              'retryable', v_error.retryable, 'details', p_details);
end $$;

-- Refuse an argument. p_problem begins with the argument's name.
create or replace function reactor.refuse_argument(p_problem text)
    returns jsonb
    language sql
    set search_path = pg_catalog, pg_temp
as $$
    select reactor.refuse('INVALID_ARGUMENT', p_problem || '.',
                          jsonb_build_object('argument', split_part(p_problem, ' ', 1)))
$$;

-- Refuse an id of no row of the caller's. Whether another user has such a row isn't told.
create or replace function reactor.refuse_unknown(p_argument text, p_caller uuid)
    returns jsonb
    language sql
    set search_path = pg_catalog, pg_temp
as $$
    select case when p_caller = '00000000-0000-0000-0000-000000000000'
                then reactor.refuse('NOT_ALLOWED', 'The caller''s role is a user''s, and it has no valid JWT.')
                else reactor.refuse('NOT_FOUND', p_argument || ' is the id of no row of the caller''s.',
                                    jsonb_build_object('argument', p_argument)) end
$$;

-- Refuse what a quota's trigger raised, and count the rejection. p_detail is the exception's: the refusal's details.
--
-- Locks  only a row that is this server process's own: nobody waits for anybody to count
create or replace function reactor.refuse_quota(p_code text, p_detail text)
    returns jsonb
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_details constant jsonb := p_detail;
begin
    insert into reactor.quota_rejection as r (minute, quota, plan, backend, count)
    values (date_trunc('minute', clock_timestamp()),
            case p_code when 'STORAGE_QUOTA_EXCEEDED' then 'storage' else 'interpretations' end,
            v_details ->> 'plan', pg_backend_pid(), 1)
    on conflict (minute, quota, plan, backend) do update set count = r.count + 1;
    return reactor.refuse(p_code, case p_code
        when 'STORAGE_QUOTA_EXCEEDED' then
            format('The upload needs %s bytes, and of the %s bytes of the plan %s %s are used or reserved.',
                   v_details ->> 'requested_bytes', v_details ->> 'limit_bytes', v_details ->> 'plan',
                   (v_details ->> 'used_bytes')::numeric + (v_details ->> 'reserved_bytes')::numeric)
        else
            format('All %s interpretations of this month in the plan %s are used, until %s.',
                   v_details ->> 'limit', v_details ->> 'plan', v_details ->> 'resets_at')
        end, v_details);
end $$;

revoke all on function reactor.refuse(text, text, jsonb, text) from public;
revoke all on function reactor.refuse_argument(text) from public;
revoke all on function reactor.refuse_unknown(text, uuid) from public;
revoke all on function reactor.refuse_quota(text, text) from public;
