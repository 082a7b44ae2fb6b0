-- The hint of one row: its id, its tenant as a hash that tells nobody who it is, milliseconds until it is due.
--
-- Due times further off than a day are said to be a day off (an index look-up then finds the real one), so that a
-- hint stays short; null says that the row needs no attention any more.
create or replace function reactor.hint(p_id uuid, p_user_id uuid, p_due_at timestamptz)
    returns text
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select '["' || replace(p_id::text, '-', '') || '",' || coalesce(uuid_hash(p_user_id), 0) || ','
        || case when p_due_at is null then 'null'
                -- the clock goes on between two looks at it: without the zero, a row due now could be due at -1
                else greatest(0, (1000 * extract(epoch from
                    least(greatest(p_due_at, clock_timestamp()), clock_timestamp() + interval '1 day')
                    - clock_timestamp()))::bigint)::text end
        || ']'
$$;

revoke all on function reactor.hint(uuid, uuid, timestamptz) from public;
