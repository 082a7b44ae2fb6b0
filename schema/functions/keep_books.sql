-- Keep each user's storage_usage in step with the rows of sources, whoever writes them: a pending source is reserved
-- bytes, an uploaded one used bytes, a failed or deleted one neither.
--
-- Locks      the usage rows of the users concerned, in order of user_id, so that two statements never deadlock
-- Invariant  an upload's effects are in sources and storage_usage exactly once: they are one statement
create or replace function reactor.keep_books()
    returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    -- always a look-up by key: plan it once, and never as a scan of the table or of a whole partial index
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
    set enable_bitmapscan = off
as $$
declare
    v_users uuid[];
    v_total bigint[];
    v_reserved bigint[];
    v_sources bigint[];
begin
    if tg_op = 'INSERT' then
        select array_agg(user_id order by user_id), array_agg(total order by user_id),
               array_agg(reserved order by user_id), array_agg(stored order by user_id)
          into v_users, v_total, v_reserved, v_sources
          from (select f.user_id, sum(f.total) as total, sum(f.reserved) as reserved, sum(f.stored) as stored
                  from new_rows as n cross join lateral reactor.book_entry(n) as f
                 where f.user_id is not null group by f.user_id) as change;
    elsif tg_op = 'DELETE' then
        select array_agg(user_id order by user_id), array_agg(-total order by user_id),
               array_agg(-reserved order by user_id), array_agg(-stored order by user_id)
          into v_users, v_total, v_reserved, v_sources
          from (select f.user_id, sum(f.total) as total, sum(f.reserved) as reserved, sum(f.stored) as stored
                  from old_rows as o cross join lateral reactor.book_entry(o) as f
                 where f.user_id is not null group by f.user_id) as change;
    else
        select array_agg(user_id order by user_id), array_agg(total order by user_id),
               array_agg(reserved order by user_id), array_agg(stored order by user_id)
          into v_users, v_total, v_reserved, v_sources
          from (select entry.user_id, sum(entry.total) as total, sum(entry.reserved) as reserved,
                       sum(entry.stored) as stored
                  from (select f.user_id, f.total, f.reserved, f.stored
                          from new_rows as n cross join lateral reactor.book_entry(n) as f
                        union all
                        select f.user_id, -f.total, -f.reserved, -f.stored
                          from old_rows as o cross join lateral reactor.book_entry(o) as f) as entry
                 where entry.user_id is not null
                 group by entry.user_id
                having sum(entry.total) <> 0 or sum(entry.reserved) <> 0 or sum(entry.stored) <> 0) as change;
    end if;
    if v_users is null then
        return null;
    end if;
    perform from public.storage_usage where user_id = any(v_users) order by user_id for update;
    if (select count(*) from public.storage_usage where user_id = any(v_users)) < cardinality(v_users) then
        insert into public.storage_usage (user_id)
        select u from unnest(v_users) as u order by u
        on conflict (user_id) do nothing;
    end if;
    -- greatest(): books that were wrong before must not make the app's own write fail; a recount mends them
    update public.storage_usage as s
       set total_bytes = greatest(0, s.total_bytes + c.total),
           reserved_bytes = greatest(0, s.reserved_bytes + c.reserved),
           total_sources = greatest(0, s.total_sources + c.stored)
      from unnest(v_users, v_total, v_reserved, v_sources) as c (user_id, total, reserved, stored)
     where s.user_id = c.user_id;
    return null;
end $$;

revoke all on function reactor.keep_books() from public;

create or replace trigger reactor_keep_books_inserted
    after insert on public.sources
    referencing new table as new_rows
    for each statement execute function reactor.keep_books();

create or replace trigger reactor_keep_books_updated
    after update on public.sources
    referencing old table as old_rows new table as new_rows
    for each statement execute function reactor.keep_books();

create or replace trigger reactor_keep_books_deleted
    after delete on public.sources
    referencing old table as old_rows
    for each statement execute function reactor.keep_books();
