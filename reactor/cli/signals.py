"""SIGTERM and SIGINT while a reactor works."""

import signal
from collections.abc import Awaitable, Callable

import anyio


async def run_with_signals(work: Callable[[], Awaitable[None]], on_signal: Callable[[signal.Signals], None]) -> None:
    """Run `work` to its end; call `on_signal` for each SIGTERM and SIGINT in the meantime."""

    async def receive_signals() -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for received in signals:
                on_signal(received)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receive_signals)
        await work()
        tasks.cancel_scope.cancel()
