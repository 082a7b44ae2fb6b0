-- Settle attempts: the stored leave the queue, the failed wait or are buried, the unspent are handed back. All in one
-- statement, so that row, source and books change together or not at all.
--
-- p_*        arrays of one length: upload, the token it was claimed with, verdict ('stored', 'retry', 'dead',
--            'deferred'), seconds until it is due again, error code and message, storage URL
-- Returns    one row per upload that was settled, with when it is due again (null when never) and when it was
--            settled, in seconds since 1970; none for an upload whose lease was taken by another, or whose row is gone
-- Locks      the sources that change in order of id, then queue rows in order of id, then usage rows in order of
--            user_id; always in this order. Sources come first because whoever deletes one locks it before the
--            cascade reaches its queue rows
-- Invariant  a worker whose lease was taken can change nothing
create or replace function reactor.settle_uploads(p_ids uuid[], p_tokens uuid[], p_verdicts text[],
        p_delays_s float8[], p_codes text[], p_messages text[], p_urls text[])
    returns table (id uuid, due_at float8, settled_at float8)
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    -- always a look-up by key: plan it once, and never as a scan of the table or of a whole partial index
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
    set enable_bitmapscan = off
as $$
declare
    v_quota constant text := coalesce(current_setting('reactor.quota', true), '');
begin
    -- what is in the store is in the store: a settlement is never refused
    perform set_config('reactor.quota', 'off', true);
    return query
    -- each look-up by id is a sub-query of its own, which can't be joined any other way: the planner takes both lists for
    -- short, and would walk all that is leased once for each attempt
    with attempt as materialized (
        select a.id, a.token, a.verdict, a.delay_s, a.code, a.message, a.url
          from unnest(p_ids, p_tokens, p_verdicts, p_delays_s, p_codes, p_messages, p_urls)
               as a (id, token, verdict, delay_s, code, message, url)
         order by a.id
    ), concerned as materialized (
        select distinct q.source_id
          from attempt as a
         cross join lateral (select u.source_id from public.upload_queue as u
                              where u.id = a.id and u.lease_token = a.token offset 0) as q
         where a.verdict in ('stored', 'dead')
         order by q.source_id
    ), locked as materialized (
        select s.id
          from concerned as c
         cross join lateral (select t.id from public.sources as t where t.id = c.source_id for no key update) as s
    ), held as materialized (
        select q.id, q.source_id, a.verdict, a.delay_s, a.code, a.message, a.url
          from attempt as a
         cross join lateral (select u.id, u.source_id from public.upload_queue as u
                              where u.id = a.id and u.lease_token = a.token and u.status = 'uploading'
                                for update) as q
         where (select count(*) from locked) >= 0 -- always true, and known only once the sources are locked
    ), stored as (
        delete from public.upload_queue as q
         using held as h
         where q.id = h.id and h.verdict = 'stored'
         returning q.id
    ), kept as (
        update public.upload_queue as q
           set status = case h.verdict when 'dead' then 'dead' else 'failed' end,
               retry_count = q.retry_count - case h.verdict when 'deferred' then 1 else 0 end,
               next_retry_at = clock_timestamp() + make_interval(secs => h.delay_s),
               error_code = coalesce(h.code, q.error_code),
               error_message = coalesce(h.message, q.error_message),
               errors = case h.verdict when 'deferred' then q.errors else q.errors || jsonb_build_array(
                   -- until now, the last change was the claim
                   jsonb_build_object('at', clock_timestamp(), 'began', q.updated_at, 'attempt', q.retry_count,
                                      'code', h.code, 'message', h.message, 'trace_id', split_part(q.traceparent, '-', 2))) end,
               lease_token = null,
               lease_expires_at = null,
               updated_at = clock_timestamp()
          from held as h
         where q.id = h.id and h.verdict <> 'stored'
        returning q.id, case q.status when 'failed' then date_part('epoch', q.next_retry_at) end as due_at,
                  date_part('epoch', q.updated_at) as settled_at
    ), marked as (
        update public.sources as s
           set storage_status = case when e.is_stored then 'uploaded' else 'failed' end,
               storage_url = coalesce(e.url, s.storage_url)
               -- of several uploads of one source, the stored one decides
          from (select h.source_id, bool_or(h.verdict = 'stored') as is_stored,
                       max(h.url) filter (where h.verdict = 'stored') as url
                  from held as h
                 where h.verdict in ('stored', 'dead')
                 group by h.source_id) as e
         where s.id = e.source_id
           and (e.is_stored or s.storage_status = 'pending')
    )
    select s.id, null::float8, date_part('epoch', clock_timestamp()) from stored as s
    union all
    select k.id, k.due_at, k.settled_at from kept as k;
    perform set_config('reactor.quota', v_quota, true);
end $$;

revoke all on function reactor.settle_uploads(uuid[], uuid[], text[], float8[], text[], text[], text[]) from public;
grant execute on function reactor.settle_uploads(uuid[], uuid[], text[], float8[], text[], text[], text[])
    to reactor_worker, service_role;
