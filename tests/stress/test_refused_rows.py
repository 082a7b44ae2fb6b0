"""The app's triggers and constraints refuse some rows: their uploads are dead with the reason, others are stored."""

import json
import time
from typing import LiteralString

import anyio
import psycopg
import pytest
from support.app import App, QueuedUpload
from support.polling import until
from support.recorder import Recorder
from support.settlements import Settlements
from support.stubborn_store import StubbornStore

from reactor.core.events import AttemptSettled, DatabaseLost, LeaseLost, UploadDied
from reactor.core.model import Verdict
from reactor.reactions import upload_refusals

AT_ONCE_S = 3.0


def refuse(app: App, *, table: LiteralString, when: LiteralString, condition: LiteralString) -> None:
    """Create a trigger of the app that raises an exception under a condition on `old` and `new`."""
    app.conn.execute(
        "create function public.app_rule() returns trigger language plpgsql as $$ begin if " + condition + " then"
        " raise exception 'the books are closed'; end if;"
        " if tg_op = 'DELETE' then return old; end if; return new; end $$"
    )
    app.conn.execute(
        "create trigger app_rule " + when + " on public." + table + " for each row execute function public.app_rule()"
    )


def queue_together(app: App, count: int) -> list[QueuedUpload]:
    return app.queue_uploads(count, next_retry_at="infinity")


def make_due(app: App) -> None:
    app.conn.execute("update public.upload_queue set next_retry_at = 'epoch' where next_retry_at = 'infinity'")


def assert_refused(app: App, upload: QueuedUpload) -> None:
    row = app.row(upload)
    assert row is not None
    assert (row["status"], row["error_code"]) == ("dead", "DATABASE_REFUSED")
    assert "the books are closed" in row["error_message"]
    assert app.is_spooled(upload)


@pytest.mark.parametrize("when", ["before update", "after update"])
async def test_a_trigger_on_sources_that_raises_for_one_user_holds_up_no_other(
    app: App, recorder: Recorder, when: LiteralString
) -> None:
    """Eleven uploads of eleven users are due at once. The reactor stops as usual afterwards."""
    bad, *good = uploads = queue_together(app, 11)
    app.conn.execute("create table public.closed as select %s::uuid as user_id", (bad.user,))
    condition: LiteralString = "new.user_id in (select user_id from public.closed)"
    async with app.running_reactor(recorder):
        refuse(app, table="sources", when=when, condition=condition)
        make_due(app)
        began = time.monotonic()
        for _ in good:
            await recorder.wait_for(AttemptSettled, lambda s: s.verdict is Verdict.STORED, within_s=AT_ONCE_S)
        dead = await recorder.wait_for(AttemptSettled, lambda s: s.verdict is Verdict.DEAD, within_s=AT_ONCE_S)
        assert (dead.upload_id, dead.outcome.code) == (bad.id, "DATABASE_REFUSED")
        assert time.monotonic() - began < AT_ONCE_S
        assert [event.upload_id for event in recorder.events_of(UploadDied)] == [bad.id]
        stopping = time.monotonic()
    assert time.monotonic() - stopping < 1.5
    for upload in good:
        app.assert_stored(upload)
    assert_refused(app, bad)
    assert app.source(bad)["storage_status"] == "pending"
    assert {s.trail.attempt for s in recorder.events_of(AttemptSettled)} == {1}
    assert len(recorder.events_of(AttemptSettled)) == len(uploads)


async def test_a_refused_upload_is_stored_after_the_trigger_is_corrected_and_it_is_retried(
    app: App, recorder: Recorder
) -> None:
    [upload] = queue_together(app, 1)
    refuse(app, table="sources", when="before update", condition="true")
    async with app.running_reactor(recorder):
        make_due(app)
        await recorder.wait_for(AttemptSettled, lambda s: s.verdict is Verdict.DEAD)
        app.conn.execute("drop trigger app_rule on public.sources")
        app.all("select reactor.requeue_uploads(%s)", [upload.id])
        await recorder.wait_for(AttemptSettled, lambda s: s.verdict is Verdict.STORED)
    app.assert_stored(upload)


async def test_a_refused_claim_holds_up_no_other(app: App, recorder: Recorder) -> None:
    bad, *good = queue_together(app, 60)
    refuse(
        app, table="upload_queue", when="before update", condition="new.metadata ? 'bad' and new.status = 'uploading'"
    )
    async with app.running_reactor(recorder):
        app.conn.execute("update public.upload_queue set metadata = '{\"bad\": 1}' where id = %s", (bad.id,))
        make_due(app)
        died = await recorder.wait_for(UploadDied, within_s=AT_ONCE_S)
        assert (died.upload_id, died.code) == (bad.id, "DATABASE_REFUSED")
        for _ in good:
            await recorder.wait_for(AttemptSettled, lambda s: s.verdict is Verdict.STORED, within_s=AT_ONCE_S)
    assert_refused(app, bad)
    assert app.source(bad)["storage_status"] == "failed"
    assert app.usage(bad) == (0, 0)


@pytest.mark.parametrize("end", ["raise exception 'frozen';", "return null;"])
async def test_an_upload_whose_row_cannot_be_changed_at_all_is_set_aside_and_tried_again(
    app: App, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, end: LiteralString
) -> None:
    monkeypatch.setattr(upload_refusals, "_SET_ASIDE_S", 0.2)
    frozen, *others = queue_together(app, 20)
    app.conn.execute("update public.upload_queue set metadata = '{\"frozen\": 1}' where id = %s", (frozen.id,))
    async with app.running_reactor(recorder):
        make_due(app)
        app.conn.execute("update public.upload_queue set next_retry_at = 'infinity' where id = %s", (frozen.id,))
    app.conn.execute("update public.upload_queue set next_retry_at = 'epoch'")
    app.conn.execute(
        "create function public.app_rule() returns trigger language plpgsql as $$ begin"
        " if old.metadata ? 'frozen' then " + end + " end if; return new; end $$"
    )
    app.conn.execute(
        "create trigger app_rule before update on public.upload_queue for each row execute function public.app_rule()"
    )
    more = app.queue_uploads(20)
    async with app.running_reactor(recorder):
        await until(lambda: app.one("select count(*) from public.upload_queue") == 1)
        await until(lambda: not any(app.is_spooled(upload) for upload in [*others, *more]))
        app.conn.execute("drop trigger app_rule on public.upload_queue")
        await until(lambda: app.row(frozen) is None)
    app.assert_stored(frozen)


async def test_a_settlement_that_changes_nothing_at_all_ends_the_attempt_and_the_others_are_stored(
    app: App, recorder: Recorder, store: StubbornStore
) -> None:
    """The app freezes the row while the upload is being stored."""
    frozen, *others = queue_together(app, 11)
    app.conn.execute("update public.upload_queue set metadata = '{\"frozen\": 1}' where id = %s", (frozen.id,))
    refuse(
        app, table="upload_queue", when="before update or delete",
        condition="old.metadata ? 'frozen' and old.status = 'uploading'",
    )  # fmt: skip
    async with app.running_reactor(recorder, store=store):
        make_due(app)
        for _ in others:
            await recorder.wait_for(AttemptSettled, lambda s: s.verdict is Verdict.STORED, within_s=AT_ONCE_S)
        stopping = time.monotonic()
    assert time.monotonic() - stopping < 1.5
    assert app.row(frozen)["status"] == "uploading"  # type: ignore[index]
    assert app.is_spooled(frozen)


async def test_a_refused_burial_is_dead_with_the_servers_message(app: App, recorder: Recorder) -> None:
    """The upload has no attempts left. The app refuses the code that such an upload gets."""
    bad, good = queue_together(app, 2)
    app.conn.execute("update public.upload_queue set retry_count = max_retries")
    refuse(
        app, table="upload_queue", when="before update",
        condition="new.error_code = 'STORAGE_UPLOAD_FAILED' and new.metadata ? 'bad'",
    )  # fmt: skip
    app.conn.execute("update public.upload_queue set metadata = '{\"bad\": 1}' where id = %s", (bad.id,))
    async with app.running_reactor(recorder):
        make_due(app)
        await until(lambda: app.one("select count(*) from public.upload_queue where status = 'dead'") == 2)
    assert_refused(app, bad)
    assert app.row(good)["error_code"] == "STORAGE_UPLOAD_FAILED"  # type: ignore[index]


async def test_a_refused_rescue_holds_up_no_other(app: App) -> None:
    """Two abandoned uploads; the app refuses to let one of them wait again, so a reactor claims it instead."""
    bad, good = queue_together(app, 2)
    app.conn.execute(
        "update public.upload_queue set status = 'uploading', retry_count = 1, lease_token = gen_random_uuid(),"
        " lease_expires_at = now(), metadata = jsonb_build_object(case when id = %s then 'bad' else 'good' end, 1)",
        (bad.id,),
    )
    refuse(app, table="upload_queue", when="before update", condition="new.metadata ? 'bad' and new.status = 'failed'")
    await app.drain()
    app.assert_stored(good)
    app.assert_stored(bad)


async def test_a_refused_extension_loses_no_lease(app: App, recorder: Recorder, store: StubbornStore) -> None:
    bad, good = uploads = queue_together(app, 2)
    refuse(
        app, table="upload_queue", when="before update",
        condition="new.metadata ? 'bad' and new.lease_expires_at > old.lease_expires_at",
    )  # fmt: skip
    app.conn.execute("update public.upload_queue set metadata = '{\"bad\": 1}' where id = %s", (bad.id,))
    store.open.clear()
    async with app.running_reactor(recorder, store=store, lease_s=1.0):
        make_due(app)
        await anyio.sleep(0.9)  # two extensions
        remaining = {
            r["id"]: r["left_s"]
            for r in app.all(
                "select id, date_part('epoch', lease_expires_at - clock_timestamp()) as left_s from public.upload_queue"
            )
        }
        assert remaining[good.id] > 0.3 > remaining[bad.id]
        assert recorder.events_of(LeaseLost) == []
        store.open.set()
        for _ in uploads:
            await recorder.wait_for(AttemptSettled, lambda s: s.verdict is Verdict.STORED)


@pytest.mark.chaos
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("kind", "at_least"), [("one user", 0.8), ("check", 0.65), ("before", 0.65), ("after", 0.4)])
def test_a_refused_upload_in_each_batch_costs_a_bounded_part_of_the_settlement(
    app: App, kind: str, at_least: float
) -> None:
    """The server's time for settlements only; the goal for each kind is 0.8.

    If the refused uploads are always another user's, the batch is rolled back once. An AFTER trigger raises only after
    the whole statement, so its batch is split.
    """
    with psycopg.connect(app.url, autocommit=True) as conn:
        seconds = Settlements(conn, kind).measure(rounds=30)
    ratio = min(seconds[0]) / min(seconds[1])
    figures = {"without_s": round(min(seconds[0]), 4), "with_s": round(min(seconds[1]), 4), "ratio": round(ratio, 2)}
    print(kind, json.dumps(figures))  # noqa: T201  # shown by pytest -s
    assert ratio >= at_least


async def test_a_fault_of_the_schema_makes_no_upload_dead_and_names_itself(app: App, recorder: Recorder) -> None:
    """An app may rename a column by mistake, and mend it a while later."""
    async with app.running_reactor(recorder) as reactor:
        app.conn.execute("alter table public.sources rename column storage_url to url")
        uploads = app.queue_uploads(20)
        await recorder.wait_for(DatabaseLost, lambda event: "storage_url" in event.reason)
        await reactor.wait_ready(ready=False)
        assert "storage_url" in " ".join(reactor.not_ready())
        app.conn.execute("alter table public.sources rename column url to storage_url")
        await recorder.wait_for_all(20, AttemptSettled, lambda settled: settled.verdict is Verdict.STORED)
        await reactor.wait_ready()
    for upload in uploads:
        app.assert_stored(upload)
    assert not recorder.events_of(AttemptSettled, lambda settled: settled.verdict is not Verdict.STORED)
