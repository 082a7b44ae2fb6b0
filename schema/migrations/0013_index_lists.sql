-- no-transaction
-- What the operator page walks, a page at a time: waiting uploads by when they are due, ended ones and runs by age. So no
-- look at it counts or sorts a whole table.
--
-- Locks: SHARE UPDATE EXCLUSIVE while each is built; may take minutes on a large table.

-- Not on next_retry_at itself: that would tempt the sweep, which walks from user to user, away from its own index. No
-- update becomes costlier by it: status and next_retry_at are in other indexes already.
create index concurrently if not exists upload_queue_by_due
    on public.upload_queue (greatest(next_retry_at, 'epoch'::timestamptz), id) where status = 'failed';

create index concurrently if not exists upload_queue_given_up
    on public.upload_queue (status, updated_at, id) where status in ('dead', 'cancelled');

-- created_at may be null in a table that an app made.
create index concurrently if not exists interpretation_runs_by_age
    on public.interpretation_runs (coalesce(created_at, '-infinity'::timestamptz), id);

create index concurrently if not exists interpretation_runs_running_by_age
    on public.interpretation_runs (coalesce(created_at, '-infinity'::timestamptz), id) where status = 'running';
