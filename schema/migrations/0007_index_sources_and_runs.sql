-- no-transaction
-- Index the two tables that may be large already, without blocking their writers.
--
-- Why    Each index is built CONCURRENTLY, one at a time. `reactor migrate` drops an index that an earlier try left
--        invalid, and skips the unique index if the app has an equal one (reactor/postgres/migrate.py).
-- Locks  SHARE UPDATE EXCLUSIVE on the table while each index is built
-- Time   minutes on a large table

create unique index concurrently if not exists sources_are_unique_by_content
    on public.sources (user_id, content_hash);

-- Reconciliation looks for leaked reservations, the oldest first.
create index concurrently if not exists sources_pending
    on public.sources (pending_since) where storage_status = 'pending';

-- Running runs are few; the reactor filters them by deadline. Never index heartbeat_at: heartbeats would no longer be
-- HOT updates.
create index concurrently if not exists interpretation_runs_running
    on public.interpretation_runs (id) where status = 'running';

create index concurrently if not exists interpretation_runs_of_source
    on public.interpretation_runs (source_id);

-- A recount of one user's usage counts the runs of a month.
create index concurrently if not exists interpretation_runs_counted
    on public.interpretation_runs (user_id, billing_month) where billing_month is not null;

-- The operator page lists runs by age. created_at may be null in a table that an app made.
create index concurrently if not exists interpretation_runs_by_age
    on public.interpretation_runs (coalesce(created_at, '-infinity'::timestamptz), id);

create index concurrently if not exists interpretation_runs_running_by_age
    on public.interpretation_runs (coalesce(created_at, '-infinity'::timestamptz), id) where status = 'running';
