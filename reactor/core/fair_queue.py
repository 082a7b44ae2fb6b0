"""Which of the ready signals go next: one of each tenant in turn, and never too many of one at once.

A tenant with a million uploads and a tenant with one take turns, so the one waits for as many signals as
there are other tenants, and not for a million. A tenant with as many signals in hand as the cap allows is
*parked*: it leaves the ring of turns until one of them is released, so nobody has to step over it. Every call
takes amortised O(1) for each signal it concerns, however many tenants wait or are parked.
"""

import math
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar


class OfTenant(Hashable, Protocol):
    """Whatever waits: a signal, or the attempt that came of it."""

    @property
    def tenant(self) -> int: ...


T = TypeVar("T", bound=OfTenant)


class FairQueue(Generic[T]):
    """Ready signals, taken round-robin by tenant.

    `per_tenant` is how many signals of one tenant may be taken and not yet released, at least 1; None means
    any number.
    """

    def __init__(self, per_tenant: int | None = None) -> None:
        self._per_tenant = _checked(per_tenant)

        # A line is no dict: that searches for its first key once others are gone.
        # Invariant: a tenant has a line exactly when it has signals waiting, and it stands in the ring or is
        # parked, never both.
        # Invariant: a tenant is parked exactly when it has waiting signals and is at its cap.
        self._ring: OrderedDict[int, OrderedDict[T, None]] = OrderedDict()
        self._parked: dict[int, OrderedDict[T, None]] = {}

        # Invariant: no tenant has more signals taken and not yet released than the highest cap they were taken under.
        self._taken: dict[int, int] = {}

        # Invariant: this is the number of signals in all lines.
        self._waiting = 0

    def __len__(self) -> int:
        """Return how many signals wait; those that were taken don't count."""
        return self._waiting

    def __contains__(self, signal: T) -> bool:
        """Return whether `signal` waits."""
        return signal in (self._line(signal.tenant) or ())

    @property
    def per_tenant(self) -> int | None:
        """The cap. It may be changed at any time; what was taken under another one stays taken."""
        return self._per_tenant

    @per_tenant.setter
    def per_tenant(self, per_tenant: int | None) -> None:
        if per_tenant == self._per_tenant:
            return
        self._per_tenant = _checked(per_tenant)
        lines = [*self._ring.items(), *self._parked.items()]
        self._ring.clear()
        self._parked.clear()
        for tenant, line in lines:
            self._seat(tenant, line)

    @property
    def takeable(self) -> bool:
        """Whether `take` would return something."""
        return bool(self._ring)

    def put(self, signal: T) -> bool:
        """Let `signal` wait behind the others of its tenant; return False if it waits already."""
        tenant = signal.tenant
        line = self._line(tenant)
        if line is None:
            line = self._seat(tenant, OrderedDict())
        elif signal in line:
            return False
        line[signal] = None
        self._waiting += 1
        return True

    def discard(self, signal: T) -> bool:
        """Let `signal` wait no longer; return whether it did."""
        tenant = signal.tenant
        line = self._line(tenant)
        if line is None or signal not in line:
            return False
        del line[signal]
        self._waiting -= 1
        if not line:
            self._ring.pop(tenant, None)
            self._parked.pop(tenant, None)
        return True

    def clear(self) -> list[T]:
        """Let nothing wait any more, and return what did, tenant by tenant."""
        waited = [signal for lines in (self._ring, self._parked) for line in lines.values() for signal in line]
        self._ring.clear()
        self._parked.clear()
        self._waiting = 0
        return waited

    def take(self, limit: int) -> list[T]:
        """Return up to `limit` signals, one of each tenant in turn; each counts until it is released."""
        signals: list[T] = []
        ring, counts = self._ring, self._taken
        cap = math.inf if self._per_tenant is None else self._per_tenant
        while ring and len(signals) < limit:
            tenant, line = ring.popitem(last=False)
            signal, _ = line.popitem(last=False)
            signals.append(signal)
            counts[tenant] = taken = counts.get(tenant, 0) + 1
            if line:  # as _seat does, without a call for each
                (ring if taken < cap else self._parked)[tenant] = line
        self._waiting -= len(signals)
        return signals

    def release(self, tenant: int, n: int = 1) -> None:
        """Say that `n` of the tenant's taken signals are done with.

        Raises ValueError when it hasn't that many taken: a slot given back twice would break the cap unseen.
        """
        taken = self._taken.get(tenant, 0)
        if not 0 <= n <= taken:
            raise ValueError(f"can't release {n} of {taken} taken signals")
        if n < taken:
            self._taken[tenant] = taken - n
        elif taken:
            del self._taken[tenant]
        if n and (line := self._parked.pop(tenant, None)) is not None:
            self._seat(tenant, line)

    def _line(self, tenant: int) -> OrderedDict[T, None] | None:
        return self._ring.get(tenant) or self._parked.get(tenant)

    def _seat(self, tenant: int, line: OrderedDict[T, None]) -> OrderedDict[T, None]:
        """Put the tenant, which stands nowhere, at the end of the ring, or park it if it is at its cap."""
        at_cap = self._per_tenant is not None and self._taken.get(tenant, 0) >= self._per_tenant
        (self._parked if at_cap else self._ring)[tenant] = line
        return line


def _checked(per_tenant: int | None) -> int | None:
    if per_tenant is not None and per_tenant < 1:
        raise ValueError(f"per_tenant must be at least 1, not {per_tenant}")
    return per_tenant
