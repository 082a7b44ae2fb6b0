-- Rebuild the books of up to p_limit users, the next ones after p_after in order of id, from the rows of sources.
-- Returns the last user done, null when there are none left.
--
-- Locks  each user's usage row before its sources are counted: a writer of sources takes the same lock before it
--        commits, so nothing is counted twice or missed
create or replace function reactor.recount_usage(p_after uuid, p_limit int)
    returns uuid
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_users uuid[];
    v_user uuid;
    v_last uuid;
begin
    -- users who have books and no sources, too: theirs may be wrong as well
    v_users := array(
        (select distinct s.user_id from public.sources as s
          where s.user_id is not null and (p_after is null or s.user_id > p_after)
          order by s.user_id limit p_limit)
        union
        (select u.user_id from public.storage_usage as u
          where p_after is null or u.user_id > p_after
          order by u.user_id limit p_limit)
        order by user_id limit p_limit);
    insert into public.storage_usage (user_id) -- before any is locked, as in keep_books
    select u from unnest(v_users) as u order by u
    on conflict (user_id) do nothing;
    foreach v_user in array v_users loop
        perform from public.storage_usage where user_id = v_user for update;
        update public.storage_usage as u
           set total_bytes = counted.total, reserved_bytes = counted.reserved, total_sources = counted.stored,
               last_calculated = clock_timestamp()
          from (select coalesce(sum(f.total), 0) as total, coalesce(sum(f.reserved), 0) as reserved,
                       coalesce(sum(f.stored), 0) as stored
                  from public.sources as s cross join lateral reactor.book_entry(s) as f
                 where s.user_id = v_user) as counted
         where u.user_id = v_user;
        v_last := v_user;
    end loop;
    return v_last;
end $$;

revoke all on function reactor.recount_usage(uuid, int) from public;
