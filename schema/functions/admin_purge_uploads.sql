-- Delete dead or cancelled uploads from the queue.
--
-- Returns  the ids of the deleted uploads and the paths of their spooled files, which the caller removes
-- Locks    the queue rows, in order of id
create or replace function reactor.purge_uploads(p_ids uuid[])
    returns table (id uuid, spool text, temp_file_path text)
    language sql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
    with chosen as materialized (
        select q.id
          from public.upload_queue as q
         where q.id = any(p_ids) and q.status in ('dead', 'cancelled')
         order by q.id
           for update
    )
    delete from public.upload_queue as q
     using chosen as c
     where q.id = c.id
    returning q.id, q.spool, q.temp_file_path
$$;

revoke all on function reactor.purge_uploads(uuid[]) from public;
grant execute on function reactor.purge_uploads(uuid[]) to reactor_worker, service_role;
