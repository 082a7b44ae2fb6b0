-- Keep each user's storage_usage equal to the sum of the rows of sources, for every writer. The bytes of a pending
-- source are reserved, the bytes of an uploaded source are used. Refuse a statement that would exceed a user's limit.
--
-- Raises     RX101  the statement adds bytes, and total_bytes + reserved_bytes would be over the limit; details: plan,
--            limit_bytes, used_bytes, reserved_bytes, requested_bytes. Doesn't raise while the setting reactor.quota
--            is 'off', which settle_uploads sets
-- Locks      the usage rows of the sources' users, in order of user_id
-- Invariant  sources and storage_usage change in one statement, so each change is counted exactly once
-- Invariant  a statement that adds bytes leaves total_bytes + reserved_bytes <= limit, because the rows are locked
--            before they are summed. If a limit was lowered below a user's usage, nothing is deleted, and the user may
--            still delete sources
create or replace function reactor.track_usage()
    returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    -- keep one plan for all calls: it looks rows up by key and never scans (schema/README.md, decision 2)
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
    set enable_bitmapscan = off
as $$
declare
    v_users uuid[];
    v_total bigint[];
    v_reserved bigint[];
    v_sources bigint[];
    v_over jsonb;
begin
    if tg_op = 'INSERT' then
        select array_agg(user_id order by user_id), array_agg(total order by user_id),
               array_agg(reserved order by user_id), array_agg(stored order by user_id)
          into v_users, v_total, v_reserved, v_sources
          from (select f.user_id, sum(f.total) as total, sum(f.reserved) as reserved, sum(f.stored) as stored
                  from new_rows as n cross join lateral reactor.usage_of_source(n) as f
                 where f.user_id is not null group by f.user_id) as change;
    elsif tg_op = 'DELETE' then
        select array_agg(user_id order by user_id), array_agg(-total order by user_id),
               array_agg(-reserved order by user_id), array_agg(-stored order by user_id)
          into v_users, v_total, v_reserved, v_sources
          from (select f.user_id, sum(f.total) as total, sum(f.reserved) as reserved, sum(f.stored) as stored
                  from old_rows as o cross join lateral reactor.usage_of_source(o) as f
                 where f.user_id is not null group by f.user_id) as change;
    else
        select array_agg(user_id order by user_id), array_agg(total order by user_id),
               array_agg(reserved order by user_id), array_agg(stored order by user_id)
          into v_users, v_total, v_reserved, v_sources
          from (select entry.user_id, sum(entry.total) as total, sum(entry.reserved) as reserved,
                       sum(entry.stored) as stored
                  from (select f.user_id, f.total, f.reserved, f.stored
                          from new_rows as n cross join lateral reactor.usage_of_source(n) as f
                        union all
                        select f.user_id, -f.total, -f.reserved, -f.stored
                          from old_rows as o cross join lateral reactor.usage_of_source(o) as f) as entry
                 where entry.user_id is not null
                 group by entry.user_id
                having sum(entry.total) <> 0 or sum(entry.reserved) <> 0 or sum(entry.stored) <> 0) as change;
    end if;
    if v_users is null then
        return null;
    end if;
    perform reactor.ensure_usage_rows(v_users);
    perform from public.storage_usage where user_id = any(v_users) order by user_id for no key update;
    -- greatest(): figures that were wrong before must not make the app's own write fail; a recount corrects them
    update public.storage_usage as s
       set total_bytes = greatest(0, s.total_bytes + c.total),
           reserved_bytes = greatest(0, s.reserved_bytes + c.reserved),
           total_sources = greatest(0, s.total_sources + c.stored)
      from unnest(v_users, v_total, v_reserved, v_sources) as c (user_id, total, reserved, stored)
     where s.user_id = c.user_id;
    if exists (select from unnest(v_total, v_reserved) as c (total, reserved) where c.total + c.reserved > 0)
       and current_setting('reactor.quota', true) is distinct from 'off' then
        -- the plan is read after the lock, so a plan that another session has just lowered applies
        select jsonb_build_object('plan', s.plan, 'limit_bytes', s.limit_bytes, 'used_bytes', s.used_bytes - c.total,
                                  'reserved_bytes', s.reserved_bytes - c.reserved,
                                  'requested_bytes', c.total + c.reserved)
          into v_over
          from unnest(v_users, v_total, v_reserved) as c (user_id, total, reserved)
         cross join lateral reactor.effective_quota(c.user_id) as s
         where c.total + c.reserved > 0 and s.used_bytes + s.reserved_bytes > s.limit_bytes
         limit 1;
        if found then
            perform reactor.raise_quota_exceeded('STORAGE_QUOTA_EXCEEDED', v_over);
        end if;
    end if;
    return null;
end $$;

revoke all on function reactor.track_usage() from public;

create or replace trigger reactor_track_usage_inserted
    after insert on public.sources
    referencing new table as new_rows
    for each statement execute function reactor.track_usage();

create or replace trigger reactor_track_usage_updated
    after update on public.sources
    referencing old table as old_rows new table as new_rows
    for each statement execute function reactor.track_usage();

create or replace trigger reactor_track_usage_deleted
    after delete on public.sources
    referencing old table as old_rows
    for each statement execute function reactor.track_usage();

-- Set all users' usage to 0 when sources is truncated.
create or replace function reactor.clear_usage()
    returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    update public.storage_usage
       set total_bytes = 0, reserved_bytes = 0, total_sources = 0
     where (total_bytes, reserved_bytes, total_sources) is distinct from (0, 0, 0);
    return null;
end $$;

revoke all on function reactor.clear_usage() from public;

create or replace trigger reactor_track_usage_truncated
    after truncate on public.sources
    for each statement execute function reactor.clear_usage();

-- Set pending_since to now when a source becomes pending again, so that its new reservation doesn't look leaked.
create or replace function reactor.stamp_pending()
    returns trigger
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    new.pending_since := clock_timestamp();
    return new;
end $$;

revoke all on function reactor.stamp_pending() from public;

create or replace trigger reactor_stamp_pending
    before update of storage_status on public.sources
    for each row when (new.storage_status = 'pending' and old.storage_status is distinct from 'pending')
    execute function reactor.stamp_pending();
