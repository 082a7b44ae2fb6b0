"""Network faults on the listening connection and on the pool are detected, and no upload is missed."""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import pytest
from anyio import to_thread
from support.app import App, QueuedUpload
from support.chaos.final_check import wait_until_drained
from support.chaos.harness import figure
from support.recorder import Recorder
from support.servers.proxy import Proxy, proxied

from reactor.core.events import AttemptSettled, ListenerLost, Listening, Notified
from reactor.core.model import Verdict

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]

PATIENCE_S = 90.0


@asynccontextmanager
async def listening_through_a_proxy(app: App, recorder: Recorder) -> AsyncIterator[Proxy]:
    async with proxied(app.url) as proxy, app.running_reactor(recorder, listen_url=proxy.url):
        yield proxy


async def stored(recorder: Recorder, *uploads: QueuedUpload) -> None:
    for upload in uploads:
        await recorder.wait_for(
            AttemptSettled,
            lambda event, upload=upload: event.upload_id == upload.id and event.verdict is Verdict.STORED,  # type: ignore[misc]
            within_s=PATIENCE_S,
        )


async def drained(app: App) -> None:
    """Wait until the queue is empty. Events aren't enough: no event follows a settlement whose answer was lost."""
    await to_thread.run_sync(partial(wait_until_drained, app.url, within_s=PATIENCE_S))


def assert_stored_and_gone(app: App, uploads: Sequence[QueuedUpload]) -> None:
    """Assert that each upload is in the store and no longer in the queue. Its spooled file may still exist."""
    for upload in uploads:
        assert app.row(upload) is None
        assert app.stored_path(upload).read_bytes() == upload.content


async def test_a_reset_listener_reconnects_and_misses_nothing(app: App, recorder: Recorder) -> None:
    async with listening_through_a_proxy(app, recorder) as proxy:
        recorder.skip_recorded()
        proxy.reset()
        began = time.monotonic()
        uploads = app.queue_uploads(3)
        await recorder.wait_for(ListenerLost)
        detected_s = time.monotonic() - began
        await recorder.wait_for(Listening)
        figure("listener reset: detected, listening again, s", detected_s, time.monotonic() - began)
        await stored(recorder, *uploads)
    for upload in uploads:
        app.assert_stored(upload)


async def test_a_half_closed_listener_reconnects(app: App, recorder: Recorder) -> None:
    async with listening_through_a_proxy(app, recorder) as proxy:
        recorder.skip_recorded()
        proxy.half_close()
        uploads = app.queue_uploads(3)
        await recorder.wait_for(ListenerLost)
        await stored(recorder, *uploads)


async def test_a_slow_network_does_not_make_the_listener_reconnect(app: App, recorder: Recorder) -> None:
    async with listening_through_a_proxy(app, recorder) as proxy:
        recorder.skip_recorded()
        proxy.delay_s = 0.3
        uploads = app.queue_uploads(3)
        await recorder.wait_for(Notified)
        await stored(recorder, *uploads)
        assert recorder.events_of(ListenerLost) == []


@pytest.mark.parametrize("fault", [Proxy.blackhole, Proxy.freeze], ids=["blackhole", "freeze"])
async def test_a_silent_listener_is_detected_and_replaced_within_eight_seconds(
    fault: Callable[[Proxy], None], app: App, recorder: Recorder
) -> None:
    """The intervals are the defaults. The fault causes no error, because all connections stay open."""
    async with listening_through_a_proxy(app, recorder) as proxy:
        recorder.skip_recorded()
        began = time.monotonic()
        fault(proxy)
        uploads = app.queue_uploads(3)
        await recorder.wait_for(ListenerLost, within_s=PATIENCE_S)
        detected_s = time.monotonic() - began
        await recorder.wait_for(Listening)
        again_s = time.monotonic() - began
        figure(f"listener silent ({fault.__name__}): detected, listening again, s", detected_s, again_s)
        await stored(recorder, *uploads)
        assert again_s <= 8.0


@pytest.mark.parametrize("fault", [Proxy.reset, Proxy.half_close], ids=["reset", "half-close"])
async def test_broken_connections_of_the_pool_are_replaced(
    fault: Callable[[Proxy], None], app: App, recorder: Recorder
) -> None:
    async with proxied(app.url) as proxy, app.running_reactor(recorder, database_url=proxy.url, listen_url=app.url):
        await stored(recorder, *app.queue_uploads(3))
        fault(proxy)
        uploads = app.queue_uploads(20)
        await drained(app)
    assert_stored_and_gone(app, uploads)


@pytest.mark.parametrize("fault", [Proxy.blackhole, Proxy.freeze], ids=["blackhole", "freeze"])
async def test_silent_connections_of_the_pool_are_closed_and_the_work_is_done(
    fault: Callable[[Proxy], None], app: App, recorder: Recorder
) -> None:
    async with proxied(app.url) as proxy, app.running_reactor(recorder, database_url=proxy.url, listen_url=app.url):
        await stored(recorder, *app.queue_uploads(3))
        fault(proxy)
        began = time.monotonic()
        uploads = app.queue_uploads(20)
        await drained(app)
        figure(f"pool silent ({fault.__name__}): all stored after, s", time.monotonic() - began)
    assert_stored_and_gone(app, uploads)
