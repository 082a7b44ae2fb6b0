-- Return the usage of the p_limit users who are closest to one of their limits, as a JSON array. An element is the
-- object that get_usage returns, without `ok`.
--
-- Locks  nothing
-- Costs  reads every row of storage_usage
create or replace function reactor.fullest_users(p_limit int)
    returns jsonb
    language sql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
as $$
    select coalesce(jsonb_agg(reactor.usage_of(f.user_id) - 'ok' order by f.share desc, f.user_id), '[]')
      from (select u.user_id,
                   greatest((q.used_bytes + q.reserved_bytes) / nullif(q.limit_bytes, 0)::float8,
                            q.interpretations_used / nullif(q.interpretation_limit, 0)::float8,
                            0) as share
              from public.storage_usage as u
              join public.quota_plans as p on p.plan = u.plan
             cross join lateral reactor.quota_of(
                 u, p, to_char(statement_timestamp() at time zone 'utc', 'YYYY-MM')) as q
             order by share desc, u.user_id
             limit p_limit) as f
$$;

revoke all on function reactor.fullest_users(int) from public;
grant execute on function reactor.fullest_users(int) to reactor_worker, service_role;
