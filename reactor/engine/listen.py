"""Keeps the listening connection open, and proves that notifications arrive.

Each new connection first executes LISTEN, then requests a reconciliation pass, then waits for a canary. The pass is
needed because notifications that were sent while no connection listened are lost.

A connection may answer and still deliver no notifications: a transaction pooler accepts LISTEN and delivers nothing. So
every few seconds another connection sends a canary. If the canary doesn't arrive, the connection is aborted and opened
again. After three new connections in a row without a canary, the reactor polls the database until a canary arrives. It
also polls while the server's notification queue is at least half full, because the triggers then send no notifications.
"""

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from anyio import create_task_group

from reactor.core.errors import DatabaseFailure
from reactor.core.events import DatabaseLost, Emit, ListenerLost, Listening, Polling, ReactorsChanged
from reactor.core.health import QUEUE_FULL_FROM
from reactor.engine.reconcile import Reconcile
from reactor.engine.requests import ReconcileRequests
from reactor.engine.schedule import Schedule
from reactor.postgres.listener import NotificationSource
from reactor.postgres.presence import PEERS_CHANNEL, Peers, Presence
from reactor.runtime.clock import TICKS_PER_S, Clock

if TYPE_CHECKING:
    from uuid import UUID

PRESENCE_INTERVAL_S = 13.0
"""Seconds between two reports of presence. A report and the delivery of its canary are two transactions: about nine a
minute. A connection that delivers no canary is aborted within PRESENCE_INTERVAL_S + CANARY_GRACE_S."""

PRESENCE_EXPIRES_S = PRESENCE_INTERVAL_S + 4.0
"""A reactor whose last report is older than this counts as gone: it has missed one report. The other reactors notice
within a further PRESENCE_INTERVAL_S. If the reactor was only late, the others have done an unnecessary pass."""

CANARY_GRACE_S = 1.0
"""Maximum seconds from a report's answer until its canary arrives."""

SILENT_BEFORE_POLLING = 3
"""Number of new connections in a row without a canary after which the database is polled."""

POLLING_INTERVAL_S = 2.0
_REPORT_AGAIN_S = 4.0
"""Seconds until a failed report of presence is repeated."""
_RECONNECT_MIN_S = 0.05
_RECONNECT_MAX_S = 4.0


class Listen:
    """The listening connection, and the repeated proof that notifications arrive through it."""

    def __init__(
        self,
        source: NotificationSource,
        presence: Presence,
        handlers: Mapping[str, Callable[[str], None]],
        *,
        schedule: Schedule,
        reconcile: Reconcile,
        requests: ReconcileRequests,
        clock: Clock,
        emit: Emit,
    ) -> None:
        """`handlers` maps a channel to a function that gets each notification's text. It must not wait or raise."""
        self._source = source
        self._presence = presence
        self._handlers = {
            **handlers,
            presence.channel: self._on_canary,
            PEERS_CHANNEL: self._on_peers_changed,
        }
        self._schedule = schedule
        self._reconcile = reconcile
        self._requests = requests
        self._clock = clock
        self._emit = emit
        self._prove_now = asyncio.Event()
        self._canary_back = asyncio.Event()
        self._silent_connections = 0
        self._is_connected = False
        self._others: frozenset[UUID] = frozenset()
        self._mode = "starting"
        """'starting', 'listening' (a canary has arrived) or 'polling'."""

    async def run(self) -> None:
        """Listen; reconnect with jittered backoff. Never returns."""
        async with create_task_group() as tasks:
            tasks.start_soon(self._prove_repeatedly)
            delay_s = _RECONNECT_MIN_S
            while True:
                began = self._clock.now()
                try:
                    await self._source.listen(self._on_live, self._handlers)
                except DatabaseFailure as error:
                    self._on_lost(str(error))
                if self._clock.now() - began > PRESENCE_INTERVAL_S:
                    delay_s = _RECONNECT_MIN_S
                await self._clock.sleep(delay_s * random.uniform(0.5, 1.0))  # noqa: S311  # jitter
                delay_s = min(_RECONNECT_MAX_S, delay_s * 2)

    def _on_live(self) -> None:
        self._is_connected = True
        self._requests.request_pass()
        self._prove_now.set()

    def _on_lost(self, reason: str) -> None:
        self._is_connected = False
        self._reconcile.expect_notifications(arrive=False)
        if self._mode == "listening":
            self._mode = "starting"
            self._emit(ListenerLost(reason=reason))
            self._prove_now.set()  # shows soon whether the whole database is away
        else:
            self._emit(DatabaseLost(doing="listen", reason=reason))

    def _on_canary(self, _: str) -> None:
        self._canary_back.set()

    def _on_peers_changed(self, instance: str) -> None:
        if instance != str(self._presence.instance):
            self._prove_now.set()  # the next report of presence returns the new list of reactors

    # proof by canary

    async def _prove_repeatedly(self) -> None:
        while True:
            interval_s = PRESENCE_INTERVAL_S
            try:
                await self._prove()
            except DatabaseFailure as error:
                self._emit(DatabaseLost(doing="report presence", reason=str(error)))
                interval_s = min(interval_s, _REPORT_AGAIN_S)
            with self._clock.alarm(self._clock.tick() + round(interval_s * TICKS_PER_S)):
                await self._prove_now.wait()
            self._prove_now.clear()

    async def _prove(self) -> None:
        """Report presence with a canary, and wait for the canary on the listening connection."""
        was_connected = self._is_connected
        self._canary_back.clear()
        self._take_in_peers(await self._presence.report(self._mode, with_canary=was_connected))
        if self._presence.queue_usage >= QUEUE_FULL_FROM:
            self._on_queue_full()
            return
        if not was_connected:
            return
        with self._clock.alarm(self._clock.tick() + round(CANARY_GRACE_S * TICKS_PER_S)):
            await self._canary_back.wait()
        if self._canary_back.is_set():
            self._on_proven()
        elif self._is_connected:
            self._on_silence()

    def _on_proven(self) -> None:
        self._silent_connections = 0
        if self._mode != "listening":
            self._mode = "listening"
            self._reconcile.polling_interval_s = None
            self._requests.request_pass()  # notifications may have been lost since the last pass
            self._reconcile.expect_notifications(arrive=True)
            self._emit(Listening())
            self._prove_now.set()  # report the new mode, which other reactors need for their ranking

    def _on_silence(self) -> None:
        self._silent_connections += 1
        if self._silent_connections >= SILENT_BEFORE_POLLING and self._mode != "polling":
            self._start_polling("is REACTOR_LISTEN_URL a transaction pooler?")
        self._source.abort()

    def _on_queue_full(self) -> None:
        if self._mode != "polling":
            usage = f"{self._presence.queue_usage:.0%}"
            self._start_polling(
                f"the server's notification queue is {usage} full: a session does not read its notifications"
            )
            self._source.abort()  # in case this connection is the one whose notifications are not read

    def _start_polling(self, reason: str) -> None:
        self._mode = "polling"
        self._reconcile.polling_interval_s = POLLING_INTERVAL_S
        self._reconcile.expect_notifications(arrive=False)
        self._requests.request_pass()
        self._emit(Polling(interval_s=POLLING_INTERVAL_S, reason=reason))

    def _take_in_peers(self, peers: Peers) -> None:
        """Update the list of reactors. If one has gone, request a pass: only its wheel had timers for its retries."""
        others = peers.alive - {self._presence.instance}
        joined, left = others - self._others, self._others - others
        self._others = others
        self._schedule.rendezvous_order.set_members(self._presence.instance, peers.listening & others)
        if joined or left:
            self._emit(ReactorsChanged(alive=len(others) + 1, joined=len(joined), left=len(left)))
        if left:
            self._requests.request_pass()
