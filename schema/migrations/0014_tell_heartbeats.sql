-- Each run says until when its heartbeats needn't be notified: a heartbeat compares columns of its own row, and no more.
--
-- Locks: the runs, for a moment: the column has no default, so that no row is written.

alter table public.interpretation_runs add column if not exists heartbeat_notified_until timestamptz;

comment on column public.interpretation_runs.heartbeat_notified_until is
    'The reactor''s: later heartbeats before this time aren''t notified. Null: the next one is.';
