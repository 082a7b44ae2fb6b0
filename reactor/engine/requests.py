"""What the other parts of the engine ask of the reconciliation loop, which waits for `changed`."""

import asyncio


class ReconcileRequests:
    """Requests that are pending. Setting one twice is the same as once."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self.whole_pass = True
        """A whole pass is wanted: rescue, sweep, repair of usage. The first one is."""
        self.refill = False
        """Some reaction's ready queue runs low, and the database holds more of its rows."""

    def request_pass(self) -> None:
        """Ask for a whole pass now."""
        self.whole_pass = True
        self.changed.set()

    def request_refill(self) -> None:
        """Ask for a sweep of the reactions that have left rows in the database."""
        self.refill = True
        self.changed.set()

    def wake(self) -> None:
        """Have the loop look again at what it waits for."""
        self.changed.set()
