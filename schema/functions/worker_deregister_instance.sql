-- Delete the row of a reactor that stops. If it was listening, notify the other reactors on reactor_peers. Also delete
-- the rows of reactors that were last seen over a day ago.
--
-- Locks    rows of reactor.instance
create or replace function reactor.deregister_instance(p_instance uuid)
    returns void
    language sql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
    with removed as (
        delete from reactor.instance as i
         where i.id = p_instance or i.seen_at < statement_timestamp() - interval '1 day'
        returning i.id, i.mode)
    select pg_notify('reactor_peers', p_instance::text)
      from removed as r
     where r.id = p_instance and r.mode = 'listening' and pg_notification_queue_usage() < 0.5
$$;

revoke all on function reactor.deregister_instance(uuid) from public;
grant execute on function reactor.deregister_instance(uuid) to reactor_worker, service_role;
