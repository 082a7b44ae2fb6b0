"""Rows that the database refuses: an app's CHECK, trigger or foreign key. Each delays only itself.

The rows are kept in memory. After a restart, each is refused once more, and then set aside again.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

from attrs import frozen

from reactor.core.errors import DatabaseRefused
from reactor.core.events import Emit, RowsAccepted, RowsRefused
from reactor.core.model import Due, Signal
from reactor.runtime.clock import Clock

_FIRST_S: Final = 30.0
_LONGEST_S: Final = 3600.0
_MOST_ROWS: Final = 100_000
"""Beyond this number, the rows that were set aside first are forgotten, and the next sweep tries them again."""


@frozen
class _Refused:
    times: int
    retry_at: float
    """Monotonic seconds."""


class SetAside:
    """The refused rows of one reaction: retried 30 s after the first refusal, then at twice the interval, up to 1 h."""

    def __init__(self, reaction_name: str, *, clock: Clock, emit: Emit) -> None:
        self._reaction_name = reaction_name
        self._clock = clock
        self._emit = emit
        self.rows: dict[Signal, _Refused] = {}
        """The rows that are set aside. Read only."""

    def __contains__(self, signal: Signal) -> bool:
        return signal in self.rows

    def __len__(self) -> int:
        return len(self.rows)

    def is_waiting(self, signal: Signal) -> bool:
        """Return whether the row is set aside, and its next try isn't due yet."""
        refused = self.rows.get(signal)
        return refused is not None and refused.retry_at > self._clock.now()

    def divide(self, signals: Sequence[Signal]) -> tuple[Sequence[Signal], list[Due]]:
        """Return the signals to claim now, and those that wait, with the times of their next tries."""
        waiting = [signal for signal in signals if self.is_waiting(signal)]
        later = [Due(signal, self._clock.database_at(self.rows[signal].retry_at)) for signal in waiting]
        return [signal for signal in signals if not self.is_waiting(signal)], later

    def add(self, refused: Sequence[tuple[Signal, DatabaseRefused]]) -> list[Due]:
        """Set rows aside; return when to try them again. Emits one event for each message of the database."""
        due: list[Due] = []
        by_reason: defaultdict[str, list[Signal]] = defaultdict(list)
        now = self._clock.now()
        for signal, error in refused:
            before = self.rows.pop(signal, None)
            times = 1 if before is None else before.times + 1
            retry_at = now + min(_FIRST_S * 2.0 ** min(times - 1, 20), _LONGEST_S)
            self.rows[signal] = _Refused(times, retry_at)
            due.append(Due(signal, self._clock.database_at(retry_at)))
            by_reason[str(error)].append(signal)
        while len(self.rows) > _MOST_ROWS:
            del self.rows[next(iter(self.rows))]
        for reason, signals in by_reason.items():
            first = self.rows.get(signals[0])
            self._emit(
                RowsRefused(
                    reaction=self._reaction_name,
                    row_ids=[signal.row_id for signal in signals],
                    reason=reason,
                    times=first.times if first is not None else 1,
                    retry_in_s=first.retry_at - now if first is not None else 0.0,
                    set_aside=len(self.rows),
                )
            )
        return due

    def accept(self, signals: Iterable[Signal]) -> None:
        """Forget rows that the database didn't refuse any more."""
        if accepted := [signal for signal in signals if self.rows.pop(signal, None) is not None]:
            self._emit(RowsAccepted(reaction=self._reaction_name, rows=len(accepted), set_aside=len(self.rows)))
