"""Every statement that the running reactor sends, named. The rules are in schema/functions/, one function each."""

from typing import Final, LiteralString

CLAIM_UPLOADS: Final[LiteralString] = "select * from reactor.claim_uploads(%s::uuid[], %s::uuid, %s::interval)"

EXTEND_LEASES: Final[LiteralString] = "select * from reactor.extend_leases(%s::uuid[], %s::uuid[], %s::interval)"

SETTLE_UPLOADS: Final[LiteralString] = (
    "select * from reactor.settle_uploads(%s::uuid[], %s::uuid[], %s::text[], %s::float8[], %s::text[], %s::text[],"
    " %s::text[])"
)

RESCUE_UPLOADS: Final[LiteralString] = "select * from reactor.rescue_uploads(%s::uuid[], %s::int)"

SWEEP_UPLOADS: Final[LiteralString] = "select * from reactor.sweep_uploads(%s::interval, %s::int, %s::int)"

EXPIRE_RUNS: Final[LiteralString] = "select * from reactor.expire_runs(%s::uuid[], %s::interval)"

SWEEP_RUNS: Final[LiteralString] = "select * from reactor.sweep_runs(%s::interval, %s::interval, %s::int)"

MEND_BOOKS: Final[LiteralString] = "select * from reactor.mend_books(%s::int)"

PULSE: Final[LiteralString] = (
    "select * from reactor.pulse(%s::uuid, %s::text, %s::text, %s::text, %s::text, %s::interval)"
)

LEAVE: Final[LiteralString] = "select reactor.leave(%s::uuid)"

STATUS: Final[LiteralString] = "select reactor.status(%s::interval)"

FULLEST_USERS: Final[LiteralString] = "select reactor.fullest_users(%s::int)"

WHAT_IS_MISSING: Final[LiteralString] = "select reactor.what_is_missing()"
