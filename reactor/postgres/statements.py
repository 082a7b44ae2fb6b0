"""The fixed statements of the reactor and its client. schema/functions/ defines the functions that they call."""

from typing import Final

CLAIM_UPLOADS: Final = (
    "select state, id, due_at, claimed_at, created_at, attempt, max_retries, byte_size, bucket, object_path,"
    " content_hash, spool, temp_file_path, mime_type, traceparent, last_code, ordinal, waited_since, lost_at,"
    " source_id, user_id"
    " from reactor.claim_uploads(%s::uuid[], %s::uuid, %s::interval)"
)

CLAIM_UPLOADS_EXCEPT: Final = CLAIM_UPLOADS.removesuffix(")") + ", %s::text[], %s::text[])"
"""CLAIM_UPLOADS with the names of held buckets and held spools."""

EXTEND_LEASES: Final = "select id, extended from reactor.extend_leases(%b::uuid[], %b::uuid[], %s::interval)"

SETTLE_UPLOADS: Final = (
    "select id, state, due_at, settled_at, message"
    " from reactor.settle_uploads(%s::uuid[], %s::uuid[], %b::text[], %b::float8[], %b::text[], %b::text[],"
    " %b::text[], %s::int, %s::int)"
)

REFUSE_UPLOAD: Final = (
    "select state, message, refused_at from reactor.refuse_upload(%s::uuid, %s::uuid, %s::text, %s::text)"
)

CONFIRM_STORED: Final = (
    "select stored.id from reactor.confirm_stored(%b::uuid[], %b::uuid[], %b::text[]) as stored (id)"
)

RESCUE_UPLOADS: Final = (
    "select id, verdict, code, traceparent, attempt, ordinal, bucket, byte_size, created_at, claimed_at, rescued_at,"
    " user_id"
    " from reactor.rescue_uploads(%b::uuid[], %s::int)"
)

SWEEP_UPLOADS: Final = (
    "select id, tenant, due_at, changed_at from reactor.sweep_uploads(%s::interval, %s::int, %s::int)"
)

EXPIRE_RUNS: Final = (
    "select id, due_at, code, late_s, traceparent, failed_at, user_id"
    " from reactor.expire_runs(%b::uuid[], %s::interval)"
)

SWEEP_RUNS: Final = "select id, tenant, due_at, changed_at from reactor.sweep_runs(%s::interval, %s::interval, %s::int)"
REPAIR_USAGE: Final = "select kind, count from reactor.repair_usage(%s::int)"
CLOCK: Final = "select extract(epoch from clock_timestamp())::float8 as now_at"

REPORT_PRESENCE: Final = (
    "select now_at, queue_usage, instances, listening"
    " from reactor.report_presence(%s::uuid, %s::text, %s::int, %s::int, %s::text, %s::text, %s::text, %s::interval)"
)

DEREGISTER_INSTANCE: Final = "select reactor.deregister_instance(%s::uuid)"
STATUS: Final = "select reactor.status(%s::interval)"
FULLEST_USERS: Final = "select reactor.fullest_users(%s::int)"
MISSING_PRIVILEGES: Final = "select reactor.missing_privileges()"

# The public SQL functions, for services and agents.

RESERVE_UPLOAD: Final = (
    "select public.reserve_upload(%s::uuid, %s::text, %s::numeric, %s::text, %s::text, %s::text, %s::text, %s::jsonb)"
)

COMPLETE_UPLOAD: Final = "select public.complete_upload(%s::uuid, %s::text)"

FAIL_UPLOAD: Final = (
    "select public.fail_upload(%s::uuid, %s::text, %s::text, %s::text, %s::text, %s::text, %s::text, %s::int,"
    " %s::jsonb)"
)

GET_USAGE: Final = "select public.get_usage(%s::uuid)"

BEGIN_INTERPRETATION: Final = (
    "select public.begin_interpretation(%s::uuid, %s::jsonb, %s::interval, %s::interval, %s::text, %s::uuid)"
)

HEARTBEAT_INTERPRETATION: Final = "select public.heartbeat_interpretation(%s::uuid)"
COMPLETE_INTERPRETATION: Final = "select public.complete_interpretation(%s::uuid)"
FAIL_INTERPRETATION: Final = "select public.fail_interpretation(%s::uuid, %s::text, %s::text)"

# The operator page and `reactor status --watch`.

LIVE_SUMMARY: Final = "select reactor.live_summary(%s::interval, %s::int)"
OPERATE: Final = "select reactor.operate(%s::uuid, %s::text, %s::text, %s::text, %b::uuid[], %s::jsonb, %s::text)"
