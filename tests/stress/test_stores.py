"""In a complete reactor, verdict and usage are right after each error of the store, and no upload is counted twice."""

from collections.abc import Iterator

import pytest
from support import aws
from support.app import BUCKET, App, QueuedUpload
from support.recorder import Recorder
from support.servers.fault_server import (
    Fault,
    FaultServer,
    Request,
    agrees_without_reading,
    answers,
    answers_text,
    hangs,
    loses_the_answer,
    resets,
    stores,
)

from reactor.core.events import AttemptSettled, BreakerMoved
from reactor.core.model import Verdict

SECRET = "no-server-has-this-one"  # noqa: S105  # made up


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    with FaultServer() as server:
        aws.use(aws.environment(server.endpoint, access_key="key", secret_key=SECRET), monkeypatch)
        yield server


def puts(server: FaultServer, upload: QueuedUpload) -> int:
    return server.requests.count(f"PUT /{BUCKET}/{upload.key}")


def assert_stored_once(app: App, server: FaultServer, upload: QueuedUpload) -> None:
    """Assert that the store has the object and that its bytes are counted once."""
    assert server.objects[f"/{BUCKET}/{upload.key}"] == upload.content
    assert app.row(upload) is None
    assert app.source(upload)["storage_url"] == f"s3://{BUCKET}/{upload.key}"
    assert app.usage(upload) == (len(upload.content), 0)
    assert not app.is_spooled(upload)


def once(fault: Fault) -> Fault:
    """Return a fault that affects only the first put of each object."""
    seen: set[str] = set()

    def faulty(request: Request) -> None:
        if request.command == "PUT" and request.path not in seen:
            seen.add(request.path)
            fault(request)
        else:
            stores(request)

    return faulty


PASSING: dict[str, Fault] = {
    "500": answers(500, "InternalError"),
    "503 with Retry-After": answers(503, "SlowDown", retry_after="1"),
    "429 with Retry-After": answers(429, "TooManyRequests", retry_after="1"),
    "409, temporary": answers(409, "ConditionalRequestConflict"),
    "403, once": answers(403, "AccessDenied"),
    "a proxy's error": answers_text(502, "<html>Bad Gateway\x1b[31m</html>"),
    "200 from a proxy that reads nothing": agrees_without_reading,
    "no answer": hangs,
    "a reset in the middle of the body": resets,
    "an answer lost after storing": loses_the_answer,
    "200 with a text instead of S3's answer": answers_text(200, "hello"),
}


@pytest.mark.parametrize("name", PASSING)
async def test_a_passing_error_is_retried_and_the_upload_is_counted_once(
    app: App, server: FaultServer, recorder: Recorder, name: str
) -> None:
    async with app.running_reactor(recorder, store_url="s3://", attempt_timeout_s=2.0):
        server.fault = once(PASSING[name])
        [upload] = app.queue_uploads(content=bytes(200_000))
        retry = await recorder.wait_for(AttemptSettled)
        assert (retry.verdict, retry.trail.attempt) == (Verdict.RETRY, 1)
        assert retry.outcome.message is not None
        assert retry.outcome.message.isprintable()
        stored = await recorder.wait_for(AttemptSettled)
        assert (stored.verdict, stored.trail.attempt) == (Verdict.STORED, 2)
        assert puts(server, upload) == 2
        assert retry.outcome.delay_s == (1.0 if name.endswith("Retry-After") else 0.1)
    assert_stored_once(app, server, upload)


FINAL: dict[str, tuple[Fault, int]] = {
    "400": (answers(400, "InvalidRequest"), 1),
    "404, with a code": (answers(404, "NoSuchKey"), 1),
    "409, permanent": (answers(409, "InvalidBucketState"), 1),
    "412": (answers(412, "PreconditionFailed"), 1),
    "413": (answers(413, "EntityTooLarge"), 1),
    "403, twice": (answers(403, "AccessDenied"), 2),
    "401, twice": (answers(401, "Unauthorized"), 2),
}


@pytest.mark.parametrize(("fault", "tries"), FINAL.values(), ids=FINAL.keys())
async def test_a_permanent_error_makes_the_upload_dead_and_releases_its_reservation(
    app: App, server: FaultServer, recorder: Recorder, fault: Fault, tries: int
) -> None:
    async with app.running_reactor(recorder, store_url="s3://"):
        server.fault = fault
        [upload] = app.queue_uploads()
        settled = await recorder.wait_for_all(tries, AttemptSettled)
        assert settled[-1].verdict is Verdict.DEAD
    assert puts(server, upload) == tries
    row = app.row(upload)
    assert row is not None
    assert (row["status"], row["retry_count"], len(row["errors"])) == ("dead", tries, tries)
    assert SECRET not in str(row)
    assert app.usage(upload) == (0, 0)
    assert app.is_spooled(upload)


async def test_an_outage_spends_at_most_two_attempts_and_all_uploads_are_stored_once_after_it(
    app: App, server: FaultServer, recorder: Recorder
) -> None:
    async with app.running_reactor(recorder, store_url="s3://") as reactor:
        server.fault = answers(503, "SlowDown")
        uploads = app.queue_uploads(60)
        opened = await recorder.wait_for(BreakerMoved)
        assert opened.is_open
        # failed puts and probes have a code; an upload that was handed back before its put has none
        await recorder.wait_for_all(
            3, AttemptSettled, lambda settled: settled.verdict is Verdict.DEFERRED and settled.outcome.code is not None
        )
        assert b"reactor_breaker_open" in await reactor.metrics()
        assert app.one("select max(retry_count) from public.upload_queue") <= 2
        assert app.one("select count(*) from public.upload_queue where status = 'dead'") == 0
        server.fault = stores
        await recorder.wait_for(BreakerMoved, lambda moved: not moved.is_open)
        await recorder.wait_for_all(60, AttemptSettled, lambda settled: settled.verdict is Verdict.STORED)
        assert max(settled.trail.attempt for settled in recorder.events_of(AttemptSettled)) <= 3
    for upload in uploads:
        assert_stored_once(app, server, upload)
    app.assert_usage_matches_rows()


async def test_one_upload_that_the_store_fails_on_stops_no_other(
    app: App, server: FaultServer, recorder: Recorder
) -> None:
    async with app.running_reactor(recorder, store_url="s3://"):
        with app.conn.transaction():
            [poison] = app.queue_uploads(max_retries=3)
            good = app.queue_uploads(30)
            bad = answers(500, "InternalError")
            server.fault = lambda request: bad(request) if request.path.endswith(poison.key) else stores(request)
        await recorder.wait_for_all(30, AttemptSettled, lambda settled: settled.verdict is Verdict.STORED)
        await recorder.wait_for(AttemptSettled, lambda settled: settled.verdict is Verdict.DEAD)
        assert recorder.events_of(BreakerMoved) == []
    for upload in good:
        assert_stored_once(app, server, upload)
    row = app.row(poison)
    assert row is not None
    assert (row["status"], row["retry_count"]) == ("dead", 3)
