CREATE SCHEMA auth;

CREATE SCHEMA reactor;

COMMENT ON SCHEMA reactor IS 'What only the reactor needs: its ledger, its tables, its functions.';

CREATE TYPE reactor.ended_attempt AS (
	id uuid,
	token uuid,
	verdict text,
	delay_s double precision,
	code text,
	message text,
	url text
);

CREATE FUNCTION auth.uid() RETURNS uuid
    LANGUAGE sql STABLE;

CREATE FUNCTION public.begin_interpretation(p_source_id uuid, p_config jsonb DEFAULT '{}'::jsonb, p_timeout interval DEFAULT '00:10:00'::interval, p_heartbeat_timeout interval DEFAULT NULL::interval, p_traceparent text DEFAULT NULL::text, p_run_id uuid DEFAULT gen_random_uuid()) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION public.complete_interpretation(p_run_id uuid) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION public.complete_upload(p_source_id uuid, p_storage_url text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION public.fail_interpretation(p_run_id uuid, p_code text DEFAULT 'INTERPRETATION_FAILED'::text, p_message text DEFAULT NULL::text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION public.fail_upload(p_source_id uuid, p_bucket text, p_object_path text, p_temp_file_path text, p_error_message text DEFAULT NULL::text, p_spool text DEFAULT 'default'::text, p_traceparent text DEFAULT NULL::text, p_max_retries integer DEFAULT 5, p_metadata jsonb DEFAULT '{}'::jsonb) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION public.get_usage(p_user_id uuid) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION public.heartbeat_interpretation(p_run_id uuid) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION public.heartbeat_interpretations(p_run_ids uuid[]) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION public.recalculate_usage(p_user_id uuid) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION public.reserve_upload(p_user_id uuid, p_content_hash text, p_byte_size numeric, p_mime_type text DEFAULT NULL::text, p_file_name text DEFAULT NULL::text, p_source_type text DEFAULT NULL::text, p_source_agent_id text DEFAULT NULL::text, p_source_metadata jsonb DEFAULT '{}'::jsonb) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION public.set_plan(p_user_id uuid, p_plan text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.acts_for(p_caller uuid, p_user_id uuid) RETURNS boolean
    LANGUAGE sql IMMUTABLE;

CREATE FUNCTION reactor.attempt_error(p_began timestamp with time zone, p_attempt integer, p_code text, p_message text, p_traceparent text) RETURNS jsonb
    LANGUAGE sql;

CREATE FUNCTION reactor.bury_refused(p_id uuid, p_token uuid, p_message text, p_with_source boolean) RETURNS text
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.caller() RETURNS uuid
    LANGUAGE sql STABLE;

CREATE FUNCTION reactor.cancel_uploads(p_ids uuid[]) RETURNS SETOF uuid
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.claim_uploads(p_ids uuid[], p_token uuid, p_lease interval, p_held_buckets text[] DEFAULT '{}'::text[], p_held_spools text[] DEFAULT '{}'::text[]) RETURNS TABLE(id uuid, state text, due_at double precision, claimed_at double precision, created_at double precision, attempt integer, max_retries integer, byte_size bigint, bucket text, object_path text, content_hash text, spool text, temp_file_path text, mime_type text, traceparent text, last_code text, ordinal integer, waited_since double precision, lost_at double precision, source_id uuid, user_id uuid)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '100ms'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off';

CREATE FUNCTION reactor.clear_usage() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.concerns_everybody(p_sqlstate text, p_context text) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.confirm_stored(p_ids uuid[], p_sources uuid[], p_urls text[]) RETURNS SETOF uuid
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off';

CREATE FUNCTION reactor.count_inserted_runs() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.count_run_starts(p_user_id uuid, p_month text, p_count integer) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.count_updated_run() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.deadline(p_timeout_at timestamp with time zone, p_heartbeat_at timestamp with time zone, p_heartbeat_timeout interval) RETURNS timestamp with time zone
    LANGUAGE sql STABLE;

CREATE FUNCTION reactor.deregister_instance(p_instance uuid) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.due_at(p_next_retry_at timestamp with time zone) RETURNS timestamp with time zone
    LANGUAGE sql IMMUTABLE;

CREATE FUNCTION reactor.effective_quota(p_user_id uuid) RETURNS TABLE(plan text, limit_bytes bigint, used_bytes bigint, reserved_bytes bigint, sources integer, interpretation_limit integer, interpretations_used integer, billing_month text, resets_at timestamp with time zone, last_calculated timestamp with time zone)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.ensure_usage_rows(p_users uuid[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.error_catalogue() RETURNS TABLE(code text, sqlstate text, retryable boolean, http_status integer, message text, next_step text)
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.expire_runs(p_ids uuid[], p_heartbeat_timeout interval) RETURNS TABLE(id uuid, due_at double precision, code text, late_s double precision, traceparent text, failed_at double precision, user_id uuid)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off';

CREATE FUNCTION reactor.extend_leases(p_ids uuid[], p_tokens uuid[], p_lease interval) RETURNS TABLE(id uuid, extended boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '100ms'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off';

CREATE FUNCTION reactor.fail_runs(p_ids uuid[], p_message text) RETURNS SETOF uuid
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.fullest_users(p_limit integer) RETURNS jsonb
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.hint(p_id uuid, p_user_id uuid, p_due_at timestamp with time zone) RETURNS text
    LANGUAGE sql STABLE;

CREATE FUNCTION reactor.is_due(p_status text, p_next_retry_at timestamp with time zone) RETURNS boolean
    LANGUAGE sql STABLE;

CREATE FUNCTION reactor.is_marking(p_run_id uuid) RETURNS boolean
    LANGUAGE sql STABLE;

CREATE FUNCTION reactor.is_overdue(p_timeout_at timestamp with time zone, p_heartbeat_at timestamp with time zone, p_heartbeat_timeout interval) RETURNS boolean
    LANGUAGE sql STABLE;

CREATE FUNCTION reactor.is_passing(p_sqlstate text, p_context text) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.is_raised_by_reactor(p_context text) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.jwt_user() RETURNS uuid
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.keep_deleted_run_counts() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.leaked_reservation() RETURNS TABLE(source_id uuid, pending_since timestamp with time zone)
    LANGUAGE sql STABLE;

CREATE FUNCTION reactor.lease_end(p_lease_expires_at timestamp with time zone) RETURNS timestamp with time zone
    LANGUAGE sql IMMUTABLE;

CREATE FUNCTION reactor.lease_has_expired(p_status text, p_lease_expires_at timestamp with time zone) RETURNS boolean
    LANGUAGE sql STABLE;

CREATE FUNCTION reactor.live_summary(p_heartbeat_timeout interval, p_cap integer) RETURNS jsonb
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET jit TO 'off';

CREATE FUNCTION reactor.lock_usage_row(p_user uuid) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.lost_attempt_error(p_began timestamp with time zone, p_attempt integer, p_traceparent text) RETURNS jsonb
    LANGUAGE sql;

CREATE FUNCTION reactor.mark_inserted_run() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

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

COMMENT ON COLUMN public.interpretation_runs.billing_month IS 'the month (UTC) in which the run''s start was counted; null: no start was counted. Only triggers write it';

COMMENT ON COLUMN public.interpretation_runs.heartbeat_notified_until IS 'heartbeats before this time send no notification; null: the next heartbeat sends one. Only triggers write it';

CREATE FUNCTION reactor.mark_run(p_before public.interpretation_runs, p_started_month text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.missing_privileges() RETURNS SETOF text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.move_run_count(p_from_user_id uuid, p_to_user_id uuid, p_month text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.notified_until(p_heartbeat_at timestamp with time zone) RETURNS timestamp with time zone
    LANGUAGE sql STABLE;

CREATE FUNCTION reactor.notify_heartbeat() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.notify_inserted_runs() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.notify_updated_run() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.notify_uploads() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.open_usage_row(p_user uuid) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '1ms';

CREATE FUNCTION reactor.operate(p_request uuid, p_actor text, p_remote_address text, p_action text, p_ids uuid[], p_filter jsonb, p_message text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.pending_retry(p_queue_id uuid, p_source_id uuid) RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.purge_uploads(p_ids uuid[]) RETURNS TABLE(id uuid, spool text, temp_file_path text)
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

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

COMMENT ON COLUMN public.storage_usage.reserved_bytes IS 'bytes of the user''s pending sources';

COMMENT ON COLUMN public.storage_usage.interpretation_count_month IS 'runs started in billing_month, including those whose rows were deleted';

COMMENT ON COLUMN public.storage_usage.storage_limit_bytes IS 'this user''s own limit; null: the plan''s limit applies';

COMMENT ON COLUMN public.storage_usage.interpretation_limit_month IS 'this user''s own limit; null: the plan''s limit applies';

COMMENT ON COLUMN public.storage_usage.last_calculated IS 'when the figures were last recounted from rows';

CREATE FUNCTION reactor.quota_of(p_usage public.storage_usage, p_plan public.quota_plans, p_month text) RETURNS TABLE(limit_bytes bigint, used_bytes bigint, reserved_bytes bigint, interpretation_limit integer, interpretations_used integer)
    LANGUAGE sql IMMUTABLE;

CREATE FUNCTION reactor.raise_quota_exceeded(p_code text, p_details jsonb) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.raise_unchanged(p_table text) RETURNS text
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.reactors() RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.recount_user(p_user_id uuid) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.recount_users(p_after uuid, p_limit integer) RETURNS TABLE(last_user uuid, changed bigint)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.refuse(p_code text, p_message text DEFAULT NULL::text, p_details jsonb DEFAULT '{}'::jsonb, p_next_step text DEFAULT NULL::text) RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.refuse_argument(p_problem text) RETURNS jsonb
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.refuse_ended(p_run_id uuid, p_caller uuid) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.refuse_quota(p_sqlstate text, p_detail text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.refuse_unknown(p_argument text, p_caller uuid) RETURNS jsonb
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.refuse_upload(p_id uuid, p_token uuid, p_sqlstate text, p_message text) RETURNS TABLE(state text, message text, refused_at double precision)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '100ms';

CREATE FUNCTION reactor.repair_usage(p_limit integer) RETURNS TABLE(kind text, count bigint)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.report_presence(p_instance uuid, p_host text, p_pid integer, p_port integer, p_version text, p_mode text, p_canary text, p_silent_after interval) RETURNS TABLE(now_at double precision, queue_usage double precision, instances uuid[], listening uuid[])
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.requeue_uploads(p_ids uuid[]) RETURNS TABLE(id uuid, code text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.rescue_uploads(p_ids uuid[], p_limit integer) RETURNS TABLE(id uuid, verdict text, code text, traceparent text, attempt integer, ordinal integer, bucket text, byte_size bigint, created_at double precision, claimed_at double precision, rescued_at double precision, user_id uuid)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '100ms'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off';

CREATE FUNCTION reactor.run_hint(p_run public.interpretation_runs) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.send(p_channel text, p_hints text[]) RETURNS boolean
    LANGUAGE sql;

CREATE FUNCTION reactor.send_hints(p_channel text, p_hints text[]) RETURNS void
    LANGUAGE plpgsql;

CREATE FUNCTION reactor.settle_batch(p_attempts reactor.ended_attempt[]) RETURNS TABLE(id uuid, state text, due_at double precision, settled_at double precision)
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off';

CREATE FUNCTION reactor.settle_parts(p_attempts reactor.ended_attempt[], p_size integer, p_trusted integer, p_until timestamp with time zone) RETURNS TABLE(id uuid, state text, due_at double precision, settled_at double precision, message text)
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.settle_uploads(p_ids uuid[], p_tokens uuid[], p_verdicts text[], p_delays_s double precision[], p_codes text[], p_messages text[], p_urls text[], p_size integer, p_trusted integer) RETURNS TABLE(id uuid, state text, due_at double precision, settled_at double precision, message text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '100ms';

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

COMMENT ON COLUMN public.sources.pending_since IS 'when the source last became pending';

CREATE FUNCTION reactor.size_of_source(p_source public.sources) RETURNS bigint
    LANGUAGE sql STABLE;

CREATE FUNCTION reactor.stamp_pending() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.status(p_heartbeat_timeout interval) RETURNS jsonb
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET jit TO 'off';

CREATE FUNCTION reactor.sweep_runs(p_horizon interval, p_heartbeat_timeout interval, p_limit integer) RETURNS TABLE(id uuid, tenant integer, due_at double precision, changed_at double precision)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.sweep_uploads(p_horizon interval, p_per_tenant integer, p_limit integer) RETURNS TABLE(id uuid, tenant integer, due_at double precision, changed_at double precision)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off';

CREATE FUNCTION reactor.traceparent(p_given text) RETURNS text
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.track_usage() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off';

CREATE FUNCTION reactor.usage_of(p_user_id uuid) RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp';

CREATE FUNCTION reactor.usage_of_source(p_source public.sources) RETURNS TABLE(user_id uuid, total bigint, reserved bigint, stored integer)
    LANGUAGE sql STABLE;

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

COMMENT ON COLUMN public.upload_queue.retry_count IS 'counted attempts: a claim raises it, a deferred attempt lowers it, an operator''s retry resets it';

COMMENT ON COLUMN public.upload_queue.lease_token IS 'fence: only the claim that set it may settle the row';

COMMENT ON COLUMN public.upload_queue.errors IS 'one entry per failed attempt: at, began, attempt, code, message, trace_id';

COMMENT ON COLUMN public.upload_queue.claim_count IS 'number of claims; unlike retry_count never lowered or reset, so it identifies the spans of each attempt';

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

COMMENT ON TABLE reactor.audit_log IS 'Changes by operators, written only by reactor.operate() in the same transaction.';

COMMENT ON COLUMN reactor.audit_log.actor IS 'the name that the operator or program gave; nothing verifies it';

COMMENT ON COLUMN reactor.audit_log.ids IS 'the ids that were requested; their rows may have been deleted since';

COMMENT ON COLUMN reactor.audit_log.filter IS 'the filter that selected the rows; null: the operator listed them';

COMMENT ON COLUMN reactor.audit_log.outcome IS 'the ids that changed, and a code for each id that was refused';

CREATE TABLE reactor.deleted_interpretation (
    user_id uuid NOT NULL,
    billing_month text NOT NULL,
    count integer NOT NULL,
    CONSTRAINT count_is_positive CHECK ((count > 0))
);

ALTER TABLE ONLY reactor.deleted_interpretation FORCE ROW LEVEL SECURITY;

COMMENT ON TABLE reactor.deleted_interpretation IS 'Numbers of counted runs whose rows were deleted. A recount of usage includes them.';

CREATE TABLE reactor.instance (
    id uuid NOT NULL,
    host text NOT NULL,
    pid integer,
    port integer,
    version text NOT NULL,
    mode text NOT NULL,
    started_at timestamp with time zone DEFAULT now() NOT NULL,
    seen_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT mode_is_known CHECK ((mode = ANY (ARRAY['starting'::text, 'listening'::text, 'polling'::text])))
)
WITH (fillfactor='70');

ALTER TABLE ONLY reactor.instance FORCE ROW LEVEL SECURITY;

COMMENT ON TABLE reactor.instance IS 'Live reactors. A row whose seen_at is old belongs to a dead reactor.';

COMMENT ON COLUMN reactor.instance.pid IS 'the process on its host';

COMMENT ON COLUMN reactor.instance.port IS 'the port of its page; null if it serves none';

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

COMMENT ON TABLE reactor.quota_rejection IS 'Quota refusals by minute, without user ids. Older than a week: one row per quota and plan, at -infinity.';

COMMENT ON COLUMN reactor.quota_rejection.backend IS 'the server process that counted the refusals; 0 for a sum over server processes';

CREATE TABLE reactor.usage_repair (
    id integer DEFAULT 1 NOT NULL,
    CONSTRAINT only_one_row CHECK ((id = 1))
);

ALTER TABLE ONLY reactor.usage_repair FORCE ROW LEVEL SECURITY;

COMMENT ON TABLE reactor.usage_repair IS 'One row; the session that repairs usage locks it.';

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

ALTER TABLE ONLY reactor.usage_repair
    ADD CONSTRAINT usage_repair_pkey PRIMARY KEY (id);

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

CREATE TRIGGER reactor_count_deleted AFTER DELETE ON public.interpretation_runs REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION reactor.keep_deleted_run_counts();

CREATE TRIGGER reactor_count_inserted AFTER INSERT ON public.interpretation_runs REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION reactor.count_inserted_runs();

CREATE TRIGGER reactor_count_truncated AFTER TRUNCATE ON public.interpretation_runs FOR EACH STATEMENT EXECUTE FUNCTION reactor.keep_deleted_run_counts();

CREATE TRIGGER reactor_count_updated AFTER UPDATE OF status, user_id, billing_month ON public.interpretation_runs FOR EACH ROW EXECUTE FUNCTION reactor.count_updated_run();

CREATE TRIGGER reactor_mark_inserted BEFORE INSERT ON public.interpretation_runs FOR EACH ROW EXECUTE FUNCTION reactor.mark_inserted_run();

CREATE TRIGGER reactor_notify_heartbeat AFTER UPDATE OF heartbeat_at ON public.interpretation_runs FOR EACH ROW WHEN ((((old.heartbeat_at, old.heartbeat_notified_until) OVERLAPS (new.heartbeat_at, new.heartbeat_at)) IS NOT TRUE)) EXECUTE FUNCTION reactor.notify_heartbeat();

CREATE TRIGGER reactor_notify_inserted AFTER INSERT ON public.interpretation_runs REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION reactor.notify_inserted_runs();

CREATE TRIGGER reactor_notify_inserted AFTER INSERT ON public.upload_queue REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION reactor.notify_uploads();

CREATE TRIGGER reactor_notify_updated AFTER UPDATE OF status, timeout_at, heartbeat_timeout, heartbeat_notified_until ON public.interpretation_runs FOR EACH ROW EXECUTE FUNCTION reactor.notify_updated_run();

CREATE TRIGGER reactor_notify_updated AFTER UPDATE ON public.upload_queue REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION reactor.notify_uploads();

CREATE TRIGGER reactor_stamp_pending BEFORE UPDATE OF storage_status ON public.sources FOR EACH ROW WHEN (((new.storage_status = 'pending'::text) AND (old.storage_status IS DISTINCT FROM 'pending'::text))) EXECUTE FUNCTION reactor.stamp_pending();

CREATE TRIGGER reactor_track_usage_deleted AFTER DELETE ON public.sources REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION reactor.track_usage();

CREATE TRIGGER reactor_track_usage_inserted AFTER INSERT ON public.sources REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION reactor.track_usage();

CREATE TRIGGER reactor_track_usage_truncated AFTER TRUNCATE ON public.sources FOR EACH STATEMENT EXECUTE FUNCTION reactor.clear_usage();

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

CREATE POLICY reactor_table_owner_does_all ON reactor.usage_repair TO reactor USING (true) WITH CHECK (true);

CREATE POLICY reactor_worker_reads ON reactor.audit_log FOR SELECT TO service_role, reactor_worker USING (true);

CREATE POLICY reactor_worker_reads ON reactor.instance FOR SELECT TO reactor_worker USING (true);

CREATE POLICY reactor_worker_reads ON reactor.quota_rejection FOR SELECT TO service_role, reactor_worker USING (true);

ALTER TABLE reactor.usage_repair ENABLE ROW LEVEL SECURITY;

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

REVOKE ALL ON FUNCTION public.heartbeat_interpretations(p_run_ids uuid[]) FROM PUBLIC;
GRANT ALL ON FUNCTION public.heartbeat_interpretations(p_run_ids uuid[]) TO service_role;

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

REVOKE ALL ON FUNCTION reactor.attempt_error(p_began timestamp with time zone, p_attempt integer, p_code text, p_message text, p_traceparent text) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.bury_refused(p_id uuid, p_token uuid, p_message text, p_with_source boolean) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.caller() FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.cancel_uploads(p_ids uuid[]) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.cancel_uploads(p_ids uuid[]) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.cancel_uploads(p_ids uuid[]) TO service_role;

REVOKE ALL ON FUNCTION reactor.claim_uploads(p_ids uuid[], p_token uuid, p_lease interval, p_held_buckets text[], p_held_spools text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.claim_uploads(p_ids uuid[], p_token uuid, p_lease interval, p_held_buckets text[], p_held_spools text[]) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.claim_uploads(p_ids uuid[], p_token uuid, p_lease interval, p_held_buckets text[], p_held_spools text[]) TO service_role;

REVOKE ALL ON FUNCTION reactor.clear_usage() FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.concerns_everybody(p_sqlstate text, p_context text) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.confirm_stored(p_ids uuid[], p_sources uuid[], p_urls text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.confirm_stored(p_ids uuid[], p_sources uuid[], p_urls text[]) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.confirm_stored(p_ids uuid[], p_sources uuid[], p_urls text[]) TO service_role;

REVOKE ALL ON FUNCTION reactor.count_inserted_runs() FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.count_run_starts(p_user_id uuid, p_month text, p_count integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.count_updated_run() FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.deadline(p_timeout_at timestamp with time zone, p_heartbeat_at timestamp with time zone, p_heartbeat_timeout interval) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.deadline(p_timeout_at timestamp with time zone, p_heartbeat_at timestamp with time zone, p_heartbeat_timeout interval) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.deadline(p_timeout_at timestamp with time zone, p_heartbeat_at timestamp with time zone, p_heartbeat_timeout interval) TO service_role;

REVOKE ALL ON FUNCTION reactor.deregister_instance(p_instance uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.deregister_instance(p_instance uuid) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.deregister_instance(p_instance uuid) TO service_role;

REVOKE ALL ON FUNCTION reactor.due_at(p_next_retry_at timestamp with time zone) FROM PUBLIC;

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

REVOKE ALL ON FUNCTION reactor.fullest_users(p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.fullest_users(p_limit integer) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.fullest_users(p_limit integer) TO service_role;

REVOKE ALL ON FUNCTION reactor.hint(p_id uuid, p_user_id uuid, p_due_at timestamp with time zone) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.is_due(p_status text, p_next_retry_at timestamp with time zone) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.is_marking(p_run_id uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.is_overdue(p_timeout_at timestamp with time zone, p_heartbeat_at timestamp with time zone, p_heartbeat_timeout interval) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.is_passing(p_sqlstate text, p_context text) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.is_raised_by_reactor(p_context text) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.jwt_user() FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.keep_deleted_run_counts() FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.leaked_reservation() FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.lease_end(p_lease_expires_at timestamp with time zone) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.lease_has_expired(p_status text, p_lease_expires_at timestamp with time zone) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.live_summary(p_heartbeat_timeout interval, p_cap integer) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.live_summary(p_heartbeat_timeout interval, p_cap integer) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.live_summary(p_heartbeat_timeout interval, p_cap integer) TO service_role;

REVOKE ALL ON FUNCTION reactor.lock_usage_row(p_user uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.lost_attempt_error(p_began timestamp with time zone, p_attempt integer, p_traceparent text) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.mark_inserted_run() FROM PUBLIC;

GRANT SELECT ON TABLE public.interpretation_runs TO authenticated;
GRANT SELECT ON TABLE public.interpretation_runs TO reactor_worker;
GRANT ALL ON TABLE public.interpretation_runs TO service_role;

REVOKE ALL ON FUNCTION reactor.mark_run(p_before public.interpretation_runs, p_started_month text) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.missing_privileges() FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.missing_privileges() TO reactor_worker;
GRANT ALL ON FUNCTION reactor.missing_privileges() TO service_role;

REVOKE ALL ON FUNCTION reactor.move_run_count(p_from_user_id uuid, p_to_user_id uuid, p_month text) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.notified_until(p_heartbeat_at timestamp with time zone) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.notify_heartbeat() FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.notify_inserted_runs() FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.notify_updated_run() FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.notify_uploads() FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.open_usage_row(p_user uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.operate(p_request uuid, p_actor text, p_remote_address text, p_action text, p_ids uuid[], p_filter jsonb, p_message text) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.operate(p_request uuid, p_actor text, p_remote_address text, p_action text, p_ids uuid[], p_filter jsonb, p_message text) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.operate(p_request uuid, p_actor text, p_remote_address text, p_action text, p_ids uuid[], p_filter jsonb, p_message text) TO service_role;

REVOKE ALL ON FUNCTION reactor.pending_retry(p_queue_id uuid, p_source_id uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.purge_uploads(p_ids uuid[]) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.purge_uploads(p_ids uuid[]) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.purge_uploads(p_ids uuid[]) TO service_role;

GRANT SELECT ON TABLE public.quota_plans TO authenticated;
GRANT SELECT ON TABLE public.quota_plans TO reactor_worker;
GRANT ALL ON TABLE public.quota_plans TO service_role;

GRANT SELECT ON TABLE public.storage_usage TO authenticated;
GRANT SELECT ON TABLE public.storage_usage TO reactor_worker;
GRANT ALL ON TABLE public.storage_usage TO service_role;

REVOKE ALL ON FUNCTION reactor.quota_of(p_usage public.storage_usage, p_plan public.quota_plans, p_month text) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.raise_quota_exceeded(p_code text, p_details jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.raise_unchanged(p_table text) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.reactors() FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.recount_user(p_user_id uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.recount_users(p_after uuid, p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.recount_users(p_after uuid, p_limit integer) TO service_role;
GRANT ALL ON FUNCTION reactor.recount_users(p_after uuid, p_limit integer) TO reactor_worker;

REVOKE ALL ON FUNCTION reactor.refuse(p_code text, p_message text, p_details jsonb, p_next_step text) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.refuse_argument(p_problem text) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.refuse_ended(p_run_id uuid, p_caller uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.refuse_quota(p_sqlstate text, p_detail text) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.refuse_unknown(p_argument text, p_caller uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.refuse_upload(p_id uuid, p_token uuid, p_sqlstate text, p_message text) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.refuse_upload(p_id uuid, p_token uuid, p_sqlstate text, p_message text) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.refuse_upload(p_id uuid, p_token uuid, p_sqlstate text, p_message text) TO service_role;

REVOKE ALL ON FUNCTION reactor.repair_usage(p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.repair_usage(p_limit integer) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.repair_usage(p_limit integer) TO service_role;

REVOKE ALL ON FUNCTION reactor.report_presence(p_instance uuid, p_host text, p_pid integer, p_port integer, p_version text, p_mode text, p_canary text, p_silent_after interval) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.report_presence(p_instance uuid, p_host text, p_pid integer, p_port integer, p_version text, p_mode text, p_canary text, p_silent_after interval) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.report_presence(p_instance uuid, p_host text, p_pid integer, p_port integer, p_version text, p_mode text, p_canary text, p_silent_after interval) TO service_role;

REVOKE ALL ON FUNCTION reactor.requeue_uploads(p_ids uuid[]) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.requeue_uploads(p_ids uuid[]) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.requeue_uploads(p_ids uuid[]) TO service_role;

REVOKE ALL ON FUNCTION reactor.rescue_uploads(p_ids uuid[], p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.rescue_uploads(p_ids uuid[], p_limit integer) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.rescue_uploads(p_ids uuid[], p_limit integer) TO service_role;

REVOKE ALL ON FUNCTION reactor.run_hint(p_run public.interpretation_runs) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.send(p_channel text, p_hints text[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.send_hints(p_channel text, p_hints text[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.settle_batch(p_attempts reactor.ended_attempt[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.settle_parts(p_attempts reactor.ended_attempt[], p_size integer, p_trusted integer, p_until timestamp with time zone) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.settle_uploads(p_ids uuid[], p_tokens uuid[], p_verdicts text[], p_delays_s double precision[], p_codes text[], p_messages text[], p_urls text[], p_size integer, p_trusted integer) FROM PUBLIC;
GRANT ALL ON FUNCTION reactor.settle_uploads(p_ids uuid[], p_tokens uuid[], p_verdicts text[], p_delays_s double precision[], p_codes text[], p_messages text[], p_urls text[], p_size integer, p_trusted integer) TO reactor_worker;
GRANT ALL ON FUNCTION reactor.settle_uploads(p_ids uuid[], p_tokens uuid[], p_verdicts text[], p_delays_s double precision[], p_codes text[], p_messages text[], p_urls text[], p_size integer, p_trusted integer) TO service_role;

GRANT SELECT ON TABLE public.sources TO authenticated;
GRANT SELECT ON TABLE public.sources TO reactor_worker;
GRANT ALL ON TABLE public.sources TO service_role;

REVOKE ALL ON FUNCTION reactor.size_of_source(p_source public.sources) FROM PUBLIC;

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

REVOKE ALL ON FUNCTION reactor.usage_of(p_user_id uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION reactor.usage_of_source(p_source public.sources) FROM PUBLIC;

GRANT SELECT ON TABLE public.upload_queue TO authenticated;
GRANT SELECT ON TABLE public.upload_queue TO reactor_worker;
GRANT ALL ON TABLE public.upload_queue TO service_role;

GRANT SELECT ON TABLE reactor.audit_log TO reactor_worker;
GRANT SELECT ON TABLE reactor.audit_log TO service_role;

GRANT SELECT ON TABLE reactor.instance TO reactor_worker;

GRANT SELECT ON TABLE reactor.migration TO reactor_worker;
GRANT SELECT ON TABLE reactor.migration TO service_role;

GRANT SELECT ON TABLE reactor.quota_rejection TO reactor_worker;
GRANT SELECT ON TABLE reactor.quota_rejection TO service_role;
