-- Record that a reactor is alive, send its canary, and return which reactors are alive. Every reactor calls this every
-- few seconds. When it begins or stops to listen, this notifies the others on reactor_peers.
--
-- p_mode          'starting', 'listening' or 'polling'
-- p_canary        channel on which this reactor listens for its own canary; null: none is sent
-- p_silent_after  a reactor that was not seen for this long counts as dead
-- Returns   the database's clock halfway between question and answer, which the reactor compares with its own (clock
--           offset of RFC 5905, section 8), in seconds since 1970; how full the notification queue is, 0 to 1; the live
--           reactors, and those of them that listen
-- Promises  sends nothing while the notification queue is half full: the triggers send nothing then either, so a canary
--           would prove nothing, and a full queue would fail this call. Reading the queue's usage also advances its
--           tail: a full queue stays full until a session reads it
-- Locks     this reactor's row of reactor.instance
create or replace function reactor.report_presence(p_instance uuid, p_host text, p_version text, p_mode text,
        p_canary text, p_silent_after interval)
    returns table (now_at float8, queue_usage float8, instances uuid[], listening uuid[])
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_was_listening constant boolean := exists (
        select from reactor.instance as i
         where i.id = p_instance and i.mode = 'listening' and i.seen_at > statement_timestamp() - p_silent_after);
begin
    -- don't wait for the disk: a row that a crash loses is written again by the next call
    perform set_config('synchronous_commit', 'off', true);
    insert into reactor.instance as i (id, host, version, mode)
    values (p_instance, p_host, p_version, p_mode)
    on conflict (id) do update set seen_at = clock_timestamp(), mode = excluded.mode;
    if pg_notification_queue_usage() < 0.5 then
        if p_canary is not null then
            perform pg_notify(p_canary, '');
        end if;
        if v_was_listening <> (p_mode = 'listening') then
            perform pg_notify('reactor_peers', p_instance::text);
        end if;
    end if;
    return query
    select date_part('epoch', statement_timestamp() + (clock_timestamp() - statement_timestamp()) / 2),
           pg_notification_queue_usage(),
           array(select i.id from reactor.instance as i
                  where i.seen_at > statement_timestamp() - p_silent_after order by i.id),
           array(select i.id from reactor.instance as i
                  where i.seen_at > statement_timestamp() - p_silent_after and i.mode = 'listening' order by i.id);
end $$;

revoke all on function reactor.report_presence(uuid, text, text, text, text, interval) from public;
grant execute on function reactor.report_presence(uuid, text, text, text, text, interval)
    to reactor_worker, service_role;
