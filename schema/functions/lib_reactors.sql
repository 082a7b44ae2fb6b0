-- Return the reactors that have reported their presence within a day, the one that started first at the beginning.
--
-- Returns  an array of objects. mode is 'silent' if the reactor has not reported for 16 s: it has missed one report,
--          which is due every 13 s. seen_s_ago is the age of its last report, in seconds
-- Locks    nothing
create or replace function reactor.reactors()
    returns jsonb
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select coalesce(
        jsonb_agg(jsonb_build_object(
            'id', i.id, 'host', i.host, 'pid', i.pid, 'port', i.port, 'version', i.version,
            'mode', case when i.seen_at < statement_timestamp() - interval '16 s' then 'silent' else i.mode end,
            'seen_s_ago', extract(epoch from statement_timestamp() - i.seen_at)) order by i.started_at, i.id), '[]')
      from reactor.instance as i
     where i.seen_at > statement_timestamp() - interval '1 day'
$$;

revoke all on function reactor.reactors() from public;
