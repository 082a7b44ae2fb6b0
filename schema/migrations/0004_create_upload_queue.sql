-- The uploads that the reactor owes the store. A stored upload's row goes; a dead one stays with its errors.
--
-- Locks: SHARE ROW EXCLUSIVE on sources for the moment of the foreign key; the new table is empty.

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
    byte_size bigint not null constraint byte_size_is_not_negative check (byte_size >= 0),
    spool text not null default 'default',
    temp_file_path text,
    status text not null default 'failed'
        constraint status_is_known check (status in ('failed', 'uploading', 'dead', 'cancelled')),
    retry_count int not null default 0 constraint retry_count_is_not_negative check (retry_count >= 0),
    max_retries int not null default 5 constraint max_retries_is_not_negative check (max_retries >= 0),
    next_retry_at timestamptz not null default now(),
    error_code text,
    error_message text,
    lease_token uuid,
    lease_expires_at timestamptz,
    -- W3C Trace Context, version 00, sampled, random trace id: an upload without tracing gets a trace of its own.
    traceparent text not null default '00-' || replace(gen_random_uuid()::text, '-', '') || '-'
        || right(replace(gen_random_uuid()::text, '-', ''), 16) || '-03',
    errors jsonb not null default '[]',
    metadata jsonb not null default '{}',
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 200);
comment on column public.upload_queue.retry_count is 'attempts begun by the reactor; raised as one is claimed';
comment on column public.upload_queue.lease_token is 'fence: only the claim that set it may settle the row';
comment on column public.upload_queue.errors is 'one entry per failed attempt: at, code, message, trace_id';

-- The sweep walks it tenant by tenant, earliest first.
create index upload_queue_waiting on public.upload_queue (user_id, next_retry_at) where status = 'failed';
-- On id and not on lease_expires_at, so that extending a lease stays a HOT update.
create index upload_queue_leased on public.upload_queue (id) where status = 'uploading';
-- Nearly always empty: what only waits to be buried.
create index upload_queue_exhausted on public.upload_queue (id) where status = 'failed' and retry_count >= max_retries;
create index upload_queue_ended on public.upload_queue (updated_at) where status in ('dead', 'cancelled');
create index upload_queue_of_source on public.upload_queue (source_id);
