-- What `reactor status` shows of the database, as one object. Counts the whole queue: for people and scrapes, not for
-- a loop. Ages are seconds, and finite whatever an app wrote.
create or replace function reactor.status(p_heartbeat_timeout interval)
    returns jsonb
    language sql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
as $$
    select jsonb_build_object(
        'uploads', (
            select jsonb_build_object(
                'failed', count(*) filter (where q.status = 'failed'),
                'due', count(*) filter (where q.status = 'failed' and q.next_retry_at <= statement_timestamp()),
                'uploading', count(*) filter (where q.status = 'uploading'),
                'dead', count(*) filter (where q.status = 'dead'),
                'cancelled', count(*) filter (where q.status = 'cancelled'),
                'oldest_due_age_s', coalesce(extract(epoch from statement_timestamp()
                    - min(greatest(q.next_retry_at, 'epoch')) filter (where q.status = 'failed'
                                                     and q.next_retry_at <= statement_timestamp())), 0),
                'leases_expired', count(*) filter (where q.status = 'uploading'
                    and coalesce(q.lease_expires_at, '-infinity') <= statement_timestamp()))
              from public.upload_queue as q),
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
