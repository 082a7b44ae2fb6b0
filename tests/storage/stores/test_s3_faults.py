"""Each fault of an S3 server raises the right error after one request."""

import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support import aws
from support.servers.fault_server import (
    Fault,
    FaultServer,
    agrees_without_reading,
    answers,
    answers_text,
    hangs,
    loses_the_answer,
    resets,
    retries_at,
    stalls,
)
from support.spooled import CONTENT, body_of, open_spooled, sha256

from reactor.core.errors import (
    ContentMismatch,
    FileTooLarge,
    ReactorError,
    StorageRefused,
    StorageRejected,
    StorageUnavailable,
)
from reactor.core.refusal import Guard, Scope
from reactor.runtime.executor import Job
from reactor.storage.spool import Spool
from reactor.storage.stores import open_store
from reactor.storage.stores.base import ObjectStore
from reactor.storage.stores.s3 import S3Store
from reactor.storage.stores.s3_errors import retry_after_s

SECRET = "a-secret-that-no-message-shows"  # noqa: S105 - no real server has it


@pytest.fixture(scope="module")
def shared_server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


@pytest.fixture
def server(shared_server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> FaultServer:
    """Reset the shared server and set the AWS environment variables for it."""
    shared_server.reset()
    aws.use(aws.environment(shared_server.endpoint, access_key="key", secret_key=SECRET), monkeypatch)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "5")  # must have no effect
    return shared_server


@pytest.fixture(scope="module")
def shared_store(shared_server: FaultServer) -> Iterator[S3Store]:
    """One client for all tests of this file, because creating a client takes 0.2 s."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        aws.use(aws.environment(shared_server.endpoint, access_key="key", secret_key=SECRET), monkeypatch)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "5")  # must have no effect
        store = S3Store(concurrency=4, read_timeout_s=1)
    yield store
    store.close()


@pytest.fixture
def store(shared_store: S3Store, server: FaultServer) -> S3Store:
    return shared_store


def put(store: ObjectStore, content: bytes = CONTENT, digest: str | None = None, key: str = "folder/key") -> str:
    with body_of(content, digest=digest) as body:
        return store.put("bucket", key, body, mime_type="text/plain")


TRANSIENT = [
    answers(500, "InternalError"),
    answers(501, "NotImplemented"),
    answers(502),
    answers(503, "SlowDown"),
    answers(504),
    answers(507),
    answers(408),
    answers(425),
    answers(429),
    answers(400, "RequestTimeout"),
    answers(400, "BadDigest"),
    answers(409, "ConditionalRequestConflict"),
    answers(409, "OperationAborted"),
    answers_text(503, "<html>upstream <b>is down</html>"),
    answers(400, "ThrottlingException"),
    answers(403, "RequestThrottled"),
    answers(400, "SlowDown"),
    # without a code of the store
    answers(400),
    answers(401),
    answers(403),
    answers(422),
    answers(302, location="http://127.0.0.1:9/x"),
    answers(404, "404"),
    answers_text(404, "404 page not found"),
    answers_text(404, "<html><body><h1>404 Not Found</h1></body></html>"),
    answers_text(403, "<!doctype html><p>Request blocked by the firewall"),
    answers_text(403, '{"message":"no route"}'),
    answers_text(400, "<Error><Message>no code</Message></Error>"),
    answers_text(404, "<Error><Code></Code></Error>"),
]

REJECTED = [
    answers(400, "InvalidRequest"),
    answers(400, "ACodeThatNobodyHasListed"),
    answers(400, "accessdenied"),
    answers(405, "MethodNotAllowed"),
    answers(409, "BucketAlreadyExists"),
    answers(412, "PreconditionFailed"),
]

DENIED = [
    answers(400, "AccessDenied"),
    answers(403, "AccessDenied"),
    answers(403, "ACodeThatNobodyHasListed"),
    answers(401, "InvalidRequest"),
]

SHARED = [
    (answers(400, "ExpiredToken"), Guard.STORE),
    (answers(403, "SignatureDoesNotMatch"), Guard.STORE),
    (answers(403, "RequestTimeTooSkewed"), Guard.STORE),
    (answers(503, "InvalidAccessKeyId"), Guard.STORE),
    (answers(200, "ExpiredToken"), Guard.STORE),
    (answers(404, "NoSuchBucket"), Guard.BUCKET),
    (answers(301, "PermanentRedirect", x_amz_bucket_region="eu-west-1"), Guard.BUCKET),
    (answers(307, "TemporaryRedirect", location="http://127.0.0.1:9/x", x_amz_bucket_region="eu-west-1"), Guard.BUCKET),
    (answers(400, "AuthorizationHeaderMalformed", x_amz_bucket_region="eu-west-1"), Guard.BUCKET),
    (answers(400, "KMS.DisabledException"), Guard.BUCKET),
]

TOO_LARGE = [answers(413), answers(413, "EntityTooLarge"), answers(400, "EntityTooLarge")]


class TestErrors:
    def test_success_returns_the_url(self, store: S3Store, server: FaultServer) -> None:
        assert put(store) == "s3://bucket/folder/key"
        assert server.objects == {"/bucket/folder/key": CONTENT}
        assert server.requests == ["PUT /bucket/folder/key"]

    @pytest.mark.parametrize("fault", TRANSIENT)
    def test_a_transient_error_is_unavailable(self, store: S3Store, server: FaultServer, fault: Fault) -> None:
        server.fault = fault
        with pytest.raises(StorageUnavailable) as caught:
            put(store)
        assert caught.value.http_status in range(300, 600)
        assert caught.value.refusal.retry_after_s is None
        assert len(server.requests) == 1

    @pytest.mark.parametrize("fault", REJECTED)
    def test_a_permanent_error_is_rejected(self, store: S3Store, server: FaultServer, fault: Fault) -> None:
        server.fault = fault
        with pytest.raises(StorageRejected) as caught:
            put(store)
        assert caught.value.refusal.may_be_shared is False
        assert caught.value.http_status in range(300, 500)
        assert len(server.requests) == 1

    @pytest.mark.parametrize("fault", DENIED)
    def test_a_denial_is_marked(self, store: S3Store, server: FaultServer, fault: Fault) -> None:
        server.fault = fault
        with pytest.raises(StorageRejected) as caught:
            put(store)
        assert caught.value.refusal.may_be_shared is True
        assert len(server.requests) == 1

    @pytest.mark.parametrize(("fault", "guard"), SHARED)
    def test_a_refusal_of_the_reactor_is_shared(
        self, store: S3Store, server: FaultServer, fault: Fault, guard: Guard
    ) -> None:
        server.fault = fault
        with pytest.raises(StorageRefused) as caught:
            put(store)
        refusal = caught.value.refusal
        assert (refusal.scope, refusal.guard) == (Scope.SHARED, guard)
        assert refusal.reason
        assert refusal.check
        assert len(server.requests) == 1

    @pytest.mark.parametrize("fault", TOO_LARGE)
    def test_an_object_that_is_too_large_is_reported_so(
        self, store: S3Store, server: FaultServer, fault: Fault
    ) -> None:
        server.fault = fault
        with pytest.raises(FileTooLarge):
            put(store)
        assert len(server.requests) == 1

    @pytest.mark.parametrize("fault", [hangs, resets, loses_the_answer])
    def test_a_broken_connection_is_unavailable(self, store: S3Store, server: FaultServer, fault: Fault) -> None:
        server.fault = fault
        with pytest.raises(StorageUnavailable, match="didn't answer in time") as caught:
            put(store, bytes(1_000_000))
        assert caught.value.http_status is None
        assert len(server.requests) == 1

    def test_an_object_whose_response_was_lost_is_unavailable_and_stored(
        self, store: S3Store, server: FaultServer
    ) -> None:
        server.fault = loses_the_answer
        with pytest.raises(StorageUnavailable):
            put(store)
        assert server.objects == {"/bucket/folder/key": CONTENT}

    @pytest.mark.usefixtures("server")
    def test_a_closed_port_is_unavailable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with FaultServer() as stopped:
            monkeypatch.setenv("AWS_ENDPOINT_URL", stopped.endpoint)
        store = S3Store(concurrency=1)
        with pytest.raises(StorageUnavailable, match="EndpointConnectionError"):
            put(store)
        with pytest.raises(StorageUnavailable):
            store.check()
        store.close()

    def test_a_server_without_tls_is_unavailable_over_https(
        self, server: FaultServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint.replace("http:", "https:"))
        store = S3Store(concurrency=1)
        with pytest.raises(StorageUnavailable):
            put(store)
        assert server.requests == []
        store.close()

    def test_a_server_that_never_sends_100_continue_still_gets_the_body(
        self, store: S3Store, server: FaultServer
    ) -> None:
        server.never_continues = True
        put(store)
        assert server.objects == {"/bucket/folder/key": CONTENT}

    def test_a_success_without_an_etag_is_an_outage(self, store: S3Store, server: FaultServer) -> None:
        server.fault = agrees_without_reading
        server.never_continues = True
        with pytest.raises(StorageUnavailable, match="not what it stored"):
            put(store)

    def test_a_success_with_another_checksum_is_an_outage(self, store: S3Store, server: FaultServer) -> None:
        server.fault = answers(200, etag='"0"', x_amz_checksum_sha256="b3RoZXI=")
        with pytest.raises(StorageUnavailable, match="another SHA-256"):
            put(store)


class TestRetryAfter:
    def test_seconds_are_honoured(self, store: S3Store, server: FaultServer) -> None:
        server.fault = answers(503, "SlowDown", retry_after="120")
        with pytest.raises(StorageUnavailable) as caught:
            put(store)
        assert (caught.value.http_status, caught.value.refusal.retry_after_s) == (503, 120.0)

    def test_a_date_is_relative_to_the_servers_clock(self, store: S3Store, server: FaultServer) -> None:
        server.fault = retries_at(429, seconds=90, clock=1_000_000_000)
        with pytest.raises(StorageUnavailable) as caught:
            put(store)
        assert caught.value.refusal.retry_after_s == 90.0

    @pytest.mark.parametrize(
        ("value", "seconds"),
        [("0", 0.0), ("Sun, 09 Sep 2001 01:47:10 GMT", 30.0), ("Sun, 09 Sep 2001 01:40:00 GMT", 0.0),
         ("-5", None), ("1.5", None), ("soon", None), ("9" * 30, None), ("nan", None), ("²", None),
         ("Mon, 99 Foo 2001 01:46:40 GMT", None), ("Sun, 09 Sep 9999999 01:46:40 GMT", None)],
    )  # fmt: skip
    def test_a_malformed_value_is_ignored(self, value: str, seconds: float | None) -> None:
        now = datetime.fromtimestamp(1_000_000_000, UTC)
        assert retry_after_s({"retry-after": value}, now=now) == seconds


class TestBodyErrors:
    def test_a_mismatch_is_raised_unchanged_and_stores_nothing(self, store: S3Store, server: FaultServer) -> None:
        with pytest.raises(ContentMismatch, match="SHA-256"):
            put(store, digest=sha256(b"other"))
        assert server.objects == {}

    def test_an_empty_mismatch_sends_nothing(self, store: S3Store, server: FaultServer) -> None:
        with pytest.raises(ContentMismatch):
            put(store, b"", digest=sha256(b"other"))
        assert server.requests == []

    def test_cancelling_stops_a_running_put(self, store: S3Store, server: FaultServer, tmp_path: Path) -> None:
        """64 MiB don't fit into the socket buffers, so the put is still running when it is cancelled."""
        started, resume, reader = threading.Event(), threading.Event(), Job()
        server.fault = stalls(started, resume)
        (tmp_path / "upload").touch()
        with (tmp_path / "upload").open("wb") as file:
            file.truncate(64 * 1024 * 1024)
        spool = Spool({"default": tmp_path})

        def cancel() -> None:
            started.wait()
            reader.is_cancelled = True
            resume.set()

        canceller = threading.Thread(target=cancel)
        canceller.start()
        with (
            open_spooled(spool, size_bytes=64 * 1024 * 1024, digest=None, reader=reader) as body,
            pytest.raises(StorageUnavailable, match="the attempt was cancelled"),
        ):
            store.put("bucket", "key", body, mime_type=None)
        canceller.join()
        assert server.objects == {}

    def test_a_row_without_a_digest_is_stored(self, store: S3Store, server: FaultServer, tmp_path: Path) -> None:
        (tmp_path / "upload").write_bytes(CONTENT)
        with open_spooled(Spool({"default": tmp_path}), digest=None) as body:
            store.put("bucket", "key", body, mime_type=None)
        assert server.objects == {"/bucket/key": CONTENT}


class TestSettings:
    @pytest.fixture
    def open_with(self, server: FaultServer) -> Iterator[Callable[..., ObjectStore]]:
        """Return a function that opens a store with settings; `server` is its server."""
        opened: list[ObjectStore] = []

        def open_with(**settings: str) -> ObjectStore:
            opened.append(open_store("s3://", concurrency=1, **settings))
            return opened[-1]

        yield open_with
        for store in opened:
            store.close()
        assert server.requests

    @pytest.mark.parametrize(("checksum", "is_sent"), [("sha256", True), ("when_required", False), ("off", False)])
    def test_a_put_has_the_rows_sha256_or_no_checksum(
        self, open_with: Callable[..., ObjectStore], server: FaultServer, checksum: str, is_sent: bool
    ) -> None:
        put(open_with(checksum=checksum))
        [headers] = server.headers
        names = {name.lower() for name in headers}
        assert ("x-amz-checksum-sha256" in names) is is_sent
        assert {name for name in names if "checksum" in name or "md5" in name or "trailer" in name} <= {
            "x-amz-checksum-sha256"
        }
        assert server.objects == {"/bucket/folder/key": CONTENT}

    @pytest.mark.parametrize(("checksum", "is_compared"), [("sha256", True), ("when_required", True), ("off", False)])
    def test_a_checksum_in_the_answer_is_compared(
        self, open_with: Callable[..., ObjectStore], server: FaultServer, checksum: str, is_compared: bool
    ) -> None:
        server.fault = answers(200, etag='"0"', x_amz_checksum_sha256="b3RoZXI=")
        store = open_with(checksum=checksum)
        with pytest.raises(StorageUnavailable, match="another SHA-256") if is_compared else nullcontext():
            put(store)

    @pytest.mark.parametrize(
        ("sse", "algorithm", "key_id"),
        [("AES256", "AES256", None), ("aws:kms", "aws:kms", None), ("aws:kms:dsse", "aws:kms:dsse", None),
         ("aws:kms:key-1", "aws:kms", "key-1"), ("aws:kms:arn:aws:kms:eu-west-1:1:key/a", "aws:kms",
                                                 "arn:aws:kms:eu-west-1:1:key/a"), (None, None, None)],
    )  # fmt: skip
    def test_a_put_asks_for_the_encryption(
        self, open_with: Callable[..., ObjectStore], server: FaultServer, sse: str | None, algorithm: str | None,
        key_id: str | None,
    ) -> None:  # fmt: skip
        put(open_with(sse=sse))
        [headers] = server.headers
        assert headers.get("x-amz-server-side-encryption") == algorithm
        assert headers.get("x-amz-server-side-encryption-aws-kms-key-id") == key_id

    @pytest.mark.parametrize(
        ("addressing", "url"),
        [("path", "http://store.test/bucket/folder/key"), ("virtual", "http://bucket.store.test/folder/key"),
         ("auto", "http://store.test/bucket/folder/key")],
    )  # fmt: skip
    def test_the_bucket_is_in_the_path_or_in_the_host(
        self, open_with: Callable[..., ObjectStore], server: FaultServer, monkeypatch: pytest.MonkeyPatch,
        addressing: str, url: str,
    ) -> None:  # fmt: skip
        """The server is a proxy for the endpoint, so that every host leads to it."""
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store.test")
        monkeypatch.setenv("HTTP_PROXY", server.endpoint)
        put(open_with(addressing=addressing))
        assert server.requests == [f"PUT {url}"]


class TestMessages:
    def test_messages_are_one_line_without_secrets_and_urls(self, store: S3Store, server: FaultServer) -> None:
        text = f"see https://host/x?X-Amz-Signature={SECRET}\n\x1b[31m" + "long " * 200
        server.fault = answers(403, "AccessDenied", message=text.replace("\x1b", ""))
        with pytest.raises(ReactorError, match="403 AccessDenied: see <url>") as caught:
            put(store)
        assert SECRET not in repr(caught.value)
        assert len(str(caught.value)) < 300
        assert "\n" not in str(caught.value)
