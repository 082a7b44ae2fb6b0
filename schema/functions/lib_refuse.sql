-- Return a refusal: {"ok": false, "code", "message", "retryable", "details"}; under PostgREST, also set the HTTP
-- status.
--
-- p_message    what was refused, in a sentence; null: the catalogue's message
-- p_next_step  what the caller can do now; null: the catalogue's next step
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
      from reactor.error_catalogue() as c
     where c.code = p_code;
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

-- Refuse an id for which the caller has no row. The refusal doesn't show whether another user has a row with this id.
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

revoke all on function reactor.refuse(text, text, jsonb, text) from public;
revoke all on function reactor.refuse_argument(text) from public;
revoke all on function reactor.refuse_unknown(text, uuid) from public;
