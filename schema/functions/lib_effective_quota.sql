-- Return a user's limits (the user's own, or else the plan's), bytes, and interpretations of this month.
--
-- Returns  one row. null limits are unlimited. A user without a row in storage_usage is on the plan 'free' and has used
--          nothing. Months are UTC
create or replace function reactor.effective_quota(p_user_id uuid)
    returns table (plan text, limit_bytes bigint, used_bytes bigint, reserved_bytes bigint, sources int,
                   interpretation_limit int, interpretations_used int, billing_month text, resets_at timestamptz,
                   last_calculated timestamptz)
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select p.plan, q.limit_bytes, q.used_bytes, q.reserved_bytes, coalesce(u.total_sources, 0),
           q.interpretation_limit, q.interpretations_used, this.month,
           (date_trunc('month', this.moment) + interval '1 month') at time zone 'utc',
           u.last_calculated
      from (select t.moment, to_char(t.moment, 'YYYY-MM') as month
              from (select clock_timestamp() at time zone 'utc' as moment) as t) as this
      left join public.storage_usage as u on u.user_id = p_user_id
      join public.quota_plans as p on p.plan = coalesce(u.plan, 'free')
     cross join lateral reactor.quota_of(u, p, this.month) as q
$$;

-- Return one row: the limits and the usage of one user in the month p_month. If the usage row is of another month,
-- interpretations_used is 0.
--
-- p_usage  all null: the user has no usage row
-- Inlined  into the calling query, because it returns a set and pins no search_path (schema/README.md, decision 8)
create or replace function reactor.quota_of(p_usage public.storage_usage, p_plan public.quota_plans, p_month text)
    returns table (limit_bytes bigint, used_bytes bigint, reserved_bytes bigint, interpretation_limit int,
                   interpretations_used int)
    language sql
    immutable
as $$
    select coalesce(p_usage.storage_limit_bytes, p_plan.storage_limit_bytes),
           coalesce(p_usage.total_bytes, 0),
           coalesce(p_usage.reserved_bytes, 0),
           coalesce(p_usage.interpretation_limit_month, p_plan.interpretation_limit_month),
           case when p_usage.billing_month = p_month then p_usage.interpretation_count_month else 0 end
$$;

revoke all on function reactor.effective_quota(uuid) from public;
revoke all on function reactor.quota_of(public.storage_usage, public.quota_plans, text) from public;
