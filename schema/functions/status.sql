-- What `reactor status` shows of the database, as one object, every figure exact. Ages are seconds, and finite whatever
-- an app wrote. For people and scrapes, not for a loop.
--
-- Costs      of the table, what is under a lease and up to 20 000 rows more; of an index, an entry for each waiting
--            upload: those are counted. That takes a quarter of a walk of the table. The table itself is walked where
--            the index would be dearer: see by_index
create or replace function reactor.status(p_heartbeat_timeout interval)
    returns jsonb
    language sql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
    set jit = off -- compiling it takes longer than what it saves
as $$
    with due as materialized (
        select count(*) as few from (
            select from public.upload_queue as q
             where q.status = 'failed' and greatest(q.next_retry_at, 'epoch') <= statement_timestamp()
             order by greatest(q.next_retry_at, 'epoch') limit 10001) as d
    ), later as materialized (
        select count(*) as few from (
            select from public.upload_queue as q
             where q.status = 'failed' and greatest(q.next_retry_at, 'epoch') > statement_timestamp()
             order by greatest(q.next_retry_at, 'epoch') desc limit 10001) as l
    ), counted as materialized (
        -- count(id), not (*): the index that has the id is in the order of coming due, much as the table is. What changed
        -- since vacuum came by is looked up there, and by user that is at random: 4 s for a million rows, not 0.4
        select count(q.id) as failed from public.upload_queue as q where q.status = 'failed'
    ), walked as materialized (
        select count(*) filter (where q.status = 'failed') as failed,
               count(*) filter (where q.status = 'failed' and q.next_retry_at <= statement_timestamp()) as due
          from public.upload_queue as q
    ), way as materialized (
        -- not once one row in a hundred has changed since vacuum came by: then one entry in four is looked up, as dear as
        -- a walk where retries have mixed up the order. Nor where neither side is soon counted
        select pg_stat_get_dead_tuples(c.oid) <= 200 + 0.01 * greatest(c.reltuples, 0)
               and ((select d.few from due as d) <= 10000 or (select l.few from later as l) <= 10000) as by_index
          from pg_class as c
         where c.oid = 'public.upload_queue'::regclass
    )
    select jsonb_build_object(
        'uploads', (
            select jsonb_build_object(
                'failed', case when y.by_index then (select c.failed from counted as c)
                               else (select w.failed from walked as w) end,
                'due', case when (select d.few from due as d) <= 10000 then (select d.few from due as d)
                            when y.by_index then (select c.failed from counted as c) - (select l.few from later as l)
                            else (select w.due from walked as w) end,
                'oldest_due_age_s', coalesce((
                    select extract(epoch from statement_timestamp() - greatest(q.next_retry_at, 'epoch'))
                      from public.upload_queue as q
                     where q.status = 'failed' and greatest(q.next_retry_at, 'epoch') <= statement_timestamp()
                     order by greatest(q.next_retry_at, 'epoch') limit 1), 0),
                'uploading', l.uploading,
                'leases_expired', l.expired,
                'dead', e.dead,
                'cancelled', e.cancelled)
              from way as y
             cross join (
                select count(*) as uploading,
                       count(*) filter (where coalesce(q.lease_expires_at, '-infinity') <= statement_timestamp())
                           as expired
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
                'stale', count(*) filter (where
                    reactor.deadline(r.timeout_at, r.heartbeat_at, coalesce(r.heartbeat_timeout, p_heartbeat_timeout))
                    <= statement_timestamp()))
              from public.interpretation_runs as r
             where r.status = 'running'),
        'reactors', coalesce((
            select jsonb_agg(jsonb_build_object(
                       'id', i.id, 'host', i.host, 'version', i.version, 'mode', i.mode,
                       'seen_s_ago', extract(epoch from statement_timestamp() - i.seen_at)) order by i.started_at)
              from reactor.instance as i), '[]'),
        'quota_rejections', coalesce((
            select jsonb_agg(to_jsonb(r) order by r.quota, r.plan)
              from (select n.quota, n.plan, sum(n.count) as count,
                           coalesce(sum(n.count) filter (where n.minute > statement_timestamp() - interval '1 hour'), 0)
                               as last_hour
                      from reactor.quota_rejection as n
                     group by n.quota, n.plan) as r), '[]'),
        'storage_usage', coalesce((
            select jsonb_agg(to_jsonb(b) order by b.plan)
              from (select u.plan, count(*) as users, sum(u.total_bytes) as bytes, sum(u.reserved_bytes) as reserved_bytes
                      from public.storage_usage as u
                     group by u.plan) as b), '[]'),
        'notification_queue_usage', pg_notification_queue_usage(),
        'now', statement_timestamp())
$$;

-- The usage of the p_limit users who are closest to a limit of theirs, as get_usage answers it.
create or replace function reactor.fullest_users(p_limit int)
    returns jsonb
    language sql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
as $$
    select coalesce(jsonb_agg(reactor.usage_of(f.user_id) - 'ok' order by f.share desc, f.user_id), '[]')
      from (select u.user_id, greatest(
                       (u.total_bytes + u.reserved_bytes) / nullif(coalesce(u.storage_limit_bytes, p.storage_limit_bytes), 0)::float8,
                       case when u.billing_month = to_char(statement_timestamp() at time zone 'utc', 'YYYY-MM')
                            then u.interpretation_count_month else 0 end
                       / nullif(coalesce(u.interpretation_limit_month, p.interpretation_limit_month), 0)::float8, 0) as share
              from public.storage_usage as u join public.quota_plans as p on p.plan = u.plan
             order by share desc, u.user_id
             limit p_limit) as f
$$;

revoke all on function reactor.fullest_users(int) from public;
grant execute on function reactor.fullest_users(int) to reactor_worker, service_role;
revoke all on function reactor.status(interval) from public;
grant execute on function reactor.status(interval) to reactor_worker, service_role;
