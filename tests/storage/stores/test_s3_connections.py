"""A dead connection from the pool costs no attempt; an early answer ends the reading of the file."""

import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import aws
from support.servers.fault_server import (
    Fault,
    FaultServer,
    Request,
    agrees_without_reading,
    answers,
    closes,
    hangs,
    loses_the_answer,
    refuses_a_full_connection,
    refuses_early,
    resets,
    resets_at_once,
    stores,
)
from support.spooled import CONTENT, body_of, open_spooled, sha256

from reactor.core.errors import ContentMismatch, FileTooLarge, StorageRefused, StorageRejected, StorageUnavailable
from reactor.storage.spool import Spool
from reactor.storage.stores import s3_connections
from reactor.storage.stores.s3 import S3Store

LARGE_BYTES = 256 * 1024 * 1024


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    with FaultServer() as server:
        aws.use(aws.environment(server.endpoint, access_key="key", secret_key="secret"), monkeypatch)
        yield server


@pytest.fixture
def store(server: FaultServer) -> Iterator[S3Store]:
    store = S3Store(concurrency=16)
    yield store
    store.close()


def put(store: S3Store, key: str = "key", content: bytes = CONTENT) -> None:
    with body_of(content) as body:
        store.put("bucket", key, body, mime_type=None)


def put_many(store: S3Store, keys: list[str]) -> list[BaseException]:
    """Put an object for each key, in a thread each; return what they raised."""
    raised: list[BaseException] = []

    def run(key: str) -> None:
        try:
            put(store, key)
        except StorageUnavailable as exc:
            raised.append(exc)

    threads = [threading.Thread(target=run, args=(key,)) for key in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def once(fault: Fault) -> Fault:
    """Return a fault that is applied to the first request; others are stored."""
    faults = iter([fault])

    def apply(request: Request) -> None:
        next(faults, stores)(request)

    return apply


class TestDeadConnections:
    @pytest.mark.parametrize("fault", [resets_at_once, closes])
    @pytest.mark.parametrize("size", [0, 10, 5_000_000])
    def test_a_request_is_repeated_at_once_on_a_fresh_connection(
        self, store: S3Store, server: FaultServer, fault: Fault, size: int
    ) -> None:
        put(store, "first")
        server.on_reuse = fault
        began = time.monotonic()
        put(store, "second", bytes(size))
        assert time.monotonic() - began < 1
        assert server.objects["/bucket/second"] == bytes(size)
        assert server.reused == 1

    def test_sixteen_dead_connections_cost_no_attempt(self, store: S3Store, server: FaultServer) -> None:
        assert put_many(store, [f"warm/{number}" for number in range(16)]) == []
        server.on_reuse = resets_at_once
        assert put_many(store, [f"again/{number}" for number in range(16)]) == []
        assert len(server.objects) == 32
        assert 1 <= server.reused <= 16

    def test_silence_where_the_server_has_continued_before_costs_two_seconds(
        self, store: S3Store, server: FaultServer
    ) -> None:
        put(store, "first")
        server.on_reuse = hangs
        began = time.monotonic()
        put(store, "second")
        assert 1.5 < time.monotonic() - began < 4
        assert server.objects["/bucket/second"] == CONTENT

    def test_silence_where_the_server_never_continues_costs_seconds_and_no_attempt(
        self, store: S3Store, server: FaultServer
    ) -> None:
        server.never_continues = True
        put(store, "first")
        server.on_reuse = hangs
        began = time.monotonic()
        put(store, "second")
        assert time.monotonic() - began < 9
        assert server.objects["/bucket/second"] == CONTENT

    def test_a_body_that_was_partly_sent_is_sent_again_from_its_start(
        self, store: S3Store, server: FaultServer
    ) -> None:
        content = bytes(range(256)) * 20_000
        server.never_continues = True
        put(store, "first")
        server.fault = once(resets)
        put(store, "second", content)
        assert server.objects["/bucket/second"] == content
        assert server.requests == ["PUT /bucket/first", "PUT /bucket/second", "PUT /bucket/second"]

    def test_the_repeated_body_has_a_new_proof(self, store: S3Store, server: FaultServer) -> None:
        server.never_continues = True
        put(store, "first")
        server.fault = once(resets)
        with body_of(bytes(3_000_000), digest=sha256(b"other")) as body, pytest.raises(ContentMismatch):
            store.put("bucket", "second", body, mime_type=None)
        assert "/bucket/second" not in server.objects

    @pytest.mark.parametrize("fault", [resets, loses_the_answer])
    def test_a_connection_is_not_dead_after_100_continue(
        self, store: S3Store, server: FaultServer, fault: Fault
    ) -> None:
        put(store, "first")
        server.fault = fault
        with pytest.raises(StorageUnavailable):
            put(store, "second", bytes(1_000_000))
        assert server.requests == ["PUT /bucket/first", "PUT /bucket/second"]

    @pytest.mark.parametrize("fault", [resets, closes, loses_the_answer])
    def test_a_fresh_connection_is_never_repeated(self, store: S3Store, server: FaultServer, fault: Fault) -> None:
        server.fault = fault
        with pytest.raises(StorageUnavailable):
            put(store, content=bytes(1_000_000))
        assert len(server.requests) == 1

    def test_a_second_death_ends_the_attempt(self, store: S3Store, server: FaultServer) -> None:
        put(store, "first")
        server.on_reuse = resets_at_once
        server.fault = resets
        with pytest.raises(StorageUnavailable):
            put(store, "second", bytes(1_000_000))
        assert (server.reused, server.requests[1:]) == (1, ["PUT /bucket/second"])

    def test_a_connection_that_was_idle_for_long_is_not_reused(
        self, store: S3Store, server: FaultServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(store, "first")
        server.on_reuse = resets_at_once
        monkeypatch.setattr(s3_connections, "_IDLE_S", 0.0)
        put(store, "second")
        assert server.reused == 0

    @pytest.mark.parametrize("size", [10, 1_000_000])
    def test_a_healthy_connection_is_reused_again_and_again(
        self, store: S3Store, server: FaultServer, size: int
    ) -> None:
        for number in range(5):
            put(store, str(number), bytes(size))
        server.fault = answers(403, "AccessDenied")
        for _ in range(3):
            with pytest.raises(StorageRejected):
                put(store, "refused", bytes(size))
        assert (server.connections, len(server.requests)) == (1, 8)


class TestEarlyAnswers:
    @pytest.mark.parametrize("never_continues", [False, True])
    @pytest.mark.parametrize("after_bytes", [0, 100_000])
    @pytest.mark.parametrize(
        ("status", "code", "kind"),
        [
            (403, "AccessDenied", StorageRejected),
            (413, "EntityTooLarge", FileTooLarge),
            (503, "SlowDown", StorageUnavailable),
        ],
    )
    def test_reading_stops_and_the_answer_counts(
        self, store: S3Store, server: FaultServer, tmp_path: Path, *, never_continues: bool, after_bytes: int,
        status: int, code: str, kind: type[Exception],
    ) -> None:  # fmt: skip
        server.never_continues = never_continues
        server.fault = refuses_early(status, code, after_bytes=after_bytes)
        with (tmp_path / "upload").open("wb") as file:
            file.truncate(LARGE_BYTES)
        with open_spooled(Spool({"default": tmp_path}), size_bytes=LARGE_BYTES, digest=None) as body:
            with pytest.raises(kind, match=code):
                store.put("bucket", "key", body, mime_type=None)
            assert body._position < LARGE_BYTES / 4
        assert len(server.requests) == 1

    def test_an_answer_to_the_headers_alone_stops_before_the_first_byte(
        self, store: S3Store, server: FaultServer, tmp_path: Path
    ) -> None:
        """A server that checks the request before it sends "100 Continue"."""
        (tmp_path / "upload").write_bytes(CONTENT)
        server.never_continues = True
        server.fault = refuses_early(403, "AccessDenied")
        with open_spooled(Spool({"default": tmp_path})) as body:
            with pytest.raises(StorageRejected):
                store.put("bucket", "key", body, mime_type=None)
            assert body._position == 0

    def test_an_answer_before_a_reset_is_read(self, store: S3Store, server: FaultServer) -> None:
        """The server answers and closes while the client waits in `send`."""
        server.never_continues = True
        put(store, "first")
        server.fault = refuses_a_full_connection
        with pytest.raises(StorageRejected, match="AccessDenied"):
            put(store, "second", bytes(32 * 1024 * 1024))
        assert server.requests == ["PUT /bucket/first", "PUT /bucket/second"]

    def test_an_early_success_stores_nothing(self, store: S3Store, server: FaultServer) -> None:
        def agrees(request: Request) -> None:
            request.close_connection = True
            request.answer(200, etag='"0"')

        server.fault = agrees
        server.never_continues = True
        with pytest.raises(StorageUnavailable, match="before it had all bytes"):
            put(store)

    def test_a_connection_with_an_unfinished_body_is_not_reused(self, store: S3Store, server: FaultServer) -> None:
        def refuses(request: Request) -> None:
            request.answer(403)

        server.fault = refuses
        server.never_continues = True
        with pytest.raises(StorageUnavailable):
            put(store, "first")
        server.fault = agrees_without_reading
        server.on_reuse = resets_at_once
        with pytest.raises(StorageUnavailable, match="not what it stored"):
            put(store, "second")
        assert server.reused == 0


class TestTls:
    @pytest.fixture
    def secure_server(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
        """A server with a certificate of its own, and the variables for it. AWS_CA_BUNDLE names the certificate."""
        made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
        made += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"]
        subprocess.run(made, cwd=tmp_path, check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
        with FaultServer(tls=context) as server:
            aws.use(aws.environment(server.endpoint, access_key="key", secret_key="secret"), monkeypatch)
            monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "cert.pem"))
            yield server

    @pytest.mark.parametrize("fault", [resets_at_once, closes])
    def test_a_dead_connection_costs_no_attempt(self, secure_server: FaultServer, fault: Fault) -> None:
        store = S3Store(concurrency=1)
        put(store, "first")
        secure_server.on_reuse = fault
        put(store, "second", bytes(3_000_000))
        assert secure_server.objects["/bucket/second"] == bytes(3_000_000)
        assert secure_server.reused == 1
        store.close()

    def test_session_tickets_are_no_answer(self, secure_server: FaultServer) -> None:
        """A TLS 1.3 server sends tickets before its first answer; the body must be sent nevertheless."""
        secure_server.never_continues = True
        store = S3Store(concurrency=1)
        began = time.monotonic()
        put(store, "first", bytes(3_000_000))
        assert 0.9 < time.monotonic() - began < 3
        assert secure_server.objects["/bucket/first"] == bytes(3_000_000)
        store.close()

    def test_an_early_answer_stops_the_reading(self, secure_server: FaultServer, tmp_path: Path) -> None:
        secure_server.fault = refuses_early(403, "AccessDenied", after_bytes=100_000, lingers=True)
        store = S3Store(concurrency=1)
        with (tmp_path / "upload").open("wb") as file:
            file.truncate(LARGE_BYTES)
        with open_spooled(Spool({"default": tmp_path}), size_bytes=LARGE_BYTES, digest=None) as body:
            with pytest.raises(StorageRejected, match="AccessDenied"):
                store.put("bucket", "key", body, mime_type=None)
            assert body._position < LARGE_BYTES / 4
        store.close()

    def test_an_untrusted_certificate_is_a_refusal_of_the_reactor(
        self, secure_server: FaultServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("AWS_CA_BUNDLE")
        store = S3Store(concurrency=1)
        with pytest.raises(StorageRefused) as caught:
            put(store)
        assert caught.value.refusal.reason == "CERTIFICATE_VERIFY_FAILED"
        assert "AWS_CA_BUNDLE" in caught.value.refusal.check
        assert secure_server.requests == []
        store.close()

    def test_a_missing_file_of_certificates_is_a_refusal_of_the_reactor(
        self, secure_server: FaultServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_CA_BUNDLE", "/missing")
        store = S3Store(concurrency=1)
        with pytest.raises(StorageRefused) as caught:
            put(store)
        assert "AWS_CA_BUNDLE" in caught.value.refusal.check
        assert secure_server.requests == []
        store.close()
