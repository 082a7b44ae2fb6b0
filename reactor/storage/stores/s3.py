"""An object store on an S3 server: AWS, Supabase, SeaweedFS and others with the same protocol.

boto3 reads credentials, region and endpoint from the usual AWS_* variables and files. Bytes are sent to this endpoint
only: neither a row (with an ARN as bucket) nor a response (with a redirect) can change the endpoint. A put is one
request. boto3's retries are off, because the reactor retries.
"""

import base64
import hashlib
import re
import threading
from contextlib import contextmanager
from io import BytesIO
from typing import IO, TYPE_CHECKING, Any, cast

from botocore.config import Config

from reactor.core.errors import ConfigInvalid, ReactorError, StorageRefused, StorageRejected, StorageUnavailable
from reactor.core.refusal import Scope
from reactor.storage.stores.base import Body
from reactor.storage.stores.s3_errors import error_for
from reactor.storage.stores.s3_session import CredentialsRefused, Session

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_s3 import S3Client

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")

_KEY_BYTES = 1024

_UNSENDABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")

_PROBE_CONTENT = b"reactor doctor wrote this, and may remove it\n"


class S3Store:
    """Puts objects into the bucket that each row names. Thread-safe: threads share one boto3 client."""

    def __init__(
        self,
        *,
        concurrency: int,
        addressing: str = "path",
        checksum: str = "sha256",
        sse: str | None = None,
        connect_timeout_s: float = 3,
        read_timeout_s: float = 30,
    ) -> None:
        """Create the boto3 client; send nothing. Raises ConfigInvalid if AWS_* variables are incomplete or malformed.

        `concurrency` is the number of connections that stay open. `addressing`, `checksum` and `sse` are the settings
        REACTOR_S3_*. `read_timeout_s` limits each wait for the server. The attempt's timeout limits a whole put: it
        cancels the attempt, and then `body.read` raises.
        """
        self._config = Config(
            connect_timeout=connect_timeout_s,
            read_timeout=read_timeout_s,
            max_pool_connections=max(concurrency, 1),
            retries={"total_max_attempts": 1, "mode": "standard"},
            # boto3 sends its checksum as a trailer, which several servers don't support; `put` sends SHA-256 instead
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            # to sign the payload, boto3 would read the body twice; the signed SHA-256 header protects the payload too
            s3=cast("Any", {"addressing_style": addressing, "payload_signing_enabled": False}),
        )
        self._checksum = checksum
        self._encryption = _encryption(sse)
        self._lock = threading.Lock()
        try:
            self._session = Session(self._config)
        except CredentialsRefused as refused:
            raise ConfigInvalid(f"REACTOR_STORE_URL is s3://, but {refused}") from None

    @property
    def name(self) -> str:
        return f"s3:{self._session.endpoint.hostname}"

    def put(self, bucket: str, key: str, body: Body, *, mime_type: str | None) -> str:
        """Send the body in one request; return s3://bucket/key. Raises the errors of `ObjectStore.put`."""
        _check_names(bucket, key)
        reader = _BodyReader(body)
        headers: dict[str, Any] = dict(self._encryption)
        # a row may have a MIME type that no header can contain: then the object is stored without it
        if re.fullmatch("[!-~][ -~]{0,254}", mime_type or ""):
            headers["ContentType"] = mime_type
        sha256 = None if body.sha256 is None else base64.b64encode(bytes.fromhex(body.sha256)).decode()
        if sha256 is not None and self._checksum == "sha256":
            headers["ChecksumSHA256"] = sha256
        try:
            with self._client() as client:
                response = client.put_object(
                    Bucket=bucket, Key=key, Body=cast("IO[bytes]", reader), ContentLength=body.size_bytes, **headers
                )
        except Exception as exc:  # noqa: BLE001 - see s3_session.py
            raise reader.failure or error_for(exc) from None
        # every S3 server returns an ETag; a 200 without an ETag comes from a proxy
        if "ETag" not in response:
            raise StorageUnavailable("the object store said yes, but not what it stored")
        if not reader.is_complete:
            raise StorageUnavailable("the object store said yes before it had all bytes")
        if self._checksum != "off" and response.get("ChecksumSHA256", sha256) != sha256:
            raise StorageUnavailable("the object store stored bytes with another SHA-256 than were sent")
        return f"s3://{bucket}/{key}"

    def check(self) -> None:
        """Check that there are credentials and that the endpoint answers, even with a refusal. See `ObjectStore.check`.

        Each row names a bucket, so only a put shows whether a bucket can be written to.
        """
        if self._session.endpoint.scheme not in {"http", "https"}:
            raise ConfigInvalid("AWS_ENDPOINT_URL: it must begin with https:// or http://")
        try:
            with self._client() as client:
                client.list_buckets()
        except CredentialsRefused as refused:
            if refused.is_remote:
                raise
            raise ConfigInvalid(f"REACTOR_STORE_URL is s3://, but {refused}") from None
        except Exception as exc:  # noqa: BLE001 - see s3_session.py
            problem = error_for(exc)
            if problem.refusal.scope is not Scope.UPLOAD:
                raise problem from None

    def renew(self) -> None:
        """Make a new client, which reads the AWS_* variables and files again. See `ObjectStore.renew`."""
        try:
            session = Session(self._config)
        except ConfigInvalid as problem:
            check = "the AWS_* variables and the files that they name"
            raise StorageRefused(str(problem), reason=problem.code, check=check) from None
        with self._lock:
            earlier, self._session = self._session, session
        earlier.leave()

    def probe(self, bucket: str, key: str) -> tuple[ReactorError | None, ReactorError | None]:
        """Put, read and delete a small object; return the errors of read and delete. Raises the errors of `put`."""
        self.put(bucket, key, _ProbeBody(_PROBE_CONTENT), mime_type="text/plain")
        unread: ReactorError | None = None
        undeleted: ReactorError | None = None
        try:
            with self._client() as client:
                content = client.get_object(Bucket=bucket, Key=key)["Body"].read(len(_PROBE_CONTENT) + 1)
            if content != _PROBE_CONTENT:
                unread = StorageRejected("it gave back other bytes than were put")
        except Exception as exc:  # noqa: BLE001 - see s3_session.py
            unread = error_for(exc)
        try:
            with self._client() as client:
                client.delete_object(Bucket=bucket, Key=key)
        except Exception as exc:  # noqa: BLE001 - see s3_session.py
            undeleted = error_for(exc)
        return unread, undeleted

    def close(self) -> None:
        self._session.leave()

    @contextmanager
    def _client(self) -> "Iterator[S3Client]":
        """Yield the newest client, which stays open in this block. Raises CredentialsRefused."""
        with self._lock:
            session = self._session
            session.enter()
        try:
            session.check_credentials()
            yield session.client
        finally:
            session.leave()


def _encryption(sse: str | None) -> dict[str, str]:
    """Return the arguments of a put for REACTOR_S3_SSE: AES256, aws:kms or aws:kms:dsse, the latter with a key's id."""
    if sse is None:
        return {}
    found = re.fullmatch("(AES256|aws:kms(?::dsse)?)(?::(.+))?", sse)
    if found is None:
        raise ConfigInvalid("REACTOR_S3_SSE must be AES256, aws:kms, or aws:kms:KEY-ID")
    algorithm, key_id = found.groups()
    return {"ServerSideEncryption": algorithm} | ({"SSEKMSKeyId": key_id} if key_id else {})


class _ProbeBody(BytesIO):
    """The body of the object that `probe` puts."""

    size_bytes = len(_PROBE_CONTENT)
    sha256: str | None = hashlib.sha256(_PROBE_CONTENT).hexdigest()

    def restart(self) -> None:
        self.seek(0)


class _BodyReader:
    """The file that boto3 reads. Stores an error of the body, which boto3 would report as a lost connection."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self._left = body.size_bytes
        self._is_stopped = False
        self.failure: Exception | None = None

    @property
    def is_complete(self) -> bool:
        """Whether all bytes were read."""
        return self._left == 0

    def read(self, size: int = -1, /) -> bytes:
        if self._is_stopped:
            return b""
        try:
            chunk = self._body.read(size)
        except Exception as exc:
            self.failure = exc
            raise
        self._left -= len(chunk)
        return chunk

    def stop(self) -> None:
        """Return no more bytes: the answer has arrived."""
        self._is_stopped = True

    def restart(self) -> None:
        """Read from the start, on another connection."""
        self._is_stopped = False
        self._left = self._body.size_bytes
        try:
            self._body.restart()
        except Exception as exc:
            self.failure = exc
            raise


def _check_names(bucket: str, key: str) -> None:
    """Refuse names that boto3 or a proxy would interpret, such as an ARN, a path with '..' or a line end."""
    if _BUCKET.fullmatch(bucket) is None:
        raise StorageRejected("the bucket's name isn't one that S3 allows")
    if _UNSENDABLE.search(key) or not 0 < len(key.encode()) <= _KEY_BYTES:
        raise StorageRejected("the object's path has control characters, or not 1 to 1024 bytes")
    if not {".", ".."}.isdisjoint(key.split("/")):
        raise StorageRejected("'.' and '..' are not allowed in the object's path")
