"""An S3 server as an object store: AWS, Supabase, SeaweedFS, and others that speak its language.

Credentials, region and endpoint come from the usual AWS_* variables and files, as boto3 finds them. The
endpoint comes from there alone: nothing in a row (an ARN as bucket), nor an answer (a redirect) sends bytes
elsewhere.

One put is one request. Retrying is the reactor's business, which counts attempts, waits where others can see
it, and listens to Retry-After; a client that retries in secret would spoil all three.
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
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from reactor.core.errors import ConfigInvalid, ReactorError, StorageRejected, StorageUnavailable
from reactor.storage.stores.base import Body, Probed
from reactor.storage.stores.s3_errors import NO_CREDENTIALS, meaning

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")

_KEY_BYTES = 1024

_UNSENDABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")

_MARK = b"reactor doctor wrote this, and may remove it\n"

_NO_CREDENTIALS = (
    "REACTOR_STORE_URL is s3:// but no AWS credentials were found; set AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or give the host a role"
)


class S3Store:
    """Puts objects into the row's bucket. Safe to use from several threads, which share one client."""

    def __init__(self, *, concurrency: int, connect_timeout_s: float = 3, read_timeout_s: float = 30) -> None:
        """Make the client; nothing is sent yet. Raises ConfigInvalid when the AWS_* variables don't add up.

        `concurrency` is the number of connections that are kept. `read_timeout_s` bounds the wait for each
        piece, not a whole put: the body's own cancellation does that.
        """
        config = Config(
            connect_timeout=connect_timeout_s,
            read_timeout=read_timeout_s,
            max_pool_connections=max(concurrency, 1),
            retries={"total_max_attempts": 1, "mode": "standard"},
            # boto3's own checksum is a trailer, which several servers don't understand. We send SHA-256.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            # Signing the payload would read the body twice. The SHA-256 header is signed and says the same.
            s3={"addressing_style": "path", "payload_signing_enabled": False},
        )
        try:
            # AWS's other clients read AWS_REGION; boto3 by itself only AWS_DEFAULT_REGION and its files.
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
        self._client.meta.events.register("before-call.s3", _stay_here)
        self._endpoint = urlsplit(self._client.meta.endpoint_url)

    @property
    def name(self) -> str:
        return f"s3:{self._endpoint.hostname}"

    def put(self, bucket: str, key: str, body: Body, *, mime_type: str | None) -> str:
        """Send the body in one request and return s3://bucket/key.

        Raises StorageUnavailable, StorageRejected, FileTooLarge, or what `body.read` raised.
        """
        _check_names(bucket, key)
        source = _Source(body)
        wishes: dict[str, Any] = {}
        # A MIME type comes from a row. One that no header can carry isn't worth losing the upload.
        if mime_type is not None and re.fullmatch("[!-~][ -~]{0,254}", mime_type):
            wishes["ContentType"] = mime_type
        checksum = None if body.sha256 is None else base64.b64encode(bytes.fromhex(body.sha256)).decode()
        if checksum is not None:
            wishes["ChecksumSHA256"] = checksum
        try:
            answer = self._client.put_object(
                Bucket=bucket,
                Key=key,
                Body=cast("IO[bytes]", source),
                ContentLength=body.size_bytes,
                **wishes,
            )
        except (ClientError, BotoCoreError, ResponseParserError) as exc:
            raise source.failure or meaning(exc) from None
        # Every S3 server names what it stored. A proxy's friendly 200 doesn't, and boto3 then sends no byte.
        if "ETag" not in answer:
            raise StorageUnavailable("the object store said yes, but not what it stored")
        if answer.get("ChecksumSHA256", checksum) != checksum:
            raise StorageUnavailable("the object store stored bytes with another SHA-256 than were sent")
        return f"s3://{bucket}/{key}"

    def check(self) -> None:
        """Prove that there are credentials and that the endpoint answers, be it with a refusal.

        The buckets are named by rows, so whether they can be written to shows with the first put. Raises
        ConfigInvalid when credentials or endpoint are missing or malformed, and StorageUnavailable when the
        store is down, which mends itself and need not keep the reactor from starting.
        """
        if self._endpoint.scheme not in {"http", "https"}:
            raise ConfigInvalid("AWS_ENDPOINT_URL: it must begin with https:// or http://")
        if not self._has_credentials:
            raise ConfigInvalid(_NO_CREDENTIALS)
        try:
            self._client.list_buckets()
        except NO_CREDENTIALS as exc:
            raise ConfigInvalid(f"{_NO_CREDENTIALS} ({type(exc).__name__})") from None
        except (ClientError, BotoCoreError, ResponseParserError) as exc:
            problem = meaning(exc)
            if isinstance(problem, StorageUnavailable):
                raise problem from None

    def probe(self, bucket: str, key: str) -> Probed:
        """Put a small object as the reactor would put an upload, read it back, and delete it again.

        Raises as `put` does when it can't be put.
        """
        self.put(bucket, key, _Marker(), mime_type="text/plain")
        return Probed(unread=self._unread(bucket, key), undeleted=self._undeleted(bucket, key))

    def _unread(self, bucket: str, key: str) -> ReactorError | None:
        try:
            content = self._client.get_object(Bucket=bucket, Key=key)["Body"].read(len(_MARK) + 1)
        except (ClientError, BotoCoreError, ResponseParserError) as exc:
            return meaning(exc)
        return None if content == _MARK else StorageRejected("it gave back other bytes than were put")

    def _undeleted(self, bucket: str, key: str) -> ReactorError | None:
        try:
            self._client.delete_object(Bucket=bucket, Key=key)
        except (ClientError, BotoCoreError, ResponseParserError) as exc:
            return meaning(exc)
        return None

    def close(self) -> None:
        self._client.close()


class _Marker:
    """The body of a probe."""

    def __init__(self) -> None:
        self._content = BytesIO(_MARK)
        self.size_bytes = len(_MARK)
        self.sha256: str | None = hashlib.sha256(_MARK).hexdigest()

    def read(self, size: int = -1, /) -> bytes:
        return self._content.read(size)


class _Source:
    """The body as boto3 sees it. Remembers what it raised; boto3 would call that a lost connection."""

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
    """Refuse what boto3 or a proxy would read as something else: an ARN, a path that walks up, a line end."""
    if _BUCKET.fullmatch(bucket) is None:
        raise StorageRejected("the bucket's name isn't one that S3 knows")
    if _UNSENDABLE.search(key) or not 0 < len(key.encode()) <= _KEY_BYTES:
        raise StorageRejected("the object's path has control characters, or not 1 to 1024 bytes")
    if not {".", ".."}.isdisjoint(key.split("/")):
        raise StorageRejected("'.' and '..' are not allowed in the object's path")


def _stay_here(params: dict[str, Any], **_: object) -> None:
    """Tell boto3 that it has followed a redirect already, so that it sends nothing a second time.

    It would, on 301, 302, 307 and a wrong region: ask for the bucket's region, and put there again.
    """
    params["context"].setdefault("s3_redirect", {})["redirected"] = True
