-- Record that a reactor is alive, send its canary, and return which reactors are alive. Every reactor calls this every
-- few seconds. When a reactor starts or stops listening, notify the other reactors on reactor_peers.
--
-- p_port          port of the reactor's page; null without one
-- p_mode          'starting', 'listening' or 'polling'
-- p_canary        channel on which this reactor listens for its own canary; null: send no canary
-- p_silent_after  a reactor that hasn't been seen for this long counts as dead
-- Returns   now_at: the database's clock in the middle of this call, in seconds since 1970, from which the reactor
--           computes its clock offset (RFC 5905, section 8). queue_usage: how full the notification queue is, 0 to 1.
--           instances: the live reactors. listening: the live reactors that listen
-- Promises  sends nothing while the notification queue is at least half full: the triggers send nothing then either, so
--           a canary would prove nothing, and a full queue would make this call fail. Reading the queue's usage also
--           advances the queue's tail; without that, a full queue would stay full
-- Locks     this reactor's row of reactor.instance
create or replace function reactor.report_presence(p_instance uuid, p_host text, p_pid int, p_port int,
        p_version text, p_mode text, p_canary text, p_silent_after interval)
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
    -- don't wait for the disk: if a crash loses the row, the next call writes it again
    perform set_config('synchronous_commit', 'off', true);
    insert into reactor.instance as i (id, host, pid, port, version, mode)
    values (p_instance, p_host, p_pid, p_port, p_version, p_mode)
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

revoke all on function reactor.report_presence(uuid, text, int, int, text, text, text, interval) from public;
grant execute on function reactor.report_presence(uuid, text, int, int, text, text, text, interval)
    to reactor_worker, service_role;
