-- Create sources and interpretation_runs, or add the columns that an app's own tables of these names lack.
--
-- Why    Columns are only added, with defaults that need no rewrite. Checks are NOT VALID: new rows are checked, old
--        rows aren't. An app's own checks are kept. If the app checks the status of runs, no other check is added.
-- Locks  ACCESS EXCLUSIVE on both tables for each ALTER
-- Time   milliseconds: no table is scanned or rewritten

create table if not exists public.sources (
    id uuid primary key default gen_random_uuid(),
    user_id uuid not null,
    content_hash text not null,
    mime_type text,
    storage_url text,
    storage_status text not null default 'uploaded',
    byte_size bigint,
    file_name text,
    source_type text,
    source_agent_id text,
    source_metadata jsonb not null default '{}',
    created_at timestamptz not null default now(),
    pending_since timestamptz not null default now()
);

alter table public.sources
    add column if not exists user_id uuid,
    add column if not exists content_hash text,
    add column if not exists mime_type text,
    add column if not exists storage_url text,
    add column if not exists storage_status text not null default 'uploaded',
    add column if not exists byte_size bigint,
    add column if not exists file_name text,
    add column if not exists source_type text,
    add column if not exists source_agent_id text,
    add column if not exists source_metadata jsonb not null default '{}',
    add column if not exists created_at timestamptz not null default now(),
    add column if not exists pending_since timestamptz not null default now();
comment on column public.sources.pending_since is 'when the source last became pending';

-- Drop NOT NULL from columns that reserve_upload leaves null: storage_url, and an older app's file_size and
-- original_filename.
do $$
declare
    v_column text;
begin
    for v_column in
        select a.attname
          from pg_attribute as a
         where a.attrelid = 'public.sources'::regclass
           and a.attnotnull
           and (a.attname = 'storage_url'
                or a.attname in ('file_size', 'original_filename') and not a.atthasdef)
    loop
        execute format('alter table public.sources alter column %I drop not null', v_column);
    end loop;
end $$;

create table if not exists public.interpretation_runs (
    id uuid primary key default gen_random_uuid(),
    user_id uuid not null,
    source_id uuid not null references public.sources (id) on delete cascade,
    interpretation_config jsonb not null default '{}',
    status text not null default 'pending',
    error_code text,
    error_message text,
    timeout_at timestamptz,
    heartbeat_at timestamptz,
    heartbeat_timeout interval,
    traceparent text,
    started_at timestamptz,
    completed_at timestamptz,
    created_at timestamptz not null default now(),
    archived_at timestamptz,
    billing_month text,
    heartbeat_notified_until timestamptz
);

alter table public.interpretation_runs
    add column if not exists interpretation_config jsonb not null default '{}',
    add column if not exists error_code text,
    add column if not exists error_message text,
    add column if not exists timeout_at timestamptz,
    add column if not exists heartbeat_at timestamptz,
    add column if not exists heartbeat_timeout interval,
    add column if not exists traceparent text,
    add column if not exists started_at timestamptz,
    add column if not exists completed_at timestamptz,
    add column if not exists created_at timestamptz not null default now(),
    add column if not exists archived_at timestamptz,
    add column if not exists billing_month text,
    add column if not exists heartbeat_notified_until timestamptz;
comment on column public.interpretation_runs.billing_month is
    'the month (UTC) in which the run''s start was counted; null: no start was counted. Only triggers write it';
comment on column public.interpretation_runs.heartbeat_notified_until is
    'heartbeats before this time send no notification; null: the next heartbeat sends one. Only triggers write it';

-- Leave space in each page for new row versions: then 99 % of heartbeats are HOT updates, instead of 94 %. With an
-- index on heartbeat_at, no heartbeat would be a HOT update.
alter table public.interpretation_runs set (fillfactor = 70);

do $$
begin
    if not exists (select from pg_constraint where conrelid = 'public.sources'::regclass
                   and conname = 'sources_storage_status_is_known') then
        alter table public.sources add constraint sources_storage_status_is_known
            check (storage_status in ('pending', 'uploaded', 'failed')) not valid;
    end if;
    if not exists (select from pg_constraint where conrelid = 'public.sources'::regclass
                   and conname = 'sources_byte_size_is_not_negative') then
        alter table public.sources add constraint sources_byte_size_is_not_negative
            check (byte_size >= 0) not valid;
    end if;
    if not exists (select from pg_constraint where conrelid = 'public.interpretation_runs'::regclass
                   and conname = 'interpretation_runs_heartbeat_timeout_is_positive') then
        alter table public.interpretation_runs add constraint interpretation_runs_heartbeat_timeout_is_positive
            check (heartbeat_timeout > interval '0') not valid;
    end if;
    if not exists (select from pg_constraint where conrelid = 'public.interpretation_runs'::regclass
                   and contype = 'c' and pg_get_constraintdef(oid) ~ '\mstatus\M') then
        alter table public.interpretation_runs add constraint interpretation_runs_status_is_known
            check (status in ('pending', 'running', 'completed', 'failed')) not valid;
    end if;
end $$;
