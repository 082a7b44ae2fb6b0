"""One task runs the query for all callers, who wait for it for a limited time."""

from anyio import Event, create_task_group
from support.manual_clock import ManualClock, idle_event

from reactor.postgres.shared_query import SharedQuery


async def test_callers_share_a_query_that_begins_after_their_request() -> None:
    clock, begun, may_end = ManualClock(), list[int](), Event()
    results: list[tuple[str, bool]] = []

    async def query() -> None:
        begun.append(len(begun) + 1)
        await may_end.wait()

    shared = SharedQuery(query, clock)

    async def wait(name: str) -> None:
        results.append((name, await shared.ended(shared.request(), within_s=1.0)))

    async with create_task_group() as tasks:
        tasks.start_soon(shared.run)
        tasks.start_soon(wait, "first")
        await idle_event()
        tasks.start_soon(wait, "second")  # the first query may have read the figures before this request
        tasks.start_soon(wait, "third")
        await idle_event()
        assert (begun, results) == ([1], [])
        clock.advance(1.1)
        await idle_event()
        assert sorted(results) == [("first", False), ("second", False), ("third", False)]
        may_end.set()
        await idle_event()
        assert begun == [1, 2]
        assert await shared.ended(2, within_s=0.0)
        assert not await shared.ended(3, within_s=0.0)
        tasks.cancel_scope.cancel()
