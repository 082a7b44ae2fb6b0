"""The page of one upload or run: its columns, and a timeline of its waits and attempts."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final, LiteralString
from uuid import UUID

from attrs import frozen

from reactor.core.error_codes import CATALOGUE
from reactor.core.health import duration_text
from reactor.core.trace_context import context_of
from reactor.postgres.connection import QueryRunner
from reactor.web.http_errors import not_found

WIDTH: Final = 720
_MIN_WIDTH: Final = 4.0
"""Width of the shortest step: an attempt of milliseconds must stay visible in a timeline of hours."""

_MAX_ATTEMPTS: Final = 200
"""How many attempts are shown, the last ones."""

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
           '[]'::jsonb as errors, clock_timestamp() as now_at
      from public.interpretation_runs as r
     where r.id = %s
"""


@frozen(kw_only=True)
class TimelineStep:
    """One step in a row's life."""

    kind: str
    """'start', 'wait', 'attempt', 'running', 'ahead' (a wait that has not ended) or 'end'."""

    text: str
    began: datetime | None = None
    ended: datetime | None = None
    code: str | None = None
    message: str | None = None
    advice: str | None = None
    """What the catalogue of error codes says to do next."""

    @property
    def duration(self) -> str:
        """Return how long the step took, for people; empty when unknown."""
        if self.began is None or self.ended is None:
            return ""
        seconds = (self.ended - self.began).total_seconds()
        return f"{max(0, round(1000 * seconds))}ms" if seconds < 1 else duration_text(seconds)


@frozen(kw_only=True)
class TimelineBar:
    """Where a step is drawn."""

    x: float
    width: float
    step: TimelineStep


@frozen(kw_only=True)
class Detail:
    """One row, as its page shows it."""

    row: dict[str, Any]
    steps: list[TimelineStep]
    bars: list[TimelineBar]
    trace_id: str
    trace_url: str | None


class Details:
    """Reads uploads and runs by id."""

    def __init__(self, database: QueryRunner, *, heartbeat_timeout_s: float, trace_url: str | None) -> None:
        self._database = database
        self._heartbeat_timeout_s = heartbeat_timeout_s
        self._trace_url = trace_url

    async def upload(self, upload_id: UUID) -> Detail:
        """Return an upload. Raises HttpError when there is none."""
        rows = await self._database.call(_UPLOAD, (upload_id,))
        if not rows:
            advice = "if it was stored, its row was removed and its source has the address"
            raise not_found(f"there is no upload {upload_id} in the queue: {advice}")
        [(row, errors, now)] = rows
        return self._detail(row, upload_id, list(upload_timeline(row, errors[-_MAX_ATTEMPTS:], now)))

    async def run(self, run_id: UUID) -> Detail:
        """Return a run. Raises HttpError when there is none."""
        rows = await self._database.call(_RUN, (self._heartbeat_timeout_s, run_id))
        if not rows:
            raise not_found(f"there is no run {run_id}")
        [(row, _, now)] = rows
        return self._detail(row, run_id, list(run_timeline(row, now)))

    def _detail(self, row: dict[str, Any], row_id: UUID, steps: list[TimelineStep]) -> Detail:
        trace_id = context_of(row.pop("traceparent"), row_id).trace_id.hex()
        return Detail(
            row=row,
            steps=steps,
            bars=timeline_bars(steps),
            trace_id=trace_id,
            trace_url=f"{self._trace_url.rstrip('/')}/trace/{trace_id}" if self._trace_url else None,
        )


def upload_timeline(row: Mapping[str, Any], errors: list[Any], now: datetime) -> Iterator[TimelineStep]:
    """Yield an upload's steps in order. `errors` is the column upload_queue.errors: apps may write anything there."""
    since = _parse_time(row["created_at"])
    yield TimelineStep(kind="start", text="queued after the app's own attempt failed", ended=since)
    for entry in errors:
        if not isinstance(entry, dict):
            continue
        began, ended = _parse_time(entry.get("began")), _parse_time(entry.get("at"))
        if began is not None:
            yield TimelineStep(kind="wait", text="waited", began=since, ended=began)
        code = _text(entry.get("code"))
        yield TimelineStep(
            kind="attempt",
            text=f"attempt {_text(entry.get('attempt')) or '?'} failed",
            began=began or ended,  # older rows have no beginning
            ended=ended,
            code=code,
            message=_text(entry.get("message")),
            advice=_advice(code),
        )
        since = ended or since
    changed, due = _parse_time(row["updated_at"]), _parse_time(row["next_retry_at"])
    match row["status"]:
        case "uploading":
            text = f"attempt {row['retry_count']} is running"
            yield TimelineStep(kind="wait", text="waited", began=since, ended=changed)
            yield TimelineStep(kind="running", text=text, began=changed, ended=now)
        case "failed" if due is not None and due > now:
            text = f"waiting; attempt {row['retry_count'] + 1} is due"
            yield TimelineStep(kind="ahead", text=text, began=since, ended=due)
        case "failed":
            text = f"attempt {row['retry_count'] + 1} has been due since then"
            yield TimelineStep(kind="ahead", text=text, began=since, ended=due or now)
        case "dead":
            yield _failed_end("dead", changed, row)
        case _:
            yield TimelineStep(kind="end", text="cancelled by an operator", ended=changed)


def run_timeline(row: Mapping[str, Any], now: datetime) -> Iterator[TimelineStep]:
    """Yield a run's steps in order."""
    began = _parse_time(row["started_at"]) or _parse_time(row["created_at"])
    heartbeat, ended = _parse_time(row["heartbeat_at"]), _parse_time(row["completed_at"])
    due = _parse_time(row["due_at"])
    yield TimelineStep(kind="start", text="started", ended=began)
    if heartbeat is not None and (began is None or heartbeat >= began):
        text = "its worker was alive until the last heartbeat"
        yield TimelineStep(kind="running", text=text, began=began, ended=heartbeat)
    last = heartbeat or began
    match row["status"]:
        case "running" | "pending":
            text = "its deadline, unless a heartbeat arrives first"
            yield TimelineStep(kind="ahead", text=text, began=last, ended=due or now)
        case "failed":
            yield TimelineStep(kind="wait", text="waited until it was failed", began=last, ended=ended)
            yield _failed_end("failed", ended, row)
        case _:
            yield TimelineStep(kind="running", text="ran until it was completed", began=last, ended=ended)
            yield TimelineStep(kind="end", text=str(row["status"]), ended=ended)


def _advice(code: str | None) -> str | None:
    entry = CATALOGUE.get(code or "")
    return None if entry is None else entry.next_step


def _failed_end(text: str, at: datetime | None, row: Mapping[str, Any]) -> TimelineStep:
    code, message = row["error_code"], row["error_message"]
    return TimelineStep(kind="end", text=text, ended=at, code=code, message=message, advice=_advice(code))


def timeline_bars(steps: list[TimelineStep]) -> list[TimelineBar]:
    """Lay the steps that have a duration side by side over WIDTH: to scale above a minimum width."""
    timed = [step for step in steps if step.began is not None and step.ended is not None and step.ended >= step.began]
    lengths_s = [(step.ended - step.began).total_seconds() for step in timed if step.began and step.ended]
    min_width = min(_MIN_WIDTH, WIDTH / max(1, len(timed)))
    scale = (WIDTH - min_width * len(timed)) / (sum(lengths_s) or 1.0)
    bars, x = [], 0.0
    for step, length_s in zip(timed, lengths_s, strict=True):
        width = min_width + length_s * scale
        bars.append(TimelineBar(x=round(x, 1), width=round(max(1.0, width - 1), 1), step=step))
        x += width
    return bars


def _parse_time(value: object) -> datetime | None:
    """Parse a time of PostgreSQL's JSON; None for any other value, and for times outside of Python's calendar."""
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return time if time is None or time.tzinfo is not None else time.replace(tzinfo=UTC)


def _text(value: object) -> str | None:
    return None if value is None else str(value)[:2000]
