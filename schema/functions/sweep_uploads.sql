-- List the uploads that are due within p_horizon, the earliest p_per_tenant of each user, and those under a lease
-- (due when it ends); at most p_limit in all.
--
-- Walks the index from user to user, so that a tenant with a million rows hides nobody, and costs no more than
-- p_per_tenant. `changed_at` says since when the row could have been known. Times are seconds since 1970, and finite.
create or replace function reactor.sweep_uploads(p_horizon interval, p_per_tenant int, p_limit int)
    returns table (id uuid, tenant int, due_at float8, changed_at float8)
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    -- always a look-up by key: plan it once, and never as a scan of the table or of a whole partial index
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
    set enable_bitmapscan = off
as $$
begin
    return query
    with recursive owner as (
        (select q.user_id from public.upload_queue as q where q.status = 'failed' order by q.user_id limit 1)
        union all
        select (select q.user_id from public.upload_queue as q
                 where q.status = 'failed' and q.user_id > o.user_id order by q.user_id limit 1)
          from owner as o
         where o.user_id is not null
    ), waiting as (
        select w.id, uuid_hash(o.user_id), date_part('epoch', greatest(w.next_retry_at, 'epoch')),
               date_part('epoch', w.updated_at)
          from owner as o
         cross join lateral (
             select q.id, q.next_retry_at, q.updated_at
               from public.upload_queue as q
              where q.status = 'failed' and q.user_id = o.user_id
                and q.next_retry_at <= statement_timestamp() + p_horizon
              order by q.next_retry_at
              limit p_per_tenant) as w
         where o.user_id is not null
         limit p_limit
    ), leased as (
        select q.id, uuid_hash(q.user_id), date_part('epoch', q.lease_expires_at),
               date_part('epoch', q.updated_at)
          from public.upload_queue as q
         where q.status = 'uploading' and q.lease_expires_at is not null
         limit p_limit
    )
    select * from waiting
    union all
    select * from leased;
end $$;

revoke all on function reactor.sweep_uploads(interval, int, int) from public;
grant execute on function reactor.sweep_uploads(interval, int, int) to reactor_worker, service_role;
