"""Hear the database: NOTIFY → payload → schedule; and prove, again and again, that it can be heard.

The order matters: LISTEN is live, then catch up, then trust. On any end of the connection what came meanwhile is lost,
so the next one begins with a whole reconciliation again.

That the connection answers isn't enough: a transaction pooler lets LISTEN succeed and will deliver nothing. So every
few seconds a presence, sent from another connection, must come back through the listening one. When it doesn't the
connection is severed and made anew; when three fresh ones in a row stay silent, the database is polled, and that is
said aloud, while listening goes on being tried. So it is while the server's notification queue is half full, for
whatever reason: the triggers say nothing then.
"""

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from anyio import create_task_group

from reactor.core.errors import DatabaseUnavailable
from reactor.core.events import (
    DatabaseLost,
    Emit,
    ListenerLost,
    Listening,
    NotificationRejected,
    Notified,
    Polling,
    ReactorsChanged,
)
from reactor.core.health import QUEUE_FULL_FROM
from reactor.core.model import Due, Signal
from reactor.engine.reconcile import Reconcile
from reactor.engine.schedule import Schedule
from reactor.engine.worker import Worker
from reactor.postgres.listener import NotificationSource
from reactor.postgres.notification import HINT_ROUNDING_S, BadPayload, decode
from reactor.postgres.presence import PEERS_CHANNEL, Peers, Presence
from reactor.reactions.base import Reaction
from reactor.runtime.auto_reset_event import Wakeup
from reactor.runtime.clock import TICKS_PER_S, Clock

if TYPE_CHECKING:
    from uuid import UUID

PRESENCE_INTERVAL_S = 13.0
"""Nine transactions a minute, for hearing a presence is one as well. A connection that answers and hears nothing is
noticed within this and the grace; one that doesn't answer sooner, by the listener itself."""

PRESENCE_EXPIRES_S = PRESENCE_INTERVAL_S + 4.0
"""A reactor that has not reported its presence for so long counts as gone: it has missed one report. The others notice
within another interval, before its leases of 30 s end; a wrong guess costs each of them one sweep."""

CANARY_GRACE_S = 1.0
"""How long a presence may take to come back."""

SILENT_BEFORE_POLLING = 3
"""Fresh connections in a row that must have heard nothing before the database is polled."""

POLLING_INTERVAL_S = 2.0
_RECONNECT_MIN_S = 0.05
_RECONNECT_MAX_S = 5.0


class Listen:
    """The listening connection, its proof, and what it hears."""

    def __init__(
        self,
        listener: NotificationSource,
        presence: Presence,
        pipelines: Mapping[str, tuple[Reaction[Any], Worker[Any]]],
        schedule: Schedule,
        reconcile: Reconcile,
        *,
        clock: Clock,
        emit: Emit,
    ) -> None:
        self._listener = listener
        self._presence = presence
        self._pipelines = pipelines
        self._schedule = schedule
        self._reconcile = reconcile
        self._clock = clock
        self._emit = emit
        self._beat = Wakeup()
        self._heard = Wakeup()
        self._silent = 0
        self._connected = False
        self._others: frozenset[UUID] = frozenset()
        self.mode = "starting"
        """'starting', 'listening' (proven) or 'polling'."""

    async def run(self) -> None:
        """Listen for ever; reconnect with jittered backoff."""
        async with create_task_group() as tasks:
            tasks.start_soon(self._prove)
            delay_s = _RECONNECT_MIN_S
            while True:
                began = self._clock.now()
                try:
                    await self._listener.hear(self._live, self._take)
                except DatabaseUnavailable as error:
                    self._lose(str(error))
                if self._clock.now() - began > PRESENCE_INTERVAL_S:
                    delay_s = _RECONNECT_MIN_S
                await self._clock.sleep(delay_s * random.uniform(0.5, 1.0))  # noqa: S311  # jitter
                delay_s = min(_RECONNECT_MAX_S, delay_s * 2)

    def _live(self) -> None:
        self._connected = True
        self._reconcile.request()
        self._beat.set()  # prove it at once

    def _lose(self, reason: str) -> None:
        self._connected = False
        self._reconcile.trust(heard=False)
        if self.mode == "listening":
            self.mode = "starting"
            self._emit(ListenerLost(reason=reason))
        else:
            self._emit(DatabaseLost(doing="listen", reason=reason))

    # hear

    def _take(self, channel: str, text: str) -> None:
        """Arm what a notification names. Never waits or raises: the rest of its batch would be lost."""
        if channel == self._presence.channel:
            self._heard.set()
            return
        if channel == PEERS_CHANNEL:
            if text != str(self._presence.instance):
                self._beat.set()  # its answer says who is there
            return
        reaction, work = self._pipelines[channel]
        try:
            payload = decode(text)
        except BadPayload as error:
            self._emit(NotificationRejected(channel=channel, reason=str(error)))
            return
        dues = []
        # rounded up to a millisecond, what is due at once is said to be due in a moment: the wheel would make two of it
        soon = self._clock.database_now() + HINT_ROUNDING_S
        for hint in payload.hints:
            signal = Signal(reaction.name, hint.row_id.int, hint.tenant)
            due_at = reaction.due_at(hint)
            if due_at is None:
                self._schedule.forget(signal)
            elif not work.is_claimed(signal):
                dues.append(Due(signal, due_at if due_at > soon else 0.0))
        self._schedule.hear(dues)
        if payload.rescan:
            self._reconcile.request()
        self._emit(Notified(channel=channel, rows=len(payload.hints)))

    # prove

    async def _prove(self) -> None:
        while True:
            try:
                await self._prove_once()
            except DatabaseUnavailable as error:
                self._emit(DatabaseLost(doing="pulse", reason=str(error)))
            with self._clock.alarm(self._clock.tick() + round(PRESENCE_INTERVAL_S * TICKS_PER_S)):
                await self._beat.wait()

    async def _prove_once(self) -> None:
        connected = self._connected
        self._heard = Wakeup()
        self._look_around(await self._presence.report(self.mode, with_canary=connected))
        if self._presence.queue_usage >= QUEUE_FULL_FROM:
            self._distrust_queue()
            return
        if not connected:
            return
        came_back = False
        with self._clock.alarm(self._clock.tick() + round(CANARY_GRACE_S * TICKS_PER_S)):
            await self._heard.wait()
            came_back = True
        if came_back:
            self._trust()
        elif self._connected:
            self._distrust()

    def _trust(self) -> None:
        self._silent = 0
        if self.mode != "listening":
            self.mode = "listening"
            self._reconcile.polling_interval_s = None
            self._reconcile.request()  # what was committed since the last pass, nobody may have told of
            self._reconcile.trust(heard=True)
            self._emit(Listening())
            self._beat.set()  # tell the database as well

    def _distrust(self) -> None:
        self._silent += 1
        if self._silent >= SILENT_BEFORE_POLLING and self.mode != "polling":
            self._poll("is REACTOR_LISTEN_URL a transaction pooler?")
        self._listener.abort()

    def _distrust_queue(self) -> None:
        if self.mode != "polling":
            usage = f"{self._presence.queue_usage:.0%}"
            self._poll(f"the server's notification queue is {usage} full: a session that listens doesn't read")
            self._listener.abort()  # should it be ours that doesn't read, it's in nobody's way any more

    def _poll(self, reason: str) -> None:
        self.mode = "polling"
        self._reconcile.polling_interval_s = POLLING_INTERVAL_S
        self._reconcile.trust(heard=False)
        self._reconcile.request()
        self._emit(Polling(interval_s=POLLING_INTERVAL_S, reason=reason))

    def _look_around(self, peers: Peers) -> None:
        """A reactor that is gone may have left retries in its own wheel: catch up with what it knew."""
        others = peers.alive - {self._presence.instance}
        joined, left = others - self._others, self._others - others
        self._others = others
        self._schedule.rendezvous_order.set_members(self._presence.instance, peers.listening & others)
        if joined or left:
            self._emit(ReactorsChanged(alive=len(others) + 1, joined=len(joined), left=len(left)))
        if left:
            self._reconcile.request()
