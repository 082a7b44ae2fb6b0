"""Translates answers of an S3 server, and exceptions of boto3, into the reactor's errors. Decides whose fault each is.

The order of the rules for an answer:

1. A status of 413, or a code for size: FileTooLarge.
2. A code of the table that is shared or passing: as in the table, whatever the status.
3. A status of 5xx, 408, 425 or 429: passing.
4. No code of the store's own in the body (a proxy's page, an empty body): passing, because the object isn't refused.
5. A code of the table that is the upload's fault, or an unknown code: the upload's fault. With 401 and 403 it may be
   everybody's.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError  # noqa: A004 - botocore's
from botocore.parsers import ResponseParserError

from reactor.core.errors import FileTooLarge, ReactorError, StorageRefused, StorageRejected, StorageUnavailable
from reactor.core.refusal import Scope
from reactor.storage.stores.s3_codes import CREDENTIALS, DENIED, ENDPOINT, UPLOAD, Fault
from reactor.storage.stores.s3_codes_others import CODES

_MESSAGE_CHARS = 200

_TOO_LARGE_STATUS = 413
_PASSING_STATUS = {408, 425, 429}
_DENIED_STATUS = {401, 403}

_OWN_CODE = re.compile(r"[A-Za-z][A-Za-z0-9._:-]*")
"""Matches a code of a store. botocore makes a code such as "404" from the status if the body has none."""

_TLS_FAULT = re.compile("CERTIFICATE_VERIFY_FAILED|certificate verify failed")
_INVALID_HEADER = re.compile("(?i)invalid header value")

_UNREACHABLE = (ConnectionError, HTTPClientError, ResponseParserError)


def error_for(exc: Exception) -> ReactorError:
    """Return the error to raise for an exception of boto3 while it sends a request to the store.

    The message has no URL, because a URL may be signed, and no text of boto3, because that quotes the request.
    """
    if isinstance(exc, ReactorError):
        return exc
    if isinstance(exc, ClientError):
        return _error_for_response(exc.response)
    kind = type(exc).__name__
    if isinstance(exc, _UNREACHABLE):
        if (refused := _refused_before_sending(exc)) is not None:
            return refused
        return StorageUnavailable(f"the object store can't be reached, or didn't answer in time ({kind})")
    if isinstance(exc, BotoCoreError):
        return StorageRejected(f"boto3 can't make a request to the object store for this upload ({kind})", reason=kind)
    # the row's names were checked before, so anything else is a fault of this host
    return StorageRefused(f"boto3 can't make a request to the object store ({kind})", reason=kind, check=ENDPOINT.check)


def _refused_before_sending(exc: Exception) -> StorageRefused | None:
    """Return the refusal if no request could be sent, because of this host's settings; None for other failures."""
    kind = type(exc).__name__
    for cause in _causes(exc):
        reason = type(cause).__name__
        if isinstance(cause, FileNotFoundError | PermissionError | IsADirectoryError):
            check = "AWS_CA_BUNDLE, REQUESTS_CA_BUNDLE"
            return StorageRefused(f"the file of certificates can't be read ({kind})", reason=reason, check=check)
        if _TLS_FAULT.search(str(cause)):
            check = "AWS_CA_BUNDLE, and this host's clock"
            message = f"the store's certificate isn't trusted ({kind})"
            return StorageRefused(message, reason="CERTIFICATE_VERIFY_FAILED", check=check)
        if isinstance(cause, ValueError) and not isinstance(cause, BotoCoreError | OSError):
            is_header = _INVALID_HEADER.search(str(cause))
            what = "a header" if is_header else "the address or the proxy"
            check = CREDENTIALS.check if is_header else f"{ENDPOINT.check}; HTTP_PROXY, HTTPS_PROXY"
            return StorageRefused(f"{what} of a request isn't valid ({kind})", reason=reason, check=check)
    return None


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions that botocore and urllib3 have wrapped into this one."""
    kwargs = getattr(exc, "kwargs", {})
    wrapped = [kwargs.get("error"), getattr(exc, "reason", None), *exc.args]
    for cause in wrapped:
        if isinstance(cause, BaseException):
            yield cause
            yield from _causes(cause)


def code_of(exc: ClientError) -> str:
    """Return the store's own code; empty if its answer has none."""
    code = str(exc.response.get("Error", {}).get("Code") or "")
    return code if _OWN_CODE.fullmatch(code) else ""


def message_of(exc: ClientError) -> str:
    """Return status, code and message of an answer in one line, without URLs."""
    error = exc.response.get("Error", {})
    status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    text = _one_line(f"{error.get('Code') or ''}: {error.get('Message') or ''}")
    return f"{status} {text}"


def _error_for_response(response: Mapping[str, Any]) -> ReactorError:
    exc = ClientError(response, "")  # type: ignore[arg-type]
    metadata = response.get("ResponseMetadata", {})
    status = int(metadata.get("HTTPStatusCode", 0))
    code = code_of(exc)
    message = f"the object store answered {message_of(exc)}"
    fault = CODES[code].fault if code in CODES else UPLOAD
    if status == _TOO_LARGE_STATUS or fault.is_size:
        return FileTooLarge(message)
    if fault.scope is Scope.SHARED:
        return _refused(fault, code, status, message)
    is_server_fault = status in _PASSING_STATUS or status >= 500  # noqa: PLR2004 - server errors
    if fault.scope is Scope.PASSING or is_server_fault or not code:
        wait_s = retry_after_s(metadata.get("HTTPHeaders", {}), now=datetime.now(UTC))
        return StorageUnavailable(message, http_status=status, retry_after_s=wait_s)
    if status in _DENIED_STATUS and not fault.may_be_shared:
        fault = DENIED
    return StorageRejected(
        message, http_status=status, reason=code, check=fault.check, may_be_shared=fault.may_be_shared
    )


def _refused(fault: Fault, code: str, status: int, message: str) -> StorageRefused:
    return StorageRefused(message, http_status=status, guard=fault.guard, reason=code, check=fault.check)


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
