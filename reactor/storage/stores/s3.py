"""An object store on an S3 server: AWS, Supabase, SeaweedFS and others with the same protocol.

boto3 reads credentials, region and endpoint from the usual AWS_* variables and files. Bytes are sent to this endpoint
only: neither a row (with an ARN as bucket) nor a response (with a redirect) can change the endpoint. A put is one
request. boto3's retries are off, because the reactor retries.
"""

import base64
import hashlib
import os
import re
from io import BytesIO
from typing import IO, TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from reactor.core.errors import ConfigInvalid, ReactorError, StorageRejected, StorageUnavailable
from reactor.storage.stores.base import Body
from reactor.storage.stores.s3_errors import BOTO_ERRORS, NO_CREDENTIALS, error_for

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")

_KEY_BYTES = 1024

_UNSENDABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")

_PROBE_CONTENT = b"reactor doctor wrote this, and may remove it\n"

_NO_CREDENTIALS = (
    "REACTOR_STORE_URL is s3:// but no AWS credentials were found; set AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or give the host a role"
)


class S3Store:
    """Puts objects into the bucket that each row names. Thread-safe: threads share one boto3 client."""

    def __init__(self, *, concurrency: int, connect_timeout_s: float = 3, read_timeout_s: float = 30) -> None:
        """Create the boto3 client; send nothing. Raises ConfigInvalid if AWS_* variables are incomplete or malformed.

        `concurrency` is the number of connections that stay open. `read_timeout_s` limits each wait for the server. The
        attempt's timeout limits a whole put: it cancels the attempt, and then `body.read` raises.
        """
        config = Config(
            connect_timeout=connect_timeout_s,
            read_timeout=read_timeout_s,
            max_pool_connections=max(concurrency, 1),
            retries={"total_max_attempts": 1, "mode": "standard"},
            # boto3 sends its checksum as a trailer, which several servers don't support; `put` sends SHA-256 instead
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            # to sign the payload, boto3 would read the body twice; the signed SHA-256 header protects the payload too
            s3={"addressing_style": "path", "payload_signing_enabled": False},
        )
        try:
            # boto3 reads only AWS_DEFAULT_REGION and its files, but other AWS clients also read AWS_REGION
            session = boto3.session.Session(region_name=os.environ.get("AWS_REGION") or None)
            self._client: S3Client = session.client("s3", config=config)
            self._has_credentials = session.get_credentials() is not None
        except NO_CREDENTIALS as exc:
            raise ConfigInvalid(f"{_NO_CREDENTIALS} ({type(exc).__name__})") from None
        except (BotoCoreError, ValueError) as exc:
            raise ConfigInvalid(
                "AWS_ENDPOINT_URL, AWS_REGION: boto3 can't make a client of them; the endpoint reads "
                f"https://host[:port][/path] ({type(exc).__name__})"
            ) from None
        self._client.meta.events.register("before-call.s3", _forbid_redirect)
        self._endpoint = urlsplit(self._client.meta.endpoint_url)

    @property
    def name(self) -> str:
        return f"s3:{self._endpoint.hostname}"

    def put(self, bucket: str, key: str, body: Body, *, mime_type: str | None) -> str:
        """Send the body in one request; return s3://bucket/key. Raises the errors of `ObjectStore.put`."""
        _check_names(bucket, key)
        reader = _BodyReader(body)
        headers: dict[str, Any] = {}
        # a row may have a MIME type that no header can contain: then the object is stored without it
        if re.fullmatch("[!-~][ -~]{0,254}", mime_type or ""):
            headers["ContentType"] = mime_type
        checksum = None if body.sha256 is None else base64.b64encode(bytes.fromhex(body.sha256)).decode()
        if checksum is not None:
            headers["ChecksumSHA256"] = checksum
        try:
            response = self._client.put_object(
                Bucket=bucket, Key=key, Body=cast("IO[bytes]", reader), ContentLength=body.size_bytes, **headers
            )
        except BOTO_ERRORS as exc:
            raise reader.failure or error_for(exc) from None
        # every S3 server returns an ETag; a 200 without an ETag comes from a proxy, and boto3 has sent no bytes
        if "ETag" not in response:
            raise StorageUnavailable("the object store said yes, but not what it stored")
        if response.get("ChecksumSHA256", checksum) != checksum:
            raise StorageUnavailable("the object store stored bytes with another SHA-256 than were sent")
        return f"s3://{bucket}/{key}"

    def check(self) -> None:
        """Check that there are credentials and that the endpoint answers, even with a refusal. See `ObjectStore.check`.

        Each row names a bucket, so only a put shows whether a bucket can be written to.
        """
        if self._endpoint.scheme not in {"http", "https"}:
            raise ConfigInvalid("AWS_ENDPOINT_URL: it must begin with https:// or http://")
        if not self._has_credentials:
            raise ConfigInvalid(_NO_CREDENTIALS)
        try:
            self._client.list_buckets()
        except NO_CREDENTIALS as exc:
            raise ConfigInvalid(f"{_NO_CREDENTIALS} ({type(exc).__name__})") from None
        except BOTO_ERRORS as exc:
            problem = error_for(exc)
            if isinstance(problem, StorageUnavailable):
                raise problem from None

    def probe(self, bucket: str, key: str) -> tuple[ReactorError | None, ReactorError | None]:
        """Put, read and delete a small object; return the errors of read and delete. Raises the errors of `put`."""
        self.put(bucket, key, _ProbeBody(_PROBE_CONTENT), mime_type="text/plain")
        unread: ReactorError | None = None
        undeleted: ReactorError | None = None
        try:
            content = self._client.get_object(Bucket=bucket, Key=key)["Body"].read(len(_PROBE_CONTENT) + 1)
            if content != _PROBE_CONTENT:
                unread = StorageRejected("it gave back other bytes than were put")
        except BOTO_ERRORS as exc:
            unread = error_for(exc)
        try:
            self._client.delete_object(Bucket=bucket, Key=key)
        except BOTO_ERRORS as exc:
            undeleted = error_for(exc)
        return unread, undeleted

    def renew(self) -> None:
        pass

    def close(self) -> None:
        self._client.close()


class _ProbeBody(BytesIO):
    """The body of the object that `probe` puts."""

    size_bytes = len(_PROBE_CONTENT)
    sha256: str | None = hashlib.sha256(_PROBE_CONTENT).hexdigest()


class _BodyReader:
    """The file that boto3 reads. Stores an error of the body, which boto3 would report as a lost connection."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self.failure: Exception | None = None

    def read(self, size: int = -1, /) -> bytes:
        try:
            return self._body.read(size)
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


def _forbid_redirect(params: dict[str, Any], **_: object) -> None:
    """Mark a request as redirected, so that boto3 doesn't send it to another server.

    Otherwise, after 301, 302, 307 or a wrong region, boto3 asks for the bucket's region and puts the object there.
    """
    params["context"].setdefault("s3_redirect", {})["redirected"] = True
