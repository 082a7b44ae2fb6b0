-- Put dead and cancelled uploads back into the queue, due now and with retry_count 0: they may use all max_retries
-- attempts again. Make waiting uploads due now; they keep their retry_count.
--
-- Returns  one row per upload that was dead, cancelled or waiting. code: null if the upload is due now;
--          STORAGE_QUOTA_EXCEEDED if its bytes can't be reserved again, because the user's storage is full: then the
--          upload is unchanged
-- Locks    the sources in order of id, then the queue rows in order of id, then usage rows in order of user_id
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
        with sources_locked as materialized (
            -- count(*) returns its only row after all these sources are locked
            select count(*) as sources
              from (select s.id
                      from public.sources as s
                     where s.id in (select q.source_id from public.upload_queue as q where q.id = any(p_ids))
                     order by s.id
                       for no key update) as locked
        ), chosen as materialized (
            select q.id, q.source_id, q.user_id, q.status
              from public.upload_queue as q
             where q.id = any(p_ids)
               and q.status in ('failed', 'dead', 'cancelled')
               and exists (select from sources_locked) -- evaluated once, before the first queue row is locked
             order by q.id
               for update
        )
        select c.id, c.source_id, c.status
          from chosen as c
         order by c.user_id, c.id -- the order in which usage rows are locked
    loop
        id := v_upload.id;
        code := null;
        begin
            update public.sources as s
               set storage_status = 'pending'
             where s.id = v_upload.source_id
               and v_upload.status <> 'failed'
               and s.storage_status = 'failed';
            update public.upload_queue as q
               set status = 'failed',
                   retry_count = case when v_upload.status = 'failed' then q.retry_count else 0 end,
                   next_retry_at = least(q.next_retry_at, clock_timestamp()),
                   updated_at = clock_timestamp()
             where q.id = v_upload.id;
        exception when sqlstate 'RX101' then
            code := 'STORAGE_QUOTA_EXCEEDED';
        end;
        return next;
    end loop;
end $$;

revoke all on function reactor.requeue_uploads(uuid[]) from public;
grant execute on function reactor.requeue_uploads(uuid[]) to reactor_worker, service_role;
