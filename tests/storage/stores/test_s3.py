"""A real S3 server stores the spooled bytes; its refusals and outages raise the right errors."""

import os
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import ClientError
from support import aws
from support.servers.seaweedfs import SeaweedServer
from support.spooled import CONTENT, body_of, sha256

from reactor.core.errors import ContentMismatch, StorageRefused, StorageUnavailable
from reactor.core.refusal import Guard
from reactor.storage.stores.s3 import S3Store

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

pytestmark = pytest.mark.s3


class CountingBody:
    """A body that counts the bytes that are read, and doesn't check their digest."""

    def __init__(self, content: bytes, *, digest: str | None = None) -> None:
        self._content = content
        self._digest = digest or sha256(content)
        self._position = 0
        self.bytes_read = 0

    @property
    def size_bytes(self) -> int:
        return len(self._content)

    @property
    def sha256(self) -> str:
        return self._digest

    def read(self, size: int = -1, /) -> bytes:
        end = len(self._content) if size < 0 else self._position + size
        chunk = self._content[self._position : end]
        self._position += len(chunk)
        self.bytes_read += len(chunk)
        return chunk

    def restart(self) -> None:
        self._position = 0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    with SeaweedServer(tmp_path_factory.mktemp("seaweed")) as server:
        server.create_bucket("bucket")
        yield server


@pytest.fixture
def client(server: SeaweedServer) -> "Iterator[S3Client]":
    client = server.client()
    yield client
    client.close()


@pytest.fixture
def store(server: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Store]:
    aws.use(server.environment, monkeypatch)
    store = S3Store(concurrency=8)
    yield store
    store.close()


def put(store: S3Store, key: str, content: bytes = CONTENT, digest: str | None = None) -> str:
    with body_of(content, digest=digest) as body:
        return store.put("bucket", key, body, mime_type="application/pdf")


def stored(client: "S3Client", key: str) -> bytes | None:
    try:
        return client.get_object(Bucket="bucket", Key=key)["Body"].read()
    except ClientError as exc:
        assert exc.response["Error"]["Code"] == "NoSuchKey"  # noqa: PT017 - no other error is expected
        return None


class TestStoring:
    @pytest.mark.parametrize(
        "key",
        ["a", "a/b/c", "über/x y.pdf", "50%/+?#&=", "narrow\u202fspace", "👩\u200d🔬", "...", "k" * 255],
    )
    def test_the_object_has_the_bytes_under_its_key(self, store: S3Store, client: "S3Client", key: str) -> None:
        assert put(store, key) == f"s3://bucket/{key}"
        assert stored(client, key) == CONTENT

    def test_it_has_its_mime_type(self, store: S3Store, client: "S3Client") -> None:
        put(store, "typed")
        assert client.head_object(Bucket="bucket", Key="typed")["ContentType"] == "application/pdf"

    def test_an_empty_object_is_stored(self, store: S3Store, client: "S3Client") -> None:
        put(store, "empty", b"")
        assert stored(client, "empty") == b""

    def test_the_body_is_read_once_over_plain_http(self, store: S3Store, client: "S3Client") -> None:
        content = os.urandom(5_000_000)
        body = CountingBody(content)
        store.put("bucket", "once", body, mime_type=None)
        assert body.bytes_read == len(content)
        assert stored(client, "once") == content

    def test_putting_again_replaces(self, store: S3Store, client: "S3Client") -> None:
        put(store, "again", b"before")
        put(store, "again", b"before")
        put(store, "again", b"after")
        assert stored(client, "again") == b"after"

    def test_many_threads_share_one_store(self, store: S3Store, client: "S3Client") -> None:
        contents = {f"many/{number}": os.urandom(50_000) for number in range(32)}
        threads = [threading.Thread(target=put, args=(store, *item)) for item in contents.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {key: stored(client, key) for key in contents} == contents

    def test_the_store_passes_its_check(self, store: S3Store) -> None:
        store.check()


class TestNotStoring:
    @pytest.mark.parametrize("size", [10_240, 1_000_000])
    def test_a_mismatch_leaves_no_object(self, store: S3Store, client: "S3Client", size: int) -> None:
        with pytest.raises(ContentMismatch):
            put(store, "mismatch", bytes(size), digest=sha256(b"other"))
        assert stored(client, "mismatch") is None

    def test_bytes_that_the_network_changed_are_refused_as_an_outage(self, store: S3Store, client: "S3Client") -> None:
        """The server compares the bytes with the SHA-256 in the request, and stores them only if they match."""
        body = CountingBody(CONTENT, digest=sha256(b"other"))
        with pytest.raises(StorageUnavailable, match="BadDigest"):
            store.put("bucket", "changed", body, mime_type=None)
        assert stored(client, "changed") is None

    def test_a_missing_bucket_is_refused(self, store: S3Store) -> None:
        with body_of(CONTENT) as body, pytest.raises(StorageRefused, match="NoSuchBucket") as caught:
            store.put("missing", "key", body, mime_type=None)
        assert (caught.value.http_status, caught.value.refusal.guard) == (404, Guard.BUCKET)

    def test_wrong_credentials_are_a_denial_and_stay_secret(
        self, server: SeaweedServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        aws.use({**server.environment, "AWS_SECRET_ACCESS_KEY": "a-wrong-secret"}, monkeypatch)
        denied = S3Store(concurrency=1)
        with pytest.raises(StorageRefused, match="403 SignatureDoesNotMatch") as caught:
            put(denied, "denied")
        assert caught.value.refusal.reason == "SignatureDoesNotMatch"
        assert "AWS_SECRET_ACCESS_KEY" in caught.value.refusal.check
        assert "a-wrong-secret" not in str(caught.value)
        assert server.access_key not in str(caught.value)
        with pytest.raises(StorageRefused, match="SignatureDoesNotMatch"):
            denied.check()
        denied.close()

    def test_a_killed_server_is_an_outage_and_restarts_with_its_objects(
        self, server: SeaweedServer, store: S3Store, client: "S3Client"
    ) -> None:
        put(store, "survivor")
        server.kill()
        with pytest.raises(StorageUnavailable):
            put(store, "afterwards")
        server.start()
        put(store, "afterwards")
        assert stored(client, "survivor") == stored(client, "afterwards") == CONTENT
