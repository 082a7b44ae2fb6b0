-- What a trace needs to know of an upload, across processes and crashes: which claim of the row this is, and whether
-- its root is the reactor's to tell.
--
-- Locks: ACCESS EXCLUSIVE on upload_queue for the moment of the ALTER; nothing is scanned or rewritten.

alter table public.upload_queue
    add column claim_count int not null default 0,
    -- W3C Trace Context, version 00, sampled, random trace id. The parent id is 'reactor' in ASCII and a zero byte: no app
    -- has a span there, so the reactor exports the root span (ROOT_SPAN_ID in reactor/core/trace_context.py).
    alter column traceparent set default '00-' || replace(gen_random_uuid()::text, '-', '') || '-72656163746f7200-03';
comment on column public.upload_queue.claim_count is
    'claims ever made; unlike retry_count never given back or reset, so that it names each attempt''s spans';

-- They answer more columns from now on, which `create or replace` doesn't allow; they are made again right after this.
drop function if exists reactor.claim_uploads(uuid[], uuid, interval);
drop function if exists reactor.settle_uploads(uuid[], uuid[], text[], float8[], text[], text[], text[]);
drop function if exists reactor.rescue_uploads(uuid[], int);
drop function if exists reactor.expire_runs(uuid[], interval);
