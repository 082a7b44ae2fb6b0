CREATE SCHEMA auth;

CREATE SCHEMA reactor;

COMMENT ON SCHEMA reactor IS 'What only the reactor needs: its ledger, its instances, its functions.';

CREATE FUNCTION auth.uid() RETURNS uuid
    LANGUAGE sql STABLE
    AS $$
            select nullif(coalesce(
                nullif(current_setting('request.jwt.claim.sub', true), ''),
                nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub'
            ), '')::uuid
        $$;

CREATE TABLE public.sources (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    user_id uuid NOT NULL,
    content_hash text NOT NULL,
    mime_type text,
    storage_url text,
    storage_status text DEFAULT 'uploaded'::text NOT NULL,
    byte_size bigint,
    file_name text,
    source_type text,
    source_agent_id text,
    source_metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE FUNCTION reactor.book_entry(p_source public.sources) RETURNS TABLE(user_id uuid, total bigint, reserved bigint, stored integer)
    LANGUAGE sql STABLE
    AS $$
    select p_source.user_id,
           case when p_source.storage_status = 'uploaded' then size.bytes else 0 end,
           case when p_source.storage_status = 'pending' then size.bytes else 0 end,
           case when p_source.storage_status = 'uploaded' then 1 else 0 end
      from (select coalesce(p_source.byte_size, (to_jsonb(p_source) ->> 'file_size')::bigint, 0) as bytes) as size
$$;

CREATE FUNCTION reactor.cancel_uploads(p_ids uuid[]) RETURNS SETOF uuid
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

CREATE FUNCTION reactor.claim_uploads(p_ids uuid[], p_token uuid, p_lease interval) RETURNS TABLE(id uuid, state text, due_at double precision, claimed_at double precision, created_at double precision, attempt integer, max_retries integer, byte_size bigint, bucket text, object_path text, content_hash text, spool text, temp_file_path text, mime_type text, traceparent text, last_code text, ordinal integer, waited_since double precision, lost_at double precision)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $$
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
    select c.id, 'claimed', extract(epoch from greatest(c.next_retry_at, 'epoch'))::float8, extract(epoch from c.updated_at)::float8,
           extract(epoch from c.created_at)::float8, c.retry_count, c.max_retries, c.byte_size, c.bucket,
           c.object_path, c.content_hash, c.spool, c.temp_file_path, s.mime_type, c.traceparent, c.error_code,
           c.claim_count, extract(epoch from c.waited_since)::float8,
           case when c.is_taken_over and c.claim_count > 1 then extract(epoch from c.changed_at)::float8 end
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
           extract(epoch from case when free.at <= statement_timestamp() then clock_timestamp() + p_lease
                                   else least(free.at, '9999-01-01 00:00:00+00') end)::float8,
           null::float8, null::float8, null::int, null::int, null::bigint, null, null, null, null, null,
           null, null, null, null::int, null::float8, null::float8
      from public.upload_queue as q
     cross join lateral (select case when q.status = 'failed' then q.next_retry_at
                                     else coalesce(q.lease_expires_at, '-infinity') end as at) as free
     where q.id = any(p_ids)
       and q.status in ('failed', 'uploading')
       and q.lease_token is distinct from p_token;
end $$;

CREATE FUNCTION reactor.deadline(p_timeout_at timestamp with time zone, p_heartbeat_at timestamp with time zone, p_patience interval) RETURNS timestamp with time zone
    LANGUAGE sql STABLE
    AS $$
    select least(
        case when p_timeout_at is not null
             then least(greatest(p_timeout_at, 'epoch'), '9999-01-01 00:00:00+00') end,
        case when p_heartbeat_at is not null and p_patience is not null
             then least(greatest(p_heartbeat_at, 'epoch'), '9999-01-01 00:00:00+00')
                  + least(p_patience, interval '1000 years') end)
$$;

CREATE FUNCTION reactor.expire_runs(p_ids uuid[], p_heartbeat_timeout interval) RETURNS TABLE(id uuid, due_at double precision, code text, late_s double precision, traceparent text, failed_at double precision)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $$
begin
    return query
    with stale as materialized (
        select r.id, r.timeout_at,
               reactor.deadline(r.timeout_at, r.heartbeat_at, coalesce(r.heartbeat_timeout, p_heartbeat_timeout)) as due_at
          from public.interpretation_runs as r
         where r.id = any(p_ids)
           and r.status = 'running'
           and reactor.deadline(r.timeout_at, r.heartbeat_at, coalesce(r.heartbeat_timeout, p_heartbeat_timeout))
               <= statement_timestamp()
         order by r.id
           for update skip locked
    ), expired as (
        update public.interpretation_runs as r
           set status = 'failed',
               error_code = case when s.timeout_at <= statement_timestamp() then 'INTERPRETATION_TIMEOUT'
                                 else 'INTERPRETATION_HEARTBEAT_LOST' end,
               error_message = case when s.timeout_at <= statement_timestamp()
                   then 'the run passed its deadline'
                   else 'no heartbeat since ' || to_char(r.heartbeat_at at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS"Z"')
                   end,
               completed_at = clock_timestamp()
          from stale as s
         where r.id = s.id
        returning r.id, r.error_code, r.completed_at - s.due_at as late, r.traceparent, r.completed_at
    )
    select e.id, null::float8, e.error_code, extract(epoch from e.late)::float8, e.traceparent,
           extract(epoch from e.completed_at)::float8
      from expired as e
    union all
    select r.id,
           extract(epoch from greatest(
               reactor.deadline(r.timeout_at, r.heartbeat_at, coalesce(r.heartbeat_timeout, p_heartbeat_timeout)),
               -- stale and yet not ours: its row is locked, look again soon
               statement_timestamp() + interval '0.5 s'))::float8,
           null, null, null, null::float8
      from public.interpretation_runs as r
     where r.id = any(p_ids)
       and r.status = 'running'
       and reactor.deadline(r.timeout_at, r.heartbeat_at, coalesce(r.heartbeat_timeout, p_heartbeat_timeout)) is not null
       and not exists (select from expired as e where e.id = r.id);
end $$;

CREATE FUNCTION reactor.extend_leases(p_ids uuid[], p_tokens uuid[], p_lease interval) RETURNS SETOF uuid
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $$
begin
    return query
    with held as materialized (
        select q.id
          from unnest(p_ids, p_tokens) as h (id, token)
          join public.upload_queue as q on q.id = h.id and q.lease_token = h.token and q.status = 'uploading'
         order by q.id
           for update of q
    )
    update public.upload_queue as q
       set lease_expires_at = clock_timestamp() + p_lease
      from held as h
     where q.id = h.id
    returning q.id;
end $$;

CREATE FUNCTION reactor.fail_runs(p_ids uuid[], p_message text) RETURNS SETOF uuid
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    update public.interpretation_runs as r
       set status = 'failed', error_code = 'INTERPRETATION_FAILED', error_message = p_message,
           completed_at = clock_timestamp()
     where r.id = any(p_ids) and r.status in ('pending', 'running')
    returning r.id
$$;

CREATE FUNCTION reactor.hint(p_id uuid, p_user_id uuid, p_due_at timestamp with time zone) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select '["' || replace(p_id::text, '-', '') || '",' || coalesce(uuid_hash(p_user_id), 0) || ','
        || case when p_due_at is null then 'null'
                -- the clock goes on between two looks at it: without the zero, a row due now could be due at -1
                else greatest(0, (1000 * extract(epoch from
                    least(greatest(p_due_at, clock_timestamp()), clock_timestamp() + interval '1 day')
                    - clock_timestamp()))::bigint)::text end
        || ']'
$$;

CREATE FUNCTION reactor.keep_books() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $$
declare
    v_users uuid[];
    v_total bigint[];
    v_reserved bigint[];
    v_sources bigint[];
begin
    if tg_op = 'INSERT' then
        select array_agg(user_id order by user_id), array_agg(total order by user_id),
               array_agg(reserved order by user_id), array_agg(stored order by user_id)
          into v_users, v_total, v_reserved, v_sources
          from (select f.user_id, sum(f.total) as total, sum(f.reserved) as reserved, sum(f.stored) as stored
                  from new_rows as n cross join lateral reactor.book_entry(n) as f
                 where f.user_id is not null group by f.user_id) as change;
    elsif tg_op = 'DELETE' then
        select array_agg(user_id order by user_id), array_agg(-total order by user_id),
               array_agg(-reserved order by user_id), array_agg(-stored order by user_id)
          into v_users, v_total, v_reserved, v_sources
          from (select f.user_id, sum(f.total) as total, sum(f.reserved) as reserved, sum(f.stored) as stored
                  from old_rows as o cross join lateral reactor.book_entry(o) as f
                 where f.user_id is not null group by f.user_id) as change;
    else
        select array_agg(user_id order by user_id), array_agg(total order by user_id),
               array_agg(reserved order by user_id), array_agg(stored order by user_id)
          into v_users, v_total, v_reserved, v_sources
          from (select entry.user_id, sum(entry.total) as total, sum(entry.reserved) as reserved,
                       sum(entry.stored) as stored
                  from (select f.user_id, f.total, f.reserved, f.stored
                          from new_rows as n cross join lateral reactor.book_entry(n) as f
                        union all
                        select f.user_id, -f.total, -f.reserved, -f.stored
                          from old_rows as o cross join lateral reactor.book_entry(o) as f) as entry
                 where entry.user_id is not null
                 group by entry.user_id
                having sum(entry.total) <> 0 or sum(entry.reserved) <> 0 or sum(entry.stored) <> 0) as change;
    end if;
    if v_users is null then
        return null;
    end if;
    -- open the missing books before locking any: who waits for another to open one must not hold what that one needs
    if (select count(*) from public.storage_usage where user_id = any(v_users)) < cardinality(v_users) then
        insert into public.storage_usage (user_id)
        select u from unnest(v_users) as u order by u
        on conflict (user_id) do nothing;
    end if;
    perform from public.storage_usage where user_id = any(v_users) order by user_id for update;
    -- greatest(): books that were wrong before must not make the app's own write fail; a recount mends them
    update public.storage_usage as s
       set total_bytes = greatest(0, s.total_bytes + c.total),
           reserved_bytes = greatest(0, s.reserved_bytes + c.reserved),
           total_sources = greatest(0, s.total_sources + c.stored)
      from unnest(v_users, v_total, v_reserved, v_sources) as c (user_id, total, reserved, stored)
     where s.user_id = c.user_id;
    return null;
end $$;

CREATE FUNCTION reactor.leave(p_instance uuid) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    delete from reactor.instance where id = p_instance or seen_at < statement_timestamp() - interval '1 day'
$$;

CREATE FUNCTION reactor.notify_runs() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    v_hints text[];
begin
    if tg_op = 'INSERT' then
        select array_agg(started.hint) into v_hints
          from (select reactor.run_hint(n) as hint from new_rows as n where n.status = 'running' limit 1001) as started;
    else
        v_hints := array[reactor.run_hint(new)];
    end if;
    if v_hints is not null then
        perform reactor.send_hints('reactor_runs', v_hints);
    end if;
    return null;
end $$;

CREATE FUNCTION reactor.notify_uploads() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    v_hints text[];
begin
    if tg_op = 'INSERT' then
        select array_agg(changed.hint) into v_hints
          from (select reactor.hint(n.id, n.user_id, n.next_retry_at) as hint
                  from new_rows as n
                 where n.status = 'failed'
                 limit 1001) as changed;
    else
        select array_agg(changed.hint) into v_hints
          from (select reactor.hint(n.id, n.user_id, n.next_retry_at) as hint
                  from new_rows as n
                  join old_rows as o using (id)
                 where n.status = 'failed'
                   and (o.status not in ('failed', 'uploading')
                        or o.status = 'failed' and n.next_retry_at < o.next_retry_at
                        -- not statement_timestamp(): "due now" was written after the statement began
                        or o.status = 'uploading' and n.next_retry_at <= clock_timestamp())
                 limit 1001) as changed;
    end if;
    if v_hints is not null then
        perform reactor.send_hints('reactor_uploads', v_hints);
    end if;
    return null;
end $$;

CREATE FUNCTION reactor.pulse(p_instance uuid, p_host text, p_version text, p_mode text, p_canary text, p_silent_after interval) RETURNS TABLE(now_at double precision, queue_usage double precision, instances uuid[])
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    insert into reactor.instance as i (id, host, version, mode)
    values (p_instance, p_host, p_version, p_mode)
    on conflict (id) do update set seen_at = clock_timestamp(), mode = excluded.mode;
    if p_canary is not null then
        perform pg_notify(p_canary, '');
    end if;
    return query
    select extract(epoch from clock_timestamp())::float8, pg_notification_queue_usage(),
           array(select i.id from reactor.instance as i
                  where i.seen_at > statement_timestamp() - p_silent_after order by i.id);
end $$;

CREATE FUNCTION reactor.purge_uploads(p_ids uuid[]) RETURNS TABLE(id uuid, spool text, temp_file_path text)
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    delete from public.upload_queue as q
     where q.id = any(p_ids) and q.status in ('dead', 'cancelled')
    returning q.id, q.spool, q.temp_file_path
$$;

CREATE FUNCTION reactor.recount_usage(p_after uuid, p_limit integer) RETURNS uuid
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    v_users uuid[];
    v_user uuid;
    v_last uuid;
begin
    -- users who have books and no sources, too: theirs may be wrong as well
    v_users := array(
        (select distinct s.user_id from public.sources as s
          where s.user_id is not null and (p_after is null or s.user_id > p_after)
          order by s.user_id limit p_limit)
        union
        (select u.user_id from public.storage_usage as u
          where p_after is null or u.user_id > p_after
          order by u.user_id limit p_limit)
        order by user_id limit p_limit);
    insert into public.storage_usage (user_id) -- before any is locked, as in keep_books
    select u from unnest(v_users) as u order by u
    on conflict (user_id) do nothing;
    foreach v_user in array v_users loop
        perform from public.storage_usage where user_id = v_user for update;
        update public.storage_usage as u
           set total_bytes = counted.total, reserved_bytes = counted.reserved, total_sources = counted.stored,
               last_calculated = clock_timestamp()
          from (select coalesce(sum(f.total), 0) as total, coalesce(sum(f.reserved), 0) as reserved,
                       coalesce(sum(f.stored), 0) as stored
                  from public.sources as s cross join lateral reactor.book_entry(s) as f
                 where s.user_id = v_user) as counted
         where u.user_id = v_user;
        v_last := v_user;
    end loop;
    return v_last;
end $$;

CREATE FUNCTION reactor.requeue_uploads(p_ids uuid[]) RETURNS SETOF uuid
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    return query
    with locked as materialized (
        select s.id
          from public.sources as s
         where s.id in (select q.source_id from public.upload_queue as q where q.id = any(p_ids))
         order by s.id
           for no key update
    ), chosen as materialized (
        select q.id, q.source_id, q.status from public.upload_queue as q
         where q.id = any(p_ids) and q.status in ('failed', 'dead', 'cancelled')
           and (select count(*) from locked) >= 0 -- always true, and known only once the sources are locked
         order by q.id for update
    ), marked as (
        update public.sources as s set storage_status = 'pending'
          from chosen as c
         where s.id = c.source_id and c.status <> 'failed' and s.storage_status = 'failed'
    )
    update public.upload_queue as q
       set status = 'failed',
           retry_count = case when c.status = 'failed' then q.retry_count else 0 end,
           next_retry_at = least(q.next_retry_at, clock_timestamp()), updated_at = clock_timestamp()
      from chosen as c
     where q.id = c.id
    returning q.id;
end $$;

CREATE FUNCTION reactor.rescue_uploads(p_ids uuid[], p_limit integer) RETURNS TABLE(id uuid, verdict text, code text, traceparent text, attempt integer, ordinal integer, bucket text, byte_size bigint, created_at double precision, claimed_at double precision, rescued_at double precision)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $$
begin
    return query
    -- two look-ups, each in an index of a few rows: with one condition for both, it was the whole queue
    with leased as materialized (
        select q.id, q.source_id, q.retry_count, q.max_retries, q.updated_at
          from public.upload_queue as q
          join public.sources as s on s.id = q.source_id
         where q.status = 'uploading'
           and coalesce(q.lease_expires_at, '-infinity') <= statement_timestamp()
           and (p_ids is null or q.id = any(p_ids))
         order by q.id
         limit p_limit
           for update of q skip locked
           for no key update of s skip locked
    ), exhausted as materialized (
        select q.id, q.source_id
          from public.upload_queue as q
          join public.sources as s on s.id = q.source_id
         where q.status = 'failed' and q.retry_count >= q.max_retries
           and q.next_retry_at <= statement_timestamp()
           and (p_ids is null or q.id = any(p_ids))
         order by q.id
         limit p_limit
           for update of q skip locked
           for no key update of s skip locked
    ), abandoned as materialized (
        select l.id, l.source_id, case when l.retry_count >= l.max_retries then 'dead' else 'failed' end as status,
               true as was_leased, l.updated_at as claimed_at
          from leased as l
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
                          case when a.was_leased then 'the worker stopped without a word'
                               else coalesce(q.error_message, 'unknown') end) else q.error_message end,
               errors = case when a.was_leased then q.errors || jsonb_build_array(
                   jsonb_build_object('at', clock_timestamp(), 'attempt', q.retry_count,
                                      'code', 'STORAGE_UNAVAILABLE', 'message', 'the worker stopped without a word',
                                      'trace_id', split_part(q.traceparent, '-', 2))) else q.errors end,
               lease_token = null,
               lease_expires_at = null,
               updated_at = clock_timestamp()
          from abandoned as a
         where q.id = a.id
        returning q.id, q.status, q.error_code, q.traceparent, q.retry_count, q.claim_count, q.bucket, q.byte_size,
                  q.created_at, a.claimed_at, q.updated_at
    ), marked as (
        update public.sources as s
           set storage_status = 'failed'
          from abandoned as a
         where s.id = a.source_id and a.status = 'dead' and s.storage_status = 'pending'
    )
    select r.id, case r.status when 'dead' then 'dead' else 'retry' end, r.error_code, r.traceparent, r.retry_count,
           r.claim_count, r.bucket, r.byte_size, extract(epoch from r.created_at)::float8,
           extract(epoch from r.claimed_at)::float8, extract(epoch from r.updated_at)::float8
      from rescued as r;
end $$;

CREATE TABLE public.interpretation_runs (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    user_id uuid NOT NULL,
    source_id uuid NOT NULL,
    interpretation_config jsonb DEFAULT '{}'::jsonb NOT NULL,
    status text DEFAULT 'pending'::text NOT NULL,
    error_code text,
    error_message text,
    timeout_at timestamp with time zone,
    heartbeat_at timestamp with time zone,
    heartbeat_timeout interval,
    traceparent text,
    started_at timestamp with time zone,
    completed_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    archived_at timestamp with time zone
)
WITH (fillfactor='70');

CREATE FUNCTION reactor.run_hint(p_run public.interpretation_runs) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select case
        when p_run.status <> 'running' then
            reactor.hint(p_run.id, p_run.user_id, null)
        when p_run.heartbeat_timeout is not null or p_run.heartbeat_at is null then
            reactor.hint(p_run.id, p_run.user_id,
                reactor.deadline(p_run.timeout_at, p_run.heartbeat_at, p_run.heartbeat_timeout))
        else
            rtrim(reactor.hint(p_run.id, p_run.user_id, p_run.timeout_at), ']') || ',' || greatest(0, least(864e5,
                -- not the difference of the two: before PostgreSQL 17 there is none from 'infinity'
                1000 * (extract(epoch from clock_timestamp()) - extract(epoch from p_run.heartbeat_at))))::bigint || ']'
        end
$$;

CREATE FUNCTION reactor.send_hints(p_channel text, p_hints text[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    v_count constant int := coalesce(cardinality(p_hints), 0);
    v_at constant text := (extract(epoch from clock_timestamp()) * 1000)::bigint::text;
begin
    if v_count = 0 or pg_notification_queue_usage() >= 0.5 then
        return;
    end if;
    if v_count > 1000 then
        perform pg_notify(p_channel, '{"v":1,"at":' || v_at || ',"rescan":true}');
        return;
    end if;
    for v_first in 1 .. v_count by 100 loop
        perform pg_notify(p_channel, '{"v":1,"at":' || v_at || ',"rows":['
            || array_to_string(p_hints[v_first : v_first + 99], ',') || ']}');
    end loop;
end $$;

CREATE FUNCTION reactor.settle_uploads(p_ids uuid[], p_tokens uuid[], p_verdicts text[], p_delays_s double precision[], p_codes text[], p_messages text[], p_urls text[]) RETURNS TABLE(id uuid, due_at double precision, settled_at double precision)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $$
begin
    return query
    with attempt as materialized (
        select a.id, a.token, a.verdict, a.delay_s, a.code, a.message, a.url
          from unnest(p_ids, p_tokens, p_verdicts, p_delays_s, p_codes, p_messages, p_urls)
               as a (id, token, verdict, delay_s, code, message, url)
    ), locked as materialized (
        select s.id
          from public.sources as s
         where s.id in (select q.source_id
                          from attempt as a
                          join public.upload_queue as q on q.id = a.id and q.lease_token = a.token
                         where a.verdict in ('stored', 'dead'))
         order by s.id
           for no key update
    ), held as materialized (
        select q.id, q.source_id, a.verdict, a.delay_s, a.code, a.message, a.url
          from attempt as a
          join public.upload_queue as q on q.id = a.id and q.lease_token = a.token and q.status = 'uploading'
         where (select count(*) from locked) >= 0 -- always true, and known only once the sources are locked
         order by q.id
           for update of q
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
                   jsonb_build_object('at', clock_timestamp(), 'attempt', q.retry_count, 'code', h.code,
                                      'message', h.message, 'trace_id', split_part(q.traceparent, '-', 2))) end,
               lease_token = null,
               lease_expires_at = null,
               updated_at = clock_timestamp()
          from held as h
         where q.id = h.id and h.verdict <> 'stored'
        returning q.id, case q.status when 'failed' then extract(epoch from q.next_retry_at)::float8 end as due_at,
                  extract(epoch from q.updated_at)::float8 as settled_at
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
    select s.id, null::float8, extract(epoch from clock_timestamp())::float8 from stored as s
    union all
    select k.id, k.due_at, k.settled_at from kept as k;
end $$;

CREATE FUNCTION reactor.stamp_run_start() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    new.started_at := coalesce(new.started_at, clock_timestamp());
    new.heartbeat_at := coalesce(new.heartbeat_at, new.started_at);
    return new;
end $$;

CREATE FUNCTION reactor.status(p_heartbeat_timeout interval) RETURNS jsonb
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select jsonb_build_object(
        'uploads', (
            select jsonb_build_object(
                'failed', count(*) filter (where q.status = 'failed'),
                'due', count(*) filter (where q.status = 'failed' and q.next_retry_at <= statement_timestamp()),
                'uploading', count(*) filter (where q.status = 'uploading'),
                'dead', count(*) filter (where q.status = 'dead'),
                'cancelled', count(*) filter (where q.status = 'cancelled'),
                'oldest_due_age_s', coalesce(extract(epoch from statement_timestamp()
                    - min(q.next_retry_at) filter (where q.status = 'failed'
                                                     and q.next_retry_at <= statement_timestamp())), 0),
                'leases_expired', count(*) filter (where q.status = 'uploading'
                    and coalesce(q.lease_expires_at, '-infinity') <= statement_timestamp()))
              from public.upload_queue as q),
        'runs', (
            select jsonb_build_object(
                'running', count(*),
                'stale', count(*) filter (where
                    reactor.deadline(r.timeout_at, r.heartbeat_at, coalesce(r.heartbeat_timeout, p_heartbeat_timeout))
                    <= statement_timestamp()))
              from public.interpretation_runs as r
             where r.status = 'running'),
        'reactors', coalesce((
            select jsonb_agg(jsonb_build_object(
                       'id', i.id, 'host', i.host, 'version', i.version, 'mode', i.mode,
                       'seen_s_ago', extract(epoch from statement_timestamp() - i.seen_at)) order by i.started_at)
              from reactor.instance as i), '[]'),
        'notification_queue_usage', pg_notification_queue_usage(),
        'now', statement_timestamp())
$$;

CREATE FUNCTION reactor.sweep_runs(p_horizon interval, p_heartbeat_timeout interval, p_limit integer) RETURNS TABLE(id uuid, tenant integer, due_at double precision, changed_at double precision)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    return query
    select r.id, coalesce(uuid_hash(r.user_id), 0), extract(epoch from d.due_at)::float8,
           extract(epoch from coalesce(r.heartbeat_at, r.started_at, r.created_at))::float8
      from public.interpretation_runs as r
     cross join lateral (select reactor.deadline(r.timeout_at, r.heartbeat_at,
               coalesce(r.heartbeat_timeout, p_heartbeat_timeout)) as due_at) as d
     where r.status = 'running'
       and d.due_at <= statement_timestamp() + p_horizon
     order by d.due_at
     limit p_limit;
end $$;

CREATE FUNCTION reactor.sweep_uploads(p_horizon interval, p_per_tenant integer, p_limit integer) RETURNS TABLE(id uuid, tenant integer, due_at double precision, changed_at double precision)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $$
begin
    return query
    with recursive owner as (
        (select q.user_id from public.upload_queue as q where q.status = 'failed' order by q.user_id limit 1)
        union all
        select (select q.user_id from public.upload_queue as q
                 where q.status = 'failed' and q.user_id > o.user_id order by q.user_id limit 1)
          from owner as o
         where o.user_id is not null
    ), waiting as (
        select w.id, uuid_hash(o.user_id), extract(epoch from greatest(w.next_retry_at, 'epoch'))::float8,
               extract(epoch from w.updated_at)::float8
          from owner as o
         cross join lateral (
             select q.id, q.next_retry_at, q.updated_at
               from public.upload_queue as q
              where q.status = 'failed' and q.user_id = o.user_id
                and q.next_retry_at <= statement_timestamp() + p_horizon
              order by q.next_retry_at
              limit p_per_tenant) as w
         where o.user_id is not null
         limit p_limit
    ), leased as (
        select q.id, uuid_hash(q.user_id), extract(epoch from q.lease_expires_at)::float8,
               extract(epoch from q.updated_at)::float8
          from public.upload_queue as q
         where q.status = 'uploading' and q.lease_expires_at is not null
         limit p_limit
    )
    select * from waiting
    union all
    select * from leased;
end $$;

CREATE FUNCTION reactor.what_is_missing() RETURNS SETOF text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select format('role %I may not read %s', current_user, t.name)
      from unnest(array['public.sources', 'public.interpretation_runs', 'public.upload_queue']) as t (name)
     where not has_table_privilege(t.name, 'select')
    union all
    select format('row level security hides rows of %s from role %I', c.oid::regclass, current_user)
      from pg_class as c
     where c.oid in ('public.sources'::regclass, 'public.interpretation_runs'::regclass, 'public.upload_queue'::regclass)
       and row_security_active(c.oid)
       -- one policy must show all rows, and none may take some of them away again
       and (select coalesce(bool_and(s.is_shown) filter (where not s.polpermissive), true)
                   and coalesce(bool_or(s.is_shown) filter (where s.polpermissive), false)
              from (select p.polpermissive, pg_get_expr(p.polqual, p.polrelid) = 'true' as is_shown
                      from pg_policy as p
                     where p.polrelid = c.oid and p.polcmd in ('r', '*')
                       and (0 = any(p.polroles) or exists (
                           select from unnest(p.polroles) as r (oid) where r.oid <> 0
                              and pg_has_role(current_user, r.oid, 'usage')))) as s) is not true
    union all
    select format('role %I may not execute %s', current_user, f.oid::regprocedure)
      from pg_proc as f
     where f.pronamespace = 'reactor'::regnamespace
       and f.proname in ('claim_uploads', 'settle_uploads', 'extend_leases', 'rescue_uploads', 'sweep_uploads',
                         'expire_runs', 'sweep_runs', 'pulse', 'leave')
       and not has_function_privilege(f.oid, 'execute')
$$;

CREATE TABLE public.quota_plans (
    plan text NOT NULL,
    storage_limit_bytes bigint,
    interpretation_limit_month integer,
    CONSTRAINT interpretation_limit_is_not_negative CHECK ((interpretation_limit_month >= 0)),
    CONSTRAINT storage_limit_is_not_negative CHECK ((storage_limit_bytes >= 0))
);

COMMENT ON COLUMN public.quota_plans.storage_limit_bytes IS 'null: unlimited';

COMMENT ON COLUMN public.quota_plans.interpretation_limit_month IS 'null: unlimited';

CREATE TABLE public.storage_usage (
    user_id uuid NOT NULL,
    plan text DEFAULT 'free'::text NOT NULL,
    total_bytes bigint DEFAULT 0 NOT NULL,
    reserved_bytes bigint DEFAULT 0 NOT NULL,
    total_sources integer DEFAULT 0 NOT NULL,
    interpretation_count_month integer DEFAULT 0 NOT NULL,
    billing_month text DEFAULT to_char((now() AT TIME ZONE 'utc'::text), 'YYYY-MM'::text) NOT NULL,
    storage_limit_bytes bigint,
    interpretation_limit_month integer,
    last_calculated timestamp with time zone,
    CONSTRAINT billing_month_is_a_month CHECK ((billing_month ~ '^\d{4}-(0[1-9]|1[0-2])$'::text)),
    CONSTRAINT interpretation_count_is_not_negative CHECK ((interpretation_count_month >= 0)),
    CONSTRAINT own_interpretation_limit_is_not_negative CHECK ((interpretation_limit_month >= 0)),
    CONSTRAINT own_storage_limit_is_not_negative CHECK ((storage_limit_bytes >= 0)),
    CONSTRAINT reserved_bytes_is_not_negative CHECK ((reserved_bytes >= 0)),
    CONSTRAINT total_bytes_is_not_negative CHECK ((total_bytes >= 0)),
    CONSTRAINT total_sources_is_not_negative CHECK ((total_sources >= 0))
)
WITH (fillfactor='70');

COMMENT ON COLUMN public.storage_usage.total_bytes IS 'bytes of the user''s stored sources';

COMMENT ON COLUMN public.storage_usage.reserved_bytes IS 'bytes of sources that are still owed to the store';

COMMENT ON COLUMN public.storage_usage.storage_limit_bytes IS 'this user''s own limit; null: the plan''s';

COMMENT ON COLUMN public.storage_usage.last_calculated IS 'when the figures were last recounted from rows';

CREATE TABLE public.upload_queue (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    source_id uuid NOT NULL,
    user_id uuid NOT NULL,
    bucket text NOT NULL,
    object_path text NOT NULL,
    content_hash text,
    byte_size bigint NOT NULL,
    spool text DEFAULT 'default'::text NOT NULL,
    temp_file_path text,
    status text DEFAULT 'failed'::text NOT NULL,
    retry_count integer DEFAULT 0 NOT NULL,
    max_retries integer DEFAULT 5 NOT NULL,
    next_retry_at timestamp with time zone DEFAULT now() NOT NULL,
    error_code text,
    error_message text,
    lease_token uuid,
    lease_expires_at timestamp with time zone,
    traceparent text DEFAULT (('00-'::text || regexp_replace(replace((gen_random_uuid())::text, '-'::text, ''::text), '^(.{8})(.{8})(.*)$'::text, '\1\2\3-\2\1'::text)) || '-03'::text) NOT NULL,
    errors jsonb DEFAULT '[]'::jsonb NOT NULL,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    claim_count integer DEFAULT 0 NOT NULL,
    CONSTRAINT byte_size_is_not_negative CHECK ((byte_size >= 0)),
    CONSTRAINT max_retries_is_not_negative CHECK ((max_retries >= 0)),
    CONSTRAINT retry_count_is_not_negative CHECK ((retry_count >= 0)),
    CONSTRAINT status_is_known CHECK ((status = ANY (ARRAY['failed'::text, 'uploading'::text, 'dead'::text, 'cancelled'::text])))
)
WITH (fillfactor='80', autovacuum_vacuum_scale_factor='0.02', autovacuum_vacuum_threshold='200');

COMMENT ON COLUMN public.upload_queue.retry_count IS 'attempts begun by the reactor; raised as one is claimed';

COMMENT ON COLUMN public.upload_queue.lease_token IS 'fence: only the claim that set it may settle the row';

COMMENT ON COLUMN public.upload_queue.errors IS 'one entry per failed attempt: at, code, message, trace_id';

COMMENT ON COLUMN public.upload_queue.claim_count IS 'claims ever made; unlike retry_count never given back or reset, so that it names each attempt''s spans';

CREATE TABLE reactor.instance (
    id uuid NOT NULL,
    host text NOT NULL,
    version text NOT NULL,
    mode text NOT NULL,
    started_at timestamp with time zone DEFAULT now() NOT NULL,
    seen_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT mode_is_known CHECK ((mode = ANY (ARRAY['starting'::text, 'listening'::text, 'polling'::text])))
)
WITH (fillfactor='70');

COMMENT ON TABLE reactor.instance IS 'Living reactors; a row that is not seen for a while is a dead one.';

CREATE TABLE reactor.migration (
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL
);

COMMENT ON TABLE reactor.migration IS 'Schema files that were applied, with the SHA-256 of each.';

ALTER TABLE public.interpretation_runs
    ADD CONSTRAINT interpretation_runs_heartbeat_timeout_is_positive CHECK ((heartbeat_timeout > '00:00:00'::interval)) NOT VALID;

ALTER TABLE ONLY public.interpretation_runs
    ADD CONSTRAINT interpretation_runs_pkey PRIMARY KEY (id);

ALTER TABLE public.interpretation_runs
    ADD CONSTRAINT interpretation_runs_status_is_known CHECK ((status = ANY (ARRAY['pending'::text, 'running'::text, 'completed'::text, 'failed'::text]))) NOT VALID;

ALTER TABLE ONLY public.quota_plans
    ADD CONSTRAINT quota_plans_pkey PRIMARY KEY (plan);

ALTER TABLE public.sources
    ADD CONSTRAINT sources_byte_size_is_not_negative CHECK ((byte_size >= 0)) NOT VALID;

ALTER TABLE ONLY public.sources
    ADD CONSTRAINT sources_pkey PRIMARY KEY (id);

ALTER TABLE public.sources
    ADD CONSTRAINT sources_storage_status_is_known CHECK ((storage_status = ANY (ARRAY['pending'::text, 'uploaded'::text, 'failed'::text]))) NOT VALID;

ALTER TABLE ONLY public.storage_usage
    ADD CONSTRAINT storage_usage_pkey PRIMARY KEY (user_id);

ALTER TABLE ONLY public.upload_queue
    ADD CONSTRAINT upload_queue_pkey PRIMARY KEY (id);

ALTER TABLE ONLY reactor.instance
    ADD CONSTRAINT instance_pkey PRIMARY KEY (id);

ALTER TABLE ONLY reactor.migration
    ADD CONSTRAINT migration_pkey PRIMARY KEY (name);

CREATE INDEX interpretation_runs_of_source ON public.interpretation_runs USING btree (source_id);

CREATE INDEX interpretation_runs_running ON public.interpretation_runs USING btree (id) WHERE (status = 'running'::text);

CREATE UNIQUE INDEX sources_are_unique_by_content ON public.sources USING btree (user_id, content_hash);

CREATE INDEX upload_queue_ended ON public.upload_queue USING btree (updated_at) WHERE (status = ANY (ARRAY['dead'::text, 'cancelled'::text]));

CREATE INDEX upload_queue_exhausted ON public.upload_queue USING btree (id) WHERE ((status = 'failed'::text) AND (retry_count >= max_retries));

CREATE INDEX upload_queue_leased ON public.upload_queue USING btree (id) WHERE (status = 'uploading'::text);

CREATE INDEX upload_queue_of_source ON public.upload_queue USING btree (source_id);

CREATE INDEX upload_queue_waiting ON public.upload_queue USING btree (user_id, next_retry_at) WHERE (status = 'failed'::text);

CREATE TRIGGER reactor_keep_books_deleted AFTER DELETE ON public.sources REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION reactor.keep_books();

CREATE TRIGGER reactor_keep_books_inserted AFTER INSERT ON public.sources REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION reactor.keep_books();

CREATE TRIGGER reactor_keep_books_updated AFTER UPDATE ON public.sources REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION reactor.keep_books();

CREATE TRIGGER reactor_notify_inserted AFTER INSERT ON public.interpretation_runs REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION reactor.notify_runs();

CREATE TRIGGER reactor_notify_inserted AFTER INSERT ON public.upload_queue REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION reactor.notify_uploads();

CREATE TRIGGER reactor_notify_updated AFTER UPDATE ON public.interpretation_runs FOR EACH ROW WHEN ((((old.status IS DISTINCT FROM new.status) AND (('running'::text = old.status) OR ('running'::text = new.status))) OR ((new.status = 'running'::text) AND (COALESCE((new.timeout_at < old.timeout_at), ((old.timeout_at IS NULL) AND (new.timeout_at IS NOT NULL))) OR (new.heartbeat_timeout IS DISTINCT FROM old.heartbeat_timeout) OR (new.heartbeat_at < old.heartbeat_at) OR (date_bin('00:01:00'::interval, LEAST(new.heartbeat_at, '9999-01-01 00:00:00+00'::timestamp with time zone), '1970-01-01 00:00:00+00'::timestamp with time zone) IS DISTINCT FROM date_bin('00:01:00'::interval, LEAST(old.heartbeat_at, '9999-01-01 00:00:00+00'::timestamp with time zone), '1970-01-01 00:00:00+00'::timestamp with time zone)))))) EXECUTE FUNCTION reactor.notify_runs();

CREATE TRIGGER reactor_notify_updated AFTER UPDATE ON public.upload_queue REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION reactor.notify_uploads();

CREATE TRIGGER reactor_stamp_start_inserted BEFORE INSERT ON public.interpretation_runs FOR EACH ROW WHEN (((new.status = 'running'::text) AND (new.heartbeat_at IS NULL))) EXECUTE FUNCTION reactor.stamp_run_start();

CREATE TRIGGER reactor_stamp_start_updated BEFORE UPDATE OF status ON public.interpretation_runs FOR EACH ROW WHEN (((new.status = 'running'::text) AND (old.status <> 'running'::text) AND (new.heartbeat_at IS NULL))) EXECUTE FUNCTION reactor.stamp_run_start();

ALTER TABLE ONLY public.interpretation_runs
    ADD CONSTRAINT interpretation_runs_source_id_fkey FOREIGN KEY (source_id) REFERENCES public.sources(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.storage_usage
    ADD CONSTRAINT storage_usage_plan_fkey FOREIGN KEY (plan) REFERENCES public.quota_plans(plan) ON UPDATE CASCADE;

ALTER TABLE ONLY public.upload_queue
    ADD CONSTRAINT upload_queue_source_id_fkey FOREIGN KEY (source_id) REFERENCES public.sources(id) ON DELETE CASCADE;

ALTER TABLE public.interpretation_runs ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.quota_plans ENABLE ROW LEVEL SECURITY;

CREATE POLICY reactor_everybody_reads ON public.quota_plans FOR SELECT TO authenticated, service_role, reactor_worker USING (true);

CREATE POLICY reactor_owner_reads ON public.interpretation_runs FOR SELECT TO authenticated USING ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY reactor_owner_reads ON public.sources FOR SELECT TO authenticated USING ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY reactor_owner_reads ON public.storage_usage FOR SELECT TO authenticated USING ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY reactor_owner_reads ON public.upload_queue FOR SELECT TO authenticated USING ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY reactor_service_does_all ON public.interpretation_runs TO service_role USING (true) WITH CHECK (true);

CREATE POLICY reactor_service_does_all ON public.quota_plans TO service_role USING (true) WITH CHECK (true);

CREATE POLICY reactor_service_does_all ON public.sources TO service_role USING (true) WITH CHECK (true);

CREATE POLICY reactor_service_does_all ON public.storage_usage TO service_role USING (true) WITH CHECK (true);

CREATE POLICY reactor_service_does_all ON public.upload_queue TO service_role USING (true) WITH CHECK (true);

CREATE POLICY reactor_worker_reads ON public.interpretation_runs FOR SELECT TO reactor_worker USING (true);

CREATE POLICY reactor_worker_reads ON public.sources FOR SELECT TO reactor_worker USING (true);

CREATE POLICY reactor_worker_reads ON public.storage_usage FOR SELECT TO reactor_worker USING (true);

CREATE POLICY reactor_worker_reads ON public.upload_queue FOR SELECT TO reactor_worker USING (true);

ALTER TABLE public.sources ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.storage_usage ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.upload_queue ENABLE ROW LEVEL SECURITY;

ALTER TABLE reactor.instance ENABLE ROW LEVEL SECURITY;

ALTER TABLE reactor.migration ENABLE ROW LEVEL SECURITY;

CREATE POLICY reactor_all_read ON reactor.migration FOR SELECT TO service_role, reactor_worker USING (true);

CREATE POLICY reactor_worker_reads ON reactor.instance FOR SELECT TO reactor_worker USING (true);

GRANT USAGE ON SCHEMA auth TO anon;
GRANT USAGE ON SCHEMA auth TO authenticated;
GRANT USAGE ON SCHEMA auth TO service_role;
GRANT USAGE ON SCHEMA auth TO reactor_worker;

GRANT USAGE ON SCHEMA public TO anon;
GRANT USAGE ON SCHEMA public TO authenticated;
GRANT USAGE ON SCHEMA public TO service_role;
GRANT USAGE ON SCHEMA public TO reactor_worker;

GRANT USAGE ON SCHEMA reactor TO reactor_worker;
GRANT USAGE ON SCHEMA reactor TO service_role;

GRANT ALL ON FUNCTION auth.uid() TO anon;
GRANT ALL ON FUNCTION auth.uid() TO authenticated;
GRANT ALL ON FUNCTION auth.uid() TO service_role;
GRANT ALL ON FUNCTION auth.uid() TO reactor_worker;

GRANT SELECT ON TABLE public.sources TO authenticated;
GRANT SELECT ON TABLE public.sources TO reactor_worker;
GRANT ALL ON TABLE public.sources TO service_role;

REVOKE ALL ON FUNCTION reactor.book_entry(p_source public.sources) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.cancel_uploads(p_ids uuid[]) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.cancel_uploads(p_ids uuid[]) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.cancel_uploads(p_ids uuid[]) TO service_role;

REVOKE ALL ON FUNCTION reactor.claim_uploads(p_ids uuid[], p_token uuid, p_lease interval) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.claim_uploads(p_ids uuid[], p_token uuid, p_lease interval) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.claim_uploads(p_ids uuid[], p_token uuid, p_lease interval) TO service_role;

REVOKE ALL ON FUNCTION reactor.deadline(p_timeout_at timestamp with time zone, p_heartbeat_at timestamp with time zone, p_patience interval) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.deadline(p_timeout_at timestamp with time zone, p_heartbeat_at timestamp with time zone, p_patience interval) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.deadline(p_timeout_at timestamp with time zone, p_heartbeat_at timestamp with time zone, p_patience interval) TO service_role;

REVOKE ALL ON FUNCTION reactor.expire_runs(p_ids uuid[], p_heartbeat_timeout interval) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.expire_runs(p_ids uuid[], p_heartbeat_timeout interval) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.expire_runs(p_ids uuid[], p_heartbeat_timeout interval) TO service_role;

REVOKE ALL ON FUNCTION reactor.extend_leases(p_ids uuid[], p_tokens uuid[], p_lease interval) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.extend_leases(p_ids uuid[], p_tokens uuid[], p_lease interval) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.extend_leases(p_ids uuid[], p_tokens uuid[], p_lease interval) TO service_role;

REVOKE ALL ON FUNCTION reactor.fail_runs(p_ids uuid[], p_message text) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.fail_runs(p_ids uuid[], p_message text) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.fail_runs(p_ids uuid[], p_message text) TO service_role;

REVOKE ALL ON FUNCTION reactor.hint(p_id uuid, p_user_id uuid, p_due_at timestamp with time zone) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.keep_books() FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.leave(p_instance uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.leave(p_instance uuid) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.leave(p_instance uuid) TO service_role;

REVOKE ALL ON FUNCTION reactor.notify_runs() FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.notify_uploads() FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.pulse(p_instance uuid, p_host text, p_version text, p_mode text, p_canary text, p_silent_after interval) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.pulse(p_instance uuid, p_host text, p_version text, p_mode text, p_canary text, p_silent_after interval) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.pulse(p_instance uuid, p_host text, p_version text, p_mode text, p_canary text, p_silent_after interval) TO service_role;

REVOKE ALL ON FUNCTION reactor.purge_uploads(p_ids uuid[]) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.purge_uploads(p_ids uuid[]) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.purge_uploads(p_ids uuid[]) TO service_role;

REVOKE ALL ON FUNCTION reactor.recount_usage(p_after uuid, p_limit integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.requeue_uploads(p_ids uuid[]) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.requeue_uploads(p_ids uuid[]) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.requeue_uploads(p_ids uuid[]) TO service_role;

REVOKE ALL ON FUNCTION reactor.rescue_uploads(p_ids uuid[], p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.rescue_uploads(p_ids uuid[], p_limit integer) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.rescue_uploads(p_ids uuid[], p_limit integer) TO service_role;

GRANT SELECT ON TABLE public.interpretation_runs TO authenticated;
GRANT SELECT ON TABLE public.interpretation_runs TO reactor_worker;
GRANT ALL ON TABLE public.interpretation_runs TO service_role;

REVOKE ALL ON FUNCTION reactor.run_hint(p_run public.interpretation_runs) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.send_hints(p_channel text, p_hints text[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.settle_uploads(p_ids uuid[], p_tokens uuid[], p_verdicts text[], p_delays_s double precision[], p_codes text[], p_messages text[], p_urls text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.settle_uploads(p_ids uuid[], p_tokens uuid[], p_verdicts text[], p_delays_s double precision[], p_codes text[], p_messages text[], p_urls text[]) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.settle_uploads(p_ids uuid[], p_tokens uuid[], p_verdicts text[], p_delays_s double precision[], p_codes text[], p_messages text[], p_urls text[]) TO service_role;

REVOKE ALL ON FUNCTION reactor.stamp_run_start() FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.status(p_heartbeat_timeout interval) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.status(p_heartbeat_timeout interval) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.status(p_heartbeat_timeout interval) TO service_role;

REVOKE ALL ON FUNCTION reactor.sweep_runs(p_horizon interval, p_heartbeat_timeout interval, p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.sweep_runs(p_horizon interval, p_heartbeat_timeout interval, p_limit integer) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.sweep_runs(p_horizon interval, p_heartbeat_timeout interval, p_limit integer) TO service_role;

REVOKE ALL ON FUNCTION reactor.sweep_uploads(p_horizon interval, p_per_tenant integer, p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.sweep_uploads(p_horizon interval, p_per_tenant integer, p_limit integer) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.sweep_uploads(p_horizon interval, p_per_tenant integer, p_limit integer) TO service_role;

REVOKE ALL ON FUNCTION reactor.what_is_missing() FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.what_is_missing() TO reactor_worker;
GRANT ALL ON FUNCTION reactor.what_is_missing() TO service_role;

GRANT SELECT ON TABLE public.quota_plans TO authenticated;
GRANT SELECT ON TABLE public.quota_plans TO reactor_worker;
GRANT ALL ON TABLE public.quota_plans TO service_role;

GRANT SELECT ON TABLE public.storage_usage TO reactor_worker;
GRANT ALL ON TABLE public.storage_usage TO service_role;
GRANT SELECT ON TABLE public.storage_usage TO authenticated;

GRANT SELECT ON TABLE public.upload_queue TO reactor_worker;
GRANT ALL ON TABLE public.upload_queue TO service_role;
GRANT SELECT ON TABLE public.upload_queue TO authenticated;

GRANT SELECT ON TABLE reactor.instance TO reactor_worker;

GRANT SELECT ON TABLE reactor.migration TO reactor_worker;
GRANT SELECT ON TABLE reactor.migration TO service_role;
