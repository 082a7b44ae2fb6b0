"""The page in a real browser: sections update, every action works, and a lost connection is restored.

Uses the system's `chromium`; without it, or without playwright, these tests are skipped. To take the README's pictures:
 REACTOR_TEST_PICTURES=1 pytest tests/web/test_browser.py
"""

import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import pytest
from support.app import App
from support.process import Running, running, settings_of
from support.visitor import TOKEN

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright isn't installed", exc_type=ImportError)
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here; on Debian: apt-get install chromium"),
    pytest.mark.timeout(180),
]
expect = sync_api.expect

PICTURES = Path(__file__).parent.parent / "pictures"
TIMEOUT_MS = 30_000
LATER = "2100-01-01"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run", "--disable-dev-shm-usage"]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=60_000)
        yield browser
        browser.close()


@contextmanager
def reacting(app: App, **settings: str) -> Iterator[Running]:
    with running(settings_of(app, HTTP_TOKEN=TOKEN, **settings), cwd=app.spool) as run:
        run.wait_until_ready()
        yield run


@contextmanager
def page_of(browser: Any, url: str, **options: Any) -> Iterator[Any]:
    """Open a page as a new visitor. Fails on script errors, policy violations, and requests to other sites."""
    context = browser.new_context(viewport={"width": 1180, "height": 900}, **options)
    context.set_default_timeout(TIMEOUT_MS)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: errors.append(line.text) if "Content Security" in line.text else None)
    page.on("dialog", lambda dialog: errors.append(dialog.message))
    other_requests: list[str] = []
    own_addresses = (urlsplit(url)._replace(path="/").geturl(), "data:")
    page.on(
        "request", lambda request: None if request.url.startswith(own_addresses) else other_requests.append(request.url)
    )
    page.goto(url)
    try:
        yield page
        assert errors == []
        assert other_requests == []
    finally:
        context.close()


def log_in(page: Any, *, actor: str = "Ana") -> None:
    page.get_by_role("link", name="Log in").first.click()
    page.get_by_label("Your name, for the audit log").fill(actor)
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("button", name="Log out")).to_be_visible()


def picture(page: Any, name: str, *, height: int) -> None:
    if os.environ.get("REACTOR_TEST_PICTURES"):
        page.set_viewport_size({"width": 1180, "height": height})
        page.screenshot(path=PICTURES / f"{name}.png")


def test_every_section_updates_and_a_dead_upload_appears_without_a_reload(browser: Any, app: App) -> None:
    app.queue_uploads(4, next_retry_at=LATER)
    user = app.queue_uploads(next_retry_at=LATER)[0].user
    app.all("select public.reserve_upload(%s, %s, %s)", user, "ab" * 32, 1 << 40)
    with reacting(app, RECONCILE_INTERVAL="1s") as run, page_of(browser, run.url) as page:
        expect(page.get_by_role("heading", level=1)).to_have_text("All is well.")
        expect(page.locator("#queue")).to_contain_text(re.compile(r"waiting\s*5"))
        running_run = app.begin_run(timeout_at=LATER, heartbeat_at=LATER)
        app.queue_uploads(next_retry_at=app.one("select now() + interval '10 minutes'"))
        app.queue_uploads(3)
        [dead] = app.queue_uploads(spooled=False)
        # without a reload
        expect(page.get_by_role("heading", level=1)).to_have_text("One thing is wrong.")
        expect(page.locator("#state")).to_contain_text(re.compile(r"1 upload has been dead for \d+s"))
        expect(page.locator("#announcement")).to_have_text("One thing is wrong.")
        expect(page.locator("#dead")).to_contain_text(str(dead.id)[:8])
        expect(page.locator("#dead")).to_contain_text("SPOOL_FILE_MISSING")
        expect(page.locator("#queue")).to_contain_text(re.compile(r"dead\s*1"))
        expect(page.locator("#queue svg polyline")).not_to_have_count(0)
        expect(page.locator("#reaction")).to_contain_text(re.compile(r"attempts\s*4"))
        expect(page.locator("#wheel svg rect")).not_to_have_count(0)
        expect(page.locator("#runs")).to_contain_text(str(running_run)[:8])
        expect(page.locator("#quotas")).to_contain_text("storage, plan free: 1 in the last hour")
        expect(page.locator("#reactors")).to_contain_text("listening, seen")
        expect(page.locator("#reconcile")).to_contain_text("nothing that notifications missed")
        if os.environ.get("REACTOR_TEST_PICTURES"):
            fill_picture(app, page)
            picture(page, "page", height=880)
        run.terminate()
        assert run.ended() == 0


def fill_picture(app: App, page: Any) -> None:
    """Queue and store uploads for 40 seconds, so that the picture's charts have lines."""
    for _ in range(20):
        app.queue_uploads(3)
        app.queue_uploads(2, next_retry_at=app.one("select now() + random() * interval '14 minutes'"))
        page.wait_for_timeout(2_000)


def test_every_action_between_log_in_and_log_out_works_and_is_audited(browser: Any, app: App) -> None:
    with reacting(app, TRACE_URL="http://jaeger.example:16686") as run, page_of(browser, run.url) as page:
        [upload] = app.queue_uploads(spooled=False)
        page.locator("#dead").get_by_role("link", name=str(upload.id)[:8]).click()
        expect(page.get_by_role("heading", level=1)).to_contain_text(str(upload.id))
        expect(page.locator(".steps")).to_contain_text("Put the file back at the same path")
        expect(page.get_by_role("button", name="Retry")).to_have_count(0)
        trace = app.row(upload)["traceparent"].split("-")[1]  # type: ignore[index]
        link = page.get_by_role("link", name="Open in Jaeger")
        expect(link).to_have_attribute("href", f"http://jaeger.example:16686/trace/{trace}")
        log_in(page)

        # retry one upload: it is stored, and disappears from the page
        (app.spool / upload.key).write_bytes(upload.content)
        page.goto(f"{run.url}/uploads/{upload.id}")
        page.get_by_role("button", name="Retry").click()
        wait_until(lambda: app.row(upload) is None and not app.is_spooled(upload))  # the file is deleted last
        app.assert_stored(upload)
        page.goto(run.url)
        expect(page.locator("#dead")).to_contain_text("None.")
        expect(page.get_by_role("heading", level=1)).to_have_text("All is well.")

        cancel_and_purge(page, run, app)
        fail_a_run(page, run, app)

        # retry all uploads that match, after a page has shown their number
        several = app.queue_uploads(3, status="dead", error_code="STORAGE_REJECTED")
        page.goto(f"{run.url}/uploads?status=dead")
        page.get_by_label("Error code").fill("STORAGE_REJECTED")
        page.get_by_role("button", name="Show").click()
        page.get_by_role("link", name="Retry all that match").click()
        expect(page.locator(".lead")).to_contain_text("3 uploads: dead")
        page.get_by_role("button", name="Retry 3").click()
        expect(page.locator(".notice")).to_have_text("3 due again.")
        wait_until(lambda: all(app.row(each) is None for each in several))

        # reconcile now
        page.goto(run.url)
        page.get_by_role("button", name="Reconcile now").click()
        expect(page.locator(".notice")).to_contain_text("a reconciliation has started")

        page.get_by_role("link", name="Audit log").click()
        for action in ("retry", "cancel", "purge", "fail", "reconcile"):
            expect(page.get_by_role("cell", name=action, exact=True).first).to_be_visible()
        expect(page.get_by_role("cell", name="Ana")).to_have_count(6)
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_role("button", name="Reconcile now")).to_have_count(0)
    done = [row["action"] for row in app.all("select action from reactor.audit_log order by at")]
    assert done == ["retry", "cancel", "purge", "fail", "retry", "reconcile"]


def cancel_and_purge(page: Any, run: Running, app: App) -> None:
    [upload] = app.queue_uploads(next_retry_at=LATER)
    page.goto(f"{run.url}/uploads/{upload.id}")
    page.get_by_text("Cancel…").click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".notice")).to_have_text("1 cancelled.")
    page.get_by_text("Purge…").click()
    page.get_by_role("button", name="Purge").click()
    expect(page.locator(".notice")).to_have_text("1 purged.")
    assert app.row(upload) is None
    assert not app.is_spooled(upload)


def fail_a_run(page: Any, run: Running, app: App) -> None:
    stuck = app.begin_run(timeout_at=LATER, heartbeat_at=LATER)
    page.goto(f"{run.url}/runs/{stuck}")
    page.get_by_text("Fail…").click()
    page.get_by_label("Why").fill("its worker is stuck")
    page.get_by_role("button", name="Fail").click()
    expect(page.locator(".notice")).to_have_text("1 failed.")
    assert app.run(stuck)["error_message"] == "its worker is stuck"


def test_a_timeline_of_several_attempts_is_drawn(browser: Any, app: App) -> None:
    settings = {
        "RETRY_BASE": "2s",
        "RETRY_FACTOR": "30",
        "RETRY_JITTER": "0",
        "TRACE_URL": "http://jaeger.example:16686",
    }
    with reacting(app, **settings) as run:
        app.store.rename(app.store.with_name("unmounted"))
        [upload] = app.queue_uploads(max_retries=4)
        failed = "select jsonb_array_length(errors) from public.upload_queue"
        wait_until(lambda: app.one(failed) == 2)
        with page_of(browser, f"{run.url}/uploads/{upload.id}") as page:
            expect(page.locator(".steps li.attempt")).to_have_count(2)
            expect(page.locator(".steps li.wait")).to_have_count(2)
            expect(page.locator("figure svg rect.attempt")).to_have_count(2)
            expect(page.locator("figure svg rect.ahead")).to_have_count(1)
            expect(page.locator(".steps")).to_contain_text("attempt 2 failed")
            expect(page.locator(".steps")).to_contain_text("waiting; attempt 3 is due")
            expect(page.locator(".steps")).to_contain_text("STORAGE_UNAVAILABLE")
            picture(page, "upload", height=900)


def test_the_page_shows_a_lost_connection_until_it_is_restored(browser: Any, app: App) -> None:
    with reacting(app) as run, Relay(run.url) as relay, page_of(browser, relay.url) as page:
        expect(page.get_by_role("heading", level=1)).to_have_text("All is well.")
        expect(page.locator("#connection")).to_be_hidden()
        relay.cut()
        expect(page.locator("#connection")).to_contain_text(re.compile(r"Connection lost since \d"))
        app.queue_uploads(spooled=False)
        relay.restore()
        expect(page.locator("#connection")).to_be_hidden()
        expect(page.get_by_role("heading", level=1)).to_have_text("One thing is wrong.")


def test_without_a_log_in_a_local_visitor_reads_and_has_no_buttons(browser: Any, app: App) -> None:
    [upload] = app.queue_uploads(status="dead")
    with reacting(app) as run, page_of(browser, run.url) as page:
        for path in ("/", "/uploads?status=dead", f"/uploads/{upload.id}", "/audit"):
            page.goto(run.url + path)
            expect(page.get_by_role("main")).to_be_visible()
            expect(page.locator('form[method="post"]')).to_have_count(0)
        page.get_by_role("link", name="Log in").first.click()
        page.get_by_label("Your name, for the audit log").fill("Mallory")
        page.get_by_label("Token").fill("a guess")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("main")).to_contain_text("the token is wrong")


def test_everything_works_without_javascript(browser: Any, app: App) -> None:
    [upload] = app.queue_uploads(status="dead")
    with reacting(app) as run, page_of(browser, run.url, java_script_enabled=False) as page:
        expect(page.get_by_role("heading", level=1)).to_have_text("One thing is wrong.")
        expect(page.locator("#dead")).to_contain_text(str(upload.id)[:8])
        log_in(page)
        page.goto(f"{run.url}/uploads/{upload.id}")
        page.get_by_role("button", name="Retry").click()
        wait_until(lambda: app.row(upload) is None)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_the_full_width_and_the_keyboard_reaches_every_link(browser: Any, app: App, scheme: str) -> None:
    app.queue_uploads(3, status="dead", error_code="STORAGE_REJECTED", error_message="x" * 300)
    options = {"color_scheme": scheme}
    with reacting(app) as run, page_of(browser, run.url, **options) as page:
        page.set_viewport_size({"width": 360, "height": 740})
        for path in ("/", "/uploads?status=dead", "/login"):
            page.goto(run.url + path)
            width = page.evaluate("() => document.documentElement.scrollWidth")
            assert width <= 360, path
        page.goto(run.url)
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
        reached = set()
        for _ in range(40):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("() => document.activeElement.textContent.trim()"))
        assert {"Reactor", "Dead", "Waiting", "Runs", "Audit log", "Log in", "All dead uploads"} <= reached
        colour = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        assert colour == {"light": "rgb(246, 248, 250)", "dark": "rgb(13, 17, 23)"}[scheme]


def wait_until(condition: Any) -> None:
    """Poll the database until the condition holds."""
    deadline = time.monotonic() + TIMEOUT_MS / 1000
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Relay:
    """A TCP proxy to a server, whose connections can be cut and restored."""

    def __init__(self, url: str) -> None:
        self._target = (urlsplit(url).hostname or "", urlsplit(url).port or 0)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._is_cut = False
        self._pairs: list[socket.socket] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        self._listening.close()

    def cut(self) -> None:
        """End every connection and refuse new ones."""
        with self._lock:
            self._is_cut = True
            ended, self._pairs = self._pairs, []
        for connection in ended:
            _shut(connection)

    def restore(self) -> None:
        with self._lock:
            self._is_cut = False

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:  # closed: the test has ended
                return
            with self._lock:
                if self._is_cut:
                    near.close()
                    continue
                far = socket.create_connection(self._target)
                self._pairs += [near, far]
            threading.Thread(target=_join, args=(near, far), daemon=True).start()


def _join(near: socket.socket, far: socket.socket) -> None:
    """Copy bytes in both directions until either side ends."""
    reverse = threading.Thread(target=_copy, args=(far, near), daemon=True)
    reverse.start()
    _copy(near, far)
    reverse.join()
    near.close()
    far.close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while chunk := source.recv(65_536):
            target.sendall(chunk)
    except OSError:  # cut
        pass
    finally:
        _shut(source)
        _shut(target)


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:  # already ended
        return
