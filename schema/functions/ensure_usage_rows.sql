-- Open the books of those users who have none. Whoever locks several users' books calls this before locking any: who waits
-- for another to open one must not hold what that one goes on to lock.
--
-- p_users    distinct
-- Locks      the usage rows that it opens, in order of user_id
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
