-- Put a user on a plan. Only a service may call it. If the user's usage is over the plan's limits, new work is refused,
-- and nothing is deleted.
--
-- Returns  the object of get_usage
-- Refuses  NOT_ALLOWED, INVALID_ARGUMENT (for an unknown plan, the message lists the known plans)
-- Locks    the user's usage row
create or replace function public.set_plan(p_user_id uuid, p_plan text)
    returns jsonb
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    if reactor.caller() is not null then
        return reactor.refuse('NOT_ALLOWED', 'Only a service sets plans.');
    elsif p_user_id is null then
        return reactor.refuse_argument('p_user_id must be the id of a user');
    elsif not exists (select from public.quota_plans as p where p.plan = p_plan) then
        return reactor.refuse_argument('p_plan must be one of ' || (
            select string_agg(p.plan, ', ' order by p.plan) from public.quota_plans as p));
    end if;
    insert into public.storage_usage (user_id, plan) values (p_user_id, p_plan)
    on conflict (user_id) do update set plan = excluded.plan;
    return reactor.usage_of(p_user_id);
end $$;

revoke all on function public.set_plan(uuid, text) from public, anon, authenticated;
grant execute on function public.set_plan(uuid, text) to service_role, reactor_worker;
