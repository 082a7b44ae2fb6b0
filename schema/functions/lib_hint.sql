-- Return the hint of one row: a JSON array of the row's id, the tenant (a hash of the user id) and the milliseconds
-- until the row is due.
--
-- p_due_at  null: the row needs no attention any more
-- Returns   the array as text. The milliseconds count from the start of the statement, which is "at" in the
--           notification. They are rounded up, because a claim before the due time finds nothing and must be repeated.
--           They are limited to a day, which keeps the hint short: a claim after that day returns the real due time
-- Inlined   into the calling query; a pinned search_path would prevent that (schema/README.md, decision 8), and
--           PostgreSQL would plan the function again for each row that an app writes
create or replace function reactor.hint(p_id uuid, p_user_id uuid, p_due_at timestamptz)
    returns text
    language sql
    stable
as $$
    select '["' || encode(uuid_send(p_id), 'hex') || '",' || coalesce(uuid_hash(p_user_id), 0) || ','
        || case when p_due_at is null then 'null'
                when p_due_at <= statement_timestamp() then '1' -- not 0: "at" is rounded down, so "at" + 0 may be early
                else (ceil(1000 * date_part('epoch', least(p_due_at, statement_timestamp() + interval '24:00')))
                      - floor(1000 * date_part('epoch', statement_timestamp())))::bigint::text end
        || ']'
$$;

-- Notify a channel of these rows: up to 100 rows in one notification, as part of the calling query. For more rows,
-- call send_hints.
--
-- p_hints   must be cheap to evaluate twice; otherwise PostgreSQL doesn't inline this function
-- Returns   whether a notification was sent; for more than 100 rows always true, because send_hints returns nothing
-- Promises  the same as send_hints
-- Inlined   like hint()
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

revoke all on function reactor.hint(uuid, uuid, timestamptz) from public;
revoke all on function reactor.send(text, text[]) from public;
