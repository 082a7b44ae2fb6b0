-- Settle attempts. A stored upload leaves the queue. A failed upload waits again or becomes dead. A deferred upload
-- waits again, and its attempt isn't counted. Queue rows, sources and usage change together.
--
-- p_*        arrays of equal length: id of the upload, lease token, verdict ('stored', 'retry', 'dead', 'deferred'),
--            seconds until the upload is due again, error code, error message, storage URL
-- p_size     how many attempts to settle in one statement: all, or fewer while the app refuses uploads often
-- p_trusted  how many attempts, from the first, are settled together; each of the others is settled alone
-- Returns    one row per upload that is claimed with this token:
--              state 'settled'  `due_at` is when it is due again (null: never), `settled_at` is now
--              state 'busy'     nothing has changed, because another session holds a lock, or because of `message`:
--                               call again later
--              state 'refused'  a trigger or constraint of the app refuses the settlement: the upload is dead with
--                               DATABASE_REFUSED and `message`, its file and object stay
--              state 'stuck'    the app refuses that too: nothing has changed, and a later call would fail alike
--            Times are seconds since 1970
-- Raises     what concerns every upload alike: a missing privilege, column or function, or a server that takes no writes
-- Locks      waits for no row that another session has locked. If a trigger of the app, or a lock on a whole table,
--            makes it wait longer than lock_timeout, the uploads concerned are busy
-- Splits     a batch that the database refuses is rolled back and settled again in parts, down to the refused rows
--            (schema/README.md, decision 15)
-- Invariant  a call with a lease token that the row no longer has changes nothing
create or replace function reactor.settle_uploads(p_ids uuid[], p_tokens uuid[], p_verdicts text[],
        p_delays_s float8[], p_codes text[], p_messages text[], p_urls text[], p_size int, p_trusted int)
    returns table (id uuid, state text, due_at float8, settled_at float8, message text)
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '100ms'
as $$
declare
    v_quota constant text := coalesce(current_setting('reactor.quota', true), '');
    v_attempts reactor.ended_attempt[];
    v_is_settled boolean;
begin
    -- the object is stored already: no quota may refuse the settlement
    perform set_config('reactor.quota', 'off', true);
    -- a deferred constraint must refuse its part of the batch, and not the commit of all
    set constraints all immediate;
    v_attempts := array(select row(a.*)::reactor.ended_attempt
                          from unnest(p_ids, p_tokens, p_verdicts, p_delays_s, p_codes, p_messages, p_urls) as a);
    v_is_settled := false;
    if cardinality(p_ids) <= least(p_size, p_trusted) then
        begin
            return query
            select b.id, b.state, b.due_at, b.settled_at, null::text from reactor.settle_batch(v_attempts) as b;
            v_is_settled := true;
        exception when others or assert_failure then
            null; -- settle_parts() finds out why
        end;
    end if;
    if not v_is_settled then
        return query
        select p.id, p.state, p.due_at, p.settled_at, p.message
          from reactor.settle_parts(v_attempts, least(p_size, 150), p_trusted, null) as p;
    end if;
    perform set_config('reactor.quota', v_quota, true);
end $$;

-- Settle attempts in parts of p_size. A part that fails is split again; see settle_uploads().
--
-- p_trusted      how many attempts, from the first, are settled together; each of the others is settled alone
-- p_until        null, or after a failure because of a lock or a lack of resources: when to stop. The rest is busy then
-- Suspects       After the first failure of a part, one attempt changes places with the last trusted attempt: the one
--                that the error names, or else the one after the sources that the failed statement had changed. So the
--                others need not be split. A wrong suspect costs time and nothing else
create or replace function reactor.settle_parts(p_attempts reactor.ended_attempt[], p_size int, p_trusted int,
        p_until timestamptz)
    returns table (id uuid, state text, due_at float8, settled_at float8, message text)
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_first int := 1;
    v_last int;
    v_may_suspect boolean := true;
    v_is_refused boolean;
    v_suspect int;
    v_other reactor.ended_attempt;
    v_marked bigint;
    v_sqlstate text;
    v_sqlstate_before text;
    v_message text;
    v_detail text;
    v_context text;
begin
    while v_first <= cardinality(p_attempts) loop
        if clock_timestamp() > p_until then
            return query
            select a.id, 'busy', null::float8, null::float8, v_message
              from unnest(p_attempts[v_first:cardinality(p_attempts)]) as a
             where a.id is not null;
            return;
        end if;
        if v_first > p_trusted and p_attempts[v_first] is null then
            v_first := v_first + 1;
            continue;
        end if;
        v_last := case when v_first > p_trusted then v_first else least(v_first + p_size - 1, p_trusted) end;
        v_marked := pg_stat_get_xact_tuples_updated('public.sources'::regclass);
        v_sqlstate_before := v_sqlstate;
        v_sqlstate := null;
        begin
            return query
            select b.id, b.state, b.due_at, b.settled_at, null::text
              from reactor.settle_batch(p_attempts[v_first:v_last]) as b;
        exception when others or assert_failure then
            get stacked diagnostics v_sqlstate = returned_sqlstate, v_message = message_text,
                                    v_detail = pg_exception_detail, v_context = pg_exception_context;
            if reactor.concerns_everybody(v_sqlstate, v_context) then
                raise;
            end if;
        end;
        if v_sqlstate is null then
            v_first := v_last + 1;
            if not v_may_suspect then
                -- without the suspect, the others are settled: so the suspect was refused
                v_may_suspect := true;
                v_other := p_attempts[p_trusted + 1];
                p_attempts[p_trusted + 1] := null;
                return query
                select v_other.id, r.state, null::float8, r.refused_at, r.message
                  from reactor.refuse_upload(v_other.id, v_other.token, v_sqlstate_before, v_message) as r
                 where r.state <> 'gone';
            end if;
            continue;
        end if;
        v_is_refused := not reactor.is_passing(v_sqlstate, v_context);
        if not v_is_refused then
            p_until := coalesce(p_until, clock_timestamp() + interval '400 ms');
        end if;
        v_suspect := null;
        if v_is_refused and v_first < v_last and v_may_suspect then
            v_suspect := v_first - 1 + coalesce(
                (select a.place from unnest(p_attempts[v_first:v_last]) with ordinality as a (id, token, verdict,
                                                                        delay_s, code, message, url, place)
                  where position(a.id::text in v_message || v_detail) > 0 limit 1),
                (select a.place from unnest(p_attempts[v_first:v_last]) with ordinality as a (id, token, verdict,
                                                                        delay_s, code, message, url, place)
                  cross join lateral (select u.source_id from public.upload_queue as u
                                       where u.id = a.id and u.lease_token = a.token offset 0) as q
                  where a.verdict in ('stored', 'dead')
                  order by q.source_id
                 offset pg_stat_get_xact_tuples_updated('public.sources'::regclass) - v_marked limit 1));
        end if;
        if v_suspect is not null then
            v_may_suspect := false;
            v_other := p_attempts[v_suspect];
            p_attempts[v_suspect] := p_attempts[p_trusted];
            p_attempts[p_trusted] := v_other;
            p_trusted := p_trusted - 1;
            continue;
        end if;
        if v_first = v_last and v_is_refused then
            return query
            select p_attempts[v_first].id, r.state, null::float8, r.refused_at, r.message
              from reactor.refuse_upload(p_attempts[v_first].id, p_attempts[v_first].token, v_sqlstate, v_message) as r
             where r.state <> 'gone';
        elsif v_first = v_last then
            return query select p_attempts[v_first].id, 'busy', null::float8, null::float8, v_message;
        else
            return query
            select p.id, p.state, p.due_at, p.settled_at, p.message
              from reactor.settle_parts(p_attempts[v_first:v_last], greatest(1, (v_last - v_first + 1) / 8),
                                        v_last - v_first + 1, p_until) as p;
        end if;
        v_first := v_last + 1;
        v_may_suspect := true;
    end loop;
end $$;

-- Settle attempts in one statement, or raise what the database refuses.
--
-- Returns  see settle_uploads(): states 'settled' and 'busy'
-- Raises   RX003 if a trigger of the app leaves a row unchanged without an error
-- Locks    the sources of stored and dead uploads, the usage rows of their users, then the queue rows; skips uploads
--          of which another session has locked one of these rows
create or replace function reactor.settle_batch(p_attempts reactor.ended_attempt[])
    returns table (id uuid, state text, due_at float8, settled_at float8)
    language plpgsql
    set search_path = pg_catalog, pg_temp
    -- keep one plan for all calls: it looks rows up by key and never scans (schema/README.md, decision 2)
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
    set enable_bitmapscan = off
as $$
begin
    return query
    -- each look-up by id is a lateral sub-query (schema/README.md, decision 5)
    with attempt as materialized (
        select a.id, a.token, a.verdict, a.delay_s, a.code, a.message, a.url, q.source_id
          from unnest(p_attempts) as a
         cross join lateral (select u.source_id from public.upload_queue as u
                              where u.id = a.id and u.lease_token = a.token and u.status = 'uploading' offset 0) as q
         order by a.id -- sorted look-ups read fewer pages in turn
    ), locked_source as materialized (
        select s.id, s.user_id, s.storage_status
          from (select distinct a.source_id from attempt as a
                 where a.verdict in ('stored', 'dead') order by a.source_id) as c
         cross join lateral (select t.id, t.user_id, t.storage_status from public.sources as t
                              where t.id = c.source_id
                                for no key update skip locked) as s
    ), locked_user as materialized (
        select u.user_id
          from (select distinct l.user_id from locked_source as l order by l.user_id) as c
         cross join lateral (select w.user_id from public.storage_usage as w
                              where w.user_id = c.user_id
                                for no key update skip locked) as u
    ), new_user as materialized (
        select c.user_id
          from (select distinct l.user_id from locked_source as l) as c
         where c.user_id not in (select u.user_id from locked_user as u)
           and not exists (select from public.storage_usage as w where w.user_id = c.user_id)
           and reactor.open_usage_row(c.user_id)
    ), free_source as materialized (
        select l.id, l.storage_status
          from locked_source as l
         where l.user_id is null
            or l.user_id in (select u.user_id from locked_user as u union all select n.user_id from new_user as n)
    ), free as materialized (
        select a.id, a.token, a.verdict, a.delay_s, a.code, a.message, a.url
          from attempt as a
         where a.verdict in ('retry', 'deferred') or a.source_id in (select f.id from free_source as f)
    ), held as materialized (
        select q.id, q.source_id, f.verdict, f.delay_s, f.code, f.message, f.url
          from free as f
         cross join lateral (select u.id, u.source_id from public.upload_queue as u
                              where u.id = f.id and u.lease_token = f.token and u.status = 'uploading'
                                and f.verdict = 'stored'
                                for update skip locked) as q
        union all
        select q.id, q.source_id, f.verdict, f.delay_s, f.code, f.message, f.url
          from free as f
         cross join lateral (select u.id, u.source_id from public.upload_queue as u
                              where u.id = f.id and u.lease_token = f.token and u.status = 'uploading'
                                and f.verdict <> 'stored'
                                for no key update skip locked) as q
    ), ended as materialized (
        -- if several uploads of one source are settled, a stored one decides
        select h.source_id, bool_or(h.verdict = 'stored') as is_stored,
               max(h.url) filter (where h.verdict = 'stored') as url
          from held as h
         where h.verdict in ('stored', 'dead')
         group by h.source_id
         order by h.source_id -- settle_parts() relies on it to find a suspect
    ), marked as (
        update public.sources as s
           set storage_status = case when e.is_stored then 'uploaded' else 'failed' end,
               storage_url = coalesce(e.url, s.storage_url)
          from ended as e
         where s.id = e.source_id
           and (e.is_stored or s.storage_status = 'pending')
        returning s.id
    ), stored as (
        delete from public.upload_queue as q
         using held as h
         where q.id = h.id and h.verdict = 'stored'
           and (select count(*) from marked) >= 0 -- sources first: they are refused most often
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
    )
    select s.id, 'settled', null::float8, date_part('epoch', clock_timestamp()) from stored as s
    union all
    select k.id, 'settled', k.due_at, k.settled_at from kept as k
    union all
    select a.id, 'busy', null, null
      from attempt as a
     where a.id not in (select h.id from held as h)
    union all
    select null, reactor.raise_unchanged('upload_queue'), null, null
     where (select count(*) from held) <> (select count(*) from stored) + (select count(*) from kept)
    union all
    select null, reactor.raise_unchanged('sources'), null, null
     where (select count(*) from marked)
           <> (select count(*) from ended as e
                where e.is_stored
                   or e.source_id in (select f.id from free_source as f where f.storage_status = 'pending'));
end $$;

revoke all on function reactor.settle_uploads(uuid[], uuid[], text[], float8[], text[], text[], text[], int, int)
    from public;
revoke all on function reactor.settle_parts(reactor.ended_attempt[], int, int, timestamptz) from public;
revoke all on function reactor.settle_batch(reactor.ended_attempt[]) from public;
grant execute on function reactor.settle_uploads(uuid[], uuid[], text[], float8[], text[], text[], text[], int, int)
    to reactor_worker, service_role;
