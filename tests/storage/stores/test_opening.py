"""A store URL is opened, or refused with the reason. A row's names are checked before the store sends a byte."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import aws
from support.servers.fault_server import Fault, FaultServer, answers, resets
from support.spooled import CONTENT, body_of

from reactor.core.errors import ConfigInvalid, StorageRefused, StorageRejected, StorageUnavailable
from reactor.storage.stores import open_store
from reactor.storage.stores.local import LocalStore
from reactor.storage.stores.s3 import S3Store


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    """Start a server and set the AWS environment variables for it."""
    with FaultServer() as server:
        aws.use(aws.environment(server.endpoint, access_key="key", secret_key="secret"), monkeypatch)
        yield server


@pytest.fixture
def store(server: FaultServer) -> Iterator[S3Store]:
    store = S3Store(concurrency=1, read_timeout_s=1)
    yield store
    store.close()


class TestChecking:
    @pytest.mark.parametrize("fault", [answers(200), answers(403, "AccessDenied"), answers(404, "NoSuchKey")])
    def test_any_permanent_answer_proves_the_endpoint(self, store: S3Store, server: FaultServer, fault: Fault) -> None:
        server.fault = fault
        store.check()
        assert len(server.requests) == 1

    @pytest.mark.parametrize("fault", [answers(503), answers(429), answers(404), resets])
    def test_a_store_that_is_down_is_unavailable_and_not_misconfigured(
        self, store: S3Store, server: FaultServer, fault: Fault
    ) -> None:
        server.fault = fault
        with pytest.raises(StorageUnavailable):
            store.check()

    def test_missing_credentials_are_reported_with_the_fix(
        self, server: FaultServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        with pytest.raises(ConfigInvalid, match="set AWS_ACCESS_KEY_ID"):
            S3Store(concurrency=1)
        assert server.requests == []

    def test_a_refusal_of_the_reactor_is_reported_as_one(self, store: S3Store, server: FaultServer) -> None:
        server.fault = answers(403, "InvalidAccessKeyId")
        with pytest.raises(StorageRefused) as caught:
            store.check()
        assert caught.value.refusal.reason == "InvalidAccessKeyId"

    @pytest.mark.parametrize(
        ("name", "value"),
        [("AWS_ENDPOINT_URL", "no endpoint"), ("AWS_ENDPOINT_URL", "127.0.0.1:1"), ("AWS_PROFILE", "missing"),
         ("AWS_REGION", "not a region"), ("AWS_ENDPOINT_URL", "ftp://127.0.0.1")],
    )  # fmt: skip
    @pytest.mark.usefixtures("server")
    def test_malformed_variables_are_reported_by_name(
        self, monkeypatch: pytest.MonkeyPatch, name: str, value: str
    ) -> None:
        monkeypatch.setenv(name, value)
        with pytest.raises(ConfigInvalid, match=name):
            S3Store(concurrency=1).check()

    @pytest.mark.usefixtures("server")
    def test_half_of_the_credentials_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        with pytest.raises(ConfigInvalid, match="AWS_SECRET_ACCESS_KEY"):
            S3Store(concurrency=1).check()


class TestOpening:
    @pytest.mark.usefixtures("server")
    def test_a_folder_and_a_server_are_opened(self, tmp_path: Path) -> None:
        folder = open_store(f"file://{tmp_path}/a%20b", concurrency=1)
        assert isinstance(folder, LocalStore)
        folder.check()
        assert (tmp_path / "a b").is_dir()

        remote = open_store("s3://", concurrency=1)
        assert isinstance(remote, S3Store)
        assert remote.name == "s3:127.0.0.1"
        remote.close()

    @pytest.mark.parametrize(
        "url",
        ["", "objects", "/objects", "file:", "file://", "file:///", "file://host/objects", "file://objects",
         "file:///a?b", "file:///a#b", "file:///a%00", "s3://bucket", "s3:///key", "s3://user:pass@host",
         "http://host", "gs://bucket", "s3://[", "FTP://x"],
    )  # fmt: skip
    def test_any_other_url_is_refused_with_the_settings_name(self, url: str) -> None:
        with pytest.raises(ConfigInvalid, match="REACTOR_STORE_URL") as caught:
            open_store(url, concurrency=1)
        assert "pass" not in str(caught.value)


class TestNames:
    """The store checks a row's bucket, key and MIME type before it sends a byte."""

    @pytest.mark.parametrize("bucket", ["", ".", "..", "a/b", "arn:aws:s3:::bucket", "bucket\n", "über", "a" * 256])
    def test_a_malformed_bucket_is_never_sent(self, store: S3Store, server: FaultServer, bucket: str) -> None:
        with body_of(CONTENT) as body, pytest.raises(StorageRejected):
            store.put(bucket, "key", body, mime_type=None)
        assert server.requests == []

    @pytest.mark.parametrize("key", ["", "..", "../other/key", "a/./b", "a\nb", "a\0", "\ud800", "k" * 1025, "ü" * 513])
    def test_a_key_that_leads_elsewhere_is_never_sent(self, store: S3Store, server: FaultServer, key: str) -> None:
        with body_of(CONTENT) as body, pytest.raises(StorageRejected):
            store.put("bucket", key, body, mime_type=None)
        assert server.requests == []

    @pytest.mark.parametrize("mime_type", ["", "a\r\nX-Evil: 1", "text/plain; name=ü", "x" * 300])
    def test_a_mime_type_that_no_header_can_contain_is_left_out(
        self, store: S3Store, server: FaultServer, mime_type: str
    ) -> None:
        with body_of(CONTENT) as body:
            store.put("bucket", "key", body, mime_type=mime_type)
        assert server.objects == {"/bucket/key": CONTENT}
