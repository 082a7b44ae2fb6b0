-- What a user may use and uses: what an agent or a page shows.
--
-- Answers  {"ok", "user_id", "plan", "limit_bytes", "used_bytes", "reserved_bytes", "remaining_bytes", "sources",
--          "interpretation_limit", "interpretations_used", "interpretations_remaining", "billing_month", "resets_at",
--          "last_calculated"}; null limits and remainders are unlimited, months are UTC
-- Refuses  NOT_ALLOWED, INVALID_ARGUMENT
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

-- get_usage without the question who asks.
create or replace function reactor.usage_of(p_user_id uuid)
    returns jsonb
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select jsonb_build_object(
               'ok', true, 'user_id', p_user_id, 'plan', s.plan,
               'limit_bytes', s.limit_bytes, 'used_bytes', s.used_bytes, 'reserved_bytes', s.reserved_bytes,
               -- greatest() passes over nulls: of what is unlimited there would be 0 left
               'remaining_bytes', case when s.limit_bytes is not null then
                   greatest(0, s.limit_bytes::numeric - s.used_bytes - s.reserved_bytes)::bigint end,
               'sources', s.sources,
               'interpretation_limit', s.interpretation_limit, 'interpretations_used', s.interpretations_used,
               'interpretations_remaining', case when s.interpretation_limit is not null then
                   greatest(0, s.interpretation_limit - s.interpretations_used) end,
               'billing_month', s.billing_month, 'resets_at', s.resets_at, 'last_calculated', s.last_calculated)
      from reactor.effective_quota(p_user_id) as s
$$;

revoke all on function reactor.usage_of(uuid) from public;
revoke all on function public.get_usage(uuid) from public, anon, authenticated;
grant execute on function public.get_usage(uuid) to authenticated, service_role, reactor_worker;
