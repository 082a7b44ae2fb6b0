-- One beat of one reactor: say that it lives, prove its listening connection by a notification that must come back
-- to it, and learn who else is there. Whether it listens is told to the others on reactor_peers as it changes: they take
-- turns with those that do. Asking for the queue's usage also moves the queue's tail: a queue that was full
-- stays full until somebody asks.
--
-- p_canary  channel on which this reactor listens for its own beat; null: none is sent
--
-- Nothing is sent while the queue is half full: the triggers say nothing then, so hearing proves nothing, and a full queue
-- would fail the beat.
--
-- Returns   the clock halfway between question and answer, to be held against the asker's own (clock offset of RFC 5905,
--           section 8); how full the notification queue is; which reactors live, and which of them listen
create or replace function reactor.report_presence(p_instance uuid, p_host text, p_version text, p_mode text, p_canary text,
        p_silent_after interval)
    returns table (now_at float8, queue_usage float8, instances uuid[], listening uuid[])
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_listened boolean := exists (
        select from reactor.instance as i
         where i.id = p_instance and i.mode = 'listening' and i.seen_at > statement_timestamp() - p_silent_after);
begin
    -- a beat that a crash forgets is followed by the next; and the answer doesn't come late by a disk's time
    perform set_config('synchronous_commit', 'off', true);
    insert into reactor.instance as i (id, host, version, mode)
    values (p_instance, p_host, p_version, p_mode)
    on conflict (id) do update set seen_at = clock_timestamp(), mode = excluded.mode;
    if pg_notification_queue_usage() < 0.5 then
        if p_canary is not null then
            perform pg_notify(p_canary, '');
        end if;
        if v_listened <> (p_mode = 'listening') then
            perform pg_notify('reactor_peers', p_instance::text);
        end if;
    end if;
    return query
    select date_part('epoch', statement_timestamp() + (clock_timestamp() - statement_timestamp()) / 2), pg_notification_queue_usage(),
           array(select i.id from reactor.instance as i
                  where i.seen_at > statement_timestamp() - p_silent_after order by i.id),
           array(select i.id from reactor.instance as i
                  where i.seen_at > statement_timestamp() - p_silent_after and i.mode = 'listening' order by i.id);
end $$;

revoke all on function reactor.report_presence(uuid, text, text, text, text, interval) from public;
grant execute on function reactor.report_presence(uuid, text, text, text, text, interval) to reactor_worker, service_role;
