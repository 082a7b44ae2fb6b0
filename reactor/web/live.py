"""The live view: one look at the database every few seconds, however many pages are open; none while there are none.

What this reactor knows itself comes from its memory, at no cost; the database is asked one question. The answer is
drawn once and sent to every page, as pieces of HTML by the id of the section that each fills: a page that has just
connected gets all of them, the others what has changed.
"""

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
from reactor.runtime.auto_reset_event import Wakeup
from reactor.runtime.clock import TICKS_PER_S, Clock
from reactor.web import charts
from reactor.web.recent import BIN_S, BINS, Memory, quantile

EVERY_S = 3.0
"""Twenty transactions a minute, of the thirty that open pages may cost."""

STREAMS = 32
"""How many pages may be open at once."""

_FRESH_S = 2.0
_BEAT_S = 5.0
_GATHER_S = 0.1
"""How long a change waits for others to be shown with."""

_HISTORY_S = BIN_S * BINS
_HISTORY = round(_HISTORY_S / EVERY_S)
_WHEEL_BARS = 45
_WHEEL_SAMPLE = 10_000
_SHOWN_DEATHS = 5

View = dict[str, Any]
Fragments = dict[str, str]


class Live:
    """Looks, draws, and sends."""

    def __init__(
        self,
        memory: Memory,
        *,
        clock: Clock,
        look: Callable[[], Awaitable[dict[str, Any]]],
        process: Callable[[], Process],
        spread: Callable[[float, int, int], list[int]],
        horizon_s: float,
        draw: Callable[[View], Fragments],
    ) -> None:
        """`look` asks the database, `spread(width_s, count, sample)` tells what of the wheel is due when."""
        self._memory = memory
        self._clock = clock
        self._look = look
        self._process = process
        self._spread = spread
        self._horizon_s = horizon_s
        self._draw = draw
        self._database: dict[str, Any] | None = None
        self._looked_at = float("-inf")
        self._is_old = False
        self._looking = Lock()
        self._history: deque[tuple[float, int, int]] = deque(maxlen=_HISTORY)
        self._wheel: tuple[float, list[int]] = (float("-inf"), [])
        self._wake = Wakeup()
        self._streams: set[Wakeup] = set()
        self._closed = False
        self._version = 0
        self._fragments: Fragments = {}
        self._delta = b""

    # look

    async def view(self) -> View:
        """Return what a page shows, a few seconds old at most."""
        await self._look_again(_FRESH_S)
        return self._view()

    def remember(self, figures: dict[str, Any]) -> None:
        """Take in what somebody else has asked of the database: scrapes fill the history while no page is open."""
        if uploads := figures.get("uploads"):
            self._history.append((self._clock.now(), int(uploads["due"]), int(uploads["failed"])))

    def stir(self, *, look: bool = False) -> None:
        """Show what has changed now. `look`: in the database, too."""
        self._is_old |= look
        self._wake.set()

    async def run(self) -> None:
        """Keep the open pages fresh; never returns."""
        while True:
            while not self._streams:
                await self._wake.wait()
            await self._look_again(EVERY_S - _GATHER_S)
            self._publish()
            await self._clock.sleep(_GATHER_S)
            with self._clock.alarm(round((self._looked_at + EVERY_S) * TICKS_PER_S)):
                await self._wake.wait()

    async def _look_again(self, older_than_s: float) -> None:
        async with self._looking:
            if not self._is_old and self._clock.now() - self._looked_at < older_than_s:
                return
            self._is_old = False
            self._looked_at = self._clock.now()
            try:
                self._database = await self._look()
            except DatabaseUnavailable:
                self._database = None
            else:
                self.remember(self._database)

    # draw

    def facts(self) -> View:
        """Return the figures behind the page, for programs."""
        process = self._process()
        found = troubles(self._database, process)
        now = self._clock.now()
        reconciled = self._memory.reconciled
        return {
            "well": not found,
            "headline": headline(found),
            "troubles": found,
            "database": self._database,
            "process": asdict(process),
            "reaction_s": {
                "p50": self._memory.reactions.quantile(0.5),
                "p95": self._memory.reactions.quantile(0.95),
                "count": sum(each.count for each in self._memory.reactions.bins()),
            },
            "reconcile": {
                "ago_s": None if reconciled is None else now - reconciled.at,
                "missed": {} if reconciled is None else reconciled.missed,
                "missed_since_start": dict(+self._memory.missed),
            },
            "wheel": {"span_s": self._horizon_s, "about": self._wheel_now()},
        }

    def _view(self) -> View:
        now = self._clock.now()
        history = list(self._history)
        lags = [(each.began_at, each.kept) for each in self._memory.reactions.bins()]
        facts = self.facts()
        return facts | {
            "at": datetime.now(UTC),
            "cap": LIVE_SUMMARY_CAP,
            "deaths": self._deaths(),
            "queue_chart": charts.chart(
                [
                    ("waiting", [(at, waiting) for at, _, waiting in history]),
                    ("due", [(at, due) for at, due, _ in history]),
                ],
                span_s=_HISTORY_S, now=now, gap_s=4 * EVERY_S,
            ),
            "reaction_chart": charts.chart(
                [
                    (name, [(at, 1000 * (quantile(kept, share) or 0.0)) for at, kept in lags])
                    for name, share in (("p95", 0.95), ("p50", 0.5))
                ],
                span_s=_HISTORY_S, now=now, gap_s=2.5 * BIN_S,
            ),
            "wheel_bars": charts.bars(facts["wheel"]["about"]),
            "timers": sum(facts["wheel"]["about"]),
            "is_estimate": sum(facts["wheel"]["about"]) > _WHEEL_SAMPLE,
        }  # fmt: skip

    def _wheel_now(self) -> list[int]:
        """Return what is due when; of a large wheel now and then only, for that walks all of it."""
        made_at, counts = self._wheel
        if self._clock.now() - made_at >= max(1.0, sum(counts) / 50_000):
            counts = self._spread(self._horizon_s / _WHEEL_BARS, _WHEEL_BARS, _WHEEL_SAMPLE)
            self._wheel = (self._clock.now(), counts)
        return counts

    def _deaths(self) -> list[dict[str, Any]]:
        """Return the newest dead uploads: as the database said, and what has died here since."""
        known = list(self._database["dead"]) if self._database else []
        ids = {each["id"] for each in known}
        asked_at = datetime.fromisoformat(self._database["now"]).timestamp() if self._database else 0.0
        new = [
            {
                "id": str(death.id),
                "updated_at": datetime.fromtimestamp(death.at, UTC).isoformat(),
                "error_code": death.code,
                "error_message": death.message,
                "object_path": None,
            }
            for death in reversed(self._memory.deaths)
            if death.at > asked_at and str(death.id) not in ids
        ]
        return [*new, *known][:_SHOWN_DEATHS]

    def _publish(self) -> None:
        fragments = self._draw(self._view())
        changed = {name: html for name, html in fragments.items() if self._fragments.get(name) != html}
        self._fragments = fragments
        if changed:
            self._version += 1
            self._delta = _message(changed)
            for stream in self._streams:
                stream.set()

    # send

    @property
    def is_full(self) -> bool:
        """Whether no further page may be open."""
        return len(self._streams) >= STREAMS

    def close(self) -> None:
        """End all streams."""
        self._closed = True
        for stream in self._streams:
            stream.set()

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield server-sent events until the page goes away, or `close`. A slow page misses what it can't take."""
        woken = Wakeup()
        self._streams.add(woken)
        try:
            yield b"retry: 2000\n\n"
            await self._look_again(_FRESH_S)
            self._publish()
            self._wake.set()
            seen = self._version
            yield _message(self._fragments)
            while not self._closed:
                came = False
                with self._clock.alarm(self._clock.tick() + round(_BEAT_S * TICKS_PER_S)):
                    await woken.wait()
                    came = True
                if not came:
                    yield b"event: beat\ndata: 0\n\n"
                elif seen < self._version:
                    message = self._delta if seen == self._version - 1 else _message(self._fragments)
                    seen = self._version
                    yield message
        finally:
            self._streams.discard(woken)


def _message(fragments: Fragments) -> bytes:
    return b"event: panels\ndata: " + json.dumps(fragments).encode() + b"\n\n"
