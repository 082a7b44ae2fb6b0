-- Queue an upload after the app's own attempt failed. The upload is due immediately.
--
-- p_temp_file_path  path of the spooled file inside the spool named p_spool
-- p_error_message   why the app's attempt failed; cut to 2000 characters
-- p_traceparent     the app's trace, which the upload continues; null or invalid: a new trace
-- p_max_retries     1 to 100
-- p_metadata        a JSON object of at most 64 KiB
-- Returns    {"ok", "queue_id", "source_id", "storage_status": "pending", "code": "STORAGE_PENDING_RETRY"}; the same
--            for a second call while the upload waits or is claimed. If the source is stored already: queue_id null,
--            storage_status 'uploaded', no code
-- Refuses    STORAGE_UPLOAD_FAILED: the source's upload is dead or cancelled (details: queue_id); NOT_FOUND,
--            INVALID_ARGUMENT, NOT_ALLOWED; STORAGE_QUOTA_EXCEEDED if the reservation was released and no longer fits
-- Locks      the source, then its user's usage row
create or replace function public.fail_upload(p_source_id uuid, p_bucket text, p_object_path text,
        p_temp_file_path text, p_error_message text default null, p_spool text default 'default',
        p_traceparent text default null, p_max_retries int default 5, p_metadata jsonb default '{}')
    returns jsonb
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_caller constant uuid := reactor.caller();
    v_problem constant text := case
        when p_source_id is null then 'p_source_id must be the id of a source'
        when coalesce(length(p_bucket) not between 1 and 255, true)
            then 'p_bucket must name a bucket, in 1 to 255 characters'
        when coalesce(octet_length(p_object_path) not between 1 and 1024, true)
            then 'p_object_path must name an object, in 1 to 1024 bytes'
        when coalesce(octet_length(p_temp_file_path) not between 1 and 4096, true)
            then 'p_temp_file_path must name a file in the spool, in 1 to 4096 bytes'
        when coalesce(p_spool !~ '^[A-Za-z0-9_-]{1,63}$', true)
            then 'p_spool must be the name of a spool: letters, digits, _ and -'
        when coalesce(p_max_retries not between 1 and 100, true) then 'p_max_retries must be from 1 to 100'
        when coalesce(jsonb_typeof(p_metadata) <> 'object' or length(p_metadata::text) > 65536, true)
            then 'p_metadata must be a JSON object of at most 64 KiB'
    end;
    v_argument text;
    v_source record;
    v_upload record;
    v_detail text;
begin
    if v_problem is not null then
        return reactor.refuse_argument(v_problem);
    end if;
    -- The reactor reads and writes with its own rights, so a user may not name a path in another user's folder. The
    -- user's folder is the first folder on the path whose name is a UUID.
    if v_caller is not null then
        select p.argument into v_argument
          from (values ('p_object_path', p_object_path), ('p_temp_file_path', p_temp_file_path)) as p (argument, path)
         cross join lateral substring(
             lower(p.path) from '(?:^|/)([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/') as folder
         where folder <> v_caller::text
         limit 1;
        if found then
            return reactor.refuse('NOT_ALLOWED', v_argument || ' lies in another user''s folder.',
                                  jsonb_build_object('argument', v_argument));
        end if;
    end if;
    select s.id, s.user_id, s.storage_status, s.content_hash, reactor.size_of_source(s) as byte_size
      into v_source
      from public.sources as s where s.id = p_source_id for no key update;
    if not found or not reactor.acts_for(v_caller, v_source.user_id) then
        return reactor.refuse_unknown('p_source_id', v_caller);
    end if;
    if v_source.storage_status = 'uploaded' then
        return jsonb_build_object('ok', true, 'queue_id', null, 'source_id', p_source_id, 'storage_status', 'uploaded');
    end if;
    select q.id, q.status into v_upload
      from public.upload_queue as q where q.source_id = p_source_id
     order by q.status in ('failed', 'uploading') desc, q.created_at desc limit 1;
    if v_upload.status in ('failed', 'uploading') then
        return reactor.pending_retry(v_upload.id, p_source_id);
    elsif v_upload.id is not null and v_source.storage_status = 'failed' then
        return reactor.refuse('STORAGE_UPLOAD_FAILED', null, jsonb_build_object('queue_id', v_upload.id));
    elsif v_source.byte_size is null then
        return reactor.refuse_argument('p_source_id is the id of a source without a byte_size');
    end if;
    begin
        update public.sources as s set storage_status = 'pending'
         where s.id = p_source_id and s.storage_status <> 'pending';
        insert into public.upload_queue as q (source_id, user_id, bucket, object_path, content_hash, byte_size, spool,
                                              temp_file_path, max_retries, error_message, traceparent, metadata)
        values (p_source_id, v_source.user_id, p_bucket, p_object_path, v_source.content_hash, v_source.byte_size,
                p_spool, p_temp_file_path, p_max_retries, left(p_error_message, 2000),
                reactor.traceparent(p_traceparent), p_metadata)
        returning q.id into v_upload.id;
    exception when sqlstate 'RX101' then
        get stacked diagnostics v_detail = pg_exception_detail;
        return reactor.refuse_quota(sqlstate, v_detail);
    end;
    return reactor.pending_retry(v_upload.id, p_source_id);
end $$;

-- Return the object that fail_upload returns for a queued upload.
create or replace function reactor.pending_retry(p_queue_id uuid, p_source_id uuid)
    returns jsonb
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select jsonb_build_object('ok', true, 'queue_id', p_queue_id, 'source_id', p_source_id, 'storage_status', 'pending',
                              'code', 'STORAGE_PENDING_RETRY')
$$;

revoke all on function reactor.pending_retry(uuid, uuid) from public;
revoke all on function public.fail_upload(uuid, text, text, text, text, text, text, int, jsonb)
    from public, anon, authenticated;
grant execute on function public.fail_upload(uuid, text, text, text, text, text, text, int, jsonb)
    to authenticated, service_role;
