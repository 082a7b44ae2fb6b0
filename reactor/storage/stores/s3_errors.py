"""Translates errors of boto3: StorageUnavailable is transient, StorageRejected and FileTooLarge are permanent.

Connection errors and the statuses 408, 425, 429 and 5xx are transient. Other 4xx are permanent, except for the error
codes in _TRANSIENT_CODE.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004 - botocore's own, which isn't an OSError
    CredentialRetrievalError,
    HTTPClientError,
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
    UnknownCredentialError,
)
from botocore.parsers import ResponseParserError

from reactor.core.errors import FileTooLarge, ReactorError, StorageRejected, StorageUnavailable

_MESSAGE_CHARS = 200

_TRANSIENT_STATUS = {408, 425, 429}
_TRANSIENT_CODE = {
    "RequestTimeout",  # a 400 for a slow connection
    "RequestTimeoutException",
    "SlowDown",
    "ServiceUnavailable",
    "Throttling",
    "ConditionalRequestConflict",  # a 409 for concurrent requests for the same object
    "OperationAborted",
    # SpooledFile verifies all bytes before it returns the last ones, so a 400 with one of these codes means that bytes
    # were changed or lost on the way to the store
    "BadDigest",
    "IncompleteBody",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
}

_TOO_LARGE = {"EntityTooLarge", "MaxMessageLengthExceeded"}
_DENIED_STATUS = {401, 403}

NO_CREDENTIALS = (
    CredentialRetrievalError,
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
    UnknownCredentialError,
)

_UNREACHABLE = (ConnectionError, HTTPClientError, ResponseParserError)
BOTO_ERRORS = (ClientError, BotoCoreError, ResponseParserError)


def error_for(exc: ClientError | BotoCoreError | ResponseParserError) -> ReactorError:
    """Return the error to raise for an error of boto3, with status, code and the first part of the server's message.

    The message has no URL, because a URL may be signed, and no text of boto3, because that quotes the request.
    """
    if isinstance(exc, ClientError):
        return _error_for_response(exc.response)
    kind = type(exc).__name__
    if isinstance(exc, NO_CREDENTIALS):
        return StorageRejected(f"there are no usable credentials for the object store ({kind})", may_be_shared=True)
    if isinstance(exc, _UNREACHABLE):
        return StorageUnavailable(f"the object store can't be reached, or didn't answer in time ({kind})")
    return StorageRejected(f"boto3 can't make a request to the object store for this upload ({kind})")


def _error_for_response(response: Mapping[str, Any]) -> ReactorError:
    metadata = response.get("ResponseMetadata", {})
    error = response.get("Error", {})
    status = int(metadata.get("HTTPStatusCode", 0))
    code = str(error.get("Code", ""))
    text = _one_line(f"{code}: {error.get('Message', '')}")
    message = f"the object store answered {status} {text}"
    if status == 413 or code in _TOO_LARGE:  # noqa: PLR2004 - Content Too Large
        return FileTooLarge(message)
    if status in _TRANSIENT_STATUS or status >= 500 or code in _TRANSIENT_CODE:  # noqa: PLR2004
        wait_s = retry_after_s(metadata.get("HTTPHeaders", {}), now=datetime.now(UTC))
        return StorageUnavailable(message, http_status=status, retry_after_s=wait_s)
    return StorageRejected(message, http_status=status, may_be_shared=status in _DENIED_STATUS)


def retry_after_s(headers: Mapping[str, str], *, now: datetime) -> float | None:
    """Return Retry-After in seconds, at least 0; None without a valid Retry-After. `headers` have lower-case names.

    A date is compared with the response's Date header, because the server's clock may differ from `now`. Source: RFC
    9110, 10.2.3.
    """
    value = headers.get("retry-after", "").strip()
    if re.fullmatch("[0-9]{1,9}", value):
        return float(value)
    if (retry_at := _date(value)) is None:
        return None
    return max(0.0, (retry_at - (_date(headers.get("date", "")) or now)).total_seconds())


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)


def _one_line(text: str) -> str:
    """Shorten a server's message, and remove line ends, control characters and URLs, which must not be logged."""
    printable = "".join(char if char.isprintable() else " " for char in text)
    return re.sub(r"[a-z0-9+]+://\S+", "<url>", printable, flags=re.IGNORECASE)[:_MESSAGE_CHARS]
