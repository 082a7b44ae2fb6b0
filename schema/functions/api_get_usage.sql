-- Return a user's plan, limits and usage.
--
-- Returns  {"ok", "user_id", "plan", "limit_bytes", "used_bytes", "reserved_bytes", "remaining_bytes", "sources",
--          "interpretation_limit", "interpretations_used", "interpretations_remaining", "billing_month", "resets_at",
--          "last_calculated"}. A null limit or remainder means unlimited. Months are UTC
-- Refuses  NOT_ALLOWED, INVALID_ARGUMENT
-- Locks    nothing
create or replace function public.get_usage(p_user_id uuid)
    returns jsonb
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    if p_user_id is not null and not reactor.acts_for(reactor.caller(), p_user_id) then
        return reactor.refuse('NOT_ALLOWED', 'p_user_id isn''t the user of the caller''s JWT.',
                              '{"argument": "p_user_id"}');
    elsif p_user_id is null then
        return reactor.refuse_argument('p_user_id must be the id of a user');
    end if;
    return reactor.usage_of(p_user_id);
end $$;

revoke all on function public.get_usage(uuid) from public, anon, authenticated;
grant execute on function public.get_usage(uuid) to authenticated, service_role, reactor_worker;
