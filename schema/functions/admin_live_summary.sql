-- Return the figures that the live page and `reactor status --watch` read every few seconds, as one object.
--
-- p_heartbeat_timeout  for runs without heartbeat_timeout
-- p_cap      counting stops at p_cap + 1, which means "more than p_cap"
-- Returns    an object. Figures that reactor.status() also returns have the same keys there. Ages are in seconds, and
--            finite even if an app wrote an infinite time. Figures whose keys begin with about_ are PostgreSQL's
--            estimates
-- Locks      nothing
-- Costs      the same for any length of the queue
create or replace function reactor.live_summary(p_heartbeat_timeout interval, p_cap int)
    returns jsonb
    language sql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
    -- read the partial indexes, even if the statistics are wrong (schema/README.md, decision 2)
    set enable_seqscan = off
    set enable_bitmapscan = off
    -- before PostgreSQL 18, the two settings above raise the plan's cost so much that JIT compiles it: 0.8 s per call
    set jit = off
as $$
    with running as materialized (
        select r.id, extract(epoch from reactor.deadline(r.timeout_at, r.heartbeat_at,
                   coalesce(r.heartbeat_timeout, p_heartbeat_timeout)) - statement_timestamp()) as left_s
          from public.interpretation_runs as r
         where r.status = 'running'
         limit p_cap + 1
    )
    select jsonb_build_object(
        'cap', p_cap,
        'uploads', jsonb_build_object(
            'failed', (select count(*) from (
                select from public.upload_queue as q where q.status = 'failed' limit p_cap + 1) as f),
            'due', (select count(*) from (
                select from public.upload_queue as q
                 where reactor.is_due(q.status, q.next_retry_at)
                 order by reactor.due_at(q.next_retry_at) limit p_cap + 1) as d),
            'oldest_due_age_s', coalesce((
                select greatest(0, extract(epoch from statement_timestamp() - reactor.due_at(q.next_retry_at)))
                  from public.upload_queue as q
                 where reactor.is_due(q.status, q.next_retry_at)
                 order by reactor.due_at(q.next_retry_at), q.id limit 1), 0),
            'uploading', (select count(*) from (
                select from public.upload_queue as q where q.status = 'uploading' limit p_cap + 1) as u),
            'leases_expired', (select count(*) from (
                select q.status, q.lease_expires_at from public.upload_queue as q
                 where q.status = 'uploading' order by q.id limit p_cap + 1) as l
                 where reactor.lease_has_expired(l.status, l.lease_expires_at)),
            'dead', (select count(*) from (
                select from public.upload_queue as q where q.status = 'dead' limit p_cap + 1) as d),
            'dead_for_s', (
                select extract(epoch from statement_timestamp()
                               - least(greatest(q.updated_at, 'epoch'), statement_timestamp()))
                  from public.upload_queue as q where q.status = 'dead' order by q.updated_at, q.id limit 1),
            'cancelled', (select count(*) from (
                select from public.upload_queue as q where q.status = 'cancelled' limit p_cap + 1) as c),
            'about_all', (
                select greatest(c.reltuples, 0)::bigint
                  from pg_class as c
                 where c.oid = 'public.upload_queue'::regclass)),
        'dead', coalesce((
            select jsonb_agg(to_jsonb(d) order by d.updated_at desc, d.id desc)
              from (select q.id, q.updated_at, q.error_code, left(q.error_message, 200) as error_message,
                           left(q.object_path, 200) as object_path
                      from public.upload_queue as q
                     where q.status = 'dead' order by q.updated_at desc, q.id desc limit 5) as d), '[]'),
        'runs', (
            select jsonb_build_object(
                'running', count(*),
                'stale', count(*) filter (where r.left_s <= 0),
                'within_1m', count(*) filter (where r.left_s > 0 and r.left_s <= 60),
                'within_5m', count(*) filter (where r.left_s > 60 and r.left_s <= 300),
                'within_15m', count(*) filter (where r.left_s > 300 and r.left_s <= 900),
                'later', count(*) filter (where r.left_s > 900),
                'unbounded', count(*) filter (where r.left_s is null),
                'next', coalesce((
                    select jsonb_agg(jsonb_build_object('id', n.id, 'left_s', n.left_s) order by n.left_s, n.id)
                      from (select x.id, x.left_s from running as x where x.left_s is not null
                             order by x.left_s, x.id limit 5) as n), '[]'))
              from running as r),
        'reactors', reactor.reactors(),
        'quota_rejections', coalesce((
            select jsonb_agg(to_jsonb(r) order by r.quota, r.plan)
              from (select n.quota, n.plan, sum(n.count) as last_hour
                      from reactor.quota_rejection as n
                     where n.minute > statement_timestamp() - interval '1 hour'
                     group by n.quota, n.plan) as r), '[]'),
        'notification_queue_usage', pg_notification_queue_usage(),
        'now', statement_timestamp())
$$;

revoke all on function reactor.live_summary(interval, int) from public;
grant execute on function reactor.live_summary(interval, int) to reactor_worker, service_role;
