-- Of settlements whose answer was lost: tell which of them have committed. Returns the ids of uploads that are no
-- longer queued and whose source is in the store, under the URL that this settlement would have given it.
create or replace function reactor.confirm_stored(p_ids uuid[], p_sources uuid[], p_urls text[])
    returns setof uuid
    language plpgsql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
    -- always a look-up by key: plan it once, and never as a scan of the table or of a whole partial index
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
