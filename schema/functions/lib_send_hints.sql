-- Notify a channel of many rows: up to 100 rows per notification; for more than 1000 rows, one "rescan" notification.
--
-- p_hints    one JSON text per row, as hint() returns it: [id, tenant, milliseconds until due | null, ...]
-- Promises   never raises: a trigger must not make the app's own write fail. Sends nothing while the server's
--            notification queue is at least half full, because a full queue would make the app's commit fail. The
--            sweep finds rows without a notification
-- Speed      calls pg_notify() in assignments, which plpgsql evaluates without a query. Pins no search_path: the
--            callers are triggers, which pin theirs
-- Invariant  every payload is < 8000 bytes: 100 rows of at most 75 bytes, and the envelope
create or replace function reactor.send_hints(p_channel text, p_hints text[])
    returns void
    language plpgsql
as $$
declare
    v_count constant int := coalesce(cardinality(p_hints), 0);
    v_head text;
    v_sent text;
begin
    if v_count = 0 or pg_notification_queue_usage() >= 0.5 then
        return;
    end if;
    v_head := '{"v":1,"at":' || floor(1000 * date_part('epoch', statement_timestamp()))::bigint;
    if v_count > 1000 then
        v_sent := pg_notify(p_channel, v_head || ',"rescan":true}');
        return;
    end if;
    for v_first in 1 .. v_count by 100 loop
        v_sent := pg_notify(p_channel,
            v_head || ',"rows":[' || array_to_string(p_hints[v_first : v_first + 99], ',') || ']}');
    end loop;
end $$;

revoke all on function reactor.send_hints(text, text[]) from public;
