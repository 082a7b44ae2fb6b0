"""Waits for a condition on rows that no event announces."""

from collections.abc import Callable

import anyio


async def until(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    """Return when the condition holds; it is evaluated every 10 ms. Fails after `within_s`."""
    with anyio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110  # rows have no event
            await anyio.sleep(0.01)
