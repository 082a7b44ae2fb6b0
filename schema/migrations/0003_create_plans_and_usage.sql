-- Create quota_plans (what each plan allows) and storage_usage (what each user uses).
--
-- Why    The triggers in functions/trigger_track_usage.sql and functions/trigger_count_runs.sql update storage_usage.
-- Locks  none on existing tables
-- Time   milliseconds

create table public.quota_plans (
    plan text primary key,
    storage_limit_bytes bigint
        constraint storage_limit_is_not_negative check (storage_limit_bytes >= 0),
    interpretation_limit_month int
        constraint interpretation_limit_is_not_negative check (interpretation_limit_month >= 0)
);
comment on column public.quota_plans.storage_limit_bytes is 'null: unlimited';
comment on column public.quota_plans.interpretation_limit_month is 'null: unlimited';

insert into public.quota_plans (plan, storage_limit_bytes, interpretation_limit_month) values
    ('free', 1::bigint << 30, 100),
    ('pro', 50::bigint << 30, 1000),
    ('enterprise', null, null);

create table public.storage_usage (
    user_id uuid primary key,
    plan text not null default 'free' references public.quota_plans (plan) on update cascade,
    total_bytes bigint not null default 0
        constraint total_bytes_is_not_negative check (total_bytes >= 0),
    reserved_bytes bigint not null default 0
        constraint reserved_bytes_is_not_negative check (reserved_bytes >= 0),
    total_sources int not null default 0
        constraint total_sources_is_not_negative check (total_sources >= 0),
    interpretation_count_month int not null default 0
        constraint interpretation_count_is_not_negative check (interpretation_count_month >= 0),
    billing_month text not null default to_char(now() at time zone 'utc', 'YYYY-MM')
        constraint billing_month_is_a_month check (billing_month ~ '^\d{4}-(0[1-9]|1[0-2])$'),
    storage_limit_bytes bigint
        constraint own_storage_limit_is_not_negative check (storage_limit_bytes >= 0),
    interpretation_limit_month int
        constraint own_interpretation_limit_is_not_negative check (interpretation_limit_month >= 0),
    last_calculated timestamptz
) with (fillfactor = 70);
comment on column public.storage_usage.total_bytes is 'bytes of the user''s stored sources';
comment on column public.storage_usage.reserved_bytes is 'bytes of the user''s pending sources';
comment on column public.storage_usage.interpretation_count_month is
    'runs started in billing_month, including those whose rows were deleted';
comment on column public.storage_usage.storage_limit_bytes is 'this user''s own limit; null: the plan''s limit applies';
comment on column public.storage_usage.interpretation_limit_month is
    'this user''s own limit; null: the plan''s limit applies';
comment on column public.storage_usage.last_calculated is 'when the figures were last recounted from rows';

-- Reconciliation looks for rows whose month is over.
create index storage_usage_by_month on public.storage_usage (billing_month);
