"""Any form, filter, header or byte gets an answer below 500 or a closed connection, and never an unexpected exception.

`pytest -m slow tests/web/test_fuzz.py` tries many more of each.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar
from urllib.parse import parse_qs, quote, urlencode, urlsplit
from uuid import UUID

import anyio
import pytest
from anyio import create_task_group, fail_after
from hypothesis import example, given, settings
from hypothesis import strategies as st
from loguru import logger
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from reactor.core.settings import answers_host, is_loopback
from reactor.telemetry import logging
from reactor.web import auth, filters, forms
from reactor.web.http_errors import HttpError, wants_json
from reactor.web.server import WebServer

T = TypeVar("T")

LONG = 20_000
ANY_TEXT = st.text(st.characters(exclude_categories=[]), max_size=60)
LATIN = st.text(st.characters(max_codepoint=255), max_size=60)
ODD = st.sampled_from(["", "\0", "\r\n", "%00", "%ff", "//evil", "\\", "\u202e", "'", "1e999", "nan", "-1", "9" * 5000])
HEX = "0123456789abcdef"


def request_of(headers: dict[str, str], *, method: str = "GET", body: list[bytes] | None = None) -> Request:
    raw = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
    parts: Iterator[bytes] = iter(body or [b""])

    async def receive() -> dict[str, Any]:
        part = next(parts, None)
        return (
            {"type": "http.disconnect"} if part is None else {"type": "http.request", "body": part, "more_body": True}
        )

    scope = {"type": "http", "method": method, "path": "/", "query_string": b"", "headers": raw, "scheme": "http",
             "server": ("127.0.0.1", 1), "client": ("127.0.0.1", 2)}  # fmt: skip
    return Request(scope, receive if body is not None else _complete)


async def _complete() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


def attempted(call: Callable[[], T]) -> T | HttpError:
    """Return the result of a call, or the refusal that it raised."""
    try:
        return call()
    except HttpError as error:
        return error


# forms


async def _read(body: list[bytes], content_type: str) -> forms.Form | HttpError:
    parts = [*body, b""]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", content_type.encode("latin-1"))]}
    try:
        return await forms.read(Request(scope, receive))
    except HttpError as error:
        return error


def check_form(body: list[bytes], content_type: str) -> None:
    read = asyncio.run(_read(body, content_type))
    if isinstance(read, HttpError):
        assert read.status_code in {400, 413, 415}
        assert read.code == "INVALID_ARGUMENT"
        return
    for name in read:
        assert read.getlist(name)
    path = forms.return_path(read)
    parts = urlsplit(path)
    assert path.startswith("/")
    assert not path.startswith("//")
    assert (parts.scheme, parts.netloc) == ("", "")
    assert path.isascii()
    assert path.isprintable()


BODIES = st.lists(
    st.one_of(
        st.binary(max_size=200),
        st.dictionaries(st.sampled_from(["ids", "csrf", "back", "user", ""]), ANY_TEXT, max_size=4).map(
            lambda fields: urlencode(fields, errors="replace").encode()
        ),
        ODD.map(lambda text: b"back=" + quote(text).encode()),
        st.integers(1, 4).map(lambda count: b"a=1&" * (count * 1000)),
    ),
    max_size=4,
)
CONTENT_TYPES = st.one_of(
    st.sampled_from(
        ["", "application/x-www-form-urlencoded", "APPLICATION/X-WWW-FORM-URLENCODED; charset=x", "text/plain"]
    ),
    LATIN,
)


@given(BODIES, CONTENT_TYPES)
@example([b"back=/\\evil"], "")
@example([b"back=/%09/evil"], "")
@example([b"back=http:evil"], "")
@example([b"\xff"], "")
def test_any_body_is_a_form_or_is_refused(body: list[bytes], content_type: str) -> None:
    check_form(body, content_type)


@pytest.mark.slow
@pytest.mark.timeout(600)
@settings(max_examples=LONG, deadline=None)
@given(BODIES, CONTENT_TYPES)
def test_any_body_is_a_form_or_is_refused_for_long(body: list[bytes], content_type: str) -> None:
    check_form(body, content_type)


# filters


def check_filter(query: dict[str, str]) -> None:
    for statuses in (filters.UPLOAD_STATUSES, filters.RUN_STATUSES):
        wanted = attempted(partial(filters.parse_filter, query, statuses))
        if isinstance(wanted, HttpError):
            assert wanted.status_code == 400
            assert wanted.detail.isprintable()
            assert len(wanted.detail) < 300
            continue
        assert wanted.status in statuses
        again = filters.parse_filter({key: values[0] for key, values in parse_qs(wanted.query()).items()}, statuses)
        assert again == wanted


FIELDS = st.one_of(ANY_TEXT, ODD, st.uuids().map(str), st.sampled_from([*filters.UPLOAD_STATUSES, "STORAGE_REJECTED"]))
FILTERS = st.dictionaries(st.sampled_from(["status", "user", "code", "after"]), FIELDS)


@given(FILTERS)
def test_any_filter_is_parsed_or_is_refused(query: dict[str, str]) -> None:
    check_filter(query)


@pytest.mark.slow
@pytest.mark.timeout(600)
@settings(max_examples=LONG, deadline=None)
@given(FILTERS)
def test_any_filter_is_parsed_or_is_refused_for_long(query: dict[str, str]) -> None:
    check_filter(query)


@given(st.lists(st.one_of(FIELDS, st.text(HEX, min_size=32, max_size=32)), max_size=8))
def test_any_ids_are_uuids_without_duplicates_or_are_refused(texts: list[str]) -> None:
    ids = attempted(partial(filters.parse_form_ids, texts, limit=5))
    if isinstance(ids, HttpError):
        assert ids.status_code == 400
        assert len(ids.detail) < 300
    else:
        assert len(texts) <= 5
        assert len(ids) == len(set(ids))
        assert set(ids) == {UUID(text) for text in texts}


# headers

HEADERS = st.dictionaries(
    st.sampled_from(["host", "origin", "cookie", "authorization", "accept", "sec-fetch-site", "x-operator",
                     "x-forwarded-proto", "content-type", "if-none-match"]),
    st.one_of(LATIN, ODD,
              st.sampled_from(["localhost", "Bearer ", "Bearer token-of-this-test", "reactor_session_1=x"])),
)  # fmt: skip


def check_headers(headers: dict[str, str]) -> None:
    request = request_of(headers, method="POST")
    sessions = auth.Sessions("token-of-this-test", is_private=False, port=1)
    calls: list[Callable[[Request], object]] = [sessions.may_read, sessions.operator]
    for call in calls:
        allowed = attempted(partial(call, request))
        if isinstance(allowed, HttpError):
            assert allowed.status_code in {400, 401, 403}
        else:
            has_token = headers.get("authorization", "").partition(" ")[2].strip() == "token-of-this-test"
            assert has_token or not allowed
    assert sessions.find(request) is None
    assert auth.is_encrypted(request) in (True, False)
    assert wants_json(request) in (True, False)


@given(HEADERS)
def test_any_headers_without_the_token_authorise_nothing(headers: dict[str, str]) -> None:
    check_headers(headers)


@pytest.mark.slow
@pytest.mark.timeout(600)
@settings(max_examples=LONG, deadline=None)
@given(HEADERS)
def test_any_headers_without_the_token_authorise_nothing_for_long(headers: dict[str, str]) -> None:
    check_headers(headers)


@given(st.one_of(LATIN, ODD, st.from_regex(r"\[?[0-9a-f.:]{0,20}\]?(:[0-9]{1,5})?\.?", fullmatch=True)))
@example("127.0.0.1.evil.example")
@example("localhost.evil.example")
@example("[::1].evil.example")
@example("evil.example#localhost")
@example("a@localhost")
def test_any_host_header_is_answered_on_loopback_only_if_it_names_this_machine(host: str) -> None:
    if answers_host(host, http_host="127.0.0.1", http_hosts=()):
        name = host.lower().rstrip(".")
        head, _, port = name.rpartition(":")
        name = (head if port.isdigit() else name).rstrip(".")
        assert name.endswith("localhost") or is_loopback(name)
        assert "evil" not in name


# bytes


@contextmanager
def logged() -> Iterator[list[str]]:
    lines: list[str] = []
    logging.configure("ERROR", "text")
    added = logger.add(lambda line: lines.append(str(line)), level="ERROR")
    try:
        yield lines
    finally:
        logger.remove(added)


async def _answers(sent: list[bytes]) -> list[bytes]:
    """Send each to a new connection of one server; return the answers."""

    async def endpoint(request: Request) -> Response:
        form = await forms.read(request)
        return JSONResponse({"fields": len(form), "user": request.query_params.get("user")})

    async def nothing() -> Any:
        return b""

    answers: list[bytes] = []
    with WebServer.bind("127.0.0.1", 0) as listening:
        server = WebServer(
            listening,
            is_answered=lambda host: answers_host(host, http_host="127.0.0.1", http_hosts=()),
            not_ready=list,
            metrics=nothing,
            status=nothing,
            known_figures=lambda: None,
            routes=[Route("/do", endpoint, methods=["POST"])],
            guard=lambda _: None,
            error_handlers={HttpError: _as_json},
        )
        port = listening.getsockname()[1]
        async with create_task_group() as tasks:
            tasks.start_soon(server.serve)
            for each in sent:
                async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                    await stream.send(each)
                    await stream.send_eof()
                    answers.append(await _received(stream))
            server.close()
    return answers


async def _as_json(_: Request, error: HttpError) -> Response:
    return JSONResponse({"error": error.code}, status_code=error.status_code)


async def _received(stream: anyio.abc.SocketStream) -> bytes:
    """Return the beginning of the answer; b"" if the server closes the connection or waits for more."""
    with anyio.move_on_after(0.2):
        try:
            return await stream.receive(12)
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return b""
    return b""


LINES = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([b"GET / HTTP/1.1", b"POST /do HTTP/1.1", b"GET /healthz HTTP/1.0", b"GET http://evil/ HTTP/1.1",
                     b"PRI * HTTP/2.0", b"OPTIONS * HTTP/1.1", b"CONNECT evil:80 HTTP/1.1"]),
)  # fmt: skip
FIELD_LINES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"Host: localhost", b"Host:", b"Content-Length: 5", b"Content-Length: -1", b"Content-Length: 1e3",
                     b"Content-Length: 5, 6", b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked",
                     b"Connection: close", b"Expect: 100-continue", b"Upgrade: websocket",
                     b"Connection: Upgrade, HTTP2-Settings", b"Cookie: " + b"a=" * 2000, b"X: " + b"y" * 17_000,
                     b" folded", b"Range: bytes=0-", b"Accept: */*"]),
)  # fmt: skip
MESSAGES = st.builds(
    lambda line, fields, body: b"\r\n".join([line, *fields, b"", body]),
    LINES, st.lists(FIELD_LINES, max_size=6), st.one_of(st.binary(max_size=60), st.just(b"5\r\nhello\r\n0\r\n\r\n")),
)  # fmt: skip


def check_messages(messages: list[bytes]) -> None:
    async def run() -> list[bytes]:
        with fail_after(50):
            return await _answers([*messages, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"])

    with logged() as lines:
        *answers, last = anyio.run(run)
    assert all(answer == b"" or answer.startswith((b"HTTP/1.1 2", b"HTTP/1.1 4", b"HTTP/1.1 1")) for answer in answers)
    assert last == b"HTTP/1.1 200"
    assert lines == []


@pytest.mark.timeout(180)
@settings(max_examples=10, deadline=None)
@given(st.lists(MESSAGES, min_size=10, max_size=10))
def test_any_bytes_get_an_answer_or_a_closed_connection(messages: list[bytes]) -> None:
    check_messages(messages)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@settings(max_examples=100, deadline=None)
@given(st.lists(MESSAGES, min_size=20, max_size=20))
def test_any_bytes_get_an_answer_or_a_closed_connection_for_long(messages: list[bytes]) -> None:
    check_messages(messages)
