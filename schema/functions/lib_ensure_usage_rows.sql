-- Insert a row into storage_usage for each of these users who has none.
--
-- p_users  distinct user ids
-- Locks    the rows that it inserts, in order of user_id. Call it before locking any usage row: a session that waits
--          here for another session's insert must not hold a row that the other session locks next
create or replace function reactor.ensure_usage_rows(p_users uuid[])
    returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    if (select count(*) from public.storage_usage where user_id = any(p_users)) < cardinality(p_users) then
        insert into public.storage_usage (user_id)
        select u from unnest(p_users) as u order by u
        on conflict (user_id) do nothing;
    end if;
end $$;

revoke all on function reactor.ensure_usage_rows(uuid[]) from public;
