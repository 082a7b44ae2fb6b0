"""The page of one upload or run: its columns, and a timeline of its waits and attempts."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final, LiteralString
from uuid import UUID

from attrs import frozen

from reactor.core.durations import duration_text
from reactor.core.error_codes import CATALOGUE
from reactor.core.settings import Settings
from reactor.core.trace_context import context_of
from reactor.postgres.connection import QueryRunner
from reactor.web.filters import parse_path_id
from reactor.web.http_errors import not_found

WIDTH: Final = 720
_MIN_WIDTH: Final = 4.0
"""Minimum width of a step, because an attempt of milliseconds must be visible in a timeline of hours."""

_MAX_ATTEMPTS: Final = 200
"""Maximum number of attempts shown. If there are more, the last attempts are shown."""

_UPLOAD: Final[LiteralString] = """
    select to_jsonb(q) - '{lease_token,errors,metadata,temp_file_path}'::text[]
               || jsonb_build_object('object_path', left(q.object_path, 2000), 'bucket', left(q.bucket, 2000),
                                     'error_message', left(q.error_message, 2000),
                                     'traceparent', left(q.traceparent, 200),
                                     'storage_status', s.storage_status, 'file_name', left(s.file_name, 2000)) as row,
           case when jsonb_typeof(q.errors) = 'array' then q.errors else '[]' end as errors, clock_timestamp() as now_at
      from public.upload_queue as q left join public.sources as s on s.id = q.source_id
     where q.id = %s
"""

_RUN: Final[LiteralString] = """
    select to_jsonb(r) - 'interpretation_config' || jsonb_build_object(
               'error_message', left(r.error_message, 2000), 'traceparent', left(r.traceparent, 200),
               'due_at', reactor.deadline(r.timeout_at, r.heartbeat_at,
                                          coalesce(r.heartbeat_timeout, make_interval(secs => %s)))) as row,
           clock_timestamp() as now_at
      from public.interpretation_runs as r
     where r.id = %s
"""


@frozen
class TimelineStep:
    """One step in the timeline of an upload or run."""

    kind: str
    """'start', 'wait', 'attempt', 'running', 'ahead' (a wait that has not ended) or 'end'."""

    text: str
    began: datetime | None = None
    ended: datetime | None = None
    code: str | None = None
    message: str | None = None

    @property
    def advice(self) -> str | None:
        """Return the next step from the catalogue of error codes; None for an unknown code."""
        entry = CATALOGUE.get(self.code or "")
        return None if entry is None else entry.next_step

    @property
    def length_s(self) -> float | None:
        """Return the step's length in seconds; None if unknown."""
        return None if self.began is None or self.ended is None else (self.ended - self.began).total_seconds()

    @property
    def duration(self) -> str:
        """Return the step's length as text for people; empty if unknown."""
        if self.length_s is None:
            return ""
        return duration_text(self.length_s) if self.length_s >= 1 else f"{max(0, round(1000 * self.length_s))}ms"


@frozen
class Details:
    """Reads one upload or run by id, for its page."""

    _database: QueryRunner
    _settings: Settings

    async def upload(self, text: str) -> dict[str, Any]:
        """Return the template values of the upload with this id. Raises HttpError if there is no such upload."""
        upload_id = parse_path_id(text, "an upload")
        advice = "if it was stored, its row was removed and its source has the address"
        missing = f"there is no upload {upload_id} in the queue: {advice}"
        row, errors, now = await self._read(_UPLOAD, (upload_id,), missing)
        return self._detail(row, upload_id, list(upload_timeline(row, errors[-_MAX_ATTEMPTS:], now)))

    async def run(self, text: str) -> dict[str, Any]:
        """Return the template values of the run with this id. Raises HttpError if there is no such run."""
        run_id = parse_path_id(text, "a run")
        row, now = await self._read(_RUN, (self._settings.heartbeat_timeout_s, run_id), f"there is no run {run_id}")
        return self._detail(row, run_id, list(run_timeline(row, now)))

    async def _read(self, statement: LiteralString, parameters: tuple[Any, ...], missing: str) -> Any:
        for row in await self._database.call(statement, parameters):
            return row
        raise not_found(missing)

    def _detail(self, row: dict[str, Any], row_id: UUID, steps: list[TimelineStep]) -> dict[str, Any]:
        trace_id = context_of(row.pop("traceparent"), row_id).trace_id.hex()
        site = self._settings.trace_url
        trace_url = f"{site.rstrip('/')}/trace/{trace_id}" if site else None
        return {"row": row, "steps": steps, "bars": timeline_bars(steps), "trace_id": trace_id, "trace_url": trace_url}


def upload_timeline(row: Mapping[str, Any], errors: list[Any], now: datetime) -> Iterator[TimelineStep]:
    """Yield an upload's steps in order. `errors` is the column upload_queue.errors: apps may write any JSON there."""
    since = _parse_time(row["created_at"])
    yield TimelineStep("start", "queued after the app's own attempt failed", ended=since)
    for entry in (each for each in errors if isinstance(each, dict)):
        began, ended = _parse_time(entry.get("began")), _parse_time(entry.get("at"))
        if began is not None:
            yield TimelineStep("wait", "waited", since, began)
        text = f"attempt {_text(entry.get('attempt')) or '?'} failed"
        code, message = _text(entry.get("code")), _text(entry.get("message"))
        yield TimelineStep("attempt", text, began or ended, ended, code, message)  # older rows lack `began`
        since = ended or since
    changed, due, number = _parse_time(row["updated_at"]), _parse_time(row["next_retry_at"]), row["retry_count"]
    match row["status"]:
        case "uploading":
            yield TimelineStep("wait", "waited", since, changed)
            yield TimelineStep("running", f"attempt {number} is running", changed, now)
        case "failed" if due is not None and due > now:
            yield TimelineStep("ahead", f"waiting; attempt {number + 1} is due", since, due)
        case "failed":
            yield TimelineStep("ahead", f"attempt {number + 1} has been due since then", since, due or now)
        case "dead":
            yield TimelineStep("end", "dead", None, changed, row["error_code"], row["error_message"])
        case _:
            yield TimelineStep("end", "cancelled by an operator", ended=changed)


def run_timeline(row: Mapping[str, Any], now: datetime) -> Iterator[TimelineStep]:
    """Yield a run's steps in order."""
    began = _parse_time(row["started_at"]) or _parse_time(row["created_at"])
    heartbeat, ended = _parse_time(row["heartbeat_at"]), _parse_time(row["completed_at"])
    yield TimelineStep("start", "started", ended=began)
    if heartbeat is not None and (began is None or heartbeat >= began):
        yield TimelineStep("running", "its worker was alive until the last heartbeat", began, heartbeat)
    last = heartbeat or began
    match row["status"]:
        case "running" | "pending":
            due = _parse_time(row["due_at"]) or now
            yield TimelineStep("ahead", "its deadline, unless a heartbeat arrives first", last, due)
        case "failed":
            yield TimelineStep("wait", "waited until it was failed", last, ended)
            yield TimelineStep("end", "failed", None, ended, row["error_code"], row["error_message"])
        case _:
            yield TimelineStep("running", "ran until it was completed", last, ended)
            yield TimelineStep("end", str(row["status"]), ended=ended)


def timeline_bars(steps: list[TimelineStep]) -> list[tuple[float, float, TimelineStep]]:
    """Return (x, width, step) of each step with a known length. The steps fill WIDTH side by side.

    A width is the minimum width plus a part that is proportional to the length.
    """
    timed = [(step, step.length_s) for step in steps if step.length_s is not None and step.length_s >= 0]
    min_width = min(_MIN_WIDTH, WIDTH / max(1, len(timed)))
    scale = (WIDTH - min_width * len(timed)) / (sum(length_s for _, length_s in timed) or 1.0)
    bars, x = [], 0.0
    for step, length_s in timed:
        width = min_width + length_s * scale
        bars.append((round(x, 1), round(max(1.0, width - 1), 1), step))
        x += width
    return bars


def _parse_time(value: object) -> datetime | None:
    """Parse a time of PostgreSQL's JSON; None for any other value, and for times that Python can't represent."""
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return time if time is None or time.tzinfo is not None else time.replace(tzinfo=UTC)


def _text(value: object) -> str | None:
    return None if value is None else str(value)[:2000]
