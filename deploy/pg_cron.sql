-- Schedules pg_cron jobs that do a part of the reactor's work inside the database, for times when no reactor runs.
--
--   psql "$OWNER_URL" -v ON_ERROR_STOP=1 -f deploy/pg_cron.sql
--
-- Run this file after `reactor migrate`, as the role that migrated (on Supabase: postgres), in the database in which
-- pg_cron is installed. A job runs as the role that scheduled it. This role must own the reactor's functions, or have
-- the privileges of reactor_worker. A job replaces an older job of the same name, so this file may be run again.
--
-- The jobs     fail stale runs, at most a minute late
--              rescue uploads whose reactor died: they are due again, or dead if they have no attempts left
--              release leaked reservations, and update usage rows whose month is over
-- They can't   store an upload: that needs a reactor, or `reactor reconcile`, with access to the upload's spool
-- They are safe while a reactor runs: each row is locked, checked again, and skipped if another session has locked it.
--
-- Each job handles a limited number of rows; its next run handles the others. For runs without heartbeat_timeout, the
-- first job uses 60 s, the default of REACTOR_HEARTBEAT_TIMEOUT. If you change the setting, change the job too.

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

-- Delete old rows of job_run_details: pg_cron inserts a row for each run of a job, and never deletes it.
select cron.schedule('reactor-forget-cron-runs', '17 3 * * *', $job$
    delete from cron.job_run_details as d
     using cron.job as j
     where j.jobid = d.jobid and j.jobname like 'reactor-%' and d.end_time < now() - interval '7 days'
$job$);

-- To remove the jobs: select cron.unschedule(jobname) from cron.job where jobname like 'reactor-%';
