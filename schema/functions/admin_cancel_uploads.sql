-- Cancel waiting, claimed and dead uploads, and release their reservations. Rows and spooled files stay until an
-- operator purges them.
--
-- Returns  the ids of the cancelled uploads
-- Locks    the sources in order of id, then the queue rows in order of id, then usage rows in order of user_id
create or replace function reactor.cancel_uploads(p_ids uuid[])
    returns setof uuid
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    with sources_locked as materialized (
        -- count(*) returns its only row after all these sources are locked
        select count(*) as sources
          from (select s.id
                  from public.sources as s
                 where s.id in (select q.source_id from public.upload_queue as q where q.id = any(p_ids))
                 order by s.id
                   for no key update) as locked
    ), chosen as materialized (
        select q.id, q.source_id
          from public.upload_queue as q
         where q.id = any(p_ids)
           and q.status in ('failed', 'uploading', 'dead')
           and exists (select from sources_locked) -- evaluated once, before the first queue row is locked
         order by q.id
           for update
    ), marked as (
        update public.sources as s
           set storage_status = 'failed'
          from chosen as c
         where s.id = c.source_id
           and s.storage_status = 'pending'
    )
    update public.upload_queue as q
       set status = 'cancelled',
           lease_token = null,
           lease_expires_at = null,
           updated_at = clock_timestamp()
      from chosen as c
     where q.id = c.id
    returning q.id;
end $$;

revoke all on function reactor.cancel_uploads(uuid[]) from public;
grant execute on function reactor.cancel_uploads(uuid[]) to reactor_worker, service_role;
