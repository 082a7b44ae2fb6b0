-- Raise the exception for an exceeded quota. Triggers call this function. The functions of the API catch the exception
-- by its SQLSTATE and return refuse_quota().
--
-- p_code     STORAGE_QUOTA_EXCEEDED (raises RX101) or INTERPRETATION_QUOTA_EXCEEDED (raises RX102)
-- p_details  the refusal's details, which become the exception's DETAIL
create or replace function reactor.raise_quota_exceeded(p_code text, p_details jsonb)
    returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_error record;
begin
    select c.sqlstate, c.message, c.next_step into strict v_error
      from reactor.error_catalogue() as c
     where c.code = p_code;
    raise exception using errcode = v_error.sqlstate, message = p_code || ': ' || v_error.message,
                          detail = p_details::text, hint = v_error.next_step;
end $$;

-- Return the refusal for an exception of raise_quota_exceeded(), and count the rejection.
--
-- p_sqlstate  the exception's SQLSTATE
-- p_detail    the exception's DETAIL: the refusal's details, as JSON
-- Locks       a row that only this server process writes, so counting waits for no other session
create or replace function reactor.refuse_quota(p_sqlstate text, p_detail text)
    returns jsonb
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_details constant jsonb := p_detail;
    v_is_storage constant boolean := p_sqlstate = 'RX101';
begin
    insert into reactor.quota_rejection as r (minute, quota, plan, backend, count)
    values (date_trunc('minute', clock_timestamp()), case when v_is_storage then 'storage' else 'interpretations' end,
            v_details ->> 'plan', pg_backend_pid(), 1)
    on conflict (minute, quota, plan, backend) do update set count = r.count + 1;
    if v_is_storage then
        return reactor.refuse('STORAGE_QUOTA_EXCEEDED', format(
            'The upload needs %s bytes, and of the %s bytes of the plan %s %s are used or reserved.',
            v_details ->> 'requested_bytes', v_details ->> 'limit_bytes', v_details ->> 'plan',
            (v_details ->> 'used_bytes')::numeric + (v_details ->> 'reserved_bytes')::numeric), v_details);
    end if;
    return reactor.refuse('INTERPRETATION_QUOTA_EXCEEDED', format(
        'All %s interpretations of this month in the plan %s are used, until %s.',
        v_details ->> 'limit', v_details ->> 'plan', v_details ->> 'resets_at'), v_details);
end $$;

revoke all on function reactor.raise_quota_exceeded(text, jsonb) from public;
revoke all on function reactor.refuse_quota(text, text) from public;
