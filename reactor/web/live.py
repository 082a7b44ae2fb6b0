"""The live view. While pages are open, it reads the database every 3 s, for all pages together.

The activity of this reactor comes from memory, all other figures come from one query. Each version is rendered once for
all pages, as HTML fragments by section id. A page that has the previous version gets the changed fragments; any other
page gets all fragments.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

from anyio import to_thread
from attrs import asdict, define, field

from reactor.core.health import headline, troubles
from reactor.core.settings import Settings
from reactor.engine.faults import DatabaseFaults
from reactor.postgres.admin import LIVE_SUMMARY_CAP
from reactor.runtime.clock import TICKS_PER_S, Clock
from reactor.web import charts, rendering
from reactor.web.recent import BUCKET_S, BUCKETS, RecentActivity, quantile
from reactor.web.summary import REFRESH_S, LatestSummary

MAX_STREAMS = 32
"""Maximum number of open pages."""

_KEEPALIVE_S = 5.0
_COALESCE_S = 0.1
"""Pause after a rendering. Changes during the pause are rendered together."""

_WHEEL_BARS = 45
_WHEEL_SAMPLE = 10_000
_TIMERS_COUNTED_PER_S = 50_000
_SHOWN_DEATHS = 5

Values = dict[str, Any]


@define(kw_only=True, eq=False)
class LiveView:
    """Reads, renders and streams the live page."""

    _recent: RecentActivity
    _summary: LatestSummary
    _clock: Clock
    _instance: str
    """The id of this reactor in reactor.instance."""
    _faults: DatabaseFaults
    _not_ready: Callable[[], list[str]]
    _spool_free_bytes: Callable[[], int]
    _spans_lost: Callable[[], tuple[int, float]]
    _timers_by_due: Callable[[float, int, int], list[int]]
    """(width_s, count, sample): returns the number of timers in each of `count` spans of `width_s` seconds.

    The numbers are exact for up to `sample` timers, and estimates for more."""

    _settings: Settings
    _wheel: tuple[float, list[int]] = field(init=False, default=(float("-inf"), []))
    open_pages: int = field(init=False, default=0)
    _is_closed: bool = field(init=False, default=False)
    _version: int = field(init=False, default=0)
    _published: asyncio.Event = field(init=False, factory=asyncio.Event)
    """Set, and replaced by a new event, when `_version` is incremented or `_is_closed` becomes true."""

    _fragments: dict[str, str] = field(init=False, factory=dict)
    _delta: bytes = field(init=False, default=b"")

    # read

    def request_update(self) -> None:
        """Read the database again and update open pages now."""
        self._summary.invalidate()
        self._recent.changed.set()

    async def refresh(self) -> None:
        """Read the database, unless it was read a moment ago."""
        await self._summary.refresh()

    async def run(self) -> None:
        """Update open pages. Never returns."""
        with suppress(OSError):  # without a free file descriptor: templates are compiled when they are needed
            await to_thread.run_sync(rendering.warm)
        while True:
            next_read = round((self._summary.read_at + REFRESH_S) * TICKS_PER_S) if self.open_pages else None
            with nullcontext() if next_read is None else self._clock.alarm(next_read):
                await self._recent.changed.wait()
            self._recent.changed.clear()
            if self.open_pages:
                await self._summary.refresh(REFRESH_S - _COALESCE_S)
                self._publish()
                await self._clock.sleep(_COALESCE_S)

    # render

    def facts(self) -> Values:
        """Return the page's figures. GET /api/live returns them as JSON."""
        recent = self._recent
        process = recent.process(
            instance=self._instance,
            fault=self._summary.fault(),
            mode_reason=self._faults.listener_reason,
            not_ready=self._not_ready(),
            spool_free_bytes=self._spool_free_bytes(),
            spans_lost=self._spans_lost(),
        )
        found = troubles(self._summary.figures, process)
        return {
            "well": not found,
            "headline": headline(found),
            "troubles": found,
            "database": self._summary.figures,
            "process": asdict(process),
            "reaction_s": {
                "p50": recent.reactions.quantile(0.5),
                "p95": recent.reactions.quantile(0.95),
                "count": sum(bucket.count for bucket in recent.reactions.buckets()),
            },
            "reconcile": {
                "ago_s": None if recent.reconciled_at is None else self._clock.now() - recent.reconciled_at,
                "missed": recent.missed_in_last_pass,
                "missed_since_start": dict(+recent.missed),
            },
            "wheel": {"span_s": self._settings.wheel_horizon_s, "about": self._timer_counts()},
        }

    def values(self) -> Values:
        """Return the values for the templates."""
        reactions = [(bucket.began_at, bucket.samples) for bucket in self._recent.reactions.buckets()]
        draw = partial(charts.line_chart, span_s=BUCKET_S * BUCKETS, now=self._clock.now())
        facts = self.facts()
        timers = facts["wheel"]["about"]
        return facts | {
            "cap": LIVE_SUMMARY_CAP,
            "deaths": self._deaths(),
            "queue_chart": draw({"waiting": self._summary.waiting, "due": self._summary.due}, gap_s=4 * REFRESH_S),
            "reaction_chart": draw(
                {
                    name: [(at, 1000 * (quantile(samples, share) or 0.0)) for at, samples in reactions]
                    for name, share in (("p95", 0.95), ("p50", 0.5))
                },
                gap_s=2.5 * BUCKET_S,
            ),
            "wheel_bars": charts.histogram(timers),
            "timers": sum(timers),
            "is_estimate": sum(timers) > _WHEEL_SAMPLE,
        }

    def _timer_counts(self) -> list[int]:
        """Return the number of timers that fire in each span. A larger wheel is counted less often, to save time."""
        counted_at, counts = self._wheel
        if self._clock.now() - counted_at >= max(1.0, sum(counts) / _TIMERS_COUNTED_PER_S):
            counts = self._timers_by_due(self._settings.wheel_horizon_s / _WHEEL_BARS, _WHEEL_BARS, _WHEEL_SAMPLE)
            self._wheel = (self._clock.now(), counts)
        return counts

    def _deaths(self) -> list[Values]:
        """Return the newest dead uploads: those in the summary, and those that died later in this reactor."""
        listed, listed_at = [], 0.0
        if summary := self._summary.figures:
            listed, listed_at = summary["dead"], datetime.fromisoformat(summary["now"]).timestamp()
        listed_ids = {death["id"] for death in listed}
        newer = [
            {
                "id": str(death.upload_id),
                "updated_at": datetime.fromtimestamp(death.died_at, UTC),
                "error_code": death.code,
                "error_message": death.message,
            }
            for death in reversed(self._recent.deaths)
            if death.died_at > listed_at and str(death.upload_id) not in listed_ids
        ]
        return [*newer, *listed][:_SHOWN_DEATHS]

    def _publish(self) -> None:
        fragments = rendering.panels(self.values())
        changed = {name: html for name, html in fragments.items() if self._fragments.get(name) != html}
        self._fragments = fragments
        if changed:
            self._version += 1
            self._delta = _message(changed)
            self.wake_streams()

    # send

    def close(self) -> None:
        """End all streams."""
        self._is_closed = True
        self.wake_streams()

    def wake_streams(self) -> None:
        """Let each stream check now whether it has ended, or has something to send."""
        self._published.set()
        self._published = asyncio.Event()

    async def stream(self, lasts: Callable[[], bool]) -> AsyncIterator[bytes]:
        """Yield server-sent events until the page disconnects, `close` is called, or `lasts` returns False.

        A slow page skips versions.
        """
        self.open_pages += 1
        try:
            yield b"retry: 2000\n\n"
            await self.refresh()
            self._publish()
            self._recent.changed.set()
            sent_version = -1
            while not self._is_closed and lasts():
                if sent_version == self._version:
                    with self._clock.alarm(self._clock.tick() + round(_KEEPALIVE_S * TICKS_PER_S)):
                        await self._published.wait()
                    if sent_version == self._version:
                        yield b"event: keepalive\ndata: 0\n\n"
                    continue  # the log-in may have ended meanwhile
                message = self._delta if sent_version == self._version - 1 else _message(self._fragments)
                sent_version = self._version
                yield message
        finally:
            self.open_pages -= 1


def _message(fragments: dict[str, str]) -> bytes:
    return b"event: panels\ndata: " + json.dumps(fragments).encode() + b"\n\n"
