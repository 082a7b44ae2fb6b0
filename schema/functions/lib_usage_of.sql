-- Return the object that get_usage returns, without checking the caller.
create or replace function reactor.usage_of(p_user_id uuid)
    returns jsonb
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select jsonb_build_object(
               'ok', true, 'user_id', p_user_id, 'plan', s.plan,
               'limit_bytes', s.limit_bytes, 'used_bytes', s.used_bytes, 'reserved_bytes', s.reserved_bytes,
               -- greatest() ignores nulls: without the case, an unlimited plan would have 0 bytes left
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
