-- Return a user's limits and usage: the plan's limits or the user's own, the bytes, the interpretations of this month.
--
-- Returns  one row. null limits are unlimited. A user without a row in storage_usage is on the plan 'free' and has used
--          nothing. A month that is over counts as nothing used, also before its row is updated; months are UTC
-- Inlined  has no pinned search_path on purpose, and returns a set (schema/README.md, decision 8)
create or replace function reactor.effective_quota(p_user_id uuid)
    returns table (plan text, limit_bytes bigint, used_bytes bigint, reserved_bytes bigint, sources int,
                   interpretation_limit int, interpretations_used int, billing_month text, resets_at timestamptz,
                   last_calculated timestamptz)
    language sql
    stable
as $$
    select p.plan,
           coalesce(u.storage_limit_bytes, p.storage_limit_bytes),
           coalesce(u.total_bytes, 0),
           coalesce(u.reserved_bytes, 0),
           coalesce(u.total_sources, 0),
           coalesce(u.interpretation_limit_month, p.interpretation_limit_month),
           case when u.billing_month = this.month then u.interpretation_count_month else 0 end,
           this.month,
           (date_trunc('month', this.moment) + interval '1 month') at time zone 'utc',
           u.last_calculated
      from (select t.moment, to_char(t.moment, 'YYYY-MM') as month
              from (select clock_timestamp() at time zone 'utc' as moment) as t) as this
      left join public.storage_usage as u on u.user_id = p_user_id
      join public.quota_plans as p on p.plan = coalesce(u.plan, 'free')
$$;

revoke all on function reactor.effective_quota(uuid) from public;
