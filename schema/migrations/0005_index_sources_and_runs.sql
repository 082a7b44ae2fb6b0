-- no-transaction
-- Indexes on tables that may be large already, built without holding up their writers.
--
-- Locks: SHARE UPDATE EXCLUSIVE while each is built; may take minutes on a large table.

-- unless: an app has made such an index already
-- select exists (select from pg_index as i where i.indrelid = 'public.sources'::regclass and i.indisunique
--     and i.indisvalid and i.indpred is null and (select array_agg(a.attname::text order by a.attname)
--     from pg_attribute as a where a.attrelid = i.indrelid and a.attnum = any(i.indkey)) = '{content_hash,user_id}')
create unique index concurrently if not exists sources_are_unique_by_content
    on public.sources (user_id, content_hash);

-- The running runs are few; the reactor filters them by deadline. Never index heartbeat_at: heartbeats would stop
-- being HOT updates, all of them.
create index concurrently if not exists interpretation_runs_running
    on public.interpretation_runs (id) where status = 'running';

create index concurrently if not exists interpretation_runs_of_source
    on public.interpretation_runs (source_id);
