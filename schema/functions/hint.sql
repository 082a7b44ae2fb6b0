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
    select '["' || replace(p_id::text, '-', '') || '",' || coalesce(uuid_hash(p_user_id), 0) || ','
        || case when p_due_at is null then 'null'
                else (ceil(1000 * date_part('epoch',
                          least(greatest(p_due_at, statement_timestamp()), statement_timestamp() + interval '24:00')))
                      - floor(1000 * date_part('epoch', statement_timestamp())))::bigint::text end
        || ']'
$$;

revoke all on function reactor.hint(uuid, uuid, timestamptz) from public;
