-- The fallback below `reactor reconcile`: what the database can do by itself when no reactor process runs anywhere.
--
--   psql "$OWNER_URL" -v ON_ERROR_STOP=1 -f deploy/pg_cron.sql
--
-- Run it after `reactor migrate`, as the role that migrated (on Supabase: postgres), in the database that pg_cron
-- schedules from. Jobs run as the role that schedules them, which must own the reactor's functions or have reactor_worker's
-- right to execute them. A job of the same name is replaced, so running this file again changes nothing.
--
-- It does      fail stale runs, at most a minute late
--              free uploads whose reactor died: due again, or dead once their tries are used up, reserved bytes given back
--              give back what nobody came for in a day, turn months over
-- It can't     move a byte. A due upload waits until a reactor, or `reactor reconcile`, comes to the spool
-- Beside a reactor it is harmless: each row is locked, checked again, and skipped while somebody else holds it.
--
-- Bounded on purpose: what a minute leaves over, the next one takes. 60 s is REACTOR_HEARTBEAT_TIMEOUT's default, for runs
-- that name no heartbeat_timeout; set the same value here as there.

select cron.schedule('reactor-fail-stale-runs', '* * * * *', $job$
    select count(*) filter (where code is not null) as failed
      from reactor.expire_runs(
               array(select id from reactor.sweep_runs(interval '0 s', interval '60 s', 5000)), interval '60 s')
$job$);

select cron.schedule('reactor-rescue-uploads', '* * * * *', $job$
    select verdict, count(*) from reactor.rescue_uploads(null, 500) group by verdict
$job$);

select cron.schedule('reactor-repair-usage', '7 * * * *', $job$
    select * from reactor.repair_usage(1000)
$job$);

-- pg_cron keeps a line for each run for ever.
select cron.schedule('reactor-forget-cron-runs', '17 3 * * *', $job$
    delete from cron.job_run_details as d
     using cron.job as j
     where j.jobid = d.jobid and j.jobname like 'reactor-%' and d.end_time < now() - interval '7 days'
$job$);

-- To take it away again: select cron.unschedule(jobname) from cron.job where jobname like 'reactor-%';
