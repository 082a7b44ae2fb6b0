-- Extend the leases of claimed uploads.
--
-- p_ids, p_tokens  arrays of equal length: the id of the upload, and the lease token of its claim
-- Returns  the ids of the uploads that are still claimed with these tokens, and whether their leases were extended: not
--          if another session has locked the row, and then no reactor can take the upload over either. If an id is
--          missing, the reactor has lost that upload and must stop storing it
-- Locks    the queue rows with these tokens; skips rows that other sessions have locked
create or replace function reactor.extend_leases(p_ids uuid[], p_tokens uuid[], p_lease interval)
    returns table (id uuid, extended boolean)
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '100ms' -- for locks on the whole table, and those that triggers of the app wait for
    -- keep one plan for all calls: it looks rows up by key and never scans (schema/README.md, decision 2)
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
    set enable_bitmapscan = off
as $$
begin
    return query
    with claimed as materialized (
        select q.id, h.token
          from unnest(p_ids, p_tokens) as h (id, token)
         cross join lateral (select u.id from public.upload_queue as u
                              where u.id = h.id and u.lease_token = h.token and u.status = 'uploading' offset 0) as q
    ), held as materialized (
        select q.id
          from claimed as c
         cross join lateral (select u.id from public.upload_queue as u
                              where u.id = c.id and u.lease_token = c.token and u.status = 'uploading'
                                for no key update skip locked) as q
    ), extended as (
        update public.upload_queue as q
           set lease_expires_at = clock_timestamp() + p_lease
          from held as h
         where q.id = h.id
        returning q.id
    )
    select c.id, c.id in (select e.id from extended as e) from claimed as c;
end $$;

revoke all on function reactor.extend_leases(uuid[], uuid[], interval) from public;
grant execute on function reactor.extend_leases(uuid[], uuid[], interval) to reactor_worker, service_role;
