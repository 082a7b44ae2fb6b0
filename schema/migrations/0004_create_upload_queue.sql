-- Create upload_queue: one row for each upload that the reactor must still store.
--
-- Why    The row of a stored upload is deleted. The row of a dead or cancelled upload stays, with its errors.
-- Locks  SHARE ROW EXCLUSIVE on sources for the foreign key
-- Time   milliseconds: the new table is empty

do $$
begin
    if to_regclass('public.upload_queue') is not null then
        raise exception 'public.upload_queue exists already: rename that table, then migrate again'
            using errcode = 'RX001';
    end if;
end $$;

create table public.upload_queue (
    id uuid primary key default gen_random_uuid(),
    source_id uuid not null references public.sources (id) on delete cascade,
    user_id uuid not null,
    bucket text not null,
    object_path text not null,
    content_hash text,
    byte_size bigint not null
        constraint byte_size_is_not_negative check (byte_size >= 0),
    spool text not null default 'default',
    temp_file_path text,
    status text not null default 'failed'
        constraint status_is_known check (status in ('failed', 'uploading', 'dead', 'cancelled')),
    retry_count int not null default 0
        constraint retry_count_is_not_negative check (retry_count >= 0),
    max_retries int not null default 5
        constraint max_retries_is_not_negative check (max_retries >= 0),
    next_retry_at timestamptz not null default now(),
    error_code text,
    error_message text,
    lease_token uuid,
    lease_expires_at timestamptz,
    -- a W3C traceparent with a random trace id and the flags "sampled" and "random". Its parent id is "reactor" in
    -- ASCII and a zero byte, which means that the app brought no trace, so the reactor emits the root span (see
    -- functions/lib_traceparent.sql)
    traceparent text not null
        default '00-' || replace(gen_random_uuid()::text, '-', '') || '-72656163746f7200-03',
    errors jsonb not null default '[]',
    metadata jsonb not null default '{}',
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    claim_count int not null default 0
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 200);
comment on column public.upload_queue.retry_count is
    'counted attempts: a claim raises it, a deferred attempt lowers it, an operator''s retry resets it';
comment on column public.upload_queue.lease_token is 'fence: only the claim that set it may settle the row';
comment on column public.upload_queue.errors is
    'one entry per failed attempt: at, began, attempt, code, message, trace_id';
comment on column public.upload_queue.claim_count is
    'number of claims; unlike retry_count never lowered or reset, so it identifies the spans of each attempt';

-- The sweep walks from user to user, the earliest upload of each first.
create index upload_queue_waiting on public.upload_queue (user_id, next_retry_at) where status = 'failed';
-- This index is on id and not on lease_expires_at, so that extending a lease is a HOT update.
create index upload_queue_leased on public.upload_queue (id) where status = 'uploading';
-- For the rescue, which marks waiting uploads without attempts left as dead. The index is nearly always empty.
create index upload_queue_exhausted on public.upload_queue (id) where status = 'failed' and retry_count >= max_retries;
create index upload_queue_ended on public.upload_queue (updated_at) where status in ('dead', 'cancelled');
create index upload_queue_of_source on public.upload_queue (source_id);

-- The operator page lists waiting uploads by due time. The planner would use an index on next_retry_at itself for the
-- sweep too, instead of upload_queue_waiting (schema/README.md, decision 11).
create index upload_queue_by_due
    on public.upload_queue (greatest(next_retry_at, 'epoch'::timestamptz), id) where status = 'failed';
-- The operator page lists dead and cancelled uploads by age.
create index upload_queue_given_up
    on public.upload_queue (status, updated_at, id) where status in ('dead', 'cancelled');
