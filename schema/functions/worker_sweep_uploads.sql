-- List waiting uploads that are due before now + p_horizon, and claimed uploads, which are due when their lease ends.
--
-- p_per_tenant  maximum number of waiting uploads per user; the earliest are listed
-- p_limit       maximum number of waiting uploads, and maximum number of claimed uploads
-- Returns       one row per upload; `changed_at` is the earliest time at which a reactor could have scheduled the row.
--               Times are seconds since 1970; the due times of waiting uploads are finite
-- Locks         nothing
-- Costs         walks the index from user to user and reads up to p_per_tenant rows of each user: a user with a million
--               rows doesn't hide the rows of other users
create or replace function reactor.sweep_uploads(p_horizon interval, p_per_tenant int, p_limit int)
    returns table (id uuid, tenant int, due_at float8, changed_at float8)
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
    with recursive owner as (
        (select q.user_id from public.upload_queue as q where q.status = 'failed' order by q.user_id limit 1)
        union all
        select (select q.user_id from public.upload_queue as q
                 where q.status = 'failed' and q.user_id > o.user_id order by q.user_id limit 1)
          from owner as o
         where o.user_id is not null
    ), waiting as (
        select w.id, uuid_hash(o.user_id) as tenant, date_part('epoch', reactor.due_at(w.next_retry_at)) as due_at,
               date_part('epoch', w.updated_at) as changed_at
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
        select q.id, uuid_hash(q.user_id) as tenant, date_part('epoch', q.lease_expires_at) as due_at,
               date_part('epoch', q.updated_at) as changed_at
          from public.upload_queue as q
         where q.status = 'uploading' and q.lease_expires_at is not null
         limit p_limit
    )
    select w.id, w.tenant, w.due_at, w.changed_at from waiting as w
    union all
    select l.id, l.tenant, l.due_at, l.changed_at from leased as l;
end $$;

revoke all on function reactor.sweep_uploads(interval, int, int) from public;
grant execute on function reactor.sweep_uploads(interval, int, int) to reactor_worker, service_role;
