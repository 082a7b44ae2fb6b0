"""Places are given in the order of arrival, to urgent calls first; a cancelled call keeps none."""

import asyncio

import pytest

from reactor.client.slots import Slots


async def test_urgent_calls_get_a_free_place_first() -> None:
    slots, order = Slots(2), []

    async def call(name: str, *, is_urgent: bool = False) -> None:
        await slots.acquire(is_urgent=is_urgent)
        order.append(name)

    await call("a")
    await call("b")
    waiting = [asyncio.create_task(call(name, is_urgent=name.isupper())) for name in ("c", "d", "E", "F")]
    await asyncio.sleep(0)
    for _ in waiting:
        slots.release()
        await asyncio.sleep(0)
    await asyncio.gather(*waiting)
    assert order == ["a", "b", "E", "F", "c", "d"]
    slots.release()
    await asyncio.wait_for(call("g"), 1)


@pytest.mark.parametrize("release_first", [True, False])
async def test_a_cancelled_call_gives_its_place_to_the_next(release_first: bool) -> None:
    slots = Slots(1)
    await slots.acquire(is_urgent=False)
    cancelled = asyncio.create_task(slots.acquire(is_urgent=True))
    waiting = asyncio.create_task(slots.acquire(is_urgent=False))
    await asyncio.sleep(0)
    if release_first:  # it has the place, but was cancelled before it could run
        slots.release()
        cancelled.cancel()
    else:
        cancelled.cancel()
        slots.release()
    await asyncio.wait_for(waiting, 1)
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    slots.release()
    await asyncio.wait_for(slots.acquire(is_urgent=False), 1)
