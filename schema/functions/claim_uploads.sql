-- Claim the uploads among p_ids that are due, for the holder of p_token until the lease ends; tell of the others
-- when to look again.
--
-- Returns    one row per upload that still needs somebody:
--              state 'claimed'    with all that an attempt needs; `attempt` is its number, counted as it begins
--              state 'waiting'    not due, or somebody else's: `due_at` says when it may be claimable
--              state 'exhausted'  due, but its tries are used up: bury it
--            nothing for uploads that are stored, dead, cancelled or gone. Times are seconds since 1970, and
--            `due_at` is finite whatever an app wrote.
--            For its trace: `ordinal` is the number of this claim among all that were ever made of the row,
--            `waited_since` when the wait began that ends with it (null when a claim is repeated), `lost_at` when the
--            attempt had been claimed whose lease expired and from which the row is taken over (null: from nobody)
-- Locks      the claimed rows, in order of id; rows locked by others are skipped
-- Invariant  no upload is attempted by two at once while the first one's lease holds, nor more than max_retries times
-- Repeating  a claim with the same token gives the same rows again: an answer lost on the way costs nothing
create or replace function reactor.claim_uploads(p_ids uuid[], p_token uuid, p_lease interval)
    returns table (id uuid, state text, due_at float8, claimed_at float8, created_at float8, attempt int,
                   max_retries int, byte_size bigint, bucket text, object_path text, content_hash text,
                   spool text, temp_file_path text, mime_type text, traceparent text, last_code text,
                   ordinal int, waited_since float8, lost_at float8, source_id uuid)
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    -- always a look-up by key: plan it once, and never as a scan of the table or of a whole partial index
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
    set enable_bitmapscan = off
as $$
declare
    v_claimed int;
begin
    return query
    with candidate as materialized (
        -- lock, then update: the condition is checked again on the row as it is when the lock is ours
        select q.id, q.next_retry_at, q.lease_token is not distinct from p_token as repeated, q.status,
               q.updated_at as changed_at, q.lease_expires_at as leased_until
          from public.upload_queue as q
         where q.id = any(p_ids)
           and (q.retry_count < q.max_retries
                and (q.status = 'failed' and q.next_retry_at <= statement_timestamp()
                     or q.status = 'uploading'
                        and coalesce(q.lease_expires_at, '-infinity') <= statement_timestamp())
                or q.status = 'uploading' and q.lease_token = p_token)
         order by q.id
           for update skip locked
    ), claimed as (
        update public.upload_queue as q
           set status = 'uploading',
               retry_count = q.retry_count + case when c.repeated then 0 else 1 end,
               claim_count = q.claim_count + case when c.repeated then 0 else 1 end,
               lease_token = p_token,
               lease_expires_at = clock_timestamp() + p_lease,
               updated_at = clock_timestamp()
          from candidate as c
         where q.id = c.id
        returning q.id, q.source_id, c.next_retry_at, q.updated_at, q.created_at, q.retry_count, q.max_retries,
                  q.byte_size, q.bucket, q.object_path, q.content_hash, q.spool, q.temp_file_path, q.traceparent,
                  q.error_code, q.claim_count, c.status = 'uploading' and not c.repeated as is_taken_over,
                  case when c.repeated then null
                       when c.status = 'uploading' then coalesce(c.leased_until, c.changed_at)
                       else c.changed_at end as waited_since, c.changed_at
    )
    select c.id, 'claimed', date_part('epoch', greatest(c.next_retry_at, 'epoch')), date_part('epoch', c.updated_at),
           date_part('epoch', c.created_at), c.retry_count, c.max_retries, c.byte_size, c.bucket,
           c.object_path, c.content_hash, c.spool, c.temp_file_path, s.mime_type, c.traceparent, c.error_code,
           c.claim_count, date_part('epoch', c.waited_since),
           case when c.is_taken_over and c.claim_count > 1 then date_part('epoch', c.changed_at) end,
           c.source_id
      from claimed as c
      left join public.sources as s on s.id = c.source_id;
    get diagnostics v_claimed = row_count;
    if v_claimed = cardinality(p_ids) then
        return;
    end if;
    return query
    select q.id,
           case when q.retry_count >= q.max_retries and free.at <= statement_timestamp()
                then 'exhausted' else 'waiting' end,
           -- due and yet not ours: somebody is claiming it now, look again when that lease would end
           date_part('epoch', case when free.at <= statement_timestamp() then clock_timestamp() + p_lease
                                   else least(free.at, '9999-01-01 00:00:00+00') end),
           null::float8, null::float8, null::int, null::int, null::bigint, null, null, null, null, null,
           null, null, null, null::int, null::float8, null::float8, null::uuid
      from public.upload_queue as q
     cross join lateral (select case when q.status = 'failed' then q.next_retry_at
                                     else coalesce(q.lease_expires_at, '-infinity') end as at) as free
     where q.id = any(p_ids)
       and q.status in ('failed', 'uploading')
       and q.lease_token is distinct from p_token;
end $$;

revoke all on function reactor.claim_uploads(uuid[], uuid, interval) from public;
grant execute on function reactor.claim_uploads(uuid[], uuid, interval) to reactor_worker, service_role;
