-- Extend the leases of claimed uploads.
--
-- p_ids, p_tokens  arrays of equal length: the id of the upload, and the lease token of its claim
-- Returns  the ids of the uploads whose leases were extended. If an id is missing, the reactor has lost that upload and
--          must stop storing it
-- Locks    the queue rows with these tokens, in order of id; waits for other sessions
create or replace function reactor.extend_leases(p_ids uuid[], p_tokens uuid[], p_lease interval)
    returns setof uuid
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    -- keep one plan for all calls: it looks rows up by key and never scans (schema/README.md, decision 2)
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
    set enable_bitmapscan = off
as $$
begin
    return query
    with held as materialized (
        select q.id
          from unnest(p_ids, p_tokens) as h (id, token)
          join public.upload_queue as q on q.id = h.id and q.lease_token = h.token and q.status = 'uploading'
         order by q.id
           for update of q
    )
    update public.upload_queue as q
       set lease_expires_at = clock_timestamp() + p_lease
      from held as h
     where q.id = h.id
    returning q.id;
end $$;

revoke all on function reactor.extend_leases(uuid[], uuid[], interval) from public;
grant execute on function reactor.extend_leases(uuid[], uuid[], interval) to reactor_worker, service_role;
