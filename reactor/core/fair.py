"""Ready signals, taken round-robin by tenant, so that one tenant's flood doesn't starve another."""

from collections import Counter, OrderedDict

from reactor.core.model import Signal


class FairQueue:
    """Waiting signals by tenant, each tenant in turn, none beyond its cap."""

    def __init__(self, per_tenant: int | None = None) -> None:
        self._per_tenant = per_tenant
        # Invariant: a tenant is in exactly one of _turns and _parked while it has signals waiting, else in neither.
        # dict as an ordered set: a signal waits once
        self._turns: OrderedDict[int, dict[Signal, None]] = OrderedDict()
        self._parked: dict[int, dict[Signal, None]] = {}
        self._taken: Counter[int] = Counter()
        self._waiting = 0

    @property
    def per_tenant(self) -> int | None:
        """How many of one tenant may be taken and not released; None: any number."""
        return self._per_tenant

    @per_tenant.setter
    def per_tenant(self, cap: int | None) -> None:
        if cap == self._per_tenant:
            return
        self._per_tenant = cap
        for tenant in [tenant for tenant in self._parked if self._may_take(tenant)]:
            self._turns[tenant] = self._parked.pop(tenant)

    def __len__(self) -> int:
        return self._waiting

    def __contains__(self, signal: Signal) -> bool:
        return signal in (self._turns.get(signal.tenant) or self._parked.get(signal.tenant) or ())

    @property
    def takeable(self) -> bool:
        """Return whether `take` would return something."""
        while self._turns:
            tenant = next(iter(self._turns))
            if self._may_take(tenant):
                return True
            self._parked[tenant] = self._turns.pop(tenant)
        return False

    def put(self, signal: Signal) -> bool:
        """Let a signal wait; False when it does already."""
        tenant = signal.tenant
        signals = self._turns.get(tenant)
        if signals is None:
            signals = self._parked.get(tenant)
        if signals is None:
            signals = self._turns[tenant] = {}
        if signal in signals:
            return False
        signals[signal] = None
        self._waiting += 1
        return True

    def discard(self, signal: Signal) -> bool:
        """Let a signal wait no more; False when it didn't."""
        for tenants in (self._turns, self._parked):
            signals = tenants.get(signal.tenant)
            if signals is not None and signal in signals:
                del signals[signal]
                self._waiting -= 1
                if not signals:
                    del tenants[signal.tenant]
                return True
        return False

    def take(self, limit: int) -> list[Signal]:
        """Take up to `limit` signals, one of each tenant in turn; each counts against its tenant until released."""
        taken: list[Signal] = []
        while len(taken) < limit and self.takeable:
            tenant, signals = self._turns.popitem(last=False)
            signal = next(iter(signals))
            del signals[signal]
            taken.append(signal)
            self._taken[tenant] += 1
            if signals:
                self._turns[tenant] = signals
        self._waiting -= len(taken)
        return taken

    def release(self, tenant: int, n: int = 1) -> None:
        """Say that `n` of a tenant's taken signals are done with."""
        self._taken[tenant] -= n
        if self._taken[tenant] <= 0:
            del self._taken[tenant]
        if tenant in self._parked and self._may_take(tenant):
            self._turns[tenant] = self._parked.pop(tenant)

    def _may_take(self, tenant: int) -> bool:
        return self._per_tenant is None or self._taken[tenant] < self._per_tenant
