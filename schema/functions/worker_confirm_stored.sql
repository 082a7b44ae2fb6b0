-- Return the ids of the uploads whose settlement as stored has committed. The reactor calls this when the reply of
-- settle_uploads was lost.
--
-- p_*      arrays of equal length: the id of the upload, the id of its source, the storage URL of the settlement
-- Returns  the ids of uploads that are no longer queued and whose source is stored under that URL
-- Locks    nothing
create or replace function reactor.confirm_stored(p_ids uuid[], p_sources uuid[], p_urls text[])
    returns setof uuid
    language plpgsql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
    -- keep one plan for all calls: it looks rows up by key and never scans (schema/README.md, decision 2)
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
    set enable_bitmapscan = off
as $$
begin
    return query
    select a.id
      from unnest(p_ids, p_sources, p_urls) as a (id, source_id, url)
      join public.sources as s on s.id = a.source_id
     where s.storage_status = 'uploaded'
       and s.storage_url = a.url
       and not exists (select from public.upload_queue as q where q.id = a.id);
end $$;

revoke all on function reactor.confirm_stored(uuid[], uuid[], text[]) from public;
grant execute on function reactor.confirm_stored(uuid[], uuid[], text[]) to reactor_worker, service_role;
