-- Claim the uploads of p_ids that are due: give them the lease token p_token for p_lease. For uploads that can't be
-- claimed yet, return when to claim again.
--
-- p_held_*   names of buckets and spools whose circuit breaker is open: their uploads aren't claimed
-- Returns    one row per upload that still has to be stored:
--              state 'claimed'    with the columns that an attempt needs; `attempt` is retry_count after the claim
--              state 'waiting'    not due, or claimed by another reactor: `due_at` is when to claim again
--              state 'locked'     another session has locked the row: claim again in moments
--              state 'held'       due, in a bucket or spool that is held
--              state 'exhausted'  due, but without attempts left: rescue_uploads marks it dead
--            no row for uploads that are stored, dead, cancelled or deleted. Times are seconds since 1970; `due_at` is
--            finite, even if an app wrote an infinite time.
--            For the trace: `ordinal` is claim_count after the claim; `waited_since` is when the wait before the claim
--            began (null: this call repeats a claim); if the claim takes over an expired lease, `lost_at` is when the
--            lost attempt was claimed (otherwise null)
-- Changes    a claim that takes over an expired lease adds the lost attempt to `errors`, as rescue_uploads does
-- Raises     RX003 if a trigger of the app leaves a row unchanged without an error
-- Locks      the claimed rows, in order of id; skips rows that other sessions have locked. The lock doesn't conflict with
--            checks of foreign keys
-- Invariant  an upload under a valid lease is never claimed with another token, and no claim raises retry_count above
--            max_retries
-- Repeating  a claim with the same token returns the claimed rows again, so a lost reply costs no attempt
create or replace function reactor.claim_uploads(p_ids uuid[], p_token uuid, p_lease interval,
        p_held_buckets text[] default '{}', p_held_spools text[] default '{}')
    returns table (id uuid, state text, due_at float8, claimed_at float8, created_at float8, attempt int,
                   max_retries int, byte_size bigint, bucket text, object_path text, content_hash text,
                   spool text, temp_file_path text, mime_type text, traceparent text, last_code text,
                   ordinal int, waited_since float8, lost_at float8, source_id uuid, user_id uuid)
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '100ms' -- for locks on the whole table, and those that triggers of the app wait for
    -- keep one plan for all calls: it looks rows up by key and never scans (schema/README.md, decision 2)
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
    set enable_bitmapscan = off
as $$
declare
    v_claimed int;
begin
    return query
    with candidate as materialized (
        -- lock first: PostgreSQL checks the condition again on the locked row
        select q.id, q.next_retry_at, q.status, q.updated_at as changed_at, q.lease_expires_at as leased_until,
               q.lease_token is not distinct from p_token as is_repeated,
               q.status = 'uploading' and q.lease_token is distinct from p_token as is_taken_over
          from public.upload_queue as q
         where q.id = any(p_ids)
           and (q.retry_count < q.max_retries
                and q.bucket <> all(p_held_buckets)
                and q.spool <> all(p_held_spools)
                and (reactor.is_due(q.status, q.next_retry_at)
                     or reactor.lease_has_expired(q.status, q.lease_expires_at))
                or q.status = 'uploading' and q.lease_token = p_token)
         order by q.id
           for no key update skip locked
    ), claimed as (
        update public.upload_queue as q
           set status = 'uploading',
               retry_count = q.retry_count + case when c.is_repeated then 0 else 1 end,
               claim_count = q.claim_count + case when c.is_repeated then 0 else 1 end,
               errors = case when c.is_taken_over
                             then q.errors || reactor.lost_attempt_error(c.changed_at, q.retry_count, q.traceparent)
                             else q.errors end,
               lease_token = p_token,
               lease_expires_at = clock_timestamp() + p_lease,
               updated_at = clock_timestamp()
          from candidate as c
         where q.id = c.id
        returning q.id, q.source_id, q.user_id, c.next_retry_at, q.updated_at, q.created_at, q.retry_count, q.max_retries,
                  q.byte_size, q.bucket, q.object_path, q.content_hash, q.spool, q.temp_file_path, q.traceparent,
                  q.error_code, q.claim_count, c.is_taken_over, c.changed_at,
                  case when c.is_repeated then null
                       when c.is_taken_over then coalesce(c.leased_until, c.changed_at)
                       else c.changed_at end as waited_since
    )
    select c.id, 'claimed', date_part('epoch', reactor.due_at(c.next_retry_at)), date_part('epoch', c.updated_at),
           date_part('epoch', c.created_at), c.retry_count, c.max_retries, c.byte_size, c.bucket,
           c.object_path, c.content_hash, c.spool, c.temp_file_path, s.mime_type, c.traceparent, c.error_code,
           c.claim_count, date_part('epoch', c.waited_since),
           case when c.is_taken_over and c.claim_count > 1 then date_part('epoch', c.changed_at) end,
           c.source_id, c.user_id
      from claimed as c
      left join public.sources as s on s.id = c.source_id
     where case when (select count(*) from claimed) = (select count(*) from candidate) then true
                else reactor.raise_unchanged('upload_queue') is null end;
    get diagnostics v_claimed = row_count;
    if v_claimed = cardinality(p_ids) then
        return;
    end if;
    return query
    select q.id,
           case when claimable.at > statement_timestamp() then 'waiting'
                when q.retry_count >= q.max_retries then 'exhausted'
                when q.bucket = any(p_held_buckets) or q.spool = any(p_held_spools) then 'held'
                -- if that session is claiming the row, the next claim finds a lease
                else 'locked' end,
           date_part('epoch', least(claimable.at, '9999-01-01 00:00:00+00')),
           null::float8, null::float8, null::int, null::int, null::bigint, q.bucket, null, null, q.spool, null,
           null, null, null, null::int, null::float8, null::float8, null::uuid, null::uuid
      from public.upload_queue as q
     cross join lateral (select case when q.status = 'failed' then q.next_retry_at
                                     else reactor.lease_end(q.lease_expires_at) end as at) as claimable
     where q.id = any(p_ids)
       and q.status in ('failed', 'uploading')
       and q.lease_token is distinct from p_token;
end $$;

revoke all on function reactor.claim_uploads(uuid[], uuid, interval, text[], text[]) from public;
grant execute on function reactor.claim_uploads(uuid[], uuid, interval, text[], text[]) to reactor_worker, service_role;
