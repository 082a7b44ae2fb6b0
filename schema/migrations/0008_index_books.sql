-- no-transaction
-- What reconciliation looks for in tables that may be large: reservations that nobody came back for, months that are over,
-- and the runs that a recount of one user's books counts.
--
-- Locks: SHARE UPDATE EXCLUSIVE while each is built; may take minutes on a large table.

create index concurrently if not exists sources_pending
    on public.sources (pending_since) where storage_status = 'pending';

create index concurrently if not exists storage_usage_by_month
    on public.storage_usage (billing_month);

create index concurrently if not exists interpretation_runs_counted
    on public.interpretation_runs (user_id, billing_month) where billing_month is not null;
