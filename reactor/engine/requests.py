"""Requests from other parts of the engine to the reconciliation loop. The loop waits for `changed`."""

import asyncio


class ReconcileRequests:
    """The pending requests. Repeating a pending request has no effect."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self.whole_pass = True
        """A whole pass (rescue, sweep, repair of usage) is requested. True at first, so the loop starts with a pass."""
        self.refill = False
        """A sweep is requested of the reactions with rows left in the database or yielded to other reactors."""

    def request_pass(self) -> None:
        """Request a whole pass."""
        self.whole_pass = True
        self.changed.set()

    def request_refill(self) -> None:
        """Request a sweep of the reactions with rows left in the database or yielded to other reactors."""
        self.refill = True
        self.changed.set()

    def wake(self) -> None:
        """Make the loop compute its next wake-up time again."""
        self.changed.set()
