"""What an error of boto3 means for an upload: wait, give up, or too large.

The table follows the contract: connection troubles, 408, 425, 429 and 5xx pass; the rest of 4xx doesn't. A
few codes say otherwise than their status, and are named here with the reason.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004 - botocore's own, which is no OSError
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

_PASSING_STATUS = {408, 425, 429}

_PASSING_CODE = {
    "RequestTimeout",  # a 400 that means a slow connection
    "RequestTimeoutException",
    "SlowDown",
    "ServiceUnavailable",
    "Throttling",
    "ConditionalRequestConflict",  # a 409 that means "somebody else at this moment"
    "OperationAborted",
    # The bytes were proven before the last of them left us, so these 400s mean that the network changed or
    # lost some.
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


def meaning(exc: ClientError | BotoCoreError | ResponseParserError) -> ReactorError:
    """Return what to raise for an error of boto3.

    The message has status, code and the first characters of what the server said: never a URL, for it may be
    signed, nor what boto3 says by itself, for it quotes the request.
    """
    if isinstance(exc, ClientError):
        return _answer(exc.response)
    kind = type(exc).__name__
    if isinstance(exc, NO_CREDENTIALS):
        return StorageRejected(f"there are no usable credentials for the object store ({kind})", denied=True)
    if isinstance(exc, _UNREACHABLE):
        return StorageUnavailable(f"the object store can't be reached, or didn't answer in time ({kind})")
    return StorageRejected(f"the upload can't be put into words for the object store ({kind})")


def _answer(response: Mapping[str, Any]) -> ReactorError:
    metadata = response.get("ResponseMetadata", {})
    error = response.get("Error", {})
    status = int(metadata.get("HTTPStatusCode", 0))
    code = str(error.get("Code", ""))
    said = _one_line(f"{code}: {error.get('Message', '')}")
    message = f"the object store answered {status} {said}"
    if status == 413 or code in _TOO_LARGE:  # noqa: PLR2004 - as the contract says it
        return FileTooLarge(message)
    if status in _PASSING_STATUS or status >= 500 or code in _PASSING_CODE:  # noqa: PLR2004
        wait_s = retry_after_s(metadata.get("HTTPHeaders", {}), now=datetime.now(UTC))
        return StorageUnavailable(message, http_status=status, retry_after_s=wait_s)
    return StorageRejected(message, http_status=status, denied=status in _DENIED_STATUS)


def retry_after_s(headers: Mapping[str, str], *, now: datetime) -> float | None:
    """Return the seconds that Retry-After asks for, >= 0; None when it says nothing that can be understood.

    `headers` are in lower case. A date is counted from the answer's own Date where it has one: the server's
    clock and ours may differ. Source: RFC 9110, 10.2.3.
    """
    wish = headers.get("retry-after", "").strip()
    if re.fullmatch("[0-9]{1,9}", wish):
        return float(wish)
    then = _date(wish)
    if then is None:
        return None
    return max(0.0, (then - (_date(headers.get("date", "")) or now)).total_seconds())


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)


def _one_line(text: str) -> str:
    """Cut what a server said, and drop what a log must not be given: line ends, control characters, URLs."""
    printable = "".join(char if char.isprintable() else " " for char in text)
    return re.sub(r"[a-z0-9+]+://\S+", "<url>", printable, flags=re.IGNORECASE)[:_MESSAGE_CHARS]
