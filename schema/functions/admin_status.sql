-- Return the database's figures for `reactor status`. All figures are exact.
--
-- p_heartbeat_timeout  for runs without heartbeat_timeout
-- Returns    one object. Ages are in seconds, and finite even if an app wrote an infinite time
-- Locks      nothing
-- Costs      reads all claimed, dead and cancelled uploads, up to 20 000 others, and one index entry per waiting
--            upload; in all, that costs a quarter of a table scan. Scans the table if the index would be slower (see
--            by_index). Don't call this function in a loop
create or replace function reactor.status(p_heartbeat_timeout interval)
    returns jsonb
    language sql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
    set jit = off -- compiling takes longer than it saves
as $$
    with due as materialized (
        -- exact up to 10 000; 10 001 means more
        select count(*) as capped from (
            select from public.upload_queue as q
             where reactor.is_due(q.status, q.next_retry_at)
             order by reactor.due_at(q.next_retry_at) limit 10001) as d
    ), later as materialized (
        -- exact up to 10 000; 10 001 means more
        select count(*) as capped from (
            select from public.upload_queue as q
             where q.status = 'failed' and reactor.due_at(q.next_retry_at) > statement_timestamp()
             order by reactor.due_at(q.next_retry_at) desc limit 10001) as l
    ), indexed as materialized (
        -- count(id), not count(*), so that PostgreSQL reads the index by due time, not the index by user. Rows changed
        -- since the last vacuum are read from the table: 1 million take 0.4 s in order of due time, 4 s in order of
        -- user
        select count(q.id) as failed from public.upload_queue as q where q.status = 'failed'
    ), scanned as materialized (
        select count(*) filter (where q.status = 'failed') as failed,
               count(*) filter (where reactor.is_due(q.status, q.next_retry_at)) as due
          from public.upload_queue as q
    ), method as materialized (
        -- Scan the table if over 1 % of its rows have changed since the last vacuum. If a page has a changed row, then
        -- PostgreSQL looks up all index entries of this page in the table. With 1 % changed rows, it looks up a quarter
        -- of all entries, which costs as much as a scan. Also scan the table if neither `due` nor `later` is exact
        select pg_stat_get_dead_tuples(c.oid) <= 200 + 0.01 * greatest(c.reltuples, 0)
               and ((select d.capped from due as d) <= 10000 or (select l.capped from later as l) <= 10000) as by_index
          from pg_class as c
         where c.oid = 'public.upload_queue'::regclass
    )
    select jsonb_build_object(
        'uploads', (
            select jsonb_build_object(
                'failed', case when m.by_index then (select i.failed from indexed as i)
                               else (select s.failed from scanned as s) end,
                'due', case when (select d.capped from due as d) <= 10000 then (select d.capped from due as d)
                            when m.by_index then (select i.failed from indexed as i) - (select l.capped from later as l)
                            else (select s.due from scanned as s) end,
                'oldest_due_age_s', coalesce((
                    select extract(epoch from statement_timestamp() - reactor.due_at(q.next_retry_at))
                      from public.upload_queue as q
                     where reactor.is_due(q.status, q.next_retry_at)
                     order by reactor.due_at(q.next_retry_at) limit 1), 0),
                'uploading', l.uploading,
                'leases_expired', l.expired,
                'dead', e.dead,
                'cancelled', e.cancelled)
              from method as m
             cross join (
                select count(*) as uploading,
                       count(*) filter (where reactor.lease_has_expired(q.status, q.lease_expires_at)) as expired
                  from public.upload_queue as q
                 where q.status = 'uploading') as l
             cross join (
                select count(*) filter (where q.status = 'dead') as dead,
                       count(*) filter (where q.status = 'cancelled') as cancelled
                  from public.upload_queue as q
                 where q.status in ('dead', 'cancelled')) as e),
        'runs', (
            select jsonb_build_object(
                'running', count(*),
                'stale', count(*) filter (where reactor.is_overdue(
                    r.timeout_at, r.heartbeat_at, coalesce(r.heartbeat_timeout, p_heartbeat_timeout))))
              from public.interpretation_runs as r
             where r.status = 'running'),
        'reactors', reactor.reactors(),
        'quota_rejections', coalesce((
            select jsonb_agg(to_jsonb(r) order by r.quota, r.plan)
              from (select n.quota, n.plan, sum(n.count) as count,
                           coalesce(sum(n.count) filter (where n.minute > statement_timestamp() - interval '1 hour'), 0)
                               as last_hour
                      from reactor.quota_rejection as n
                     group by n.quota, n.plan) as r), '[]'),
        'storage_usage', coalesce((
            select jsonb_agg(to_jsonb(b) order by b.plan)
              from (select u.plan, count(*) as users, sum(u.total_bytes) as bytes,
                           sum(u.reserved_bytes) as reserved_bytes
                      from public.storage_usage as u
                     group by u.plan) as b), '[]'),
        'plans', (select jsonb_agg(p.plan order by p.plan) from public.quota_plans as p),
        'notification_queue_usage', pg_notification_queue_usage(),
        'now', statement_timestamp())
$$;

revoke all on function reactor.status(interval) from public;
grant execute on function reactor.status(interval) to reactor_worker, service_role;
