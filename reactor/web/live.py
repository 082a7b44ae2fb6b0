"""The live view: reads the database once every few seconds, however many pages are open, and never while none is.

This reactor's own activity is in memory; the rest is one query. The view is rendered once and sent to every page, as
HTML fragments by section id. A page that has just connected gets all fragments, the others those that changed.
"""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from anyio import Lock
from attrs import asdict

from reactor.core.errors import DatabaseUnavailable
from reactor.core.health import Process, headline, troubles
from reactor.postgres.admin import LIVE_SUMMARY_CAP
from reactor.runtime.clock import TICKS_PER_S, Clock
from reactor.web import charts
from reactor.web.recent import BUCKET_S, BUCKETS, RecentActivity, quantile

REFRESH_S = 3.0
"""Twenty transactions a minute; open pages may cost thirty."""

MAX_STREAMS = 32
"""How many pages may be open at once."""

_FRESH_S = 2.0
_KEEPALIVE_S = 5.0
_COALESCE_S = 0.1
"""How long a change waits for others, to be rendered with them."""

_HISTORY_S = BUCKET_S * BUCKETS
_HISTORY_POINTS = round(_HISTORY_S / REFRESH_S)
_WHEEL_BARS = 45
_WHEEL_SAMPLE = 10_000
_TIMERS_COUNTED_PER_S = 50_000
_SHOWN_DEATHS = 5

Values = dict[str, Any]
"""What the templates of the live page show."""

Fragments = dict[str, str]
"""HTML by section id."""


class LiveView:
    """Reads, renders and streams the live page."""

    def __init__(
        self,
        recent: RecentActivity,
        *,
        clock: Clock,
        read_summary: Callable[[], Awaitable[Values]],
        process: Callable[[], Process],
        timers_by_due: Callable[[float, int, int], list[int]],
        horizon_s: float,
        render: Callable[[Values], Fragments],
    ) -> None:
        """Create a view without open pages.

        read_summary: returns reactor.live_summary(). timers_by_due(width_s, count, sample): returns how many timers
        fire in each of `count` spans, estimated from about `sample` timers.
        """
        self._recent = recent
        self._clock = clock
        self._read_summary = read_summary
        self._process = process
        self._timers_by_due = timers_by_due
        self._horizon_s = horizon_s
        self._render = render
        self._summary: Values | None = None
        self._read_at = float("-inf")
        self._is_outdated = False
        self._reading = Lock()
        self._history: deque[tuple[float, int, int]] = deque(maxlen=_HISTORY_POINTS)
        self._wheel: tuple[float, list[int]] = (float("-inf"), [])
        self._changed = recent.changed
        self._streams: set[asyncio.Event] = set()
        self._closed = False
        self._version = 0
        self._fragments: Fragments = {}
        self._delta = b""

    # read

    async def values(self) -> Values:
        """Return what a page shows, at most two seconds old."""
        await self._refresh(_FRESH_S)
        return self._values()

    def record_status(self, figures: Values) -> None:
        """Add figures of reactor.status() or live_summary() to the charts: scrapes fill them while no page is open."""
        if uploads := figures.get("uploads"):
            self._history.append((self._clock.now(), int(uploads["due"]), int(uploads["failed"])))

    def request_update(self) -> None:
        """Read the database again and update open pages now."""
        self._is_outdated = True
        self._changed.set()

    async def run(self) -> None:
        """Keep open pages fresh. Never returns."""
        while True:
            while not self._streams:
                await self._wait_for_change()
            await self._refresh(REFRESH_S - _COALESCE_S)
            self._publish()
            await self._clock.sleep(_COALESCE_S)
            with self._clock.alarm(round((self._read_at + REFRESH_S) * TICKS_PER_S)):
                await self._wait_for_change()

    async def _wait_for_change(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    async def _refresh(self, max_age_s: float) -> None:
        async with self._reading:
            if not self._is_outdated and self._clock.now() - self._read_at < max_age_s:
                return
            self._is_outdated = False
            self._read_at = self._clock.now()
            try:
                self._summary = await self._read_summary()
            except DatabaseUnavailable:
                self._summary = None
            else:
                self.record_status(self._summary)

    # render

    def facts(self) -> Values:
        """Return the figures behind the page, as GET /api/live answers them."""
        process = self._process()
        found = troubles(self._summary, process)
        now = self._clock.now()
        reconciled = self._recent.reconciled
        return {
            "well": not found,
            "headline": headline(found),
            "troubles": found,
            "database": self._summary,
            "process": asdict(process),
            "reaction_s": {
                "p50": self._recent.reactions.quantile(0.5),
                "p95": self._recent.reactions.quantile(0.95),
                "count": sum(bucket.count for bucket in self._recent.reactions.buckets()),
            },
            "reconcile": {
                "ago_s": None if reconciled is None else now - reconciled.at,
                "missed": {} if reconciled is None else reconciled.missed,
                "missed_since_start": dict(+self._recent.missed),
            },
            "wheel": {"span_s": self._horizon_s, "about": self._timer_counts()},
        }

    def _values(self) -> Values:
        now = self._clock.now()
        history = list(self._history)
        reactions = [(bucket.began_at, bucket.samples) for bucket in self._recent.reactions.buckets()]
        facts = self.facts()
        return facts | {
            "at": datetime.now(UTC),
            "cap": LIVE_SUMMARY_CAP,
            "deaths": self._deaths(),
            "queue_chart": charts.line_chart(
                [
                    ("waiting", [(at, waiting) for at, _, waiting in history]),
                    ("due", [(at, due) for at, due, _ in history]),
                ],
                span_s=_HISTORY_S, now=now, gap_s=4 * REFRESH_S,
            ),
            "reaction_chart": charts.line_chart(
                [
                    (name, [(at, 1000 * (quantile(samples, share) or 0.0)) for at, samples in reactions])
                    for name, share in (("p95", 0.95), ("p50", 0.5))
                ],
                span_s=_HISTORY_S, now=now, gap_s=2.5 * BUCKET_S,
            ),
            "wheel_bars": charts.histogram(facts["wheel"]["about"]),
            "timers": sum(facts["wheel"]["about"]),
            "is_estimate": sum(facts["wheel"]["about"]) > _WHEEL_SAMPLE,
        }  # fmt: skip

    def _timer_counts(self) -> list[int]:
        """Return how many timers fire in each span; counted less often the larger the wheel, because it walks it."""
        counted_at, counts = self._wheel
        if self._clock.now() - counted_at >= max(1.0, sum(counts) / _TIMERS_COUNTED_PER_S):
            counts = self._timers_by_due(self._horizon_s / _WHEEL_BARS, _WHEEL_BARS, _WHEEL_SAMPLE)
            self._wheel = (self._clock.now(), counts)
        return counts

    def _deaths(self) -> list[Values]:
        """Return the newest dead uploads: those that the database returned, and those that died here since."""
        listed = list(self._summary["dead"]) if self._summary else []
        listed_ids = {death["id"] for death in listed}
        listed_at = datetime.fromisoformat(self._summary["now"]).timestamp() if self._summary else 0.0
        newer = [
            {
                "id": str(death.upload_id),
                "updated_at": datetime.fromtimestamp(death.died_at, UTC).isoformat(),
                "error_code": death.code,
                "error_message": death.message,
                "object_path": None,
            }
            for death in reversed(self._recent.deaths)
            if death.died_at > listed_at and str(death.upload_id) not in listed_ids
        ]
        return [*newer, *listed][:_SHOWN_DEATHS]

    def _publish(self) -> None:
        fragments = self._render(self._values())
        changed = {name: html for name, html in fragments.items() if self._fragments.get(name) != html}
        self._fragments = fragments
        if changed:
            self._version += 1
            self._delta = _message(changed)
            for published in self._streams:
                published.set()

    # send

    @property
    def is_full(self) -> bool:
        """Return whether no further page may be open."""
        return len(self._streams) >= MAX_STREAMS

    def close(self) -> None:
        """End all streams."""
        self._closed = True
        for published in self._streams:
            published.set()

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield server-sent events until the page disconnects, or `close`. A slow page skips versions."""
        published = asyncio.Event()
        self._streams.add(published)
        try:
            yield b"retry: 2000\n\n"
            await self._refresh(_FRESH_S)
            self._publish()
            self._changed.set()
            sent_version = self._version
            yield _message(self._fragments)
            while not self._closed:
                with self._clock.alarm(self._clock.tick() + round(_KEEPALIVE_S * TICKS_PER_S)):
                    await published.wait()
                if not published.is_set():
                    yield b"event: keepalive\ndata: 0\n\n"
                    continue
                published.clear()
                if sent_version < self._version:
                    message = self._delta if sent_version == self._version - 1 else _message(self._fragments)
                    sent_version = self._version
                    yield message
        finally:
            self._streams.discard(published)


def _message(fragments: Fragments) -> bytes:
    return b"event: panels\ndata: " + json.dumps(fragments).encode() + b"\n\n"
