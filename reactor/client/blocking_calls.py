"""Runs the calls of a SyncReactorClient in its event loop thread, and replaces that thread when it has ended."""

import os
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from functools import partial
from threading import RLock
from typing import Any, TypeVar
from weakref import WeakSet

from reactor.client.async_client import ReactorClient, connections_of
from reactor.client.loop_thread import LoopThread
from reactor.client.run import Run

T = TypeVar("T")

_TRIES = 3
"""How often a call is sent whose loop thread ends before the answer."""

_all: "WeakSet[BlockingCalls]" = WeakSet()
_of_parents: list[LoopThread] = []
"""What forked processes inherited. It is kept, because its destructors would act on the parent's connections."""


class BlockingCalls:
    """Used by all threads of a process. A forked process starts with no thread and no run."""

    def __init__(self, make_client: Callable[[], ReactorClient]) -> None:
        """Start nothing: the first call starts the thread."""
        self._make_client = make_client
        self.forget()
        _all.add(self)

    def forget(self) -> None:
        """In a forked process: forget the parent's loop thread, its runs, and a lock that another thread held."""
        if (loop_thread := getattr(self, "loop_thread", None)) is not None:
            _of_parents.append(loop_thread)
        self._lock = RLock()
        self.loop_thread: LoopThread | None = None
        self._runs: set[Run] = set()
        self._closes_after_runs = False

    def close(self) -> None:
        """End the thread and close the connections, now or after the last run. A later call starts a new thread."""
        with self._lock:
            self._closes_after_runs = bool(self._runs)
            if self._closes_after_runs:
                return
            loop_thread, self.loop_thread = self.loop_thread, None
        if loop_thread is not None:
            loop_thread.close()

    def call(self, call: Callable[[ReactorClient], Coroutine[Any, Any, T]], *, within_s: float | None = None) -> T:
        """Run `call` in the event loop, and return its result. If the loop ends before, run it again in a new loop.

        Raises TimeoutError after `within_s`; the call goes on.
        """
        for _ in range(_TRIES):
            future = self.submit(call)
            try:
                return future.result(within_s)
            except CancelledError:
                continue
        raise RuntimeError(f"the event loop of SyncReactorClient ended {_TRIES} times during one call")

    def submit(self, call: Callable[[ReactorClient], Coroutine[Any, Any, T]]) -> "Future[T]":
        """Run `call` in the event loop. The future is cancelled if the loop ends before the call."""
        while (future := self._running_loop_thread().submit(call)) is None:
            pass  # that loop has just ended
        return future

    def run_begins(self, run: Run) -> None:
        """Send the heartbeats of a run, also after the loop thread has been replaced."""
        with self._lock:
            self._runs.add(run)
        self.call(partial(_send_heartbeats, run))

    def run_ended(self, run: Run) -> None:
        """Send no more heartbeats of a run. If `close` was called during the last run, close."""
        with self._lock:
            self._runs.discard(run)
            is_closing = self._closes_after_runs and not self._runs
        self.submit(partial(_stop_heartbeats, run))
        if is_closing:
            self.close()

    def _running_loop_thread(self) -> LoopThread:
        """Return the event loop thread of this process; start one if there is none, or if it has ended."""
        with self._lock:
            if self.loop_thread is None or self.loop_thread.has_ended:
                self.loop_thread = LoopThread(self._make_client, self._on_crash)
                for run in self._runs:
                    self.loop_thread.submit(partial(_send_heartbeats, run))
            return self.loop_thread

    def _on_crash(self, ended: LoopThread) -> None:
        """Replace a loop thread that has ended unexpectedly, because active runs need heartbeats."""
        with self._lock:
            if self.loop_thread is ended and self._runs:
                self._running_loop_thread()


async def _send_heartbeats(run: Run, client: ReactorClient) -> None:
    connections_of(client).heartbeats().start(run.heartbeat(run.lose))


async def _stop_heartbeats(run: Run, client: ReactorClient) -> None:
    connections_of(client).heartbeats().stop(run.id)


def _after_fork_in_child() -> None:
    for calls in tuple(_all):
        calls.forget()


os.register_at_fork(after_in_child=_after_fork_in_child)
