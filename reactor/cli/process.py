"""Process-wide functions of commands that run a reactor: garbage collection, signals, hanging threads."""

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import anyio

_THREADS_END_WITHIN_S = 0.5

Work = Callable[[], Coroutine[Any, Any, None]]


def tune_garbage_collector() -> None:
    """Exclude all existing objects from garbage collection, and make later collections less frequent.

    Objects that are created at start-up live as long as the process, and reference counting frees the objects of an
    upload. Collections therefore find almost nothing. With the thresholds (700, 10, 10) of Python 3.11, collections
    take a tenth of the time of an upload.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 50, 50)


async def run_with_signals(work: Work, on_signal: Callable[[signal.Signals], None], *background: Work) -> None:
    """Run `work` and, until it ends, `background`. Call `on_signal` for each SIGTERM and SIGINT."""

    async def receive_signals() -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for received in signals:
                on_signal(received)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receive_signals)
        for task in background:
            tasks.start_soon(task)
        await work()
        tasks.cancel_scope.cancel()


def exit_if_threads_hang() -> None:
    """Exit with 0 if a thread still runs after 0.5 s. Such a thread hangs in an abandoned put.

    Without this, Python would wait for the thread until its socket times out.
    """
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(_THREADS_END_WITHIN_S)
            if thread.is_alive():
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(0)
