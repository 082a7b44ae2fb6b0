-- One beat of one reactor: say that it lives, prove its listening connection by a notification that must come back
-- to it, and learn who else is there. Asking for the queue's usage also moves the queue's tail: a queue that was full
-- stays full until somebody asks.
--
-- p_canary  channel on which this reactor listens for its own beat; null: none is sent. None is sent either while the queue
--           is half full: the triggers say nothing then, so hearing proves nothing, and a full queue would fail the beat
-- Returns   the clock, how full the notification queue is, which reactors live, and which of them listen
create or replace function reactor.pulse(p_instance uuid, p_host text, p_version text, p_mode text, p_canary text,
        p_silent_after interval)
    returns table (now_at float8, queue_usage float8, instances uuid[], listening uuid[])
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    insert into reactor.instance as i (id, host, version, mode)
    values (p_instance, p_host, p_version, p_mode)
    on conflict (id) do update set seen_at = clock_timestamp(), mode = excluded.mode;
    if p_canary is not null and pg_notification_queue_usage() < 0.5 then
        perform pg_notify(p_canary, '');
    end if;
    return query
    select extract(epoch from clock_timestamp())::float8, pg_notification_queue_usage(),
           array(select i.id from reactor.instance as i
                  where i.seen_at > statement_timestamp() - p_silent_after order by i.id),
           array(select i.id from reactor.instance as i
                  where i.seen_at > statement_timestamp() - p_silent_after and i.mode = 'listening' order by i.id);
end $$;

revoke all on function reactor.pulse(uuid, text, text, text, text, interval) from public;
grant execute on function reactor.pulse(uuid, text, text, text, text, interval) to reactor_worker, service_role;
