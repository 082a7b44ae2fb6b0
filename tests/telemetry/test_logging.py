"""Log lines, as text and as JSON, contain all fields, but no text that an exception's message quotes."""

import json
import logging as std_logging
from collections.abc import Iterator

import pytest
from loguru import logger

from reactor.telemetry import logging


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Restore the standard library's root logger, which `configure` replaces."""
    root = std_logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logger.remove()


def parse() -> None:
    raise ValueError("no key 'secret' in /spool/secret, (id)=(secret)\nDETAIL: secret")


def fail() -> None:
    try:
        parse()
    except ValueError as error:
        raise RuntimeError('"secret" at postgresql://u:secret@h/x') from error


def test_a_line_of_json_holds_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    logging.configure("INFO", "json")
    logger.bind(upload_id="1", attempt=2).info("stored {} bytes", 5)
    logger.debug("below the level")
    [line] = capsys.readouterr().err.splitlines()
    fields = json.loads(line)
    assert fields.pop("time")
    assert fields == {"level": "INFO", "message": "stored 5 bytes", "upload_id": "1", "attempt": 2}


def test_a_line_of_text_ends_with_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    logging.configure("INFO", "text")
    logger.bind(upload_id="1", attempt=2).info("stored")
    assert capsys.readouterr().err.endswith("INFO    stored upload_id=1 attempt=2\n")


@pytest.mark.parametrize("style", ["text", "json"])
def test_an_exception_shows_frames_and_types_but_nothing_quoted(capsys: pytest.CaptureFixture[str], style: str) -> None:
    logging.configure("INFO", style)
    try:
        fail()
    except RuntimeError:
        logger.exception("unexpected")
    log = capsys.readouterr().err
    assert "secret" not in log
    if style == "json":
        log = json.loads(log)["exception"]
    assert "ValueError: no key … in …, …" in log
    assert "which led to:" in log
    assert "RuntimeError: … at …" in log
    assert "in parse" in log


def test_the_members_of_a_group_are_shown() -> None:
    group = ExceptionGroup("two", [ValueError("one 'secret'"), KeyError("secret")])
    lines = "\n".join(logging.exception_lines(group))
    assert "ValueError: one …" in lines
    assert "KeyError: …" in lines
    assert "secret" not in lines


def test_warnings_of_libraries_are_logged_except_of_talkative_ones(capsys: pytest.CaptureFixture[str]) -> None:
    logging.configure("DEBUG", "json")
    std_logging.getLogger("some.package").warning("of %s", "interest")
    std_logging.getLogger("some.package").info("of no interest")
    std_logging.getLogger("urllib3.connectionpool").warning("repeated")
    [line] = capsys.readouterr().err.splitlines()
    fields = json.loads(line)
    assert (fields["message"], fields["logger"], fields["level"]) == ("of interest", "some.package", "WARNING")


HOSTILE = [
    "\x1b]52;c;cm0=\x07",
    "\x1b[2J",
    "two\nlines",
    "\x9b31m",
    "\u202egnp.exe",
    "\u2066x\u2069",
    "a\rb",
    "\u2028",
    "\x7f",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_line_of_text_has_no_control_character(capsys: pytest.CaptureFixture[str], text: str) -> None:
    logging.configure("INFO", "text")
    logger.bind(bucket=text).info("the store says {}", text)
    std_logging.getLogger("library").error("the server says %s", text)
    logger.opt(exception=ValueError(text)).error("unexpected")
    log = capsys.readouterr().err
    assert "the store says" in log
    assert "the server says" in log
    assert all(line.isprintable() for line in log.split("\n"))


def test_each_library_logs_a_limited_number_of_lines_a_minute(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("reactor.telemetry.logging.monotonic", lambda: now)
    logging.configure("INFO", "text")

    def lines() -> int:
        for _ in range(1_000):
            std_logging.getLogger("asyncio").error("socket.accept() out of system resource")
        return len(capsys.readouterr().err.splitlines())

    assert lines() == 31
    std_logging.getLogger("other").error("another library")
    assert "another library" in capsys.readouterr().err
    assert lines() == 0
    now += 60.0
    assert lines() == 31
