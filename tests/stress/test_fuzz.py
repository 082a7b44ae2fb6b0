"""More than 500 malformed inputs: payloads, paths, settings, files, command lines.

Each input causes a rejected notification, a dead row with a reason, or one clear line and exit code 2. No input causes
a traceback, a hang, or a read outside the spool.
"""

import json
import random
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner
from support.app import App
from support.file_watch import untouched
from support.process import environment, reactor
from support.recorder import Recorder

from reactor.cli import main
from reactor.configuration import load
from reactor.core.errors import ConfigInvalid
from reactor.core.events import AttemptSettled, ListenerLost, NotificationRejected
from reactor.core.model import Verdict
from reactor.postgres.notification import BadPayload, decode

PAYLOADS, PATHS, VALUES, FILES, LINES = 200, 150, 150, 60, 60
CONTENT = b"the same bytes inside and out" * 100

CHANCE = random.Random(20_261)  # a fixed seed, so that a failure can be repeated
ODD = ["\0", "\x1b[31m", "\u202e", "\ufeff", "'", '"', "\\", "%", "$(id)", "`id`", "{{7*7}}", "\r\n", "\uff19",
       "é" * 40, "-1", "1e999", "nan", "inf", "0x10", "1_000", "null", "true", "[]", "{}", "../..", "/", "//", "~",
       "a" * 5000, "file:///etc/passwd", "http://[::1", "s3://a@b:c/", "postgresql://", "30 s", "5x", "1h-5m",
       "99999d"]  # fmt: skip


def distinct(count: int, make: Any) -> list[Any]:
    """Call `make` until it has returned `count` different values; return the values."""
    made: dict[str, Any] = {}
    while len(made) < count:
        value = make()
        made.setdefault(repr(value), value)
    return list(made.values())


def mutated(text: str) -> str:
    """Return the text with one to three pieces removed, doubled, or replaced by odd text."""
    for _ in range(CHANCE.randint(1, 3)):
        at = CHANCE.randrange(len(text) + 1)
        to = min(len(text), at + CHANCE.randint(0, 6))
        text = text[:at] + CHANCE.choice(["", text[at:to] * 2, *ODD]) + text[to:]
    return text


def a_bad_payload() -> str:
    """Return an invalid payload that resembles a valid one and that PostgreSQL accepts."""
    good = {"v": 1, "at": CHANCE.randrange(2**41), "rows": [[uuid4().hex, 7, CHANCE.randrange(10**6)]]}
    while True:
        text = mutated(json.dumps(good)).replace("\0", "")
        with suppress(BadPayload):
            decode(text)
            continue  # still valid
        if len(text.encode()) < 8000:
            return text


async def test_bad_payloads_are_rejected_and_the_next_valid_one_is_handled(app: App, recorder: Recorder) -> None:
    payloads = distinct(PAYLOADS, a_bad_payload)
    async with app.running_reactor(recorder):
        for number, text in enumerate(payloads):
            app.conn.execute("select pg_notify(%s, %s)", (("reactor_uploads", "reactor_runs")[number % 2], text))
        [upload] = app.queue_uploads()
        await recorder.wait_for(AttemptSettled, lambda settled: settled.upload_id == upload.id)
        assert len(recorder.events_of(NotificationRejected)) == PAYLOADS
        assert recorder.events_of(ListenerLost) == []
    app.assert_stored(upload)


def a_bad_path(spool: Path) -> str:
    roots = ["", "/", f"{spool}/", f"{spool}", f"{spool}/../", "../", "out/", "loop/", "\\", "file://", "~/"]
    pieces = ["..", ".", "", "outside", "canary", "out", "loop", "hard", "proc", "self", "environ", "etc", "passwd",
              "%2e%2e", "\u2025", *[odd.replace("\0", "") for odd in ODD]]  # fmt: skip
    return CHANCE.choice(roots) + "/".join(CHANCE.choices(pieces, k=CHANCE.randint(0, 6)))


async def test_uploads_with_bad_paths_are_dead_with_a_reason_and_read_nothing_outside(
    app: App, recorder: Recorder, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "canary").write_bytes(CONTENT)
    (app.spool / "out").symlink_to(outside)
    (app.spool / "loop").symlink_to("loop")
    (app.spool / "hard").hardlink_to(outside / "canary")
    paths = distinct(PATHS, lambda: a_bad_path(app.spool))
    async with app.running_reactor(recorder):
        with untouched(outside / "canary"):
            with app.conn.transaction():
                uploads = [app.queue_uploads(content=CONTENT, spooled=False, temp_file_path=path)[0] for path in paths]
            settled = await recorder.wait_for_all(PATHS, AttemptSettled)
    assert {event.verdict for event in settled} == {Verdict.DEAD}
    assert {event.outcome.code for event in settled} <= {"SPOOL_PATH_FORBIDDEN", "SPOOL_FILE_MISSING"}
    for upload, path in zip(uploads, paths, strict=True):
        row = app.row(upload)
        assert row is not None
        assert row["error_message"]
        assert len(path) < 12 or path not in row["error_message"]


SETTINGS = [
    "DATABASE_URL", "LISTEN_URL", "STORE_URL", "S3_ADDRESSING", "S3_CHECKSUM", "S3_SSE", "SPOOL_DIR", "SPOOLS",
    "UPLOAD_CONCURRENCY", "UPLOADS_PER_USER",
    "RETRY_BASE", "RETRY_FACTOR", "RETRY_MAX", "RETRY_JITTER", "ATTEMPT_TIMEOUT", "LEASE", "HEARTBEAT_TIMEOUT",
    "RECONCILE_INTERVAL", "WHEEL_HORIZON", "SHUTDOWN_GRACE", "HTTP_HOST", "HTTP_PORT", "HTTP_TOKEN", "LOG_LEVEL",
    "LOG_FORMAT", "TRACE_URL", "DATA_DIR",
]  # fmt: skip


def a_bad_value() -> dict[str, str]:
    """Return an environment variable that makes the settings invalid."""
    while True:
        name = CHANCE.choice(SETTINGS)
        if CHANCE.random() < 0.1:
            name = mutated(name).replace("\0", "").replace("=", "")[:100]
        value = mutated(CHANCE.choice([*ODD, "30s", "16", "file:///tmp/x", "INFO"])).replace("\0", "")
        try:
            load({f"REACTOR_{name}": value}, None)
        except ConfigInvalid:
            return {f"REACTOR_{name}": value}


def assert_readable(problems: Any) -> None:
    """Assert that there is a problem, and that each is one printable line of less than 500 characters."""
    assert problems
    for problem in problems:
        assert problem.isprintable(), problem
        assert len(problem) < 500, problem


def test_bad_settings_are_reported_in_one_line_each() -> None:
    for value in distinct(VALUES, a_bad_value):
        with pytest.raises(ConfigInvalid) as refused:
            load(value, None)
        assert_readable(refused.value.problems)


def a_bad_file() -> bytes:
    good = 'lease = "30s"\nupload_concurrency = 16\nretry_jitter = 0.1\n[spools]\narchive = "/var/spool/archive"\n'
    while True:
        content = mutated(good).encode(errors="replace")
        if CHANCE.random() < 0.1:
            content += CHANCE.randbytes(20)
        path = Path("reactor.toml")
        path.write_bytes(content)
        try:
            load({}, path)
        except ConfigInvalid:
            return content


def test_bad_files_are_reported_in_one_line_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for content in distinct(FILES, a_bad_file):
        Path("reactor.toml").write_bytes(content)
        with pytest.raises(ConfigInvalid) as refused:
            load({}, None)
        assert_readable(refused.value.problems)


WORDS = ["run", "migrate", "reconcile", "status", "uploads", "runs", "quota", "list", "show", "retry", "cancel",
         "purge", "fail", "set-plan", "recalculate", "--json", "--limit", "--user", "--status", "--config", "--watch",
         "--dry-run", "--", "-x", "--no-such", "0", "-5", "dead", "no-such-id", str(uuid4())]  # fmt: skip


def a_bad_line() -> list[str]:
    """Return a command line that is refused before the command connects to a database."""
    while True:
        line = CHANCE.choices(WORDS, k=CHANCE.randint(1, 4))
        if CHANCE.random() < 0.5:
            line[CHANCE.randrange(len(line))] = CHANCE.choice(ODD).replace("\0", "")
        if {"run", "demo", "doctor"}.isdisjoint(line) and exit_of(line)[0] == 2:
            return line


def exit_of(line: list[str]) -> tuple[int, str]:
    # an invalid URL, so that a valid command line exits with 2 too and never reaches a server
    done = CliRunner().invoke(main, line, env={"REACTOR_DATABASE_URL": "nonsense"}, standalone_mode=True)
    assert done.exception is None or isinstance(done.exception, SystemExit), (line, done.exception)
    return done.exit_code, done.stderr


def test_bad_command_lines_exit_2_with_a_reason() -> None:
    for line in distinct(LINES, a_bad_line):
        code, words = exit_of(line)
        assert code == 2
        assert words.strip()
        assert "Traceback" not in words


def test_bad_settings_of_a_process_exit_2_with_one_line(tmp_path: Path) -> None:
    """A process reports each of three bad settings, and a bad file, in one line and exits with 2."""
    for settings in distinct(3, a_bad_value):
        done = reactor("status", env=environment() | settings, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.count("\n") == 1
    (tmp_path / "reactor.toml").write_bytes(secrets.token_bytes(100))
    done = reactor("status", env=environment(), cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_there_are_at_least_five_hundred_inputs() -> None:
    assert PAYLOADS + PATHS + VALUES + FILES + LINES >= 500
