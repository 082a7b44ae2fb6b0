-- The hint of one row: its id, its tenant as a hash that tells nobody who it is, milliseconds until it is due.
--
-- They count from the statement's start, as send_hints says, and not from now: a statement that fails many uploads is at it
-- for some time, and each would be said to be due that much later. Rounded up: who came too early would have to come again.
-- Due times further off than a day are said to be a day off (an index look-up then finds the real one), so that a
-- hint stays short; null says that the row needs no attention any more.
--
-- No pinned search_path: only so is it inlined into the statements that use it, instead of being planned anew for each row
-- that an app writes. It calls nothing but built-in functions, and its callers pin theirs.
create or replace function reactor.hint(p_id uuid, p_user_id uuid, p_due_at timestamptz)
    returns text
    language sql
    stable
as $$
    select '["' || encode(uuid_send(p_id), 'hex') || '",' || coalesce(uuid_hash(p_user_id), 0) || ','
        || case when p_due_at is null then 'null'
                when p_due_at <= statement_timestamp() then '1' -- for the start itself is sent rounded down
                else (ceil(1000 * date_part('epoch', least(p_due_at, statement_timestamp() + interval '24:00')))
                      - floor(1000 * date_part('epoch', statement_timestamp())))::bigint::text end
        || ']'
$$;

revoke all on function reactor.hint(uuid, uuid, timestamptz) from public;

-- Send the rows' hints on a channel: all in one notification while they are few, as those of most statements are. That is
-- part of the query that made them; send_hints, for more, is a function to be entered. It stands here for it has to be there
-- before what calls it.
--
-- p_hints    an argument that costs nothing to evaluate twice: else this isn't inlined, and planned anew each time
-- Answers    whether anything was sent
-- Promises   as send_hints
create or replace function reactor.send(p_channel text, p_hints text[])
    returns boolean
    language sql
as $$
    select case
        when cardinality(p_hints) > 100 then
            reactor.send_hints(p_channel, p_hints) is not null
        when cardinality(p_hints) > 0 and pg_notification_queue_usage() < 0.5 then
            pg_notify(p_channel, '{"v":1,"at":' || floor(1000 * date_part('epoch', statement_timestamp()))::bigint
                                 || ',"rows":[' || array_to_string(p_hints, ',') || ']}') is not null
        else false
    end
$$;

revoke all on function reactor.send(text, text[]) from public;
