-- Notify the reactors of new uploads, of uploads that an app or an operator put back or made due earlier, and of
-- uploads that a reactor released. A reactor's claims and retries send no notification: it schedules them itself.
--
-- The triggers are statement-level: a statement that queues N uploads sends N / 100 notifications, or one if N > 1000.
create or replace function reactor.notify_uploads()
    returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    if tg_op = 'INSERT' then
        perform reactor.send('reactor_uploads', array_agg(changed.hint))
          from (select reactor.hint(n.id, n.user_id, n.next_retry_at) as hint
                  from new_rows as n
                 where n.status = 'failed'
                 limit 1001) as changed;
    else
        perform reactor.send('reactor_uploads', array_agg(changed.hint))
          from (select reactor.hint(n.id, n.user_id, n.next_retry_at) as hint
                  from new_rows as n
                  join old_rows as o using (id)
                 where n.status = 'failed'
                   and (o.status not in ('failed', 'uploading')
                        or o.status = 'failed' and n.next_retry_at < o.next_retry_at
                        -- not statement_timestamp(): the time of a row "due now" is after the statement's start
                        or o.status = 'uploading' and n.next_retry_at <= clock_timestamp())
                 limit 1001) as changed;
    end if;
    return null;
end $$;

revoke all on function reactor.notify_uploads() from public;

create or replace trigger reactor_notify_inserted
    after insert on public.upload_queue
    referencing new table as new_rows
    for each statement execute function reactor.notify_uploads();

create or replace trigger reactor_notify_updated
    after update on public.upload_queue
    referencing old table as old_rows new table as new_rows
    for each statement execute function reactor.notify_uploads();
