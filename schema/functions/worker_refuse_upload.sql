-- Mark an upload as dead with DATABASE_REFUSED, because the database refuses another change of its row. If the database
-- allows it, the source becomes failed too, which releases the reservation.
--
-- p_token  the lease token of the caller's claim; null: the upload must be due, or its lease must have expired
-- Returns  one row: state 'refused' (the upload is dead), 'busy' (another session holds a lock), 'gone' (not claimed
--          with this token, or not due) or 'stuck' (the database refuses this too), the message that the row got, and
--          when (seconds since 1970)
-- Locks    the source, then the queue row; waits for neither longer than lock_timeout
create or replace function reactor.refuse_upload(p_id uuid, p_token uuid, p_sqlstate text, p_message text)
    returns table (state text, message text, refused_at float8)
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '100ms'
as $$
declare
    v_sqlstate text;
    v_context text;
begin
    -- one line, without control characters, as the reactor writes other messages
    message := left(regexp_replace(p_message, '[[:cntrl:]]+', ' ', 'g'), 500) || format(' (SQLSTATE %s)', p_sqlstate);
    refused_at := date_part('epoch', clock_timestamp());
    for v_with_source in reverse 1 .. 0 loop
        begin
            state := reactor.bury_refused(p_id, p_token, message, v_with_source = 1);
            return next;
            return;
        exception when others or assert_failure then
            get stacked diagnostics v_sqlstate = returned_sqlstate, v_context = pg_exception_context;
            if reactor.concerns_everybody(v_sqlstate, v_context) then
                raise;
            end if;
            state := case when reactor.is_passing(v_sqlstate, v_context) then 'busy' else 'stuck' end;
            exit when state = 'busy';
        end;
    end loop;
    return next;
end $$;

-- Mark an upload as dead with DATABASE_REFUSED, and its source as failed if p_with_source; see refuse_upload().
create or replace function reactor.bury_refused(p_id uuid, p_token uuid, p_message text, p_with_source boolean)
    returns text
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_source uuid;
begin
    if p_with_source then
        perform from public.sources as s
          where s.id = (select q.source_id from public.upload_queue as q where q.id = p_id)
            for no key update;
    end if;
    select q.source_id into v_source
      from public.upload_queue as q
     where q.id = p_id
       and (q.status = 'uploading' and q.lease_token = p_token
            or p_token is null and (reactor.is_due(q.status, q.next_retry_at)
                                    or reactor.lease_has_expired(q.status, q.lease_expires_at)))
       for no key update;
    if not found then
        return 'gone';
    end if;
    if p_with_source then
        update public.sources as s
           set storage_status = 'failed'
         where s.id = v_source and s.storage_status = 'pending';
        if not found and exists (select from public.sources as s where s.id = v_source
                                                                 and s.storage_status = 'pending') then
            perform reactor.raise_unchanged('sources');
        end if;
    end if;
    update public.upload_queue as q
       set status = 'dead',
           error_code = 'DATABASE_REFUSED',
           error_message = p_message,
           errors = q.errors || reactor.attempt_error(q.updated_at, q.retry_count, 'DATABASE_REFUSED', p_message,
                                                      q.traceparent),
           lease_token = null,
           lease_expires_at = null,
           updated_at = clock_timestamp()
     where q.id = p_id;
    if not found then
        perform reactor.raise_unchanged('upload_queue');
    end if;
    return 'refused';
end $$;

revoke all on function reactor.refuse_upload(uuid, uuid, text, text) from public;
revoke all on function reactor.bury_refused(uuid, uuid, text, boolean) from public;
grant execute on function reactor.refuse_upload(uuid, uuid, text, text) to reactor_worker, service_role;
