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

-- Insert the usage row of one user who has none, unless another session is inserting it.
--
-- Returns  whether the row was inserted
-- Locks    the inserted row; waits for another session's insert for a millisecond
create or replace function reactor.open_usage_row(p_user uuid)
    returns boolean
    language plpgsql
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '1ms'
as $$
begin
    insert into public.storage_usage (user_id) values (p_user) on conflict (user_id) do nothing;
    return found;
exception when lock_not_available then
    return false;
end $$;

-- Lock one user's usage row, and insert it if it is missing, unless another session has locked it or is inserting it.
--
-- p_user   null: no row needs to be locked
-- Returns  whether the row is locked
create or replace function reactor.lock_usage_row(p_user uuid)
    returns boolean
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    if p_user is null then
        return true;
    end if;
    perform from public.storage_usage where user_id = p_user for no key update skip locked;
    return found
           or not exists (select from public.storage_usage where user_id = p_user) and reactor.open_usage_row(p_user);
end $$;

revoke all on function reactor.ensure_usage_rows(uuid[]) from public;
revoke all on function reactor.open_usage_row(uuid) from public;
revoke all on function reactor.lock_usage_row(uuid) from public;
