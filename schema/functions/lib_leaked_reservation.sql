-- Return the leaked reservations: sources that have been pending for a day and have no waiting or claimed upload, so no
-- reactor will store them.
--
-- Inlined  into the calling query, because it returns a set and pins no search_path (schema/README.md, decision 8)
create or replace function reactor.leaked_reservation()
    returns table (source_id uuid, pending_since timestamptz)
    language sql
    stable
as $$
    select s.id, s.pending_since
      from public.sources as s
     where s.storage_status = 'pending'
       and s.pending_since < statement_timestamp() - interval '1 day'
       and not exists (select from public.upload_queue as q
                        where q.source_id = s.id
                          and q.status in ('failed', 'uploading'))
$$;

revoke all on function reactor.leaked_reservation() from public;
