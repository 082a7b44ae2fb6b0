-- What an operator does to uploads. Each answers the ids that it changed, so that the caller can name the others.
--
-- Locks  sources in order of id, then queue rows in order of id, then usage rows; as settle_uploads

-- Put dead or cancelled uploads back in the queue, due at once, with all their tries; and make those that wait for
-- their next try due at once. What was given up needs its bytes reserved again: where they no longer fit, the upload stays
-- as it was, and is answered with the code STORAGE_QUOTA_EXCEEDED; the others with null.
create or replace function reactor.requeue_uploads(p_ids uuid[])
    returns table (id uuid, code text)
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_upload record;
begin
    for v_upload in
        with locked as materialized (
            select s.id
              from public.sources as s
             where s.id in (select q.source_id from public.upload_queue as q where q.id = any(p_ids))
             order by s.id
               for no key update
        ), chosen as materialized (
            select q.id, q.source_id, q.user_id, q.status from public.upload_queue as q
             where q.id = any(p_ids) and q.status in ('failed', 'dead', 'cancelled')
               and (select count(*) from locked) >= 0 -- always true, and known only once the sources are locked
             order by q.id for update
        )
        select c.id, c.source_id, c.status from chosen as c order by c.user_id, c.id -- as the books are locked
    loop
        id := v_upload.id;
        code := null;
        begin
            update public.sources as s set storage_status = 'pending'
             where s.id = v_upload.source_id and v_upload.status <> 'failed' and s.storage_status = 'failed';
            update public.upload_queue as q
               set status = 'failed',
                   retry_count = case when v_upload.status = 'failed' then q.retry_count else 0 end,
                   next_retry_at = least(q.next_retry_at, clock_timestamp()), updated_at = clock_timestamp()
             where q.id = v_upload.id;
        exception when sqlstate 'RX101' then
            code := 'STORAGE_QUOTA_EXCEEDED';
        end;
        return next;
    end loop;
end $$;

-- Stop trying: the reservation is given back, the row and the spooled file stay until purged.
create or replace function reactor.cancel_uploads(p_ids uuid[])
    returns setof uuid
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    with locked as materialized (
        select s.id
          from public.sources as s
         where s.id in (select q.source_id from public.upload_queue as q where q.id = any(p_ids))
         order by s.id
           for no key update
    ), chosen as materialized (
        select q.id, q.source_id from public.upload_queue as q
         where q.id = any(p_ids) and q.status in ('failed', 'uploading', 'dead')
           and (select count(*) from locked) >= 0 -- always true, and known only once the sources are locked
         order by q.id for update
    ), marked as (
        update public.sources as s set storage_status = 'failed'
          from chosen as c
         where s.id = c.source_id and s.storage_status = 'pending'
    )
    update public.upload_queue as q
       set status = 'cancelled', lease_token = null, lease_expires_at = null, updated_at = clock_timestamp()
      from chosen as c
     where q.id = c.id
    returning q.id;
end $$;

-- Forget dead or cancelled uploads. Answers where their spooled files are, which the caller removes.
create or replace function reactor.purge_uploads(p_ids uuid[])
    returns table (id uuid, spool text, temp_file_path text)
    language sql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
    delete from public.upload_queue as q
     where q.id = any(p_ids) and q.status in ('dead', 'cancelled')
    returning q.id, q.spool, q.temp_file_path
$$;

revoke all on function reactor.requeue_uploads(uuid[]) from public;
revoke all on function reactor.cancel_uploads(uuid[]) from public;
revoke all on function reactor.purge_uploads(uuid[]) from public;
grant execute on function reactor.requeue_uploads(uuid[]) to reactor_worker, service_role;
grant execute on function reactor.cancel_uploads(uuid[]) to reactor_worker, service_role;
grant execute on function reactor.purge_uploads(uuid[]) to reactor_worker, service_role;
