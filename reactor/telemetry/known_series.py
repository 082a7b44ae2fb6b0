"""The labels of metrics that are known before the first event. The metrics exist for them from the start, with 0."""

from collections.abc import Mapping
from typing import Any, Final

from reactor.core.model import Verdict

ATTEMPTS: Final = (
    (Verdict.STORED, ""),
    *(
        (Verdict.RETRY, code)
        for code in ("STORAGE_UNAVAILABLE", "SPOOL_UNAVAILABLE", "STORAGE_REJECTED", "SPOOL_FILE_MISSING")
    ),
    *((Verdict.DEFERRED, code) for code in ("", "STORAGE_UNAVAILABLE", "STORAGE_REFUSED", "SPOOL_UNAVAILABLE")),
    *(
        (Verdict.DEAD, code)
        for code in (
            "STORAGE_UPLOAD_FAILED",
            "STORAGE_REJECTED",
            "FILE_TOO_LARGE",
            "SPOOL_FILE_MISSING",
            "SPOOL_PATH_FORBIDDEN",
            "CONTENT_MISMATCH",
            "DATABASE_REFUSED",
        )
    ),
)
"""Outcomes of attempts, each with an error code of reactor/core/error_codes.py."""

TIMEOUT_REASONS: Final = ("INTERPRETATION_TIMEOUT", "INTERPRETATION_HEARTBEAT_LOST")
MISSED_KINDS: Final = ("uploads", "runs", "reservations")
CHANNELS: Final = ("reactor_uploads", "reactor_runs")

QUOTAS: Final = ("storage", "interpretations")
PLANS: Final = ("free", "pro", "enterprise")
"""The plans that the migrations create. The others come from reactor.status()."""

ZERO_FIGURES: Final[Mapping[str, Any]] = {
    "uploads": {"failed": 0, "uploading": 0, "dead": 0, "cancelled": 0, "oldest_due_age_s": 0},
    "runs": {"running": 0},
    "storage_usage": (),
    "quota_rejections": (),
}
"""The figures before the first answer of reactor.status()."""
