"""The pages as a program reads them: state, lists and details, also with hostile rows and addresses."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from support.app import App
from support.recorder import Recorder
from support.visitor import Answer, Visitor, program

from reactor.core.events import AttemptSettled
from reactor.web.listings import PAGE_ROWS

LATER = "2100-01-01"
HOSTILE = [
    "<script>alert(1)</script>",
    "\" onmouseover='alert(1)' x=\"",
    "</td></table><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "\u202egnp.exe\u2066 \u200f",
    "\x01\x1b[2J\x9b31m\n\r\ttwo lines",
    "x" * 10_000,
    "&lt;b&gt;&amp;",
]


@asynccontextmanager
async def visiting(app: App, recorder: Recorder, **settings: Any) -> AsyncIterator[Visitor]:
    async with app.running_reactor(recorder, **settings) as reactor:
        yield Visitor(reactor.http_url)


class _Elements(HTMLParser):
    """The elements of a page without its text."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def elements(answer: Answer) -> list[tuple[str, dict[str, str | None]]]:
    parser = _Elements()
    parser.feed(answer.text)
    return parser.found


def ids_in(answer: Answer, kind: str) -> list[UUID]:
    return [UUID(text) for text in re.findall(rf'<td><a href="/{kind}/([0-9a-f-]{{36}})"', answer.text)]


async def test_the_page_first_says_whether_all_is_well(app: App, recorder: Recorder) -> None:
    async with visiting(app, recorder) as visitor:
        well = (await visitor.get("/")).text
        app.queue_uploads(2, spooled=False)
        await recorder.wait_for_all(2, AttemptSettled)
        # the page lists both dead uploads immediately, but counts them only some seconds later
        facts = json.loads((await program(visitor.url).get("/api/live")).text)
        while facts["database"]["uploads"]["dead"] < 2:
            facts = json.loads((await visitor.get("/api/live")).text)
        unwell = (await visitor.get("/")).text
    assert '<h1 class="well">All is well.</h1>' in well
    assert "One thing is wrong." in unwell
    assert re.search(r"2 uploads are dead, the oldest for \d+s: retry, cancel or purge them\.", unwell)
    assert unwell.count("SPOOL_FILE_MISSING") == 2


async def test_the_whole_page_is_small_and_loads_nothing_from_elsewhere(app: App, recorder: Recorder) -> None:
    app.queue_uploads(300, next_retry_at=LATER)
    for _ in range(20):
        app.begin_run(timeout_at=LATER, heartbeat_timeout="1 year", heartbeat_at="now")
    async with visiting(app, recorder) as visitor:
        page = await visitor.get("/")
        addresses = [attributes.get("href") or attributes.get("src") for tag, attributes in elements(page)
                 if tag in {"link", "script", "img"}]  # fmt: skip
        parts = [await visitor.get(name) for name in addresses if name and name.startswith("/static/")]
    assert len(parts) == 2
    assert sum(len(answer.text.encode()) for answer in (page, *parts)) <= 60_000
    assert [name for name in addresses if not (name or "").startswith(("/static/", "data:,"))] == []
    for part in parts:
        assert not re.search(r"https?://|@import|eval\(", part.text)


async def test_no_page_has_an_inline_script_or_style(app: App, recorder: Recorder) -> None:
    """The Content-Security-Policy forbids inline scripts and styles."""
    [upload], run = app.queue_uploads(next_retry_at=LATER), app.begin_run(timeout_at=LATER)
    async with visiting(app, recorder) as visitor:
        for path in ("/", "/uploads", "/runs", "/audit", "/login", f"/uploads/{upload.id}", f"/runs/{run}"):
            answer = await visitor.get(path)
            assert answer.status == 200
            assert "script-src 'self'" in answer.headers["content-security-policy"]
            for tag, attributes in elements(answer):
                assert tag != "style"
                assert tag != "script" or attributes.get("src", "").startswith("/static/")  # type: ignore[union-attr]
                assert not [name for name in attributes if name.startswith("on") or name == "style"]


async def test_the_pages_of_a_list_show_each_row_once(app: App, recorder: Recorder) -> None:
    dead = {upload.id for upload in app.queue_uploads(PAGE_ROWS * 2 + 7, status="dead")}
    waiting = {upload.id for upload in app.queue_uploads(PAGE_ROWS + 1, next_retry_at=LATER)}
    runs = {app.begin_run(timeout_at=LATER, created_at=f"2026-01-{1 + n % 3:02}") for n in range(PAGE_ROWS + 3)}
    async with visiting(app, recorder) as visitor:
        for path, expected, pages in (
            ("/uploads?status=dead", dead, 3),
            ("/uploads?status=failed", waiting, 2),
            ("/runs?status=running", runs, 2),
        ):
            seen: list[UUID] = []
            next_path, count = path, 0
            while next_path:
                answer = await visitor.get(next_path)
                seen += ids_in(answer, path[1:].partition("?")[0])
                found = re.search(r'rel="next" href="([^"]+)"', answer.text)
                next_path, count = found[1].replace("&amp;", "&") if found else "", count + 1
            assert (len(seen), set(seen), count) == (len(expected), expected, pages)


async def test_lists_are_filtered_by_status_user_and_code(app: App, recorder: Recorder) -> None:
    [one] = app.queue_uploads(status="dead", error_code="STORAGE_REJECTED")
    [other] = app.queue_uploads(status="dead", error_code="CONTENT_MISMATCH")
    [cancelled] = app.queue_uploads(status="cancelled")
    failed = app.begin_run(status="failed", error_code="INTERPRETATION_TIMEOUT")
    app.begin_run(status="completed")
    async with visiting(app, recorder) as visitor:
        by_code = await visitor.get("/uploads?status=dead&code=STORAGE_REJECTED")
        by_user = await visitor.get(f"/uploads?status=dead&user={other.user}")
        assert ids_in(by_code, "uploads") == [one.id]
        assert ids_in(by_user, "uploads") == [other.id]
        assert ids_in(await visitor.get("/uploads?status=cancelled"), "uploads") == [cancelled.id]
        assert ids_in(await visitor.get(f"/uploads?status=dead&user={uuid4()}"), "uploads") == []
        assert ids_in(await visitor.get("/runs?status=failed"), "runs") == [failed]
        assert ids_in(await visitor.get("/runs?status=failed&code=OTHER"), "runs") == []


async def test_a_rare_filter_scans_a_limited_number_of_rows_and_links_to_the_next(
    app: App, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reactor.web.listings.MAX_SCANNED_ROWS", 60)
    [wanted] = app.queue_uploads(status="dead", updated_at="2026-01-01", error_code="STORAGE_REJECTED")
    app.queue_uploads(100, status="dead", updated_at="2026-01-02")
    async with visiting(app, recorder) as visitor:
        first = await visitor.get("/uploads?status=dead&code=STORAGE_REJECTED")
        assert "Scanned 60 uploads: 0 match." in first.text
        next_link = re.search(r'rel="next" href="([^"]+)"', first.text)
        assert next_link is not None
        second = await visitor.get(next_link[1].replace("&amp;", "&"))
    assert ids_in(second, "uploads") == [wanted.id]


async def test_an_uploads_timeline_shows_each_error_with_its_next_step(app: App, recorder: Recorder) -> None:
    trace = "0123456789abcdef0123456789abcdef"
    async with visiting(app, recorder, trace_url="http://jaeger:16686/") as visitor:
        [upload] = app.queue_uploads(spooled=False, traceparent=f"00-{trace}-0123456789abcdef-01")
        await recorder.wait_for(AttemptSettled)
        answer = await visitor.get(f"/uploads/{upload.id}")
    steps = re.findall(r'<li class="(\w+)">', answer.text)
    assert steps == ["start", "wait", "attempt", "end"]
    assert "attempt 1 failed" in answer.text
    assert "Put the file back at the same path and retry the upload, or cancel it." in answer.text
    assert f'href="http://jaeger:16686/trace/{trace}"' in answer.text
    kinds = [attributes["class"] for tag, attributes in elements(answer) if tag == "rect"]
    assert kinds == ["wait", "attempt"]


async def test_without_a_trace_url_the_trace_id_is_not_a_link(app: App, recorder: Recorder) -> None:
    run = app.begin_run(timeout_at=LATER)
    async with visiting(app, recorder) as visitor:
        text = (await visitor.get(f"/runs/{run}")).text
    assert re.search(r"Trace <code>[0-9a-f]{32}</code>", text)
    assert "Jaeger" not in text


async def test_values_of_rows_are_shown_as_text(app: App, recorder: Recorder) -> None:
    pages = ["/", "/uploads?status=dead", "/runs?status=failed"]
    for text in HOSTILE:
        errors = [{"at": text, "began": 7, "attempt": text, "code": text, "message": text}, text, None, 5]
        [dead] = app.queue_uploads(
            status="dead", bucket=text, object_path=text, error_code=text, error_message=text, spool=text,
            traceparent=text, errors=json.dumps(errors),
        )  # fmt: skip
        run = app.begin_run(status="failed", error_code=text, error_message=text, traceparent=text)
        app.conn.execute(
            "insert into reactor.instance (id, host, version, mode) values (%s, %s, %s, 'polling')",
            (uuid4(), text, text),
        )
        pages += [f"/uploads/{dead.id}", f"/runs/{run}"]
    async with visiting(app, recorder, trace_url="https://jaeger") as visitor:
        for path in pages:
            answer = await visitor.get(path)
            assert answer.status == 200, answer.text
            assert not [char for char in answer.text if not char.isprintable() and char != "\n"]
            assert len(answer.text) < 60_000
            assert ">49<" not in answer.text
            for tag, attributes in elements(answer):
                assert tag not in {"img", "iframe", "object", "style"}
                assert tag != "script" or (attributes["src"] or "").startswith("/static/page.js?")
                assert not [name for name in attributes if name.startswith("on")]
                assert not (attributes.get("href") or "").startswith("javascript:")


async def test_pages_are_shown_for_any_values_of_rows(app: App, recorder: Recorder) -> None:
    pages = ["/", "/uploads?status=failed", "/uploads", "/runs"]
    for errors in ("{}", "null", '"text"', "[[]]", '[{"at": "infinity", "attempt": {}}]'):
        [upload] = app.queue_uploads(status="dead", errors=errors, created_at="-infinity", updated_at="infinity")
        pages.append(f"/uploads/{upload.id}")
    app.queue_uploads(next_retry_at="290000-01-01")
    app.queue_uploads(next_retry_at="infinity")
    run = app.begin_run(timeout_at="infinity", heartbeat_timeout="100000 years", started_at="-infinity")
    async with visiting(app, recorder) as visitor:
        for path in (*pages, f"/runs/{run}"):
            assert (await visitor.get(path)).status == 200, path


BAD = [
    ("/uploads?status=zap", 400, "status must be one of"),
    ("/uploads?status=%00", 400, "status must be one of"),
    ("/uploads?user=me", 400, "a user&#39;s id"),
    ("/uploads?user=%F0%9F%92%A9", 400, "a user&#39;s id"),
    ("/uploads?code=<b>", 400, "an error code such as"),
    ("/uploads?code=" + "x" * 65, 400, "an error code such as"),
    ("/uploads?after=zzz", 400, "a position in this list"),
    ("/uploads?after=" + "A" * 5000, 400, "a position in this list"),
    ("/uploads?after=MjAyNi0xMy00NSAw", 400, "a position in this list"),
    # 29 February 1900, which doesn't exist
    (
        "/uploads?after=MTkwMC0wMi0yOVQwMDowMDowMCswMDowMCAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMA",
        400,
        "a position in this list",
    ),
    ("/uploads?after=%FF%FE", 400, "a position in this list"),
    ("/runs?after=-infinity", 400, "a position in this list"),
    ("/runs?status=dead", 400, "status must be one of"),
    ("/audit?after=%27;--", 400, "a position in this list"),
    ("/uploads/retry?status=failed", 400, "status must be one of"),
    ("/uploads/x", 404, "ids are UUIDs"),
    ("/uploads/%3Cscript%3E", 404, "ids are UUIDs"),
    (f"/uploads/{UUID(int=0)}", 404, "there is no upload"),
    (f"/runs/{UUID(int=0)}", 404, "there is no run"),
    ("/runs/..%2f..%2fetc", 404, ""),
]


async def test_bad_addresses_are_refused_with_a_reason(app: App, recorder: Recorder) -> None:
    async with visiting(app, recorder) as visitor:
        for path, status, text in BAD:
            answer = await visitor.get(path.replace("<", "%3C").replace(">", "%3E"))
            assert answer.status == status, path
            assert text in answer.text, path
            assert "<script>" not in answer.text
        refused = await visitor.get("/uploads?status=zap", Accept="application/json")
    assert (refused.status, json.loads(refused.text)["error"]) == (400, "INVALID_ARGUMENT")


async def test_the_page_says_that_the_database_does_not_answer(app: App, recorder: Recorder, server_url: str) -> None:
    name = psycopg.conninfo.conninfo_to_dict(app.url)["dbname"]
    async with visiting(app, recorder) as visitor:
        with psycopg.connect(server_url, autocommit=True) as conn:
            conn.execute(f'alter database "{name}" allow_connections false'.encode())
            try:
                conn.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where datname = %s and application_name ~ '^reactor'",
                    (name,),
                )
                page, listed = await visitor.get("/"), await visitor.get("/uploads")
            finally:
                conn.execute(f'alter database "{name}" allow_connections true'.encode())
    assert page.status == 200
    assert "The database does not answer: " in page.text
    assert "The figures below may be old." in page.text
    assert listed.status == 503
    assert "DATABASE_UNAVAILABLE" in listed.text
