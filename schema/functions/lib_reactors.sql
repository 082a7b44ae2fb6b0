-- Return the reactors that have reported within a day, as an array of objects, the longest running first.
--
-- Returns  a reactor that hasn't reported for 20 s has the mode 'gone', whatever it reported last. `seen_s_ago` is in
--          seconds
create or replace function reactor.reactors()
    returns jsonb
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select coalesce(
        jsonb_agg(jsonb_build_object(
            'id', i.id, 'host', i.host, 'pid', i.pid, 'port', i.port, 'version', i.version,
            'mode', case when i.seen_at > statement_timestamp() - interval '20 s' then i.mode else 'gone' end,
            'seen_s_ago', extract(epoch from statement_timestamp() - i.seen_at)) order by i.started_at, i.id), '[]')
      from reactor.instance as i
     where i.seen_at > statement_timestamp() - interval '1 day'
$$;

revoke all on function reactor.reactors() from public;
