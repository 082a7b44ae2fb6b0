"""Operators act on the page only with the token and with forms of their own session; each action is audited."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from support.app import App
from support.recorder import Recorder
from support.visitor import TOKEN, Visitor, program

from reactor.core.events import AttemptSettled, Reconciled
from reactor.core.model import Verdict
from reactor.web.auth import MAX_FAILURES

LATER = "2100-01-01"
ACTIONS = ("retry", "cancel", "purge", "fail", "retry-all", "reconcile")


@asynccontextmanager
async def visiting(app: App, recorder: Recorder, **settings: Any) -> AsyncIterator[Visitor]:
    async with app.running_reactor(recorder, **{"http_token": TOKEN} | settings) as reactor:
        yield Visitor(reactor.http_url)


def audit(app: App) -> list[dict[str, Any]]:
    return app.all("select * from reactor.audit_log order by at, id")


# actions


async def test_a_retried_dead_upload_is_stored_and_the_retry_is_audited(app: App, recorder: Recorder) -> None:
    async with visiting(app, recorder) as visitor:
        [upload] = app.queue_uploads(spooled=False)
        await recorder.wait_for(AttemptSettled, lambda event: event.verdict is Verdict.DEAD)
        (app.spool / upload.key).write_bytes(upload.content)
        await visitor.log_in(actor="Ana P.")
        done = await visitor.act("retry", ids=upload.id, back="/uploads?status=dead")
        assert (done.status, done.headers["location"]) == (303, "/uploads?status=dead")
        assert "1 due again." in (await visitor.get("/uploads?status=dead")).text
        assert "1 due again." not in (await visitor.get("/uploads?status=dead")).text
        await recorder.wait_for(AttemptSettled, lambda event: event.verdict is Verdict.STORED)
        log = (await visitor.get("/audit")).text
    app.assert_stored(upload)
    [row] = audit(app)
    assert (row["actor"], row["remote_address"], row["action"]) == ("Ana P.", "127.0.0.1", "retry")
    assert (row["ids"], row["changed"], row["filter"]) == ([upload.id], 1, None)
    assert row["outcome"] == {"changed": [str(upload.id)], "kept": {}}
    assert "<bdi>Ana P.</bdi>" in log
    assert str(upload.id) in log


async def test_cancel_and_purge_work_like_the_commands(app: App, recorder: Recorder) -> None:
    [upload] = app.queue_uploads(next_retry_at=LATER)
    async with visiting(app, recorder) as visitor:
        client = program(visitor.url)
        ident = str(upload.id)
        early = json.loads((await client.post("/do/purge", {"ids": ident})).text)
        assert early == {"changed": [], "left": {ident: "is not dead or cancelled: cancel it first"}, "notes": []}
        assert json.loads((await client.post("/do/cancel", {"ids": ident})).text)["changed"] == [ident]
        assert app.usage(upload) == (0, 0)
        assert app.is_spooled(upload)
        purged = await client.post("/do/purge", {"ids": ident}, X_Operator="nightly")
        assert json.loads(purged.text)["changed"] == [ident]
    assert app.row(upload) is None
    assert not app.is_spooled(upload)
    assert [(row["action"], row["changed"], row["actor"]) for row in audit(app)] == [
        ("purge", 0, "a program"),
        ("cancel", 1, "a program"),
        ("purge", 1, "nightly"),
    ]
    assert "temp_file_path" not in json.dumps([row["outcome"] for row in audit(app)])


@pytest.mark.parametrize("path", ["../precious", "/etc/hostname"])
async def test_a_purge_deletes_nothing_outside_the_spool(app: App, recorder: Recorder, path: str) -> None:
    precious = app.spool.parent / "precious"
    precious.write_bytes(b"precious")
    [upload] = app.queue_uploads(status="dead", temp_file_path=path)
    async with visiting(app, recorder) as visitor:
        done = json.loads((await program(visitor.url).post("/do/purge", {"ids": str(upload.id)})).text)
    assert done["changed"] == [str(upload.id)]
    assert "stays" in done["notes"][0]
    assert path not in done["notes"][0]
    assert precious.read_bytes() == b"precious"


async def test_an_operator_fails_a_run_with_a_message(app: App, recorder: Recorder) -> None:
    run, ended = app.begin_run(timeout_at=LATER), app.begin_run(status="completed")
    async with visiting(app, recorder) as visitor:
        await visitor.log_in()
        page = (await visitor.get(f"/runs/{run}")).text
        assert 'action="/do/fail"' in page
        await visitor.act("fail", ids=[str(run), str(ended)], message="stuck, by hand", back=f"/runs/{run}")
        page = (await visitor.get(f"/runs/{run}")).text
    row = app.run(run)
    assert (row["status"], row["error_message"]) == ("failed", "stuck, by hand")
    assert app.run(ended)["status"] == "completed"
    assert f"1 failed; {ended} is not pending or running, or does not exist." in page
    assert audit(app)[0]["ids"] == [run, ended]


async def test_an_operator_starts_a_reconciliation(app: App, recorder: Recorder) -> None:
    app.disable_triggers()
    async with visiting(app, recorder) as visitor:
        [upload] = app.queue_uploads()
        answer = await program(visitor.url).post("/do/reconcile", {})
        assert json.loads(answer.text)["notes"] == ["a reconciliation has started"]
        await recorder.wait_for(Reconciled)
        await recorder.wait_for(AttemptSettled, lambda event: event.verdict is Verdict.STORED)
    app.assert_stored(upload)
    assert [row["action"] for row in audit(app)] == ["reconcile"]


async def test_retry_all_first_shows_the_count_of_matches(app: App, recorder: Recorder) -> None:
    spooled = app.queue_uploads(7, status="dead", error_code="STORAGE_REJECTED")
    [other] = app.queue_uploads(status="dead", error_code="CONTENT_MISMATCH")
    async with visiting(app, recorder) as visitor:
        await visitor.log_in()
        asked = await visitor.get("/uploads/retry?status=dead&code=STORAGE_REJECTED")
        assert "7 uploads: dead, error code <code>STORAGE_REJECTED</code>" in asked.text
        assert audit(app) == []
        await visitor.act("retry-all", status="dead", code="STORAGE_REJECTED", user="", back="/uploads?status=dead")
        page = (await visitor.get("/uploads?status=dead")).text
        await recorder.wait_for_all(7, AttemptSettled, lambda event: event.verdict is Verdict.STORED)
    assert "7 due again." in page
    for upload in spooled:
        app.assert_stored(upload)
    row = app.row(other)
    assert row is not None
    assert row["status"] == "dead"
    [written] = audit(app)
    assert (written["filter"], written["changed"]) == ({"status": "dead", "code": "STORAGE_REJECTED"}, 7)
    assert set(written["ids"]) == {upload.id for upload in spooled}


async def test_retry_all_works_in_batches_up_to_a_limit_and_counts_the_rest(
    app: App, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first batch skips an upload that exceeds its user's quota; later batches leave it out."""
    monkeypatch.setattr("reactor.web.actions.BATCH_ROWS", 4)
    monkeypatch.setattr("reactor.web.actions.MAX_RETRIED", 10)
    user_without_quota = uuid4()
    [kept] = app.queue_uploads(user=user_without_quota, status="dead", updated_at="2026-01-01")
    app.all("select public.set_plan(%s, 'free')", user_without_quota)
    app.conn.execute("update public.sources set storage_status = 'failed' where id = %s", (kept.source,))
    app.conn.execute(
        "update public.storage_usage set storage_limit_bytes = 0 where user_id = %s", (user_without_quota,)
    )
    app.queue_uploads(11, status="dead", updated_at="2026-01-02")
    async with visiting(app, recorder) as visitor:
        done = json.loads((await program(visitor.url).post("/do/retry-all", {"status": "dead"})).text)
        await recorder.wait_for_all(9, AttemptSettled)
    assert len(done["changed"]) == 9
    assert done["left"] == {str(kept.id): "The upload doesn't fit into the plan's storage."}
    assert done["notes"] == ["2 remain: one action retries at most 10; repeat it"]
    assert [(len(row["ids"]), row["changed"]) for row in audit(app)] == [(4, 3), (4, 4), (2, 2)]


async def test_retry_all_leaves_an_upload_that_is_cancelled_while_it_runs(
    app: App, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reactor.web.actions.BATCH_ROWS", 1)
    [_, later] = app.queue_uploads(2, status="dead", updated_at="2026-01-01")
    app.conn.execute("update public.upload_queue set updated_at = '2026-01-02' where id = %s", (later.id,))
    app.conn.execute(
        "create function public.cancel_later() returns trigger language plpgsql as $$ begin"
        f" update public.upload_queue set status = 'cancelled' where id = '{later.id}' and status = 'dead';"
        " return null; end $$"
    )
    app.conn.execute(
        "create trigger cancel_later after update on public.upload_queue for each row"
        " when (old.status = 'dead' and new.status = 'failed') execute function public.cancel_later()"
    )
    try:
        async with visiting(app, recorder) as visitor:
            done = json.loads((await program(visitor.url).post("/do/retry-all", {"status": "dead"})).text)
    finally:
        app.conn.execute("drop function public.cancel_later() cascade")
    assert len(done["changed"]) == 1
    row = app.row(later)
    assert row is not None
    assert row["status"] == "cancelled"


async def test_an_action_that_cannot_be_audited_changes_nothing(app: App, recorder: Recorder) -> None:
    [upload] = app.queue_uploads(status="dead")
    async with visiting(app, recorder) as visitor:
        app.conn.execute("alter table reactor.audit_log add constraint full_for_now check (false) not valid")
        answer = await program(visitor.url).post("/do/retry", {"ids": str(upload.id)})
        app.conn.execute("alter table reactor.audit_log drop constraint full_for_now")
    assert answer.status == 422
    row = app.row(upload)
    assert row is not None
    assert row["status"] == "dead"


def test_an_action_that_is_sent_twice_is_done_once(app: App) -> None:
    """If the connection fails before the answer arrives, the caller repeats the call, which changes nothing more."""
    [upload] = app.queue_uploads(status="dead")
    request = uuid4()
    arguments = (request, "ana", "here", "cancel", [upload.id])
    first, again = (app.one("select reactor.operate(%s, %s, %s, %s, %s, null, null)", *arguments) for _ in range(2))
    assert first == again == {"changed": [str(upload.id)], "kept": {}, "files": []}
    assert len(audit(app)) == 1


# authorisation


async def test_without_the_token_a_request_changes_nothing(app: App, recorder: Recorder) -> None:
    [upload] = app.queue_uploads(status="dead")
    form = {"ids": str(upload.id), "status": "dead"}
    async with visiting(app, recorder) as visitor:
        forged = Visitor(visitor.url, cookie=f"reactor_session_{urlsplit(visitor.url).port}={'a' * 43}")
        for action in ACTIONS:
            unknown = await visitor.post(f"/do/{action}", form, Accept="application/json")
            forgery = await forged.post(f"/do/{action}", form, Accept="application/json")
            got = await program(visitor.url).get(f"/do/{action}?ids={upload.id}")
            assert [answer.status for answer in (unknown, forgery, got)] == [401, 401, 405], action
        guess = await visitor.post("/do/retry", form, Authorization="Bearer guess")
        wrong_host = await program(visitor.url).post("/do/retry", form, Host="evil.example")
        assert wrong_host.status == (await visitor.get("/", Host="evil.example")).status == 403
        seen = await visitor.get("/uploads?status=dead")
    assert guess.status == 401
    assert str(upload.id) in seen.text
    assert '<form method="post"' not in seen.text
    row = app.row(upload)
    assert row is not None
    assert row["status"] == "dead"
    assert audit(app) == []


async def test_without_a_configured_token_every_change_is_refused(app: App, recorder: Recorder) -> None:
    async with visiting(app, recorder, http_token=None) as visitor:
        for action in ACTIONS:
            for client in (visitor, program(visitor.url)):
                answer = await client.post(f"/do/{action}", {"ids": str(uuid4())}, Accept="application/json")
                assert (answer.status, json.loads(answer.text)["error"]) == (403, "NOT_ALLOWED")
                assert "REACTOR_HTTP_TOKEN" in answer.text
        login = await visitor.log_in(token="")
        assert (login.status, login.cookies) == (403, [])
        assert "REACTOR_HTTP_TOKEN" in (await visitor.get("/")).text
    assert audit(app) == []


async def test_a_session_cookie_is_sent_only_to_this_site_and_does_not_contain_the_token(
    app: App, recorder: Recorder
) -> None:
    async with visiting(app, recorder) as visitor:
        answer = await visitor.log_in()
        [cookie] = answer.cookies
        assert {part.strip().lower() for part in cookie.split(";")[1:]} == {
            "httponly", "max-age=43200", "path=/", "samesite=strict",
        }  # fmt: skip
        assert TOKEN not in cookie
        assert (answer.status, answer.headers["location"]) == (303, "/")
        assert TOKEN not in (await visitor.get("/")).text
        csrf = await visitor.csrf()
        await visitor.act("logout")
        after = await visitor.post("/do/reconcile", {"csrf": csrf}, Accept="application/json")
    assert after.status == 401


OTHER_SITES = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost.evil.example"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
]


async def test_a_page_of_another_site_can_neither_act_nor_log_in(app: App, recorder: Recorder) -> None:
    async with visiting(app, recorder) as visitor:
        await visitor.log_in()
        form = {"csrf": await visitor.csrf()}
        for headers in OTHER_SITES:
            assert (await visitor.post("/do/reconcile", form, **headers)).status == 403
            assert (await program(visitor.url).post("/do/reconcile", {}, **headers)).status == 403
            assert (await visitor.post("/login", {"actor": "x", "token": TOKEN}, **headers)).status == 403
        assert audit(app) == []
        own_headers = {"Origin": visitor.url, "Sec-Fetch-Site": "same-origin"}
        assert (await visitor.post("/do/reconcile", form, **own_headers)).status == 303
    assert len(audit(app)) == 1


async def test_a_form_without_the_sessions_csrf_value_changes_nothing(app: App, recorder: Recorder) -> None:
    async with visiting(app, recorder) as visitor:
        await visitor.log_in()
        for csrf in ("", "guess", "\N{PILE OF POO}", "x" * 1000):
            answer = await visitor.post("/do/reconcile", {"csrf": csrf})
            assert answer.status == 403
            assert "reload the page" in answer.text
    assert audit(app) == []


@pytest.mark.parametrize("with_form", [True, False])
async def test_wrong_tokens_are_limited_to_a_few_per_minute(app: App, recorder: Recorder, with_form: bool) -> None:
    async with visiting(app, recorder) as visitor:

        async def present(token: str) -> int:
            if with_form:
                return (await visitor.log_in(token=token)).status
            return (await visitor.post("/do/reconcile", {}, Authorization=f"Bearer {token}")).status

        guesses = [await present(f"guess {n}") for n in range(MAX_FAILURES)]
        late = await present(TOKEN)
        elsewhere = await visitor.post("/login", {"actor": "x", "token": TOKEN}, X_Forwarded_For="10.0.0.9")
    assert set(guesses) == {401}
    assert late == 429
    assert (elsewhere.status, int(elsewhere.headers["retry-after"]) <= 60) == (429, True)


async def test_on_a_public_address_reading_needs_the_token(app: App, recorder: Recorder) -> None:
    async with visiting(app, recorder, http_host="0.0.0.0") as visitor:  # noqa: S104 - what a container sets
        visitor.url = visitor.url.replace("0.0.0.0", "127.0.0.1")  # noqa: S104 - the same
        [upload] = app.queue_uploads(next_retry_at=LATER)
        pages = ["/", "/uploads", f"/uploads/{upload.id}", "/runs", "/audit", "/uploads/retry?status=dead"]
        for path in pages:
            answer = await visitor.get(path)
            assert (answer.status, answer.headers["location"]) == (303, "/login"), path
        programs = ["/api/status", "/api/live", "/live"]
        assert [(await visitor.get(path)).status for path in programs] == [401] * 3
        assert [(await visitor.get(path, Authorization="Bearer no")).status for path in programs] == [401] * 3
        assert [(await visitor.get(path)).status for path in ("/healthz", "/readyz", "/metrics", "/login")] == [200] * 4
        await visitor.log_in()
        assert [(await visitor.get(path)).status for path in pages] == [200] * len(pages)
        assert (await visitor.get("/api/status")).status == 200
        assert (await program(visitor.url).get("/api/live")).status == 200


# bad input


IDS = str(uuid4()).encode()
BAD = [
    ("retry", b"", 400, "at least one"),
    ("retry", b"ids=x", 400, "UUIDs"),
    ("retry", b"ids=%00&ids=%FF", 400, "UUIDs"),
    ("retry", b"\xff\xfe", 400, "UTF-8"),
    ("retry", b"&".join([b"ids=1"] * 5000), 400, "fields"),
    ("retry", b"&".join([b"ids=" + IDS] * 501), 400, "at most 500"),
    ("retry", b"x" * 70_000, 413, "64 KiB"),
    ("retry-all", b"status=failed", 400, "status"),
    ("retry-all", b"status=dead&user=me", 400, "user"),
    ("fail", b"message=%00&ids=" + IDS, 400, "printable"),
    ("fail", b"message=" + b"x" * 501 + b"&ids=" + IDS, 400, "printable"),
    ("nothing", b"", 404, "nothing here"),
]


async def test_bad_forms_are_refused_with_a_reason(app: App, recorder: Recorder) -> None:
    async with visiting(app, recorder) as visitor:
        client = program(visitor.url)
        for action, body, status, text in BAD:
            answer = await client.send("POST", f"/do/{action}", body)
            assert answer.status == status, answer.text
            assert text in answer.text
        answer = await client.send("POST", "/do/retry", b"{}", headers={"Content-Type": "application/json"})
        assert answer.status == 415
        long_name = await client.post("/do/reconcile", {}, X_Operator="x" * 81)
        assert long_name.status == 400
        for actor in ("", " ", "x" * 81, "two\nlines", "\u202eana", "nul\x00"):
            answer = await visitor.log_in(actor=actor)
            assert (answer.status, answer.cookies) == (400, [])
            assert "give your name" in answer.text
    assert audit(app) == []


OTHER_PLACES = [
    "//evil.example",
    "https://evil.example",
    "/\\evil.example",
    "javascript:x",
    "",
    "/\r\nX: y",
    "x",
    "/\t/e",
]


async def test_an_action_redirects_only_within_this_site(app: App, recorder: Recorder) -> None:
    async with visiting(app, recorder) as visitor:
        await visitor.log_in()
        for back in OTHER_PLACES:
            answer = await visitor.act("reconcile", back=back)
            assert (answer.status, answer.headers["location"]) == (303, "/")
        answer = await visitor.act("reconcile", back="/runs?status=failed")
        assert answer.headers["location"] == "/runs?status=failed"


async def test_an_incomplete_form_is_refused_after_a_timeout(
    app: App, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reactor.web.forms.BODY_TIMEOUT_S", 0.2)
    async with visiting(app, recorder) as visitor:
        headers = {"Content-Length": "100"}
        answer = await program(visitor.url).send("POST", "/do/retry", b"ids=", headers=headers)
    assert (answer.status, json.loads(answer.text)["error"]) == (408, "INVALID_ARGUMENT")
