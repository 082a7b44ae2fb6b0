-- What `reactor status` shows of the database, as one object. Counts the whole queue: for people and scrapes, not for
-- a loop. Ages are seconds.
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
                    - min(q.next_retry_at) filter (where q.status = 'failed'
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
        'notification_queue_usage', pg_notification_queue_usage(),
        'now', statement_timestamp())
$$;

revoke all on function reactor.status(interval) from public;
grant execute on function reactor.status(interval) to reactor_worker, service_role;
