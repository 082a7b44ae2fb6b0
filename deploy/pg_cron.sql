-- The fallback below `reactor reconcile`: what the database can do while no reactor runs anywhere.
--
--   psql "$OWNER_URL" -v ON_ERROR_STOP=1 -f deploy/pg_cron.sql
--
-- Run it after `reactor migrate`, as the role that migrated (on Supabase: postgres), in the database that pg_cron is
-- installed in. A job runs as the role that schedules it: it must own the reactor's functions, or have the right of
-- reactor_worker to execute them. A job of the same name is replaced, so running this file again changes nothing.
--
-- It does      fail stale runs, at most a minute late
--              release uploads whose reactor died: due again, or dead without attempts left, with their bytes released
--              release leaked reservations, update billing months that are over
-- It can't     store an upload: a due upload waits for a reactor, or for `reactor reconcile`, that serves its spool
-- It is safe beside a reactor: each row is locked, checked again, and skipped while another session has locked it.
--
-- Each job is limited: the next run does the rest. 60 s is the default of REACTOR_HEARTBEAT_TIMEOUT, for runs without a
-- heartbeat_timeout of their own: set the same value in both places.

select cron.schedule('reactor-fail-stale-runs', '* * * * *', $job$
    select count(*) filter (where code is not null) as failed
      from reactor.expire_runs(
               array(select id from reactor.sweep_runs(interval '0 s', interval '60 s', 5000)), interval '60 s')
$job$);

select cron.schedule('reactor-rescue-uploads', '* * * * *', $job$
    select verdict, count(*) from reactor.rescue_uploads(null, 500) group by verdict
$job$);

select cron.schedule('reactor-repair-usage', '7 * * * *', $job$
    select kind, count from reactor.repair_usage(1000)
$job$);

-- pg_cron keeps a row for each run of a job forever.
select cron.schedule('reactor-forget-cron-runs', '17 3 * * *', $job$
    delete from cron.job_run_details as d
     using cron.job as j
     where j.jobid = d.jobid and j.jobname like 'reactor-%' and d.end_time < now() - interval '7 days'
$job$);

-- To remove the jobs: select cron.unschedule(jobname) from cron.job where jobname like 'reactor-%';
