-- Record that the app's own attempt stored the source: its reservation becomes usage.
--
-- Deletes the source's queue rows, except a row that a reactor has claimed. The app must remove the spooled files of
-- the deleted rows.
--
-- Returns    {"ok", "source_id", "storage_status": "uploaded", "storage_url"}. If the source is stored already, changes
--            nothing and returns the URL that is recorded
-- Refuses    NOT_FOUND, INVALID_ARGUMENT, NOT_ALLOWED; STORAGE_QUOTA_EXCEEDED if the reservation was released and no
--            longer fits
-- Locks      the source, then its queue rows, then its user's usage row
create or replace function public.complete_upload(p_source_id uuid, p_storage_url text)
    returns jsonb
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_caller constant uuid := reactor.caller();
    v_source record;
    v_detail text;
begin
    if p_source_id is null then
        return reactor.refuse_argument('p_source_id must be the id of a source');
    elsif coalesce(length(p_storage_url) not between 1 and 2048, true) then
        return reactor.refuse_argument('p_storage_url must say where the object is, in 1 to 2048 characters');
    end if;
    select s.id, s.user_id, s.storage_status, s.storage_url into v_source
      from public.sources as s where s.id = p_source_id for no key update;
    if not found or not reactor.acts_for(v_caller, v_source.user_id) then
        return reactor.refuse_unknown('p_source_id', v_caller);
    end if;
    if v_source.storage_status = 'uploaded' then
        return jsonb_build_object('ok', true, 'source_id', p_source_id, 'storage_status', 'uploaded',
                                  'storage_url', v_source.storage_url);
    end if;
    begin
        delete from public.upload_queue as q where q.source_id = p_source_id and q.status <> 'uploading';
        update public.sources as s
           set storage_status = 'uploaded', storage_url = p_storage_url
         where s.id = p_source_id;
    exception when sqlstate 'RX101' then
        get stacked diagnostics v_detail = pg_exception_detail;
        return reactor.refuse_quota(sqlstate, v_detail);
    end;
    return jsonb_build_object('ok', true, 'source_id', p_source_id, 'storage_status', 'uploaded',
                              'storage_url', p_storage_url);
end $$;

revoke all on function public.complete_upload(uuid, text) from public, anon, authenticated;
grant execute on function public.complete_upload(uuid, text) to authenticated, service_role;
