-- Reserve the bytes of an upload. An app calls this before it stores the bytes.
--
-- p_content_hash  lower-case hex SHA-256 of the bytes; together with the user it identifies the source
-- p_byte_size     0 to 2^50. Its type is numeric, so that a number outside bigint is refused and raises no exception
-- Returns    {"ok", "source_id", "deduplicated", "storage_status": "pending" | "uploaded", "storage_url"}. A second
--            call for the same content returns the same source and reserves nothing more; a failed source is reserved
--            again
-- Refuses    STORAGE_QUOTA_EXCEEDED (details: plan, limit_bytes, used_bytes, reserved_bytes, requested_bytes),
--            INVALID_ARGUMENT, NOT_ALLOWED, NOT_FOUND (the source of the same content was deleted during the call)
-- Locks      the source, then its user's usage row (in the trigger that tracks usage)
create or replace function public.reserve_upload(p_user_id uuid, p_content_hash text, p_byte_size numeric,
        p_mime_type text default null, p_file_name text default null, p_source_type text default null,
        p_source_agent_id text default null, p_source_metadata jsonb default '{}')
    returns jsonb
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_caller constant uuid := reactor.caller();
    v_problem constant text := case
        when p_user_id is null then 'p_user_id must be the id of a user'
        when coalesce(p_content_hash !~ '^[0-9a-f]{64}$', true)
            then 'p_content_hash must be the SHA-256 of the bytes in 64 lower-case hex digits'
        when coalesce(p_byte_size not between 0 and 1::bigint << 50 or p_byte_size <> trunc(p_byte_size), true)
            then 'p_byte_size must be a whole number of bytes from 0 to 2^50'
        when length(p_mime_type) > 255 then 'p_mime_type must have at most 255 characters'
        when length(p_file_name) > 1024 then 'p_file_name must have at most 1024 characters'
        when length(p_source_type) > 255 then 'p_source_type must have at most 255 characters'
        when length(p_source_agent_id) > 255 then 'p_source_agent_id must have at most 255 characters'
        when coalesce(jsonb_typeof(p_source_metadata) <> 'object' or length(p_source_metadata::text) > 65536, true)
            then 'p_source_metadata must be a JSON object of at most 64 KiB'
    end;
    v_source record;
    v_detail text;
begin
    if p_user_id is not null and not reactor.acts_for(v_caller, p_user_id) then
        return reactor.refuse('NOT_ALLOWED', 'p_user_id isn''t the user of the caller''s JWT.',
                              '{"argument": "p_user_id"}');
    end if;
    if v_problem is not null then
        return reactor.refuse_argument(v_problem);
    end if;
    begin
        insert into public.sources as s (user_id, content_hash, byte_size, mime_type, file_name, source_type,
                                         source_agent_id, source_metadata, storage_status)
        values (p_user_id, p_content_hash, p_byte_size::bigint, p_mime_type, p_file_name, p_source_type,
                p_source_agent_id, p_source_metadata, 'pending')
        on conflict (user_id, content_hash) do nothing
        returning s.id, s.storage_status, s.storage_url into v_source;
        if found then
            return jsonb_build_object('ok', true, 'source_id', v_source.id, 'deduplicated', false,
                                      'storage_status', v_source.storage_status, 'storage_url', null);
        end if;
        -- reserve a failed source again
        update public.sources as s
           set storage_status = 'pending', byte_size = p_byte_size::bigint
         where s.user_id = p_user_id and s.content_hash = p_content_hash and s.storage_status = 'failed';
    exception when sqlstate 'RX101' then
        get stacked diagnostics v_detail = pg_exception_detail;
        return reactor.refuse_quota(sqlstate, v_detail);
    end;
    select s.id, s.storage_status, s.storage_url into v_source
      from public.sources as s where s.user_id = p_user_id and s.content_hash = p_content_hash;
    if not found then -- deleted between the two statements
        return reactor.refuse('NOT_FOUND', 'The source of the same content was deleted meanwhile.', '{}',
                              'Reserve again.');
    end if;
    return jsonb_build_object('ok', true, 'source_id', v_source.id, 'deduplicated', true,
                              'storage_status', v_source.storage_status, 'storage_url', v_source.storage_url);
end $$;

revoke all on function public.reserve_upload(uuid, text, numeric, text, text, text, text, jsonb)
    from public, anon, authenticated;
grant execute on function public.reserve_upload(uuid, text, numeric, text, text, text, text, jsonb)
    to authenticated, service_role;
