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

CREATE FUNCTION public.begin_interpretation(p_source_id uuid, p_config jsonb DEFAULT '{}'::jsonb, p_timeout interval DEFAULT '00:10:00'::interval, p_heartbeat_timeout interval DEFAULT NULL::interval, p_traceparent text DEFAULT NULL::text, p_run_id uuid DEFAULT gen_random_uuid()) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    v_caller constant uuid := reactor.caller();
    v_patience constant interval := coalesce(p_heartbeat_timeout, '60 s');
    v_problem constant text := case
        when p_source_id is null then 'p_source_id must be the id of a source'
        when coalesce(length(p_config::text) > 262144, true) then 'p_config must be JSON of at most 256 KiB'
        when coalesce(p_timeout not between '1 microsecond' and '30 days', true)
            then 'p_timeout must be more than 0 and at most 30 days'
        when v_patience not between '1 microsecond' and '30 days'
            then 'p_heartbeat_timeout must be more than 0 and at most 30 days'
        when p_run_id is null then 'p_run_id must be a UUID of the caller''s choice, or left out'
    end;
    v_source record;
    v_run record;
    v_detail text;
begin
    if v_problem is not null then
        return reactor.refuse_argument(v_problem);
    end if;
    select s.id, s.user_id, s.storage_status into v_source
      from public.sources as s where s.id = p_source_id for no key update;
    if not found or not reactor.acts_for(v_caller, v_source.user_id) then
        return reactor.refuse_unknown('p_source_id', v_caller);
    elsif v_source.storage_status = 'pending' then
        return reactor.refuse('STORAGE_PENDING', null, jsonb_build_object('source_id', p_source_id));
    elsif v_source.storage_status = 'failed' then
        return reactor.refuse('STORAGE_UPLOAD_FAILED', null, jsonb_build_object('source_id', p_source_id));
    end if;
    -- one whose deadline has passed is in nobody's way, whether a reactor has failed it yet or not
    perform from public.interpretation_runs as r
      cross join lateral reactor.expire_runs(array[r.id], null)
      where r.source_id = p_source_id and r.status = 'running' and r.id <> p_run_id;
    select r.id, r.timeout_at, r.started_at, r.heartbeat_timeout, r.traceparent into v_run
      from public.interpretation_runs as r
     where r.source_id = p_source_id and r.status = 'running'
     order by r.id = p_run_id desc limit 1;
    if found and v_run.id <> p_run_id then
        return reactor.refuse('INTERPRETATION_IN_PROGRESS', null,
                              jsonb_build_object('run_id', v_run.id, 'timeout_at', v_run.timeout_at));
    elsif not found then
        begin
            insert into public.interpretation_runs as r (id, user_id, source_id, interpretation_config, status, started_at,
                    timeout_at, heartbeat_timeout, traceparent)
            select p_run_id, v_source.user_id, p_source_id, p_config, 'running', n.now, n.now + p_timeout,
                   v_patience, reactor.traceparent(p_traceparent)
              from (select clock_timestamp() as now) as n
            returning r.id, r.timeout_at, r.started_at, r.heartbeat_timeout, r.traceparent into v_run;
        exception
            when sqlstate 'RX102' then
                get stacked diagnostics v_detail = pg_exception_detail;
                return reactor.refuse_quota('INTERPRETATION_QUOTA_EXCEEDED', v_detail);
            when unique_violation then
                return reactor.refuse_argument('p_run_id is the id of a run that there is already');
        end;
    end if;
    return jsonb_build_object('ok', true, 'run_id', v_run.id, 'source_id', p_source_id, 'started_at', v_run.started_at,
                              'timeout_at', v_run.timeout_at,
                              'heartbeat_timeout_s', date_part('epoch', v_run.heartbeat_timeout),
                              'traceparent', v_run.traceparent);
end $$;

CREATE FUNCTION public.complete_interpretation(p_run_id uuid) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    v_caller constant uuid := reactor.caller();
begin
    update public.interpretation_runs as r
       set status = 'completed', completed_at = clock_timestamp()
     where r.id = p_run_id and r.status = 'running' and reactor.acts_for(v_caller, r.user_id)
       and coalesce(reactor.deadline(r.timeout_at, r.heartbeat_at, r.heartbeat_timeout) > statement_timestamp(), true);
    if not found and not exists (select from public.interpretation_runs as r
                                  where r.id = p_run_id and r.status = 'completed'
                                    and reactor.acts_for(v_caller, r.user_id)) then
        return coalesce(reactor.refuse_ended(p_run_id, v_caller), public.complete_interpretation(p_run_id));
    end if;
    return jsonb_build_object('ok', true, 'run_id', p_run_id, 'status', 'completed');
end $$;

CREATE FUNCTION public.complete_upload(p_source_id uuid, p_storage_url text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    v_caller constant uuid := reactor.caller();
    v_source record;
    v_detail text;
begin
    if p_source_id is null then
        return reactor.refuse_argument('p_source_id must be the id of a source');
    elsif coalesce(length(p_storage_url) not between 1 and 2048, true) then
        return reactor.refuse_argument('p_storage_url must say where the object is, in 1 to 2048 characters');
    end if;
    select s.id, s.user_id, s.storage_status, s.storage_url into v_source
      from public.sources as s where s.id = p_source_id for no key update;
    if not found or not reactor.acts_for(v_caller, v_source.user_id) then
        return reactor.refuse_unknown('p_source_id', v_caller);
    end if;
    if v_source.storage_status = 'uploaded' then
        return jsonb_build_object('ok', true, 'source_id', p_source_id, 'storage_status', 'uploaded',
                                  'storage_url', v_source.storage_url);
    end if;
    begin
        delete from public.upload_queue as q where q.source_id = p_source_id and q.status <> 'uploading';
        update public.sources as s set storage_status = 'uploaded', storage_url = p_storage_url where s.id = p_source_id;
    exception when sqlstate 'RX101' then
        get stacked diagnostics v_detail = pg_exception_detail;
        return reactor.refuse_quota('STORAGE_QUOTA_EXCEEDED', v_detail);
    end;
    return jsonb_build_object('ok', true, 'source_id', p_source_id, 'storage_status', 'uploaded',
                              'storage_url', p_storage_url);
end $$;

CREATE FUNCTION public.fail_interpretation(p_run_id uuid, p_code text DEFAULT 'INTERPRETATION_FAILED'::text, p_message text DEFAULT NULL::text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
    v_caller constant uuid := reactor.caller();
begin
    if coalesce(p_code !~ '^[A-Z][A-Z0-9_]{0,63}$', true) then
        return reactor.refuse_argument('p_code must be a word of capitals, digits and _, such as INTERPRETATION_FAILED');
    end if;
    update public.interpretation_runs as r
       set status = 'failed', error_code = p_code, error_message = left(p_message, 2000), completed_at = clock_timestamp()
     where r.id = p_run_id and r.status = 'running' and reactor.acts_for(v_caller, r.user_id)
       and coalesce(reactor.deadline(r.timeout_at, r.heartbeat_at, r.heartbeat_timeout) > statement_timestamp(), true);
    if not found and not exists (select from public.interpretation_runs as r
                                  where r.id = p_run_id and r.status = 'failed' and r.error_code = p_code
                                    and reactor.acts_for(v_caller, r.user_id)) then
        return coalesce(reactor.refuse_ended(p_run_id, v_caller), public.fail_interpretation(p_run_id, p_code, p_message));
    end if;
    return jsonb_build_object('ok', true, 'run_id', p_run_id, 'status', 'failed', 'code', p_code);
end $_$;

CREATE FUNCTION public.fail_upload(p_source_id uuid, p_bucket text, p_object_path text, p_temp_file_path text, p_error_message text DEFAULT NULL::text, p_spool text DEFAULT 'default'::text, p_traceparent text DEFAULT NULL::text, p_max_retries integer DEFAULT 5, p_metadata jsonb DEFAULT '{}'::jsonb) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
    v_caller constant uuid := reactor.caller();
    v_problem constant text := case
        when p_source_id is null then 'p_source_id must be the id of a source'
        when coalesce(length(p_bucket) not between 1 and 255, true)
            then 'p_bucket must name a bucket, in 1 to 255 characters'
        when coalesce(octet_length(p_object_path) not between 1 and 1024, true)
            then 'p_object_path must name an object, in 1 to 1024 bytes'
        when coalesce(octet_length(p_temp_file_path) not between 1 and 4096, true)
            then 'p_temp_file_path must name a file in the spool, in 1 to 4096 bytes'
        when coalesce(p_spool !~ '^[A-Za-z0-9_-]{1,63}$', true)
            then 'p_spool must be the name of a spool: letters, digits, _ and -'
        when coalesce(p_max_retries not between 1 and 100, true) then 'p_max_retries must be from 1 to 100'
        when coalesce(jsonb_typeof(p_metadata) <> 'object' or length(p_metadata::text) > 65536, true)
            then 'p_metadata must be a JSON object of at most 64 KiB'
    end;
    v_argument text;
    v_source record;
    v_upload record;
    v_detail text;
begin
    if v_problem is not null then
        return reactor.refuse_argument(v_problem);
    end if;
    -- The reactor reads and puts where it is told, with rights of its own: a user names no file in another user's folder,
    -- which is the first folder on the path, below a prefix or a spool's directory, that is named as users are.
    if v_caller is not null then
        select p.argument into v_argument
          from (values ('p_object_path', p_object_path), ('p_temp_file_path', p_temp_file_path)) as p (argument, path)
         cross join lateral substring(lower(p.path) from '(?:^|/)([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/') as folder
         where folder <> v_caller::text
         limit 1;
        if found then
            return reactor.refuse('NOT_ALLOWED', v_argument || ' lies in another user''s folder.',
                                  jsonb_build_object('argument', v_argument));
        end if;
    end if;
    select s.id, s.user_id, s.storage_status, s.content_hash,
           coalesce(s.byte_size, (to_jsonb(s) ->> 'file_size')::bigint) as byte_size
      into v_source
      from public.sources as s where s.id = p_source_id for no key update;
    if not found or not reactor.acts_for(v_caller, v_source.user_id) then
        return reactor.refuse_unknown('p_source_id', v_caller);
    end if;
    if v_source.storage_status = 'uploaded' then
        return jsonb_build_object('ok', true, 'queue_id', null, 'source_id', p_source_id, 'storage_status', 'uploaded');
    end if;
    select q.id, q.status into v_upload
      from public.upload_queue as q where q.source_id = p_source_id
     order by q.status in ('failed', 'uploading') desc, q.created_at desc limit 1;
    if v_upload.status in ('failed', 'uploading') then
        return reactor.pending_retry(v_upload.id, p_source_id);
    elsif v_upload.id is not null and v_source.storage_status = 'failed' then
        return reactor.refuse('STORAGE_UPLOAD_FAILED', null, jsonb_build_object('queue_id', v_upload.id));
    elsif v_source.byte_size is null then
        return reactor.refuse_argument('p_source_id is the id of a source without a byte_size');
    end if;
    begin
        update public.sources as s set storage_status = 'pending'
         where s.id = p_source_id and s.storage_status <> 'pending';
        insert into public.upload_queue as q (source_id, user_id, bucket, object_path, content_hash, byte_size, spool,
                                              temp_file_path, max_retries, error_message, traceparent, metadata)
        values (p_source_id, v_source.user_id, p_bucket, p_object_path, v_source.content_hash, v_source.byte_size, p_spool,
                p_temp_file_path, p_max_retries, left(p_error_message, 2000), reactor.traceparent(p_traceparent),
                p_metadata)
        returning q.id into v_upload.id;
    exception when sqlstate 'RX101' then
        get stacked diagnostics v_detail = pg_exception_detail;
        return reactor.refuse_quota('STORAGE_QUOTA_EXCEEDED', v_detail);
    end;
    return reactor.pending_retry(v_upload.id, p_source_id);
end $_$;

CREATE FUNCTION public.get_usage(p_user_id uuid) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    if p_user_id is not null and not reactor.acts_for(reactor.caller(), p_user_id) then
        return reactor.refuse('NOT_ALLOWED', 'p_user_id isn''t the user of the caller''s JWT.',
                              '{"argument": "p_user_id"}');
    elsif p_user_id is null then
        return reactor.refuse_argument('p_user_id must be the id of a user');
    end if;
    return reactor.usage_of(p_user_id);
end $$;

CREATE FUNCTION public.heartbeat_interpretation(p_run_id uuid) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    v_caller constant uuid := reactor.caller();
begin
    update public.interpretation_runs as r
       set heartbeat_at = clock_timestamp()
     where r.id = p_run_id and r.status = 'running' and reactor.acts_for(v_caller, r.user_id)
       and coalesce(reactor.deadline(r.timeout_at, r.heartbeat_at, r.heartbeat_timeout) > statement_timestamp(), true);
    if not found then
        return coalesce(reactor.refuse_ended(p_run_id, v_caller), public.heartbeat_interpretation(p_run_id));
    end if;
    return '{"ok": true}';
end $$;

CREATE FUNCTION public.recalculate_usage(p_user_id uuid) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    v_changed boolean;
begin
    if reactor.caller() is not null then
        return reactor.refuse('NOT_ALLOWED', 'Only a service recalculates usage.');
    elsif p_user_id is null then
        return reactor.refuse_argument('p_user_id must be the id of a user');
    end if;
    perform reactor.ensure_usage_rows(array[p_user_id]);
    v_changed := reactor.recount_user(p_user_id);
    return reactor.usage_of(p_user_id) || jsonb_build_object('changed', v_changed);
end $$;

CREATE FUNCTION public.reserve_upload(p_user_id uuid, p_content_hash text, p_byte_size numeric, p_mime_type text DEFAULT NULL::text, p_file_name text DEFAULT NULL::text, p_source_type text DEFAULT NULL::text, p_source_agent_id text DEFAULT NULL::text, p_source_metadata jsonb DEFAULT '{}'::jsonb) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
    v_caller constant uuid := reactor.caller();
    v_problem constant text := case
        when p_user_id is null then 'p_user_id must be the id of a user'
        when coalesce(p_content_hash !~ '^[0-9a-f]{64}$', true)
            then 'p_content_hash must be the SHA-256 of the bytes in 64 lower-case hex digits'
        when coalesce(p_byte_size not between 0 and 1::bigint << 50 or p_byte_size <> trunc(p_byte_size), true)
            then 'p_byte_size must be a whole number of bytes from 0 to 2^50'
        when length(p_mime_type) > 255 then 'p_mime_type must have at most 255 characters'
        when length(p_file_name) > 1024 then 'p_file_name must have at most 1024 characters'
        when length(p_source_type) > 255 then 'p_source_type must have at most 255 characters'
        when length(p_source_agent_id) > 255 then 'p_source_agent_id must have at most 255 characters'
        when coalesce(jsonb_typeof(p_source_metadata) <> 'object' or length(p_source_metadata::text) > 65536, true)
            then 'p_source_metadata must be a JSON object of at most 64 KiB'
    end;
    v_source record;
    v_detail text;
begin
    if p_user_id is not null and not reactor.acts_for(v_caller, p_user_id) then
        return reactor.refuse('NOT_ALLOWED', 'p_user_id isn''t the user of the caller''s JWT.',
                              '{"argument": "p_user_id"}');
    end if;
    if v_problem is not null then
        return reactor.refuse_argument(v_problem);
    end if;
    begin
        insert into public.sources as s (user_id, content_hash, byte_size, mime_type, file_name, source_type,
                                         source_agent_id, source_metadata, storage_status)
        values (p_user_id, p_content_hash, p_byte_size::bigint, p_mime_type, p_file_name, p_source_type,
                p_source_agent_id, p_source_metadata, 'pending')
        on conflict (user_id, content_hash) do nothing
        returning s.id, s.storage_status, s.storage_url into v_source;
        if found then
            return jsonb_build_object('ok', true, 'source_id', v_source.id, 'deduplicated', false,
                                      'storage_status', v_source.storage_status, 'storage_url', null);
        end if;
        -- given up: owed again
        update public.sources as s
           set storage_status = 'pending', byte_size = p_byte_size::bigint
         where s.user_id = p_user_id and s.content_hash = p_content_hash and s.storage_status = 'failed';
    exception when sqlstate 'RX101' then
        get stacked diagnostics v_detail = pg_exception_detail;
        return reactor.refuse_quota('STORAGE_QUOTA_EXCEEDED', v_detail);
    end;
    select s.id, s.storage_status, s.storage_url into v_source
      from public.sources as s where s.user_id = p_user_id and s.content_hash = p_content_hash;
    if not found then -- deleted in this very moment
        return reactor.refuse('NOT_FOUND', 'The source of the same content was deleted meanwhile.', '{}', 'Reserve again.');
    end if;
    return jsonb_build_object('ok', true, 'source_id', v_source.id, 'deduplicated', true,
                              'storage_status', v_source.storage_status, 'storage_url', v_source.storage_url);
end $_$;

CREATE FUNCTION public.set_plan(p_user_id uuid, p_plan text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    if reactor.caller() is not null then
        return reactor.refuse('NOT_ALLOWED', 'Only a service sets plans.');
    elsif p_user_id is null then
        return reactor.refuse_argument('p_user_id must be the id of a user');
    elsif not exists (select from public.quota_plans as p where p.plan = p_plan) then
        return reactor.refuse_argument('p_plan must be one of ' || (
            select string_agg(p.plan, ', ' order by p.plan) from public.quota_plans as p));
    end if;
    insert into public.storage_usage (user_id, plan) values (p_user_id, p_plan)
    on conflict (user_id) do update set plan = excluded.plan;
    return reactor.usage_of(p_user_id);
end $$;

CREATE FUNCTION reactor.acts_for(p_caller uuid, p_user_id uuid) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    AS $$
    select p_caller is null
           or coalesce(p_caller = p_user_id, false) and p_caller <> '00000000-0000-0000-0000-000000000000'
$$;

CREATE FUNCTION reactor.caller() RETURNS uuid
    LANGUAGE sql STABLE
    AS $$
    select case
        when coalesce(nullif(current_setting('role', true), 'none'), session_user) = 'service_role'
             or coalesce(nullif(current_setting('role', true), 'none'), session_user) not in ('anon', 'authenticated')
                and coalesce(current_setting('request.jwt.claims', true), '') = ''
                and coalesce(current_setting('request.jwt.claim.sub', true), '') = '' then null
        else reactor.jwt_user()
    end
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

CREATE FUNCTION reactor.claim_uploads(p_ids uuid[], p_token uuid, p_lease interval) RETURNS TABLE(id uuid, state text, due_at double precision, claimed_at double precision, created_at double precision, attempt integer, max_retries integer, byte_size bigint, bucket text, object_path text, content_hash text, spool text, temp_file_path text, mime_type text, traceparent text, last_code text, ordinal integer, waited_since double precision, lost_at double precision, source_id uuid)
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

CREATE FUNCTION reactor.clear_books() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    update public.storage_usage set total_bytes = 0, reserved_bytes = 0, total_sources = 0
     where (total_bytes, reserved_bytes, total_sources) is distinct from (0, 0, 0);
    return null;
end $$;

CREATE FUNCTION reactor.confirm_stored(p_ids uuid[], p_sources uuid[], p_urls text[]) RETURNS SETOF uuid
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $$
begin
    return query
    select a.id
      from unnest(p_ids, p_sources, p_urls) as a (id, source_id, url)
      join public.sources as s on s.id = a.source_id
     where s.storage_status = 'uploaded'
       and s.storage_url = a.url
       and not exists (select from public.upload_queue as q where q.id = a.id);
end $$;

CREATE FUNCTION reactor.count_run_starts(p_user_id uuid, p_month text, p_count integer) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    v_quota record;
begin
    perform from public.storage_usage where user_id = p_user_id for no key update;
    select * into strict v_quota from reactor.effective_quota(p_user_id);
    if v_quota.billing_month <> p_month then
        return;
    end if;
    if v_quota.interpretations_used + p_count > v_quota.interpretation_limit then
        raise exception 'INTERPRETATION_QUOTA_EXCEEDED: the plan''s interpretations of this month are used up'
            using errcode = 'RX102',
                  detail = jsonb_build_object('plan', v_quota.plan, 'limit', v_quota.interpretation_limit,
                                              'used', v_quota.interpretations_used,
                                              'resets_at', v_quota.resets_at)::text,
                  hint = 'Wait until resets_at, or move to a larger plan.';
    end if;
    update public.storage_usage as u
       set interpretation_count_month = v_quota.interpretations_used + p_count,
           billing_month = v_quota.billing_month
     where u.user_id = p_user_id;
end $$;

CREATE FUNCTION reactor.count_runs() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    if tg_op = 'INSERT' then
        perform reactor.ensure_usage_rows(array(
            select distinct n.user_id from new_rows as n where n.billing_month is not null and n.user_id is not null));
        perform reactor.count_run_starts(started.user_id, started.billing_month, started.count)
           from (select n.user_id, n.billing_month, count(*)::int as count from new_rows as n
                  where n.billing_month is not null and n.user_id is not null
                  group by n.user_id, n.billing_month order by n.user_id) as started;
    elsif tg_op = 'UPDATE' then
        if old.billing_month is null or old.user_id is not distinct from new.user_id then
            return null;
        end if;
        -- counted already, and given to another user: the count goes along
        if new.user_id is not null then
            perform reactor.ensure_usage_rows(array[new.user_id]);
        end if;
        perform reactor.uncount_run(old.user_id, new.user_id, old.billing_month);
        if new.user_id is not null then
            perform reactor.count_run_starts(new.user_id, old.billing_month, 1);
        end if;
    elsif tg_op = 'DELETE' then -- their rows go, and what was interpreted stays counted
        insert into reactor.deleted_interpretation (user_id, billing_month, count)
        select o.user_id, o.billing_month, count(*) from old_rows as o
         where o.billing_month = to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM') and o.user_id is not null
         group by o.user_id, o.billing_month;
    else -- TRUNCATE, which shows no rows: all that was counted is gone
        delete from reactor.deleted_interpretation;
        insert into reactor.deleted_interpretation (user_id, billing_month, count)
        select u.user_id, u.billing_month, u.interpretation_count_month from public.storage_usage as u
         where u.interpretation_count_month > 0;
    end if;
    return null;
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

CREATE FUNCTION reactor.deregister_instance(p_instance uuid) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    with gone as (
        delete from reactor.instance where id = p_instance or seen_at < statement_timestamp() - interval '1 day'
        returning id, mode)
    select pg_notify('reactor_peers', p_instance::text)
      from gone
     where id = p_instance and mode = 'listening' and pg_notification_queue_usage() < 0.5
$$;

CREATE FUNCTION reactor.effective_quota(p_user_id uuid) RETURNS TABLE(plan text, limit_bytes bigint, used_bytes bigint, reserved_bytes bigint, sources integer, interpretation_limit integer, interpretations_used integer, billing_month text, resets_at timestamp with time zone, last_calculated timestamp with time zone)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select p.plan,
           coalesce(u.storage_limit_bytes, p.storage_limit_bytes),
           coalesce(u.total_bytes, 0),
           coalesce(u.reserved_bytes, 0),
           coalesce(u.total_sources, 0),
           coalesce(u.interpretation_limit_month, p.interpretation_limit_month),
           case when u.billing_month = this.month then u.interpretation_count_month else 0 end,
           this.month,
           (date_trunc('month', this.moment) + interval '1 month') at time zone 'utc',
           u.last_calculated
      from (select t.moment, to_char(t.moment, 'YYYY-MM') as month
              from (select clock_timestamp() at time zone 'utc' as moment) as t) as this
      left join public.storage_usage as u on u.user_id = p_user_id
      join public.quota_plans as p on p.plan = coalesce(u.plan, 'free')
$$;

CREATE FUNCTION reactor.ensure_usage_rows(p_users uuid[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    if (select count(*) from public.storage_usage where user_id = any(p_users)) < cardinality(p_users) then
        insert into public.storage_usage (user_id)
        select u from unnest(p_users) as u order by u
        on conflict (user_id) do nothing;
    end if;
end $$;

CREATE FUNCTION reactor.error_catalogue() RETURNS TABLE(code text, sqlstate text, retryable boolean, http_status integer, message text, next_step text)
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    values
        ('STORAGE_QUOTA_EXCEEDED', 'RX101', false, 402,
         'The upload doesn''t fit into the plan''s storage.',
         'Delete sources or move to a larger plan, then upload again.'),
        ('STORAGE_PENDING', null, true, 409,
         'The source isn''t stored yet.',
         'Wait until its storage_status is ''uploaded'', then begin the interpretation again.'),
        ('STORAGE_PENDING_RETRY', null, true, 202,
         'The first attempt failed; the reactor will retry the upload.',
         'No action is needed; watch storage_status.'),
        ('STORAGE_UPLOAD_FAILED', null, false, 502,
         'The upload failed for good, or all its retries failed.',
         'Fix the cause and run `reactor uploads retry`, or reserve and store the source again.'),
        ('STORAGE_UNAVAILABLE', null, true, 503,
         'The object store didn''t answer, or reported a temporary failure.',
         'No action is needed; the reactor retries with backoff.'),
        ('STORAGE_REJECTED', null, false, 422,
         'The object store refused the upload.',
         'Check the store''s credentials, the bucket and the object path, then retry the upload.'),
        ('SPOOL_FILE_MISSING', null, false, 404,
         'The spooled file doesn''t exist or can''t be read.',
         'Put the file back at the same path and retry the upload, or cancel it.'),
        ('SPOOL_PATH_FORBIDDEN', null, false, 422,
         'The path doesn''t name a plain file inside the spool.',
         'Queue the upload again with a path inside a configured spool.'),
        ('CONTENT_MISMATCH', null, false, 422,
         'The spooled bytes don''t match the recorded size or SHA-256.',
         'Spool the right bytes and retry the upload, or cancel it.'),
        ('FILE_TOO_LARGE', null, false, 413,
         'The file is larger than the object store accepts.',
         'Split the file, or raise the store''s limit.'),
        ('INVALID_ARGUMENT', null, false, 400,
         'An argument isn''t valid.',
         'Correct the named argument.'),
        ('NOT_FOUND', null, false, 404,
         'No row has this id.',
         'Check the id.'),
        ('NOT_ALLOWED', null, false, 403,
         'The caller isn''t allowed to do this.',
         'Act as the owner or as the service role.'),
        ('INTERPRETATION_IN_PROGRESS', null, true, 409,
         'An interpretation of the source is already running.',
         'Wait until the running interpretation ends.'),
        ('INTERPRETATION_QUOTA_EXCEEDED', 'RX102', false, 402,
         'The plan''s interpretations of this month are used up.',
         'Wait until resets_at, or move to a larger plan.'),
        ('INTERPRETATION_TIMEOUT', null, true, 408,
         'The run passed its deadline, and the reactor failed it.',
         'Stop working on this run and begin a new one.'),
        ('INTERPRETATION_HEARTBEAT_LOST', null, true, 408,
         'The run''s heartbeats stopped, and the reactor failed it.',
         'Stop working on this run and begin a new one.'),
        ('INTERPRETATION_FAILED', null, false, 500,
         'The interpretation failed.',
         'Read its error_message, then begin a new one.'),
        ('CONFIG_INVALID', null, false, 500,
         'A setting isn''t valid.',
         'Correct the named setting.'),
        ('MIGRATION_CHANGED', null, false, 500,
         'An applied migration was edited.',
         'Restore the released file and put the change into a new migration.'),
        ('DATABASE_UNAVAILABLE', null, true, 503,
         'The database can''t be reached, or isn''t ready for the reactor.',
         'Check the database URL, the server and the role.')
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
    select e.id, null::float8, e.error_code, date_part('epoch', e.late), e.traceparent,
           date_part('epoch', e.completed_at)
      from expired as e
    union all
    select r.id,
           date_part('epoch', case
               -- stale and yet not ours: its row is locked, look again soon
               when d.due_at <= statement_timestamp() then statement_timestamp() + interval '0.5 s'
               -- the reactor's idea of our clock may be early by a little: it needn't ask again at once
               else greatest(d.due_at, statement_timestamp() + interval '5 ms') end),
           null, null, null, null::float8
      from public.interpretation_runs as r
     cross join lateral (select reactor.deadline(r.timeout_at, r.heartbeat_at,
               coalesce(r.heartbeat_timeout, p_heartbeat_timeout)) as due_at) as d
     where r.id = any(p_ids)
       and r.status = 'running'
       and d.due_at is not null
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

CREATE FUNCTION reactor.forget_notified_heartbeat() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    if new.heartbeat_notified_until < new.heartbeat_at then
        update public.interpretation_runs as r set heartbeat_notified_until = null where r.id = new.id;
    end if;
    return null;
end $$;

CREATE FUNCTION reactor.fullest_users(p_limit integer) RETURNS jsonb
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select coalesce(jsonb_agg(reactor.usage_of(f.user_id) - 'ok' order by f.share desc, f.user_id), '[]')
      from (select u.user_id, greatest(
                       (u.total_bytes + u.reserved_bytes) / nullif(coalesce(u.storage_limit_bytes, p.storage_limit_bytes), 0)::float8,
                       case when u.billing_month = to_char(statement_timestamp() at time zone 'utc', 'YYYY-MM')
                            then u.interpretation_count_month else 0 end
                       / nullif(coalesce(u.interpretation_limit_month, p.interpretation_limit_month), 0)::float8, 0) as share
              from public.storage_usage as u join public.quota_plans as p on p.plan = u.plan
             order by share desc, u.user_id
             limit p_limit) as f
$$;

CREATE FUNCTION reactor.hint(p_id uuid, p_user_id uuid, p_due_at timestamp with time zone) RETURNS text
    LANGUAGE sql STABLE
    AS $$
    select '["' || encode(uuid_send(p_id), 'hex') || '",' || coalesce(uuid_hash(p_user_id), 0) || ','
        || case when p_due_at is null then 'null'
                when p_due_at <= statement_timestamp() then '1' -- for the start itself is sent rounded down
                else (ceil(1000 * date_part('epoch', least(p_due_at, statement_timestamp() + interval '24:00')))
                      - floor(1000 * date_part('epoch', statement_timestamp())))::bigint::text end
        || ']'
$$;

CREATE FUNCTION reactor.jwt_user() RETURNS uuid
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    return coalesce(auth.uid(), uuid '00000000-0000-0000-0000-000000000000');
exception when data_exception then
    return '00000000-0000-0000-0000-000000000000'; -- a subject that is no UUID, or claims that are no JSON
end $$;

CREATE FUNCTION reactor.live_summary(p_heartbeat_timeout interval, p_cap integer) RETURNS jsonb
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET jit TO 'off'
    AS $$
    with running as materialized (
        select r.id, extract(epoch from reactor.deadline(r.timeout_at, r.heartbeat_at,
                   coalesce(r.heartbeat_timeout, p_heartbeat_timeout)) - statement_timestamp()) as left_s
          from public.interpretation_runs as r
         where r.status = 'running'
         limit p_cap + 1
    )
    select jsonb_build_object(
        'cap', p_cap,
        'uploads', jsonb_build_object(
            'failed', (select count(*) from (
                select from public.upload_queue as q where q.status = 'failed' limit p_cap + 1) as f),
            'due', (select count(*) from (
                select from public.upload_queue as q
                 where q.status = 'failed' and greatest(q.next_retry_at, 'epoch') <= statement_timestamp()
                 order by greatest(q.next_retry_at, 'epoch') limit p_cap + 1) as d),
            'oldest_due_age_s', coalesce((
                select greatest(0, extract(epoch from statement_timestamp() - greatest(q.next_retry_at, 'epoch')))
                  from public.upload_queue as q
                 where q.status = 'failed' and greatest(q.next_retry_at, 'epoch') <= statement_timestamp()
                 order by greatest(q.next_retry_at, 'epoch'), q.id limit 1), 0),
            'uploading', (select count(*) from (
                select from public.upload_queue as q where q.status = 'uploading' limit p_cap + 1) as u),
            'leases_expired', (select count(*) from (
                select q.lease_expires_at from public.upload_queue as q
                 where q.status = 'uploading' order by q.id limit p_cap + 1) as l
                 where coalesce(l.lease_expires_at, '-infinity') <= statement_timestamp()),
            'dead', (select count(*) from (
                select from public.upload_queue as q where q.status = 'dead' limit p_cap + 1) as d),
            'dead_for_s', (
                select extract(epoch from statement_timestamp() - least(greatest(q.updated_at, 'epoch'), statement_timestamp()))
                  from public.upload_queue as q where q.status = 'dead' order by q.updated_at, q.id limit 1),
            'cancelled', (select count(*) from (
                select from public.upload_queue as q where q.status = 'cancelled' limit p_cap + 1) as c),
            'about_all', (
                select greatest(c.reltuples, 0)::bigint from pg_class as c where c.oid = 'public.upload_queue'::regclass)),
        'dead', coalesce((
            select jsonb_agg(to_jsonb(d) order by d.updated_at desc, d.id desc)
              from (select q.id, q.updated_at, q.error_code, left(q.error_message, 200) as error_message,
                           left(q.object_path, 200) as object_path
                      from public.upload_queue as q
                     where q.status = 'dead' order by q.updated_at desc, q.id desc limit 5) as d), '[]'),
        'runs', (
            select jsonb_build_object(
                'running', count(*),
                'stale', count(*) filter (where r.left_s <= 0),
                'within_1m', count(*) filter (where r.left_s > 0 and r.left_s <= 60),
                'within_5m', count(*) filter (where r.left_s > 60 and r.left_s <= 300),
                'within_15m', count(*) filter (where r.left_s > 300 and r.left_s <= 900),
                'later', count(*) filter (where r.left_s > 900),
                'unbounded', count(*) filter (where r.left_s is null),
                'next', coalesce((
                    select jsonb_agg(jsonb_build_object('id', n.id, 'left_s', n.left_s) order by n.left_s, n.id)
                      from (select x.id, x.left_s from running as x where x.left_s is not null
                             order by x.left_s, x.id limit 5) as n), '[]'))
              from running as r),
        'reactors', coalesce((
            select jsonb_agg(jsonb_build_object(
                       'id', i.id, 'host', i.host, 'version', i.version, 'mode', i.mode,
                       'seen_s_ago', extract(epoch from statement_timestamp() - i.seen_at)) order by i.started_at, i.id)
              from reactor.instance as i), '[]'),
        'quota_rejections', coalesce((
            select jsonb_agg(to_jsonb(r) order by r.quota, r.plan)
              from (select n.quota, n.plan, sum(n.count) as last_hour
                      from reactor.quota_rejection as n
                     where n.minute > statement_timestamp() - interval '1 hour'
                     group by n.quota, n.plan) as r), '[]'),
        'notification_queue_usage', pg_notification_queue_usage(),
        'now', extract(epoch from statement_timestamp()))
$$;

CREATE FUNCTION reactor.mark_run_start() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    -- what was running before billing_month existed was begun, and nobody counted then
    v_is_start constant boolean := new.status = 'running' and (tg_op = 'INSERT' or old.status is distinct from 'running');
    v_now constant timestamptz := clock_timestamp();
    v_month constant text := case when v_is_start then to_char(v_now at time zone 'utc', 'YYYY-MM') end;
    v_before constant text := coalesce(current_setting('reactor.marking', true), '');
    v_marking text;
begin
    if tg_op = 'INSERT' then
        new.billing_month := v_month;
        new.heartbeat_notified_until := null;
        if v_is_start then
            new.started_at := coalesce(new.started_at, v_now);
            new.heartbeat_at := coalesce(new.heartbeat_at, new.started_at);
            new.heartbeat_notified_until := reactor.notified_until(new.heartbeat_at);
        end if;
        return new;
    elsif not v_is_start and old.billing_month is not distinct from new.billing_month
       or v_before = new.id::text then -- nothing to mark, or it is by one of the two UPDATEs below
        return null;
    end if;
    v_marking := set_config('reactor.marking', new.id::text, true);
    if v_is_start then
        update public.interpretation_runs as r
           set started_at = coalesce(r.started_at, v_now),
               heartbeat_at = coalesce(r.heartbeat_at, r.started_at, v_now),
               heartbeat_notified_until = reactor.notified_until(coalesce(r.heartbeat_at, r.started_at, v_now)),
               billing_month = coalesce(old.billing_month, v_month)
         where r.id = new.id;
    else
        update public.interpretation_runs as r set billing_month = old.billing_month where r.id = new.id;
    end if;
    v_marking := set_config('reactor.marking', v_before, true); -- another's, where a trigger of the app's starts runs
    if v_is_start and old.billing_month is null and new.user_id is not null then
        perform reactor.ensure_usage_rows(array[new.user_id]);
        perform reactor.count_run_starts(new.user_id, v_month, 1);
    end if;
    return null;
end $$;

CREATE FUNCTION reactor.missing_privileges() RETURNS SETOF text
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
       and f.proname in ('claim_uploads', 'settle_uploads', 'confirm_stored', 'extend_leases', 'rescue_uploads', 'sweep_uploads',
                         'expire_runs', 'sweep_runs', 'repair_usage', 'report_presence', 'deregister_instance')
       and not has_function_privilege(f.oid, 'execute')
$$;

CREATE FUNCTION reactor.notified_until(p_heartbeat_at timestamp with time zone) RETURNS timestamp with time zone
    LANGUAGE sql STABLE
    AS $$
    select least(p_heartbeat_at, '9999-01-01 00:00:00+00') + interval '1 minute'
$$;

CREATE FUNCTION reactor.notify_heartbeat() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    v_hint text;
    v_is_sent boolean; -- assigned, for an assignment is evaluated without a query
begin
    if new.status = 'running' and old.status = 'running' -- else its start or end is told
       and current_setting('reactor.marking', true) is distinct from new.id::text then
        update public.interpretation_runs as r
           set heartbeat_notified_until = reactor.notified_until(new.heartbeat_at)
         where r.id = new.id;
        v_hint := reactor.run_hint(new);
        v_is_sent := reactor.send('reactor_runs', array[v_hint]);
    end if;
    return null;
end $$;

CREATE FUNCTION reactor.notify_runs() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    v_hint text;
    v_is_sent boolean; -- assigned, for an assignment is evaluated without a query
begin
    if tg_op = 'INSERT' then
        perform reactor.send('reactor_runs', array_agg(started.hint))
          from (select reactor.run_hint(n) as hint from new_rows as n where n.status = 'running' limit 1001) as started;
    elsif 'running' in (old.status, new.status)
        and (old.status is distinct from new.status
             or coalesce(new.timeout_at < old.timeout_at, old.timeout_at is null and new.timeout_at is not null)
             or new.heartbeat_timeout is distinct from old.heartbeat_timeout) then
        -- as it stands: one that starts was marked as begun meanwhile; or as it was, if a trigger of the app's deleted it
        v_hint := coalesce((select reactor.run_hint(r) from public.interpretation_runs as r where r.id = new.id),
                           reactor.run_hint(new));
        v_is_sent := reactor.send('reactor_runs', array[v_hint]);
    end if;
    return null;
end $$;

CREATE FUNCTION reactor.notify_uploads() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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
                        -- not statement_timestamp(): "due now" was written after the statement began
                        or o.status = 'uploading' and n.next_retry_at <= clock_timestamp())
                 limit 1001) as changed;
    end if;
    return null;
end $$;

CREATE FUNCTION reactor.operate(p_request uuid, p_actor text, p_remote_address text, p_action text, p_ids uuid[], p_filter jsonb, p_message text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    v_outcome jsonb;
    v_files jsonb := '[]';
begin
    select a.outcome into v_outcome from reactor.audit_log as a where a.id = p_request;
    if found then
        return v_outcome || jsonb_build_object('files', v_files);
    end if;
    case p_action
        when 'retry' then
            select jsonb_build_object(
                       'changed', coalesce(jsonb_agg(r.id order by r.id) filter (where r.code is null), '[]'),
                       'kept', coalesce(jsonb_object_agg(r.id, r.code) filter (where r.code is not null), '{}'))
              into v_outcome
              from reactor.requeue_uploads(p_ids) as r;
        when 'cancel' then
            select jsonb_build_object('changed', coalesce(jsonb_agg(c.id order by c.id), '[]'), 'kept', '{}'::jsonb)
              into v_outcome
              from reactor.cancel_uploads(p_ids) as c (id);
        when 'purge' then
            select jsonb_build_object('changed', coalesce(jsonb_agg(g.id order by g.id), '[]'), 'kept', '{}'::jsonb),
                   coalesce(jsonb_agg(jsonb_build_array(g.id, g.spool, g.temp_file_path) order by g.id), '[]')
              into v_outcome, v_files
              from reactor.purge_uploads(p_ids) as g;
        when 'fail' then
            select jsonb_build_object('changed', coalesce(jsonb_agg(f.id order by f.id), '[]'), 'kept', '{}'::jsonb)
              into v_outcome
              from reactor.fail_runs(p_ids, p_message) as f (id);
        when 'reconcile' then
            v_outcome := '{"changed": [], "kept": {}}';
        else
            raise exception 'no such action: %', p_action using errcode = 'invalid_parameter_value';
    end case;
    insert into reactor.audit_log (id, actor, remote_address, action, ids, filter, changed, outcome)
    values (p_request, p_actor, p_remote_address, p_action, p_ids, p_filter,
            jsonb_array_length(v_outcome -> 'changed'), v_outcome);
    return v_outcome || jsonb_build_object('files', v_files);
end $$;

CREATE FUNCTION reactor.pending_retry(p_queue_id uuid, p_source_id uuid) RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select jsonb_build_object('ok', true, 'queue_id', p_queue_id, 'source_id', p_source_id, 'storage_status', 'pending',
                              'code', 'STORAGE_PENDING_RETRY')
$$;

CREATE FUNCTION reactor.purge_uploads(p_ids uuid[]) RETURNS TABLE(id uuid, spool text, temp_file_path text)
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    delete from public.upload_queue as q
     where q.id = any(p_ids) and q.status in ('dead', 'cancelled')
    returning q.id, q.spool, q.temp_file_path
$$;

CREATE FUNCTION reactor.recount_user(p_user_id uuid) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    v_month constant text := to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM');
    v_before public.storage_usage;
    v_after public.storage_usage;
begin
    select * into strict v_before from public.storage_usage where user_id = p_user_id for no key update;
    update public.storage_usage as u
       set total_bytes = counted.total, reserved_bytes = counted.reserved, total_sources = counted.stored,
           billing_month = v_month,
           interpretation_count_month =
               (select count(*) from public.interpretation_runs as r
                 where r.user_id = p_user_id and r.billing_month = v_month)
               + (select coalesce(sum(d.count), 0) from reactor.deleted_interpretation as d
                   where d.user_id = p_user_id and d.billing_month = v_month),
           last_calculated = clock_timestamp()
      from (select coalesce(sum(f.total), 0) as total, coalesce(sum(f.reserved), 0) as reserved,
                   coalesce(sum(f.stored), 0) as stored
              from public.sources as s cross join lateral reactor.usage_of_source(s) as f
             where s.user_id = p_user_id) as counted
     where u.user_id = p_user_id
    returning u.* into strict v_after;
    return (v_before.total_bytes, v_before.reserved_bytes, v_before.total_sources,
            case when v_before.billing_month = v_month then v_before.interpretation_count_month else 0 end)
           is distinct from
           (v_after.total_bytes, v_after.reserved_bytes, v_after.total_sources, v_after.interpretation_count_month);
end $$;

CREATE FUNCTION reactor.recount_users(p_after uuid, p_limit integer) RETURNS TABLE(last_user uuid, changed bigint)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    v_users uuid[];
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
    perform reactor.ensure_usage_rows(v_users);
    return query
    select (array_agg(done.user_id order by done.user_id desc))[1], count(*) filter (where done.changed)
      from (select u.user_id, reactor.recount_user(u.user_id) as changed
              from (select unnest(v_users) as user_id order by 1) as u) as done
    having count(*) > 0;
end $$;

CREATE FUNCTION reactor.refuse(p_code text, p_message text DEFAULT NULL::text, p_details jsonb DEFAULT '{}'::jsonb, p_next_step text DEFAULT NULL::text) RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    v_error record;
begin
    select c.message, c.retryable, c.http_status, c.next_step into strict v_error
      from reactor.error_catalogue() as c where c.code = p_code;
    perform set_config('response.status', v_error.http_status::text, true);
    return jsonb_build_object('ok', false, 'code', p_code,
                              'message', coalesce(p_message, v_error.message) || ' '
                                         || coalesce(p_next_step, v_error.next_step),
                              'retryable', v_error.retryable, 'details', p_details);
end $$;

CREATE FUNCTION reactor.refuse_argument(p_problem text) RETURNS jsonb
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select reactor.refuse('INVALID_ARGUMENT', p_problem || '.',
                          jsonb_build_object('argument', split_part(p_problem, ' ', 1)))
$$;

CREATE FUNCTION reactor.refuse_ended(p_run_id uuid, p_caller uuid) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    v_run record;
begin
    if p_run_id is null then
        return reactor.refuse_argument('p_run_id must be the id of a run');
    end if;
    perform from public.interpretation_runs as r
      where r.id = p_run_id and reactor.acts_for(p_caller, r.user_id) for no key update;
    perform from reactor.expire_runs(array(select r.id from public.interpretation_runs as r
                                            where r.id = p_run_id and reactor.acts_for(p_caller, r.user_id)), null);
    select r.status, r.error_code, r.error_message into v_run
      from public.interpretation_runs as r where r.id = p_run_id and reactor.acts_for(p_caller, r.user_id);
    if not found then
        return reactor.refuse_unknown('p_run_id', p_caller);
    elsif v_run.error_code in ('INTERPRETATION_TIMEOUT', 'INTERPRETATION_HEARTBEAT_LOST') then
        return reactor.refuse(v_run.error_code, null, jsonb_build_object('run_id', p_run_id, 'status', v_run.status));
    elsif v_run.status = 'failed' then
        return reactor.refuse('INTERPRETATION_FAILED', null, jsonb_build_object(
            'run_id', p_run_id, 'status', v_run.status, 'error_code', v_run.error_code));
    elsif v_run.status = 'running' then
        return null;
    end if;
    return reactor.refuse('NOT_ALLOWED', format('The run is %s.', v_run.status),
                          jsonb_build_object('run_id', p_run_id, 'status', v_run.status), 'Stop working on it.');
end $$;

CREATE FUNCTION reactor.refuse_quota(p_code text, p_detail text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    v_details constant jsonb := p_detail;
begin
    insert into reactor.quota_rejection as r (minute, quota, plan, backend, count)
    values (date_trunc('minute', clock_timestamp()),
            case p_code when 'STORAGE_QUOTA_EXCEEDED' then 'storage' else 'interpretations' end,
            v_details ->> 'plan', pg_backend_pid(), 1)
    on conflict (minute, quota, plan, backend) do update set count = r.count + 1;
    return reactor.refuse(p_code, case p_code
        when 'STORAGE_QUOTA_EXCEEDED' then
            format('The upload needs %s bytes, and of the %s bytes of the plan %s %s are used or reserved.',
                   v_details ->> 'requested_bytes', v_details ->> 'limit_bytes', v_details ->> 'plan',
                   (v_details ->> 'used_bytes')::numeric + (v_details ->> 'reserved_bytes')::numeric)
        else
            format('All %s interpretations of this month in the plan %s are used, until %s.',
                   v_details ->> 'limit', v_details ->> 'plan', v_details ->> 'resets_at')
        end, v_details);
end $$;

CREATE FUNCTION reactor.refuse_unknown(p_argument text, p_caller uuid) RETURNS jsonb
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select case when p_caller = '00000000-0000-0000-0000-000000000000'
                then reactor.refuse('NOT_ALLOWED', 'The caller''s role is a user''s, and it has no valid JWT.')
                else reactor.refuse('NOT_FOUND', p_argument || ' is the id of no row of the caller''s.',
                                    jsonb_build_object('argument', p_argument)) end
$$;

CREATE FUNCTION reactor.repair_usage(p_limit integer) RETURNS TABLE(kind text, count bigint)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    v_month constant text := to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM');
    v_leaked uuid[];
begin
    if not pg_try_advisory_xact_lock(hashtext('reactor.repair_usage')) then
        return;
    end if;
    v_leaked := array(
        select s.id from public.sources as s
         where s.storage_status = 'pending' and s.pending_since < statement_timestamp() - interval '1 day'
           and not exists (select from public.upload_queue as q
                            where q.source_id = s.id and q.status in ('failed', 'uploading'))
         order by s.pending_since
         limit p_limit
           for update skip locked);
    -- in a statement of its own: an upload that was queued before the lock was ours is seen now
    return query
    with mended as (
        update public.sources as s set storage_status = 'failed'
         where s.id = any(v_leaked) and s.storage_status = 'pending'
           and not exists (select from public.upload_queue as q
                            where q.source_id = s.id and q.status in ('failed', 'uploading'))
        returning s.id)
    select 'reservations', count(*) from mended having count(*) > 0;
    return query
    with over as materialized (
        select u.user_id from public.storage_usage as u
         where u.billing_month < v_month
         order by u.user_id
         limit p_limit
           for no key update skip locked
    ), turned as (
        update public.storage_usage as u set billing_month = v_month, interpretation_count_month = 0
          from over as o where u.user_id = o.user_id
        returning u.user_id)
    select 'months', count(*) from turned having count(*) > 0;
    delete from reactor.deleted_interpretation as d where d.billing_month < v_month;
    with ripe as materialized (
        -- a refusal whose transaction goes on is added up another time
        select r.minute, r.quota, r.plan, r.backend from reactor.quota_rejection as r
         where r.backend <> 0 and r.minute < statement_timestamp() - interval '5 minutes'
            or r.minute < statement_timestamp() - interval '7 days' and r.minute > '-infinity'
           for update skip locked
    ), old as (
        delete from reactor.quota_rejection as r using ripe
         where (r.minute, r.quota, r.plan, r.backend) = (ripe.minute, ripe.quota, ripe.plan, ripe.backend)
        returning r.minute, r.quota, r.plan, r.count)
    insert into reactor.quota_rejection as r (minute, quota, plan, backend, count)
    select case when o.minute < statement_timestamp() - interval '7 days' then '-infinity' else o.minute end as minute,
           o.quota, o.plan, 0, sum(o.count)
      from old as o
     group by 1, o.quota, o.plan
    on conflict (minute, quota, plan, backend) do update set count = r.count + excluded.count;
end $$;

CREATE FUNCTION reactor.report_presence(p_instance uuid, p_host text, p_version text, p_mode text, p_canary text, p_silent_after interval) RETURNS TABLE(now_at double precision, queue_usage double precision, instances uuid[], listening uuid[])
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    v_listened boolean := exists (
        select from reactor.instance as i
         where i.id = p_instance and i.mode = 'listening' and i.seen_at > statement_timestamp() - p_silent_after);
begin
    -- a beat that a crash forgets is followed by the next; and the answer doesn't come late by a disk's time
    perform set_config('synchronous_commit', 'off', true);
    insert into reactor.instance as i (id, host, version, mode)
    values (p_instance, p_host, p_version, p_mode)
    on conflict (id) do update set seen_at = clock_timestamp(), mode = excluded.mode;
    if pg_notification_queue_usage() < 0.5 then
        if p_canary is not null then
            perform pg_notify(p_canary, '');
        end if;
        if v_listened <> (p_mode = 'listening') then
            perform pg_notify('reactor_peers', p_instance::text);
        end if;
    end if;
    return query
    select date_part('epoch', statement_timestamp() + (clock_timestamp() - statement_timestamp()) / 2), pg_notification_queue_usage(),
           array(select i.id from reactor.instance as i
                  where i.seen_at > statement_timestamp() - p_silent_after order by i.id),
           array(select i.id from reactor.instance as i
                  where i.seen_at > statement_timestamp() - p_silent_after and i.mode = 'listening' order by i.id);
end $$;

CREATE FUNCTION reactor.requeue_uploads(p_ids uuid[]) RETURNS TABLE(id uuid, code text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    v_upload record;
begin
    for v_upload in
        with locked as materialized (
            select s.id
              from public.sources as s
             where s.id in (select q.source_id from public.upload_queue as q where q.id = any(p_ids))
             order by s.id
               for no key update
        ), chosen as materialized (
            select q.id, q.source_id, q.user_id, q.status from public.upload_queue as q
             where q.id = any(p_ids) and q.status in ('failed', 'dead', 'cancelled')
               and (select count(*) from locked) >= 0 -- always true, and known only once the sources are locked
             order by q.id for update
        )
        select c.id, c.source_id, c.status from chosen as c order by c.user_id, c.id -- as the books are locked
    loop
        id := v_upload.id;
        code := null;
        begin
            update public.sources as s set storage_status = 'pending'
             where s.id = v_upload.source_id and v_upload.status <> 'failed' and s.storage_status = 'failed';
            update public.upload_queue as q
               set status = 'failed',
                   retry_count = case when v_upload.status = 'failed' then q.retry_count else 0 end,
                   next_retry_at = least(q.next_retry_at, clock_timestamp()), updated_at = clock_timestamp()
             where q.id = v_upload.id;
        exception when sqlstate 'RX101' then
            code := 'STORAGE_QUOTA_EXCEEDED';
        end;
        return next;
    end loop;
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
                   jsonb_build_object('at', clock_timestamp(), 'began', a.claimed_at, 'attempt', q.retry_count,
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
           r.claim_count, r.bucket, r.byte_size, date_part('epoch', r.created_at),
           date_part('epoch', r.claimed_at), date_part('epoch', r.updated_at)
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
    archived_at timestamp with time zone,
    billing_month text,
    heartbeat_notified_until timestamp with time zone
)
WITH (fillfactor='70');

ALTER TABLE ONLY public.interpretation_runs FORCE ROW LEVEL SECURITY;

COMMENT ON COLUMN public.interpretation_runs.billing_month IS 'the month (UTC) in which its start was counted; null: it never started. Kept by a trigger';

COMMENT ON COLUMN public.interpretation_runs.heartbeat_notified_until IS 'The reactor''s: later heartbeats before this time aren''t notified. Null: the next one is.';

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
                1000 * (extract(epoch from statement_timestamp()) - extract(epoch from p_run.heartbeat_at))))::bigint || ']'
        end
$$;

CREATE FUNCTION reactor.send(p_channel text, p_hints text[]) RETURNS boolean
    LANGUAGE sql
    AS $$
    select case
        when cardinality(p_hints) > 100 then
            reactor.send_hints(p_channel, p_hints) is not null
        when cardinality(p_hints) > 0 and pg_notification_queue_usage() < 0.5 then
            pg_notify(p_channel, '{"v":1,"at":' || floor(1000 * date_part('epoch', statement_timestamp()))::bigint
                                 || ',"rows":[' || array_to_string(p_hints, ',') || ']}') is not null
        else false
    end
$$;

CREATE FUNCTION reactor.send_hints(p_channel text, p_hints text[]) RETURNS void
    LANGUAGE plpgsql
    AS $$
declare
    v_count constant int := coalesce(cardinality(p_hints), 0);
    v_head text;
    v_sent text;
begin
    if v_count = 0 or pg_notification_queue_usage() >= 0.5 then
        return;
    end if;
    v_head := '{"v":1,"at":' || floor(1000 * date_part('epoch', statement_timestamp()))::bigint;
    if v_count > 1000 then
        v_sent := pg_notify(p_channel, v_head || ',"rescan":true}');
        return;
    end if;
    for v_first in 1 .. v_count by 100 loop
        v_sent := pg_notify(p_channel,
            v_head || ',"rows":[' || array_to_string(p_hints[v_first : v_first + 99], ',') || ']}');
    end loop;
end $$;

CREATE FUNCTION reactor.settle_uploads(p_ids uuid[], p_tokens uuid[], p_verdicts text[], p_delays_s double precision[], p_codes text[], p_messages text[], p_urls text[]) RETURNS TABLE(id uuid, due_at double precision, settled_at double precision)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $$
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

CREATE FUNCTION reactor.stamp_pending() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    new.pending_since := clock_timestamp();
    return new;
end $$;

CREATE FUNCTION reactor.status(p_heartbeat_timeout interval) RETURNS jsonb
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET jit TO 'off'
    AS $$
    with due as materialized (
        select count(*) as few from (
            select from public.upload_queue as q
             where q.status = 'failed' and greatest(q.next_retry_at, 'epoch') <= statement_timestamp()
             order by greatest(q.next_retry_at, 'epoch') limit 10001) as d
    ), later as materialized (
        select count(*) as few from (
            select from public.upload_queue as q
             where q.status = 'failed' and greatest(q.next_retry_at, 'epoch') > statement_timestamp()
             order by greatest(q.next_retry_at, 'epoch') desc limit 10001) as l
    ), counted as materialized (
        -- count(id), not (*): the index that has the id is in the order of coming due, much as the table is. What changed
        -- since vacuum came by is looked up there, and by user that is at random: 4 s for a million rows, not 0.4
        select count(q.id) as failed from public.upload_queue as q where q.status = 'failed'
    ), walked as materialized (
        select count(*) filter (where q.status = 'failed') as failed,
               count(*) filter (where q.status = 'failed' and q.next_retry_at <= statement_timestamp()) as due
          from public.upload_queue as q
    ), way as materialized (
        -- not once one row in a hundred has changed since vacuum came by: then one entry in four is looked up, as dear as
        -- a walk where retries have mixed up the order. Nor where neither side is soon counted
        select pg_stat_get_dead_tuples(c.oid) <= 200 + 0.01 * greatest(c.reltuples, 0)
               and ((select d.few from due as d) <= 10000 or (select l.few from later as l) <= 10000) as by_index
          from pg_class as c
         where c.oid = 'public.upload_queue'::regclass
    )
    select jsonb_build_object(
        'uploads', (
            select jsonb_build_object(
                'failed', case when y.by_index then (select c.failed from counted as c)
                               else (select w.failed from walked as w) end,
                'due', case when (select d.few from due as d) <= 10000 then (select d.few from due as d)
                            when y.by_index then (select c.failed from counted as c) - (select l.few from later as l)
                            else (select w.due from walked as w) end,
                'oldest_due_age_s', coalesce((
                    select extract(epoch from statement_timestamp() - greatest(q.next_retry_at, 'epoch'))
                      from public.upload_queue as q
                     where q.status = 'failed' and greatest(q.next_retry_at, 'epoch') <= statement_timestamp()
                     order by greatest(q.next_retry_at, 'epoch') limit 1), 0),
                'uploading', l.uploading,
                'leases_expired', l.expired,
                'dead', e.dead,
                'cancelled', e.cancelled)
              from way as y
             cross join (
                select count(*) as uploading,
                       count(*) filter (where coalesce(q.lease_expires_at, '-infinity') <= statement_timestamp())
                           as expired
                  from public.upload_queue as q
                 where q.status = 'uploading') as l
             cross join (
                select count(*) filter (where q.status = 'dead') as dead,
                       count(*) filter (where q.status = 'cancelled') as cancelled
                  from public.upload_queue as q
                 where q.status in ('dead', 'cancelled')) as e),
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
        'quota_rejections', coalesce((
            select jsonb_agg(to_jsonb(r) order by r.quota, r.plan)
              from (select n.quota, n.plan, sum(n.count) as count,
                           coalesce(sum(n.count) filter (where n.minute > statement_timestamp() - interval '1 hour'), 0)
                               as last_hour
                      from reactor.quota_rejection as n
                     group by n.quota, n.plan) as r), '[]'),
        'storage_usage', coalesce((
            select jsonb_agg(to_jsonb(b) order by b.plan)
              from (select u.plan, count(*) as users, sum(u.total_bytes) as bytes, sum(u.reserved_bytes) as reserved_bytes
                      from public.storage_usage as u
                     group by u.plan) as b), '[]'),
        'notification_queue_usage', pg_notification_queue_usage(),
        'now', statement_timestamp())
$$;

CREATE FUNCTION reactor.sweep_runs(p_horizon interval, p_heartbeat_timeout interval, p_limit integer) RETURNS TABLE(id uuid, tenant integer, due_at double precision, changed_at double precision)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    return query
    select r.id, coalesce(uuid_hash(r.user_id), 0), date_part('epoch', d.due_at),
           date_part('epoch', coalesce(r.heartbeat_at, r.started_at, r.created_at))
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
        select w.id, uuid_hash(o.user_id), date_part('epoch', greatest(w.next_retry_at, 'epoch')),
               date_part('epoch', w.updated_at)
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
        select q.id, uuid_hash(q.user_id), date_part('epoch', q.lease_expires_at),
               date_part('epoch', q.updated_at)
          from public.upload_queue as q
         where q.status = 'uploading' and q.lease_expires_at is not null
         limit p_limit
    )
    select * from waiting
    union all
    select * from leased;
end $$;

CREATE FUNCTION reactor.traceparent(p_given text) RETURNS text
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
    select case when p_given ~ '^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$' then p_given
                else '00-' || replace(gen_random_uuid()::text, '-', '') || '-72656163746f7200-03' end
$_$;

CREATE FUNCTION reactor.track_usage() RETURNS trigger
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
    v_over jsonb;
begin
    if tg_op = 'INSERT' then
        select array_agg(user_id order by user_id), array_agg(total order by user_id),
               array_agg(reserved order by user_id), array_agg(stored order by user_id)
          into v_users, v_total, v_reserved, v_sources
          from (select f.user_id, sum(f.total) as total, sum(f.reserved) as reserved, sum(f.stored) as stored
                  from new_rows as n cross join lateral reactor.usage_of_source(n) as f
                 where f.user_id is not null group by f.user_id) as change;
    elsif tg_op = 'DELETE' then
        select array_agg(user_id order by user_id), array_agg(-total order by user_id),
               array_agg(-reserved order by user_id), array_agg(-stored order by user_id)
          into v_users, v_total, v_reserved, v_sources
          from (select f.user_id, sum(f.total) as total, sum(f.reserved) as reserved, sum(f.stored) as stored
                  from old_rows as o cross join lateral reactor.usage_of_source(o) as f
                 where f.user_id is not null group by f.user_id) as change;
    else
        select array_agg(user_id order by user_id), array_agg(total order by user_id),
               array_agg(reserved order by user_id), array_agg(stored order by user_id)
          into v_users, v_total, v_reserved, v_sources
          from (select entry.user_id, sum(entry.total) as total, sum(entry.reserved) as reserved,
                       sum(entry.stored) as stored
                  from (select f.user_id, f.total, f.reserved, f.stored
                          from new_rows as n cross join lateral reactor.usage_of_source(n) as f
                        union all
                        select f.user_id, -f.total, -f.reserved, -f.stored
                          from old_rows as o cross join lateral reactor.usage_of_source(o) as f) as entry
                 where entry.user_id is not null
                 group by entry.user_id
                having sum(entry.total) <> 0 or sum(entry.reserved) <> 0 or sum(entry.stored) <> 0) as change;
    end if;
    if v_users is null then
        return null;
    end if;
    perform reactor.ensure_usage_rows(v_users);
    perform from public.storage_usage where user_id = any(v_users) order by user_id for update;
    -- greatest(): books that were wrong before must not make the app's own write fail; a recount mends them
    update public.storage_usage as s
       set total_bytes = greatest(0, s.total_bytes + c.total),
           reserved_bytes = greatest(0, s.reserved_bytes + c.reserved),
           total_sources = greatest(0, s.total_sources + c.stored)
      from unnest(v_users, v_total, v_reserved, v_sources) as c (user_id, total, reserved, stored)
     where s.user_id = c.user_id;
    if exists (select from unnest(v_total, v_reserved) as c (total, reserved) where c.total + c.reserved > 0)
       and current_setting('reactor.quota', true) is distinct from 'off' then
        -- only now is the plan read, after the lock: a plan that was lowered meanwhile counts
        select jsonb_build_object('plan', s.plan, 'limit_bytes', s.limit_bytes, 'used_bytes', s.used_bytes - c.total,
                                  'reserved_bytes', s.reserved_bytes - c.reserved,
                                  'requested_bytes', c.total + c.reserved)
          into v_over
          from unnest(v_users, v_total, v_reserved) as c (user_id, total, reserved)
         cross join lateral reactor.effective_quota(c.user_id) as s
         where c.total + c.reserved > 0 and s.used_bytes + s.reserved_bytes > s.limit_bytes
         limit 1;
        if found then
            raise exception 'STORAGE_QUOTA_EXCEEDED: the upload doesn''t fit into the plan''s storage'
                using errcode = 'RX101', detail = v_over::text,
                      hint = 'Delete sources or move to a larger plan, then upload again.';
        end if;
    end if;
    return null;
end $$;

CREATE FUNCTION reactor.uncount_run(p_user_id uuid, p_next_user_id uuid, p_month text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    perform from public.storage_usage where user_id in (p_user_id, p_next_user_id) order by user_id for no key update;
    update public.storage_usage as u set interpretation_count_month = greatest(0, u.interpretation_count_month - 1)
     where u.user_id = p_user_id and u.billing_month = p_month;
end $$;

CREATE FUNCTION reactor.usage_of(p_user_id uuid) RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select jsonb_build_object(
               'ok', true, 'user_id', p_user_id, 'plan', s.plan,
               'limit_bytes', s.limit_bytes, 'used_bytes', s.used_bytes, 'reserved_bytes', s.reserved_bytes,
               -- greatest() passes over nulls: of what is unlimited there would be 0 left
               'remaining_bytes', case when s.limit_bytes is not null then
                   greatest(0, s.limit_bytes::numeric - s.used_bytes - s.reserved_bytes)::bigint end,
               'sources', s.sources,
               'interpretation_limit', s.interpretation_limit, 'interpretations_used', s.interpretations_used,
               'interpretations_remaining', case when s.interpretation_limit is not null then
                   greatest(0, s.interpretation_limit - s.interpretations_used) end,
               'billing_month', s.billing_month, 'resets_at', s.resets_at, 'last_calculated', s.last_calculated)
      from reactor.effective_quota(p_user_id) as s
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
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    pending_since timestamp with time zone DEFAULT now() NOT NULL
);

ALTER TABLE ONLY public.sources FORCE ROW LEVEL SECURITY;

COMMENT ON COLUMN public.sources.pending_since IS 'when the source became owed to the store, the last time';

CREATE FUNCTION reactor.usage_of_source(p_source public.sources) RETURNS TABLE(user_id uuid, total bigint, reserved bigint, stored integer)
    LANGUAGE sql STABLE
    AS $$
    select p_source.user_id,
           case when p_source.storage_status = 'uploaded' then size.bytes else 0 end,
           case when p_source.storage_status = 'pending' then size.bytes else 0 end,
           case when p_source.storage_status = 'uploaded' then 1 else 0 end
      from (select coalesce(p_source.byte_size, (to_jsonb(p_source) ->> 'file_size')::bigint, 0) as bytes) as size
$$;

CREATE TABLE public.quota_plans (
    plan text NOT NULL,
    storage_limit_bytes bigint,
    interpretation_limit_month integer,
    CONSTRAINT interpretation_limit_is_not_negative CHECK ((interpretation_limit_month >= 0)),
    CONSTRAINT storage_limit_is_not_negative CHECK ((storage_limit_bytes >= 0))
);

ALTER TABLE ONLY public.quota_plans FORCE ROW LEVEL SECURITY;

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

ALTER TABLE ONLY public.storage_usage FORCE ROW LEVEL SECURITY;

COMMENT ON COLUMN public.storage_usage.total_bytes IS 'bytes of the user''s stored sources';

COMMENT ON COLUMN public.storage_usage.reserved_bytes IS 'bytes of sources that are still owed to the store';

COMMENT ON COLUMN public.storage_usage.interpretation_count_month IS 'runs started in billing_month, those included whose rows are gone';

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
    traceparent text DEFAULT (('00-'::text || replace((gen_random_uuid())::text, '-'::text, ''::text)) || '-72656163746f7200-03'::text) NOT NULL,
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

ALTER TABLE ONLY public.upload_queue FORCE ROW LEVEL SECURITY;

COMMENT ON COLUMN public.upload_queue.retry_count IS 'attempts begun by the reactor; raised as one is claimed';

COMMENT ON COLUMN public.upload_queue.lease_token IS 'fence: only the claim that set it may settle the row';

COMMENT ON COLUMN public.upload_queue.errors IS 'one entry per failed attempt: at, code, message, trace_id';

COMMENT ON COLUMN public.upload_queue.claim_count IS 'claims ever made; unlike retry_count never given back or reset, so that it names each attempt''s spans';

CREATE TABLE reactor.audit_log (
    id uuid NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    actor text NOT NULL,
    remote_address text NOT NULL,
    action text NOT NULL,
    ids uuid[] NOT NULL,
    filter jsonb,
    changed integer NOT NULL,
    outcome jsonb NOT NULL,
    CONSTRAINT action_is_known CHECK ((action = ANY (ARRAY['retry'::text, 'cancel'::text, 'purge'::text, 'fail'::text, 'reconcile'::text]))),
    CONSTRAINT actor_is_named CHECK (((char_length(actor) >= 1) AND (char_length(actor) <= 80))),
    CONSTRAINT changed_is_not_negative CHECK ((changed >= 0)),
    CONSTRAINT remote_address_is_short CHECK ((char_length(remote_address) <= 100))
);

ALTER TABLE ONLY reactor.audit_log FORCE ROW LEVEL SECURITY;

COMMENT ON TABLE reactor.audit_log IS 'What operators did by hand; written by reactor.operate() alone.';

COMMENT ON COLUMN reactor.audit_log.actor IS 'the name that was given at log-in: the token proves a right, not a name';

COMMENT ON COLUMN reactor.audit_log.ids IS 'the rows that were asked for; they may be gone since';

COMMENT ON COLUMN reactor.audit_log.filter IS 'what chose the rows, where a filter did; null where they were named';

COMMENT ON COLUMN reactor.audit_log.outcome IS 'ids that changed, and the code of each that had to stay as it was';

CREATE TABLE reactor.deleted_interpretation (
    user_id uuid NOT NULL,
    billing_month text NOT NULL,
    count integer NOT NULL,
    CONSTRAINT count_is_positive CHECK ((count > 0))
);

ALTER TABLE ONLY reactor.deleted_interpretation FORCE ROW LEVEL SECURITY;

COMMENT ON TABLE reactor.deleted_interpretation IS 'Counted runs whose rows are gone, for a recount of the books.';

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

ALTER TABLE ONLY reactor.instance FORCE ROW LEVEL SECURITY;

COMMENT ON TABLE reactor.instance IS 'Living reactors; a row that is not seen for a while is a dead one.';

CREATE TABLE reactor.migration (
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL
);

ALTER TABLE ONLY reactor.migration FORCE ROW LEVEL SECURITY;

COMMENT ON TABLE reactor.migration IS 'Schema files that were applied, with the SHA-256 of each.';

CREATE TABLE reactor.quota_rejection (
    minute timestamp with time zone NOT NULL,
    quota text NOT NULL,
    plan text NOT NULL,
    backend integer NOT NULL,
    count bigint NOT NULL,
    CONSTRAINT count_is_positive CHECK ((count > 0)),
    CONSTRAINT quota_is_known CHECK ((quota = ANY (ARRAY['storage'::text, 'interpretations'::text])))
);

ALTER TABLE ONLY reactor.quota_rejection FORCE ROW LEVEL SECURITY;

COMMENT ON TABLE reactor.quota_rejection IS 'What the quotas refused, by minute; what is old is added up at -infinity.';

COMMENT ON COLUMN reactor.quota_rejection.backend IS 'server process that counted; 0 once added up';

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

ALTER TABLE ONLY reactor.audit_log
    ADD CONSTRAINT audit_log_pkey PRIMARY KEY (id);

ALTER TABLE ONLY reactor.instance
    ADD CONSTRAINT instance_pkey PRIMARY KEY (id);

ALTER TABLE ONLY reactor.migration
    ADD CONSTRAINT migration_pkey PRIMARY KEY (name);

ALTER TABLE ONLY reactor.quota_rejection
    ADD CONSTRAINT quota_rejection_pkey PRIMARY KEY (minute, quota, plan, backend);

CREATE INDEX interpretation_runs_by_age ON public.interpretation_runs USING btree (COALESCE(created_at, '-infinity'::timestamp with time zone), id);

CREATE INDEX interpretation_runs_counted ON public.interpretation_runs USING btree (user_id, billing_month) WHERE (billing_month IS NOT NULL);

CREATE INDEX interpretation_runs_of_source ON public.interpretation_runs USING btree (source_id);

CREATE INDEX interpretation_runs_running ON public.interpretation_runs USING btree (id) WHERE (status = 'running'::text);

CREATE INDEX interpretation_runs_running_by_age ON public.interpretation_runs USING btree (COALESCE(created_at, '-infinity'::timestamp with time zone), id) WHERE (status = 'running'::text);

CREATE UNIQUE INDEX sources_are_unique_by_content ON public.sources USING btree (user_id, content_hash);

CREATE INDEX sources_pending ON public.sources USING btree (pending_since) WHERE (storage_status = 'pending'::text);

CREATE INDEX storage_usage_by_month ON public.storage_usage USING btree (billing_month);

CREATE INDEX upload_queue_by_due ON public.upload_queue USING btree (GREATEST(next_retry_at, '1970-01-01 00:00:00+00'::timestamp with time zone), id) WHERE (status = 'failed'::text);

CREATE INDEX upload_queue_ended ON public.upload_queue USING btree (updated_at) WHERE (status = ANY (ARRAY['dead'::text, 'cancelled'::text]));

CREATE INDEX upload_queue_exhausted ON public.upload_queue USING btree (id) WHERE ((status = 'failed'::text) AND (retry_count >= max_retries));

CREATE INDEX upload_queue_given_up ON public.upload_queue USING btree (status, updated_at, id) WHERE (status = ANY (ARRAY['dead'::text, 'cancelled'::text]));

CREATE INDEX upload_queue_leased ON public.upload_queue USING btree (id) WHERE (status = 'uploading'::text);

CREATE INDEX upload_queue_of_source ON public.upload_queue USING btree (source_id);

CREATE INDEX upload_queue_waiting ON public.upload_queue USING btree (user_id, next_retry_at) WHERE (status = 'failed'::text);

CREATE INDEX audit_log_newest ON reactor.audit_log USING btree (at DESC, id DESC);

CREATE INDEX deleted_interpretation_of_user ON reactor.deleted_interpretation USING btree (user_id, billing_month);

CREATE TRIGGER reactor_count_deleted AFTER DELETE ON public.interpretation_runs REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION reactor.count_runs();

CREATE TRIGGER reactor_count_inserted AFTER INSERT ON public.interpretation_runs REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION reactor.count_runs();

CREATE TRIGGER reactor_count_truncated AFTER TRUNCATE ON public.interpretation_runs FOR EACH STATEMENT EXECUTE FUNCTION reactor.count_runs();

CREATE TRIGGER reactor_count_updated AFTER UPDATE OF user_id ON public.interpretation_runs FOR EACH ROW EXECUTE FUNCTION reactor.count_runs();

CREATE TRIGGER reactor_forget_notified_heartbeat AFTER UPDATE OF heartbeat_notified_until ON public.interpretation_runs FOR EACH ROW EXECUTE FUNCTION reactor.forget_notified_heartbeat();

CREATE TRIGGER reactor_mark_start_inserted BEFORE INSERT ON public.interpretation_runs FOR EACH ROW EXECUTE FUNCTION reactor.mark_run_start();

CREATE TRIGGER reactor_mark_start_updated AFTER UPDATE OF status, billing_month ON public.interpretation_runs FOR EACH ROW EXECUTE FUNCTION reactor.mark_run_start();

CREATE TRIGGER reactor_notify_heartbeat AFTER UPDATE OF heartbeat_at ON public.interpretation_runs FOR EACH ROW WHEN ((((old.heartbeat_at, old.heartbeat_notified_until) OVERLAPS (new.heartbeat_at, new.heartbeat_at)) IS NOT TRUE)) EXECUTE FUNCTION reactor.notify_heartbeat();

CREATE TRIGGER reactor_notify_inserted AFTER INSERT ON public.interpretation_runs REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION reactor.notify_runs();

CREATE TRIGGER reactor_notify_inserted AFTER INSERT ON public.upload_queue REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION reactor.notify_uploads();

CREATE TRIGGER reactor_notify_updated AFTER UPDATE OF status, timeout_at, heartbeat_timeout ON public.interpretation_runs FOR EACH ROW EXECUTE FUNCTION reactor.notify_runs();

CREATE TRIGGER reactor_notify_updated AFTER UPDATE ON public.upload_queue REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION reactor.notify_uploads();

CREATE TRIGGER reactor_stamp_pending BEFORE UPDATE OF storage_status ON public.sources FOR EACH ROW WHEN (((new.storage_status = 'pending'::text) AND (old.storage_status IS DISTINCT FROM 'pending'::text))) EXECUTE FUNCTION reactor.stamp_pending();

CREATE TRIGGER reactor_track_usage_deleted AFTER DELETE ON public.sources REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION reactor.track_usage();

CREATE TRIGGER reactor_track_usage_inserted AFTER INSERT ON public.sources REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION reactor.track_usage();

CREATE TRIGGER reactor_track_usage_truncated AFTER TRUNCATE ON public.sources FOR EACH STATEMENT EXECUTE FUNCTION reactor.clear_books();

CREATE TRIGGER reactor_track_usage_updated AFTER UPDATE ON public.sources REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION reactor.track_usage();

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

CREATE POLICY reactor_table_owner_does_all ON public.interpretation_runs TO reactor USING (true) WITH CHECK (true);

CREATE POLICY reactor_table_owner_does_all ON public.quota_plans TO reactor USING (true) WITH CHECK (true);

CREATE POLICY reactor_table_owner_does_all ON public.sources TO reactor USING (true) WITH CHECK (true);

CREATE POLICY reactor_table_owner_does_all ON public.storage_usage TO reactor USING (true) WITH CHECK (true);

CREATE POLICY reactor_table_owner_does_all ON public.upload_queue TO reactor USING (true) WITH CHECK (true);

CREATE POLICY reactor_worker_reads ON public.interpretation_runs FOR SELECT TO reactor_worker USING (true);

CREATE POLICY reactor_worker_reads ON public.sources FOR SELECT TO reactor_worker USING (true);

CREATE POLICY reactor_worker_reads ON public.storage_usage FOR SELECT TO reactor_worker USING (true);

CREATE POLICY reactor_worker_reads ON public.upload_queue FOR SELECT TO reactor_worker USING (true);

ALTER TABLE public.sources ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.storage_usage ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.upload_queue ENABLE ROW LEVEL SECURITY;

ALTER TABLE reactor.audit_log ENABLE ROW LEVEL SECURITY;

ALTER TABLE reactor.deleted_interpretation ENABLE ROW LEVEL SECURITY;

ALTER TABLE reactor.instance ENABLE ROW LEVEL SECURITY;

ALTER TABLE reactor.migration ENABLE ROW LEVEL SECURITY;

ALTER TABLE reactor.quota_rejection ENABLE ROW LEVEL SECURITY;

CREATE POLICY reactor_all_read ON reactor.migration FOR SELECT TO service_role, reactor_worker USING (true);

CREATE POLICY reactor_table_owner_does_all ON reactor.audit_log TO reactor USING (true) WITH CHECK (true);

CREATE POLICY reactor_table_owner_does_all ON reactor.deleted_interpretation TO reactor USING (true) WITH CHECK (true);

CREATE POLICY reactor_table_owner_does_all ON reactor.instance TO reactor USING (true) WITH CHECK (true);

CREATE POLICY reactor_table_owner_does_all ON reactor.migration TO reactor USING (true) WITH CHECK (true);

CREATE POLICY reactor_table_owner_does_all ON reactor.quota_rejection TO reactor USING (true) WITH CHECK (true);

CREATE POLICY reactor_worker_reads ON reactor.audit_log FOR SELECT TO service_role, reactor_worker USING (true);

CREATE POLICY reactor_worker_reads ON reactor.instance FOR SELECT TO reactor_worker USING (true);

CREATE POLICY reactor_worker_reads ON reactor.quota_rejection FOR SELECT TO service_role, reactor_worker USING (true);

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

REVOKE ALL ON FUNCTION public.begin_interpretation(p_source_id uuid, p_config jsonb, p_timeout interval, p_heartbeat_timeout interval, p_traceparent text, p_run_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION public.begin_interpretation(p_source_id uuid, p_config jsonb, p_timeout interval, p_heartbeat_timeout interval, p_traceparent text, p_run_id uuid) TO authenticated;
GRANT ALL ON FUNCTION public.begin_interpretation(p_source_id uuid, p_config jsonb, p_timeout interval, p_heartbeat_timeout interval, p_traceparent text, p_run_id uuid) TO service_role;

REVOKE ALL ON FUNCTION public.complete_interpretation(p_run_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION public.complete_interpretation(p_run_id uuid) TO authenticated;
GRANT ALL ON FUNCTION public.complete_interpretation(p_run_id uuid) TO service_role;

REVOKE ALL ON FUNCTION public.complete_upload(p_source_id uuid, p_storage_url text) FROM PUBLIC;
GRANT ALL ON FUNCTION public.complete_upload(p_source_id uuid, p_storage_url text) TO authenticated;
GRANT ALL ON FUNCTION public.complete_upload(p_source_id uuid, p_storage_url text) TO service_role;

REVOKE ALL ON FUNCTION public.fail_interpretation(p_run_id uuid, p_code text, p_message text) FROM PUBLIC;
GRANT ALL ON FUNCTION public.fail_interpretation(p_run_id uuid, p_code text, p_message text) TO authenticated;
GRANT ALL ON FUNCTION public.fail_interpretation(p_run_id uuid, p_code text, p_message text) TO service_role;

REVOKE ALL ON FUNCTION public.fail_upload(p_source_id uuid, p_bucket text, p_object_path text, p_temp_file_path text, p_error_message text, p_spool text, p_traceparent text, p_max_retries integer, p_metadata jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION public.fail_upload(p_source_id uuid, p_bucket text, p_object_path text, p_temp_file_path text, p_error_message text, p_spool text, p_traceparent text, p_max_retries integer, p_metadata jsonb) TO authenticated;
GRANT ALL ON FUNCTION public.fail_upload(p_source_id uuid, p_bucket text, p_object_path text, p_temp_file_path text, p_error_message text, p_spool text, p_traceparent text, p_max_retries integer, p_metadata jsonb) TO service_role;

REVOKE ALL ON FUNCTION public.get_usage(p_user_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION public.get_usage(p_user_id uuid) TO authenticated;
GRANT ALL ON FUNCTION public.get_usage(p_user_id uuid) TO service_role;
GRANT ALL ON FUNCTION public.get_usage(p_user_id uuid) TO reactor_worker;

REVOKE ALL ON FUNCTION public.heartbeat_interpretation(p_run_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION public.heartbeat_interpretation(p_run_id uuid) TO authenticated;
GRANT ALL ON FUNCTION public.heartbeat_interpretation(p_run_id uuid) TO service_role;

REVOKE ALL ON FUNCTION public.recalculate_usage(p_user_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION public.recalculate_usage(p_user_id uuid) TO service_role;
GRANT ALL ON FUNCTION public.recalculate_usage(p_user_id uuid) TO reactor_worker;

REVOKE ALL ON FUNCTION public.reserve_upload(p_user_id uuid, p_content_hash text, p_byte_size numeric, p_mime_type text, p_file_name text, p_source_type text, p_source_agent_id text, p_source_metadata jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION public.reserve_upload(p_user_id uuid, p_content_hash text, p_byte_size numeric, p_mime_type text, p_file_name text, p_source_type text, p_source_agent_id text, p_source_metadata jsonb) TO authenticated;
GRANT ALL ON FUNCTION public.reserve_upload(p_user_id uuid, p_content_hash text, p_byte_size numeric, p_mime_type text, p_file_name text, p_source_type text, p_source_agent_id text, p_source_metadata jsonb) TO service_role;

REVOKE ALL ON FUNCTION public.set_plan(p_user_id uuid, p_plan text) FROM PUBLIC;
GRANT ALL ON FUNCTION public.set_plan(p_user_id uuid, p_plan text) TO service_role;
GRANT ALL ON FUNCTION public.set_plan(p_user_id uuid, p_plan text) TO reactor_worker;

REVOKE ALL ON FUNCTION reactor.acts_for(p_caller uuid, p_user_id uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.caller() FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.cancel_uploads(p_ids uuid[]) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.cancel_uploads(p_ids uuid[]) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.cancel_uploads(p_ids uuid[]) TO service_role;

REVOKE ALL ON FUNCTION reactor.claim_uploads(p_ids uuid[], p_token uuid, p_lease interval) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.claim_uploads(p_ids uuid[], p_token uuid, p_lease interval) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.claim_uploads(p_ids uuid[], p_token uuid, p_lease interval) TO service_role;

REVOKE ALL ON FUNCTION reactor.clear_books() FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.confirm_stored(p_ids uuid[], p_sources uuid[], p_urls text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.confirm_stored(p_ids uuid[], p_sources uuid[], p_urls text[]) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.confirm_stored(p_ids uuid[], p_sources uuid[], p_urls text[]) TO service_role;

REVOKE ALL ON FUNCTION reactor.count_run_starts(p_user_id uuid, p_month text, p_count integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.count_runs() FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.deadline(p_timeout_at timestamp with time zone, p_heartbeat_at timestamp with time zone, p_patience interval) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.deadline(p_timeout_at timestamp with time zone, p_heartbeat_at timestamp with time zone, p_patience interval) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.deadline(p_timeout_at timestamp with time zone, p_heartbeat_at timestamp with time zone, p_patience interval) TO service_role;

REVOKE ALL ON FUNCTION reactor.deregister_instance(p_instance uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.deregister_instance(p_instance uuid) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.deregister_instance(p_instance uuid) TO service_role;

REVOKE ALL ON FUNCTION reactor.effective_quota(p_user_id uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.ensure_usage_rows(p_users uuid[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.error_catalogue() FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.expire_runs(p_ids uuid[], p_heartbeat_timeout interval) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.expire_runs(p_ids uuid[], p_heartbeat_timeout interval) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.expire_runs(p_ids uuid[], p_heartbeat_timeout interval) TO service_role;

REVOKE ALL ON FUNCTION reactor.extend_leases(p_ids uuid[], p_tokens uuid[], p_lease interval) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.extend_leases(p_ids uuid[], p_tokens uuid[], p_lease interval) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.extend_leases(p_ids uuid[], p_tokens uuid[], p_lease interval) TO service_role;

REVOKE ALL ON FUNCTION reactor.fail_runs(p_ids uuid[], p_message text) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.fail_runs(p_ids uuid[], p_message text) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.fail_runs(p_ids uuid[], p_message text) TO service_role;

REVOKE ALL ON FUNCTION reactor.forget_notified_heartbeat() FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.fullest_users(p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.fullest_users(p_limit integer) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.fullest_users(p_limit integer) TO service_role;

REVOKE ALL ON FUNCTION reactor.hint(p_id uuid, p_user_id uuid, p_due_at timestamp with time zone) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.jwt_user() FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.live_summary(p_heartbeat_timeout interval, p_cap integer) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.live_summary(p_heartbeat_timeout interval, p_cap integer) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.live_summary(p_heartbeat_timeout interval, p_cap integer) TO service_role;

REVOKE ALL ON FUNCTION reactor.mark_run_start() FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.missing_privileges() FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.missing_privileges() TO reactor_worker;
GRANT ALL ON FUNCTION reactor.missing_privileges() TO service_role;

REVOKE ALL ON FUNCTION reactor.notified_until(p_heartbeat_at timestamp with time zone) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.notify_heartbeat() FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.notify_runs() FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.notify_uploads() FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.operate(p_request uuid, p_actor text, p_remote_address text, p_action text, p_ids uuid[], p_filter jsonb, p_message text) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.operate(p_request uuid, p_actor text, p_remote_address text, p_action text, p_ids uuid[], p_filter jsonb, p_message text) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.operate(p_request uuid, p_actor text, p_remote_address text, p_action text, p_ids uuid[], p_filter jsonb, p_message text) TO service_role;

REVOKE ALL ON FUNCTION reactor.pending_retry(p_queue_id uuid, p_source_id uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.purge_uploads(p_ids uuid[]) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.purge_uploads(p_ids uuid[]) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.purge_uploads(p_ids uuid[]) TO service_role;

REVOKE ALL ON FUNCTION reactor.recount_user(p_user_id uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.recount_users(p_after uuid, p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.recount_users(p_after uuid, p_limit integer) TO service_role;
GRANT ALL ON FUNCTION reactor.recount_users(p_after uuid, p_limit integer) TO reactor_worker;

REVOKE ALL ON FUNCTION reactor.refuse(p_code text, p_message text, p_details jsonb, p_next_step text) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.refuse_argument(p_problem text) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.refuse_ended(p_run_id uuid, p_caller uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.refuse_quota(p_code text, p_detail text) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.refuse_unknown(p_argument text, p_caller uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.repair_usage(p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.repair_usage(p_limit integer) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.repair_usage(p_limit integer) TO service_role;

REVOKE ALL ON FUNCTION reactor.report_presence(p_instance uuid, p_host text, p_version text, p_mode text, p_canary text, p_silent_after interval) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.report_presence(p_instance uuid, p_host text, p_version text, p_mode text, p_canary text, p_silent_after interval) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.report_presence(p_instance uuid, p_host text, p_version text, p_mode text, p_canary text, p_silent_after interval) TO service_role;

REVOKE ALL ON FUNCTION reactor.requeue_uploads(p_ids uuid[]) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.requeue_uploads(p_ids uuid[]) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.requeue_uploads(p_ids uuid[]) TO service_role;

REVOKE ALL ON FUNCTION reactor.rescue_uploads(p_ids uuid[], p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.rescue_uploads(p_ids uuid[], p_limit integer) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.rescue_uploads(p_ids uuid[], p_limit integer) TO service_role;

GRANT SELECT ON TABLE public.interpretation_runs TO reactor_worker;
GRANT ALL ON TABLE public.interpretation_runs TO service_role;
GRANT SELECT ON TABLE public.interpretation_runs TO authenticated;

REVOKE ALL ON FUNCTION reactor.run_hint(p_run public.interpretation_runs) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.send(p_channel text, p_hints text[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.send_hints(p_channel text, p_hints text[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.settle_uploads(p_ids uuid[], p_tokens uuid[], p_verdicts text[], p_delays_s double precision[], p_codes text[], p_messages text[], p_urls text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.settle_uploads(p_ids uuid[], p_tokens uuid[], p_verdicts text[], p_delays_s double precision[], p_codes text[], p_messages text[], p_urls text[]) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.settle_uploads(p_ids uuid[], p_tokens uuid[], p_verdicts text[], p_delays_s double precision[], p_codes text[], p_messages text[], p_urls text[]) TO service_role;

REVOKE ALL ON FUNCTION reactor.stamp_pending() FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.status(p_heartbeat_timeout interval) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.status(p_heartbeat_timeout interval) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.status(p_heartbeat_timeout interval) TO service_role;

REVOKE ALL ON FUNCTION reactor.sweep_runs(p_horizon interval, p_heartbeat_timeout interval, p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.sweep_runs(p_horizon interval, p_heartbeat_timeout interval, p_limit integer) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.sweep_runs(p_horizon interval, p_heartbeat_timeout interval, p_limit integer) TO service_role;

REVOKE ALL ON FUNCTION reactor.sweep_uploads(p_horizon interval, p_per_tenant integer, p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.sweep_uploads(p_horizon interval, p_per_tenant integer, p_limit integer) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.sweep_uploads(p_horizon interval, p_per_tenant integer, p_limit integer) TO service_role;

REVOKE ALL ON FUNCTION reactor.traceparent(p_given text) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.track_usage() FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.uncount_run(p_user_id uuid, p_next_user_id uuid, p_month text) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.usage_of(p_user_id uuid) FROM PUBLIC;

GRANT SELECT ON TABLE public.sources TO reactor_worker;
GRANT ALL ON TABLE public.sources TO service_role;
GRANT SELECT ON TABLE public.sources TO authenticated;

REVOKE ALL ON FUNCTION reactor.usage_of_source(p_source public.sources) FROM PUBLIC;

GRANT SELECT ON TABLE public.quota_plans TO authenticated;
GRANT SELECT ON TABLE public.quota_plans TO reactor_worker;
GRANT ALL ON TABLE public.quota_plans TO service_role;

GRANT SELECT ON TABLE public.storage_usage TO reactor_worker;
GRANT ALL ON TABLE public.storage_usage TO service_role;
GRANT SELECT ON TABLE public.storage_usage TO authenticated;

GRANT SELECT ON TABLE public.upload_queue TO reactor_worker;
GRANT ALL ON TABLE public.upload_queue TO service_role;
GRANT SELECT ON TABLE public.upload_queue TO authenticated;

GRANT SELECT ON TABLE reactor.audit_log TO reactor_worker;
GRANT SELECT ON TABLE reactor.audit_log TO service_role;

GRANT SELECT ON TABLE reactor.instance TO reactor_worker;

GRANT SELECT ON TABLE reactor.migration TO reactor_worker;
GRANT SELECT ON TABLE reactor.migration TO service_role;

GRANT SELECT ON TABLE reactor.quota_rejection TO reactor_worker;
GRANT SELECT ON TABLE reactor.quota_rejection TO service_role;
