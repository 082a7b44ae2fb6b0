"""The names and labels that a reactor exports at /metrics after it has emitted every event."""

import types
import typing
from collections import defaultdict
from collections.abc import Sequence
from enum import Enum
from typing import Any, Union, get_args, get_type_hints
from urllib.request import urlopen
from uuid import UUID, uuid4

import attrs
from anyio import to_thread
from prometheus_client.parser import text_string_to_metric_families

from reactor.core.events import EVENT_TYPES
from reactor.core.model import Verdict
from reactor.core.trace_context import TraceContext, context_of
from support.app import App
from support.recorder import Recorder

_TRACE = "0af7651916cd43dd8448eb211c80319c"
_TEXTS = {"trace_id": _TRACE, "traceparent": f"00-{_TRACE}-b7ad6b7169203331-01"}


async def exported_metrics(app: App, recorder: Recorder) -> dict[str, set[str]]:
    """Return the labels of each metric that a reactor exports after every event was emitted.

    The database has a dead upload, a waiting upload, a running run and a refused reservation.
    """
    app.queue_uploads(status="dead")
    app.queue_uploads(next_retry_at="2100-01-01")
    app.begin_run(timeout_at="2100-01-01")
    refuse_an_upload(app)
    async with app.running_reactor(recorder) as reactor:
        for kind in EVENT_TYPES:
            reactor.emit(sample(kind))
        text = await to_thread.run_sync(_scrape, reactor.http_url)
    found: dict[str, set[str]] = defaultdict(set)
    for family in text_string_to_metric_families(text):
        for metric_sample in family.samples:
            found[metric_sample.name] |= set(metric_sample.labels)
    return found


def refuse_an_upload(app: App) -> None:
    """Reserve more bytes than the quota allows, so that the database counts a refusal."""
    answer = app.one(
        "select public.reserve_upload(p_user_id => %s, p_content_hash => %s, p_byte_size => %s::bigint,"
        " p_mime_type => 'text/plain', p_file_name => 'large.txt')",
        uuid4(),
        "0" * 64,
        2**50,
    )
    assert answer["code"] == "STORAGE_QUOTA_EXCEEDED"


def _scrape(url: str) -> str:
    with urlopen(f"{url}/metrics", timeout=10) as answer:  # noqa: S310  # the reactor under test
        text: str = answer.read().decode()
        return text


def sample(kind: type[Any]) -> Any:
    """Return an instance of `kind` with plausible values. `kind` is an event type, or a type nested in an event."""
    hints = get_type_hints(kind)
    return kind(**{name: _value(name, hints[name]) for name in _names(kind)})


def _names(kind: type[Any]) -> list[str]:
    """Return the fields of an attrs class or named tuple."""
    return [field.name for field in attrs.fields(kind)] if attrs.has(kind) else list(getattr(kind, "_fields", ()))


def _value(name: str, hint: Any) -> Any:
    if typing.get_origin(hint) in {Union, types.UnionType}:
        hint = get_args(hint)[0]
    if hint is str:
        return _TEXTS.get(name, "sample")
    if typing.get_origin(hint) is Sequence:
        return [_value(name, get_args(hint)[0])]
    if typing.get_origin(hint) is tuple:
        return tuple(_value(name, part) for part in get_args(hint))
    if hint is TraceContext:
        return context_of(_TEXTS["traceparent"], UUID(int=1))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return Verdict.RETRY if hint is Verdict else next(iter(hint))
    plain: dict[Any, Any] = {bool: True, int: 1, float: 1.0, UUID: UUID(int=1)}
    return sample(hint) if _names(hint) else plain[hint]
