-- A reactor stops: the others see it gone at once. Rows of reactors that died long ago go with it.
create or replace function reactor.leave(p_instance uuid)
    returns void
    language sql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
    delete from reactor.instance where id = p_instance or seen_at < statement_timestamp() - interval '1 day'
$$;

revoke all on function reactor.leave(uuid) from public;
grant execute on function reactor.leave(uuid) to reactor_worker, service_role;
