-- Rescue up to p_limit uploads that no reactor works on. An upload with an expired lease waits again and is due now. An
-- upload without attempts left becomes dead, and its source becomes failed.
--
-- p_ids    rescue only these uploads; null: all uploads
-- Returns  one row per rescued upload: the verdict, 'retry' or 'dead', and the data of its trace. `claimed_at` is when
--          the lost attempt was claimed (null: no attempt was lost), `rescued_at` is now. Times are seconds since 1970
-- Changes  adds a lost attempt to `errors`
-- Locks    the queue row of an upload that waits again; source, queue row and usage row of an upload that becomes dead.
--          Skips an upload if another session has locked one of these rows
-- Raises   RX003 if a trigger of the app leaves a row unchanged without an error
create or replace function reactor.rescue_uploads(p_ids uuid[], p_limit int)
    returns table (id uuid, verdict text, code text, traceparent text, attempt int, ordinal int, bucket text,
                   byte_size bigint, created_at float8, claimed_at float8, rescued_at float8, user_id uuid)
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '100ms' -- for locks on whole tables, and those that triggers of the app wait for
    -- keep one plan for all calls: it looks rows up by key or in small partial indexes (schema/README.md, decision 2)
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
    set enable_bitmapscan = off
as $$
begin
    return query
    -- three look-ups, each in an index of a few rows: one condition for all would read the whole queue
    with lost as materialized (
        select q.id, q.updated_at
          from public.upload_queue as q
         where reactor.lease_has_expired(q.status, q.lease_expires_at)
           and q.retry_count < q.max_retries
           and (p_ids is null or q.id = any(p_ids))
         order by q.id
         limit p_limit
           for no key update of q skip locked
    ), lost_last as materialized (
        select q.id, q.source_id, q.updated_at
          from public.upload_queue as q
          join public.sources as s on s.id = q.source_id
         where reactor.lease_has_expired(q.status, q.lease_expires_at)
           and q.retry_count >= q.max_retries
           and (p_ids is null or q.id = any(p_ids))
           and reactor.lock_usage_row(s.user_id)
         order by q.id
         limit p_limit
           for no key update of s skip locked
           for no key update of q skip locked
    ), exhausted as materialized (
        select q.id, q.source_id
          from public.upload_queue as q
          join public.sources as s on s.id = q.source_id
         where reactor.is_due(q.status, q.next_retry_at)
           and q.retry_count >= q.max_retries
           and (p_ids is null or q.id = any(p_ids))
           and reactor.lock_usage_row(s.user_id)
         order by q.id
         limit p_limit
           for no key update of s skip locked
           for no key update of q skip locked
    ), abandoned as materialized (
        select l.id, null::uuid as source_id, 'failed' as status, true as was_leased, l.updated_at as claimed_at
          from lost as l
        union all
        select l.id, l.source_id, 'dead', true, l.updated_at from lost_last as l
        union all
        select e.id, e.source_id, 'dead', false, null from exhausted as e
         limit p_limit
    ), rescued as (
        update public.upload_queue as q
           set status = a.status,
               next_retry_at = case when a.status = 'failed' then clock_timestamp() else q.next_retry_at end,
               error_code = case when a.status = 'dead' then 'STORAGE_UPLOAD_FAILED' else q.error_code end,
               error_message = case when a.status = 'dead' then
                   format('given up after %s attempts; the last: %s', q.retry_count,
                          case when a.was_leased then 'the worker stopped without settling'
                               else coalesce(q.error_message, 'unknown') end) else q.error_message end,
               errors = case when a.was_leased
                             then q.errors || reactor.lost_attempt_error(a.claimed_at, q.retry_count, q.traceparent)
                             else q.errors end,
               lease_token = null,
               lease_expires_at = null,
               updated_at = clock_timestamp()
          from abandoned as a
         where q.id = a.id
        returning q.id, q.status, q.error_code, q.traceparent, q.retry_count, q.claim_count, q.bucket, q.byte_size,
                  q.created_at, a.claimed_at, q.updated_at, q.user_id
    ), marked as (
        update public.sources as s
           set storage_status = 'failed'
          from abandoned as a
         where s.id = a.source_id and a.status = 'dead' and s.storage_status = 'pending'
        returning s.id
    )
    select r.id, case r.status when 'dead' then 'dead' else 'retry' end, r.error_code, r.traceparent, r.retry_count,
           r.claim_count, r.bucket, r.byte_size, date_part('epoch', r.created_at),
           date_part('epoch', r.claimed_at), date_part('epoch', r.updated_at), r.user_id
      from rescued as r
     where case when (select count(*) from rescued) = (select count(*) from abandoned) then true
                else reactor.raise_unchanged('upload_queue') is null end;
end $$;

revoke all on function reactor.rescue_uploads(uuid[], int) from public;
grant execute on function reactor.rescue_uploads(uuid[], int) to reactor_worker, service_role;
