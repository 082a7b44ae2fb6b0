-- Settle attempts. A stored upload leaves the queue. A failed upload waits again or becomes dead. A deferred upload
-- waits again, and its attempt isn't counted. Queue rows, sources and usage change in one statement.
--
-- p_*        arrays of equal length: id of the upload, lease token, verdict ('stored', 'retry', 'dead', 'deferred'),
--            seconds until the upload is due again, error code, error message, storage URL
-- Returns    one row per settled upload: when it is due again (null: never) and when it was settled, in seconds since
--            1970; no row for an upload that isn't claimed with this token any more
-- Locks      the sources of stored and dead uploads in order of id, then the queue rows in order of id, then usage rows
--            in order of user_id (schema/README.md, "Order of locks")
-- Invariant  a call with a lease token that the row no longer has changes nothing
create or replace function reactor.settle_uploads(p_ids uuid[], p_tokens uuid[], p_verdicts text[],
        p_delays_s float8[], p_codes text[], p_messages text[], p_urls text[])
    returns table (id uuid, due_at float8, settled_at float8)
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    -- keep one plan for all calls: it looks rows up by key and never scans (schema/README.md, decision 2)
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
    set enable_bitmapscan = off
as $$
declare
    v_quota constant text := coalesce(current_setting('reactor.quota', true), '');
begin
    -- the object is stored already: no quota may refuse the settlement
    perform set_config('reactor.quota', 'off', true);
    return query
    -- each look-up by id is a lateral sub-query (schema/README.md, decision 5)
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
    ), sources_locked as materialized (
        -- count(*) returns its only row after all these sources are locked
        select count(*) as sources
          from (select s.id
                  from concerned as c
                 cross join lateral (select t.id from public.sources as t
                                      where t.id = c.source_id
                                        for no key update) as s) as locked
    ), held as materialized (
        select q.id, q.source_id, a.verdict, a.delay_s, a.code, a.message, a.url
          from attempt as a
         cross join lateral (select u.id, u.source_id from public.upload_queue as u
                              where u.id = a.id and u.lease_token = a.token and u.status = 'uploading'
                                for update) as q
         where exists (select from sources_locked) -- evaluated once, before the first queue row is locked
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
               -- updated_at is still the time of the claim: extending a lease doesn't change it
               errors = case h.verdict when 'deferred' then q.errors else q.errors ||
                   reactor.attempt_error(q.updated_at, q.retry_count, h.code, h.message, q.traceparent) end,
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
          -- if several uploads of one source are settled, a stored one decides
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
