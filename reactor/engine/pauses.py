"""Growing pauses after calls to the database that failed. A pause ends early when the database answers again."""

from typing import Final

from reactor.postgres.call_health import CallHealth
from reactor.runtime.clock import TICKS_PER_S, Clock

_LONGEST_S: Final = 4.0


class Pauses:
    """The pauses between repetitions of one call: `first_s`, then twice as long each time, up to 4 s."""

    def __init__(self, clock: Clock, health: CallHealth, *, first_s: float = 0.5) -> None:
        self._clock = clock
        self._health = health
        self._first_s = first_s
        self._next_s = first_s
        self.has_paused = False
        """Whether a call has failed since the last `reset`. Read only."""

    def end(self) -> None:
        """End a pause now, but not before `first_s`."""
        self._health.end_pauses()

    def reset(self) -> None:
        """Make the next pause short again: the call has succeeded."""
        self._next_s = self._first_s
        self.has_paused = False

    async def pause(self) -> None:
        """Wait for at least `first_s`, then until the pause ends or the database answers."""
        self.has_paused = True
        whole_s, self._next_s = self._next_s, min(2 * self._next_s, _LONGEST_S)
        end = self._clock.tick() + round(whole_s * TICKS_PER_S)
        await self._clock.sleep(self._first_s)
        if whole_s > self._first_s:
            with self._clock.alarm(end):
                await self._health.wait_for_answer()
