"""A queue of ready signals that are taken round-robin by tenant, with a cap per tenant.

Before a tenant's first signal is taken, at most one signal of each other tenant is taken. A tenant that has reached
its cap of taken signals is *parked*: it leaves the ring until one of its signals is released. `put`, `discard`, `take`
and `release` take amortised O(1) per signal; a change of the cap takes O(tenants).
"""

import math
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar


class OfTenant(Hashable, Protocol):
    """A queue item: a signal, or an attempt."""

    @property
    def tenant(self) -> int: ...


T = TypeVar("T", bound=OfTenant)


class FairQueue(Generic[T]):
    """Ready signals, taken round-robin by tenant.

    `per_tenant`, the cap, is the maximum number of taken, unreleased signals of one tenant, at least 1; None: no cap.
    """

    def __init__(self, per_tenant: int | None = None) -> None:
        self._per_tenant = per_tenant

        # OrderedDict, because a dict needs O(removed keys) to find its first key
        # Invariant: a tenant with waiting signals has one line, in the ring or parked; other tenants have no line.
        # Invariant: a tenant is parked exactly when it has waiting signals and has reached its cap.
        self._ring: OrderedDict[int, OrderedDict[T, None]] = OrderedDict()
        self._parked: dict[int, OrderedDict[T, None]] = {}

        # Invariant: no tenant has more taken, unreleased signals than the highest cap that was set when one was taken.
        self._taken: dict[int, int] = {}

        # Invariant: equals the number of signals in all lines.
        self._waiting = 0

    def __len__(self) -> int:
        """Return the number of waiting signals. Taken signals don't wait."""
        return self._waiting

    def __contains__(self, signal: T) -> bool:
        return signal in (self._line(signal.tenant) or ())

    @property
    def per_tenant(self) -> int | None:
        """The cap. May be set at any time; taken signals stay taken."""
        return self._per_tenant

    @per_tenant.setter
    def per_tenant(self, per_tenant: int | None) -> None:
        if per_tenant == self._per_tenant:
            return
        self._per_tenant = per_tenant
        lines = [*self._ring.items(), *self._parked.items()]
        self._ring.clear()
        self._parked.clear()
        for tenant, line in lines:
            self._enqueue(tenant, line)

    @property
    def takeable(self) -> bool:
        """Whether `take` would return a signal."""
        return bool(self._ring)

    def put(self, signal: T) -> bool:
        """Add `signal` behind the other signals of its tenant; return False if `signal` already waits."""
        tenant = signal.tenant
        line = self._line(tenant)
        if line is None:
            line = self._enqueue(tenant, OrderedDict())
        elif signal in line:
            return False
        line[signal] = None
        self._waiting += 1
        return True

    def discard(self, signal: T) -> bool:
        """Remove `signal` if it waits; return whether it waited."""
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
        """Remove and return all waiting signals, grouped by tenant."""
        signals = [signal for lines in (self._ring, self._parked) for line in lines.values() for signal in line]
        self._ring.clear()
        self._parked.clear()
        self._waiting = 0
        return signals

    def take(self, limit: int) -> list[T]:
        """Take up to `limit` signals, round-robin by tenant. They count towards their tenants' caps until released."""
        signals: list[T] = []
        ring, counts = self._ring, self._taken
        cap = math.inf if self._per_tenant is None else self._per_tenant
        while ring and len(signals) < limit:
            tenant, line = ring.popitem(last=False)
            signal, _ = line.popitem(last=False)
            signals.append(signal)
            counts[tenant] = taken = counts.get(tenant, 0) + 1
            if line:  # the same as _enqueue, without a call per signal
                (ring if taken < cap else self._parked)[tenant] = line
        self._waiting -= len(signals)
        return signals

    def release(self, tenant: int, n: int = 1) -> None:
        """Release `n` of the tenant's taken signals.

        Raises ValueError if fewer are taken, because a second release of a signal would let a tenant exceed its cap.
        """
        taken = self._taken.get(tenant, 0)
        if not 0 <= n <= taken:
            raise ValueError(f"can't release {n} of {taken} taken signals")
        if n < taken:
            self._taken[tenant] = taken - n
        elif taken:
            del self._taken[tenant]
        if n and (line := self._parked.pop(tenant, None)) is not None:
            self._enqueue(tenant, line)

    def _line(self, tenant: int) -> OrderedDict[T, None] | None:
        return self._ring.get(tenant) or self._parked.get(tenant)

    def _enqueue(self, tenant: int, line: OrderedDict[T, None]) -> OrderedDict[T, None]:
        """Add a tenant without a line to the end of the ring, or park it if it has reached its cap."""
        at_cap = self._per_tenant is not None and self._taken.get(tenant, 0) >= self._per_tenant
        (self._parked if at_cap else self._ring)[tenant] = line
        return line
