"""Runs an event loop with a ReactorClient in a daemon thread, for SyncReactorClient."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from importlib import import_module
from threading import Lock, Thread
from typing import Any, TypeVar

from reactor.client.async_client import ReactorClient

# imported here, and not by the thread's first call: a fork during that import would leave its lock locked in the child
import_module("anyio._backends._asyncio")

T = TypeVar("T")

_log = logging.getLogger(__name__)


class LoopThread:
    """An event loop in a thread of this process, and the client that uses the loop."""

    def __init__(self, make_client: Callable[[], ReactorClient], on_crash: Callable[["LoopThread"], None]) -> None:
        """Start the thread. `on_crash` is called in it if the loop ends without `close`."""
        self._make_client = make_client
        self._on_crash = on_crash
        self._lock = Lock()
        self._calls: set[Future[Any]] = set()
        """The calls that wait for their answer. Invariant: when the thread ends, each is done or cancelled."""

        self._has_ended = False
        self._is_closing = False
        started: Future[asyncio.AbstractEventLoop] = Future()
        # a daemon thread: a program that doesn't call close() must still exit
        self._thread = Thread(target=self._run, args=(started,), name="reactor-client", daemon=True)
        self._thread.start()
        self._loop = started.result()

    @property
    def has_ended(self) -> bool:
        """Whether the loop has ended or was closed; then a call needs another LoopThread."""
        return self._has_ended or self._is_closing or not self._thread.is_alive()

    def submit(self, call: Callable[[ReactorClient], Coroutine[Any, Any, T]]) -> Future[T] | None:
        """Run `call` in the loop, in the caller's context. Returns None if the loop has ended or was closed.

        The future is cancelled if the loop ends before the call.
        """
        with self._lock:
            if self.has_ended:
                return None
            future = asyncio.run_coroutine_threadsafe(call(self._client), self._loop)
            self._calls.add(future)
        future.add_done_callback(self._calls.discard)
        return future

    def close(self) -> None:
        """End the thread when its calls have their answers, and close the client's connections."""
        with self._lock:
            if self.has_ended:
                return
            self._is_closing = True
            self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()

    def _run(self, started: "Future[asyncio.AbstractEventLoop]") -> None:
        try:
            # psycopg needs this kind of loop on every platform, whichever kind the app uses
            with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
                serving = runner.get_loop().create_task(self._serve(started))
                while not serving.done():
                    _run_loop(runner.get_loop(), serving)
        except Exception as error:  # noqa: BLE001  # logged, and read by the caller that waits for the start
            _log.exception("the event loop of SyncReactorClient has ended; the next call starts another")
            if not started.done():
                started.set_exception(error)
        finally:
            with self._lock:
                self._has_ended = True
                left = tuple(self._calls)
            for future in left:
                future.cancel()
            if not self._is_closing:
                self._on_crash(self)

    async def _serve(self, started: "Future[asyncio.AbstractEventLoop]") -> None:
        self._closing = asyncio.Event()
        self._client = self._make_client()
        started.set_result(asyncio.get_running_loop())
        await self._closing.wait()
        if calls := [asyncio.wrap_future(future) for future in tuple(self._calls)]:
            await asyncio.wait(calls)
        await self._client.aclose()


def _run_loop(loop: asyncio.AbstractEventLoop, serving: asyncio.Task[None]) -> None:
    """Run the loop until `serving` ends, or until a callback raises SystemExit or KeyboardInterrupt.

    These end run_until_complete, but the loop and its tasks are intact: the caller runs it again.
    """
    try:
        loop.run_until_complete(serving)
    except Exception:
        raise
    except BaseException as error:  # noqa: BLE001  # logged; no other thread's run may end with it
        _log.warning("the event loop of SyncReactorClient goes on after %r", error)
