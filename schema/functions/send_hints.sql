-- Send the rows' hints on a channel, 100 rows to a notification; one "rescan" instead when there are too many.
--
-- p_hints    each the JSON text [id, tenant, milliseconds from the statement's start until due | null, …] of one row
-- Promises   never raises: a trigger must not make the app's own write fail. Says nothing while the server's
--            notification queue is half full, for a full queue would fail the app's commit; the sweep finds the rows.
-- Speed      each notification is an assignment, which plpgsql evaluates without a query. Triggers call reactor.send
--            (hint.sql), which enters this for more than 100 rows. It runs as its callers do, who pin their search_path
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
