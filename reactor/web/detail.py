"""One row's life: what is known of it, and a timeline of its waits and attempts."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final, LiteralString
from uuid import UUID

from attrs import frozen

from reactor.core.error_codes import CATALOGUE
from reactor.core.health import span
from reactor.core.trace_context import context_of
from reactor.postgres.connection import QueryRunner
from reactor.web.http_errors import missing

WIDTH: Final = 720
_LEAST: Final = 4.0
"""How wide the shortest step is drawn: an attempt takes milliseconds of a life of hours."""

_ERRORS: Final = 200
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
class Step:
    """One piece of a life."""

    kind: str
    """'wait', 'attempt', 'ahead' (a wait that isn't over) or 'end'."""

    words: str
    began: datetime | None = None
    ended: datetime | None = None
    code: str | None = None
    message: str | None = None
    next_step: str | None = None

    @property
    def lasted(self) -> str:
        """Return how long it took, in words; nothing where that isn't known."""
        if self.began is None or self.ended is None:
            return ""
        seconds = (self.ended - self.began).total_seconds()
        return f"{max(0, round(1000 * seconds))}ms" if seconds < 1 else span(seconds)


@frozen(kw_only=True)
class Piece:
    """A step as it is drawn."""

    x: float
    width: float
    step: Step


@frozen(kw_only=True)
class Item:
    """One row, as its page shows it."""

    row: dict[str, Any]
    steps: list[Step]
    pieces: list[Piece]
    trace_id: str
    trace_url: str | None


class Items:
    """Rows by id."""

    def __init__(self, database: QueryRunner, *, heartbeat_timeout_s: float, trace_url: str | None) -> None:
        self._database = database
        self._heartbeat_timeout_s = heartbeat_timeout_s
        self._trace_url = trace_url

    async def upload(self, upload_id: UUID) -> Item:
        """Return an upload. Raises Refusal when there is none."""
        found = await self._database.call(_UPLOAD, (upload_id,))
        if not found:
            where = "a stored one's row is gone, its source says where it is"
            raise missing(f"there is no upload {upload_id} in the queue: {where}")
        [(row, errors, now)] = found
        return self._item(row, upload_id, list(_upload_steps(row, errors[-_ERRORS:], now)))

    async def run(self, run_id: UUID) -> Item:
        """Return a run. Raises Refusal when there is none."""
        found = await self._database.call(_RUN, (self._heartbeat_timeout_s, run_id))
        if not found:
            raise missing(f"there is no run {run_id}")
        [(row, _, now)] = found
        return self._item(row, run_id, list(_run_steps(row, now)))

    def _item(self, row: dict[str, Any], row_id: UUID, steps: list[Step]) -> Item:
        trace_id = context_of(row.pop("traceparent"), row_id).trace_hex
        return Item(
            row=row,
            steps=steps,
            pieces=_pieces(steps),
            trace_id=trace_id,
            trace_url=f"{self._trace_url.rstrip('/')}/trace/{trace_id}" if self._trace_url else None,
        )


def _upload_steps(row: Mapping[str, Any], errors: list[Any], now: datetime) -> Iterator[Step]:
    since = _moment(row["created_at"])
    yield Step(kind="start", words="queued: the app's own attempt had failed", ended=since)
    for entry in errors:
        if not isinstance(entry, dict):
            continue  # an app may write anything
        began, ended = _moment(entry.get("began")), _moment(entry.get("at"))
        if began is not None:
            yield Step(kind="wait", words="waited", began=since, ended=began)
        code, message = _text(entry.get("code")), _text(entry.get("message"))
        words = f"attempt {_text(entry.get('attempt')) or '?'} failed"
        # an attempt of an older version's has no beginning: it ended, and that is all that is known
        yield Step(
            kind="attempt",
            words=words,
            began=began or ended,
            ended=ended,
            code=code,
            message=message,
            next_step=_next(code),
        )
        since = ended or since
    changed, due = _moment(row["updated_at"]), _moment(row["next_retry_at"])
    match row["status"]:
        case "uploading":
            yield Step(kind="wait", words="waited", began=since, ended=changed)
            yield Step(kind="running", words=f"attempt {row['retry_count']} is under way", began=changed, ended=now)
        case "failed" if due is not None and due > now:
            words = f"waits; attempt {row['retry_count'] + 1} is due"
            yield Step(kind="ahead", words=words, began=since, ended=due)
        case "failed":
            words = f"attempt {row['retry_count'] + 1} has been due since then"
            yield Step(kind="ahead", words=words, began=since, ended=due or now)
        case "dead":
            yield _end("given up", changed, row)
        case _:
            yield Step(kind="end", words="cancelled by an operator", ended=changed)


def _run_steps(row: Mapping[str, Any], now: datetime) -> Iterator[Step]:
    began = _moment(row["started_at"]) or _moment(row["created_at"])
    beat, ended, due = _moment(row["heartbeat_at"]), _moment(row["completed_at"]), _moment(row["due_at"])
    yield Step(kind="start", words="began", ended=began)
    if beat is not None and (began is None or beat >= began):
        yield Step(kind="running", words="its worker lived: the last heartbeat", began=began, ended=beat)
    last = beat or began
    match row["status"]:
        case "running" | "pending":
            yield Step(kind="ahead", words="its deadline, unless a heartbeat comes first", began=last, ended=due or now)
        case "failed":
            yield Step(kind="wait", words="until it was failed", began=last, ended=ended)
            yield _end("failed", ended, row)
        case _:
            yield Step(kind="running", words="until it was completed", began=last, ended=ended)
            yield Step(kind="end", words=str(row["status"]), ended=ended)


def _next(code: str | None) -> str | None:
    """Return what the catalogue says can be done now."""
    known = CATALOGUE.get(code or "")
    return None if known is None else known.next_step


def _end(words: str, at: datetime | None, row: Mapping[str, Any]) -> Step:
    code = row["error_code"]
    return Step(kind="end", words=words, ended=at, code=code, message=row["error_message"], next_step=_next(code))


def _pieces(steps: list[Step]) -> list[Piece]:
    """Lay the steps that last side by side: to scale, but none too narrow to be seen."""
    lasting = [step for step in steps if step.began is not None and step.ended is not None and step.ended >= step.began]
    lengths = [(step.ended - step.began).total_seconds() for step in lasting if step.began and step.ended]
    least = min(_LEAST, WIDTH / max(1, len(lasting)))
    scale = (WIDTH - least * len(lasting)) / (sum(lengths) or 1.0)
    pieces, x = [], 0.0
    for step, length in zip(lasting, lengths, strict=True):
        width = least + length * scale
        pieces.append(Piece(x=round(x, 1), width=round(max(1.0, width - 1), 1), step=step))
        x += width
    return pieces


def _moment(value: object) -> datetime | None:
    """Read a time as PostgreSQL's JSON has it; None for what Python's calendar lacks, or what is no time at all."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return moment if moment is None or moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _text(value: object) -> str | None:
    return None if value is None else str(value)[:2000]
