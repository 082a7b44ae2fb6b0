"""One client of an S3 server, made by botocore, with the credentials that it signs with.

Credentials are obtained before a request is made, so that a fault of a credential provider, or of STS, isn't taken for
an answer to an upload. A provider may raise anything: botocore lets OSError, ValueError, RuntimeError and others pass.
"""

import os
import re
import threading
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import botocore.session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004 - botocore's own, which isn't an OSError
    CredentialRetrievalError,
    HTTPClientError,
    MetadataRetrievalError,
    PartialCredentialsError,
)
from botocore.loaders import create_loader

from reactor.core.errors import ConfigInvalid, StorageRefused
from reactor.storage.stores import s3_connections
from reactor.storage.stores.s3_codes import CREDENTIALS, ROLE
from reactor.storage.stores.s3_codes_others import CODES
from reactor.storage.stores.s3_errors import code_of, message_of

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_MESSAGE_CHARS = 200

_REMOTE = (ClientError, ConnectionError, HTTPClientError, MetadataRetrievalError)
_KEEPS_SECRETS = (CredentialRetrievalError, HTTPClientError, ConnectionError)
"""Exceptions whose text may quote a request, or the output of a credential process."""

_STS_CONFIG = Config(connect_timeout=3, read_timeout=10, retries={"total_max_attempts": 1, "mode": "standard"})
"""For STS and single sign-on: the reactor retries, so botocore needn't, and readiness names the cause at once."""

_LOADER = create_loader(os.environ.get("AWS_DATA_PATH"))
"""Reads botocore's models of the services once: a new session would read them again, which takes most of its time."""

_SOUND = re.compile("[!-~]*")

_SOURCES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
_CONFIG_SOURCES = ("credential_process", "sso_session", "sso_start_url", "role_arn", "source_profile")

_PROVIDER_VARIABLES = {
    "ProfileNotFound": "AWS_PROFILE",
    "ConfigParseError": "AWS_CONFIG_FILE, AWS_SHARED_CREDENTIALS_FILE",
    "InvalidIMDSEndpointError": "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    "InvalidIMDSEndpointModeError": "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE",
}
_METADATA_NUMBERS = ("AWS_METADATA_SERVICE_TIMEOUT", "AWS_METADATA_SERVICE_NUM_ATTEMPTS")


class CredentialsRefused(StorageRefused):
    """The credentials can't be obtained, or can't be used. `is_remote`: a server refused them, or didn't answer."""

    def __init__(self, message: str, *, is_remote: bool, reason: str, check: str, status: int | None = None) -> None:
        super().__init__(message, http_status=status, reason=reason, check=check)
        self.is_remote = is_remote


class Session:
    """A client for several threads. It is closed when the last of them, and its owner, have left it."""

    def __init__(self, config: Config) -> None:
        """Read the AWS_* variables and files, and make a client. Raises CredentialsRefused or ConfigInvalid."""
        try:
            session = botocore.session.get_session()
            session.register_component("data_loader", _LOADER)
            session.set_default_client_config(_STS_CONFIG)
            # botocore reads only AWS_DEFAULT_REGION and its files, but other AWS clients also read AWS_REGION
            if region := os.environ.get("AWS_REGION"):
                session.set_config_variable("region", region)
            found = session.get_credentials()
        except Exception as exc:  # noqa: BLE001 - see the module's docstring
            raise _refused(exc) from None
        if found is None:
            message = "no AWS credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, "
            message += "or give the host a role"
            raise CredentialsRefused(message, is_remote=False, reason="NoCredentials", check=CREDENTIALS.check)
        self._credentials = found
        try:
            self.client = cast("S3Client", session.create_client("s3", config=config))
        except Exception as exc:  # noqa: BLE001 - botocore raises ValueError and others for wrong settings
            raise ConfigInvalid(_client_problem(exc)) from None
        s3_connections.use_in(self.client)
        self.client.meta.events.register("before-call.s3", _forbid_redirect)
        self.endpoint = urlsplit(self.client.meta.endpoint_url)
        self._lock = threading.Lock()
        self._users = 1

    def enter(self) -> None:
        """Keep the client open until `leave`."""
        with self._lock:
            self._users += 1

    def leave(self) -> None:
        """Close the client if no put uses it any more."""
        with self._lock:
            self._users -= 1
            is_unused = self._users == 0
        if is_unused:
            self.client.close()

    def check_credentials(self) -> None:
        """Refresh the credentials if they expire. Raises CredentialsRefused if they can't be obtained or used."""
        try:
            found = self._credentials.get_frozen_credentials()
        except Exception as exc:  # noqa: BLE001 - see the module's docstring
            raise _refused(exc) from None
        texts = {
            "AWS_ACCESS_KEY_ID": found.access_key or "",
            "AWS_SECRET_ACCESS_KEY": found.secret_key or "",
            "AWS_SESSION_TOKEN": found.token or "",
        }
        for name, text in texts.items():
            if not text and name != "AWS_SESSION_TOKEN":
                problem = "is empty"
            elif not _SOUND.fullmatch(text):
                problem = "has a line end, a space or another character that no header can contain"
            else:
                continue
            source = name if os.environ.get(name) == text else f"{name}, from {self._credentials.method},"
            raise CredentialsRefused(f"{source} {problem}", is_remote=False, reason="MalformedCredentials", check=name)


def _refused(exc: Exception) -> CredentialsRefused:
    """Return the refusal for an exception of a credential provider or of STS."""
    kind = type(exc).__name__
    if isinstance(exc, ClientError):
        code = code_of(exc)
        status = int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        check = CODES[code].fault.check if code in CODES else ""
        return CredentialsRefused(
            f"the credentials were refused: {message_of(exc)}",
            is_remote=True, reason=code or str(status), check=check or ROLE.check, status=status,
        )  # fmt: skip
    detail = "" if isinstance(exc, _KEEPS_SECRETS) or not isinstance(exc, BotoCoreError | OSError) else f": {exc}"
    if isinstance(exc, OSError):
        detail = f": {exc.strerror}" if exc.strerror else ""
    detail = "".join(char if char.isprintable() else " " for char in detail)[:_MESSAGE_CHARS]
    check = _check_for(exc)
    is_remote = isinstance(exc, _REMOTE) or "refreshed credentials are still expired" in str(exc)
    return CredentialsRefused(
        f"{check}: the credentials can't be read ({kind}{detail})", is_remote=is_remote, reason=kind, check=check
    )


def _check_for(exc: Exception) -> str:
    """Return the variable, or the line of a file, that an exception of a credential provider is about."""
    return _variable_of(exc) or _source_in_use() or CREDENTIALS.check


def _variable_of(exc: Exception) -> str | None:
    """Return what the exception itself names; None if it names nothing."""
    kwargs: dict[str, Any] = getattr(exc, "kwargs", {})
    path = exc.filename if isinstance(exc, OSError) else kwargs.get("path")
    for name, text in os.environ.items():
        if name.startswith("AWS_") and path is not None and text == str(path):
            return name
    if isinstance(exc, PartialCredentialsError):
        where = "" if kwargs.get("provider") == "env" else f" in {kwargs.get('provider')}"
        return f"{kwargs.get('cred_var')}{where}"
    if isinstance(exc, ValueError):
        for name in _METADATA_NUMBERS:
            if not os.environ.get(name, "0").isdecimal():
                return name
    return _PROVIDER_VARIABLES.get(type(exc).__name__)


def _source_in_use() -> str | None:
    """Return the source of credentials that is configured; None if none is."""
    for name in _SOURCES:
        if os.environ.get(name):
            return name
    try:
        configured = botocore.session.get_session().get_scoped_config()
    except BotoCoreError:
        return None
    return next((f"{key} in AWS_CONFIG_FILE" for key in _CONFIG_SOURCES if key in configured), None)


_CLIENT_VARIABLES = {
    "InvalidRegionError": "AWS_REGION",
    "NoRegionError": "AWS_REGION",
    "InvalidDefaultsMode": "AWS_DEFAULTS_MODE",
    "InvalidSTSRegionalEndpointsConfigError": "AWS_STS_REGIONAL_ENDPOINTS",
    "InvalidS3UsEast1RegionalEndpointConfigError": "AWS_S3_US_EAST_1_REGIONAL_ENDPOINT",
    "InvalidRetryModeError": "AWS_RETRY_MODE",
    "InvalidConfigError": "AWS_CONFIG_FILE and AWS_* variables",
    "InvalidProxiesConfigError": "HTTP_PROXY, HTTPS_PROXY",
}


def _client_problem(exc: Exception) -> str:
    """Return one line that names the variables of which boto3 can't make a client."""
    kind = type(exc).__name__
    if variable := _CLIENT_VARIABLES.get(kind):
        return f"{variable}: boto3 refuses the value ({kind}); correct it, or unset it"
    message = "boto3 can't make a client of them; the endpoint reads https://host[:port][/path]"
    return f"AWS_ENDPOINT_URL, AWS_REGION: {message} ({kind})"


def _forbid_redirect(params: dict[str, Any], **_: object) -> None:
    """Mark a request as redirected, so that boto3 doesn't send it to another server.

    Otherwise, after 301, 302, 307 or a wrong region, boto3 asks for the bucket's region and puts the object there.
    """
    params["context"].setdefault("s3_redirect", {})["redirected"] = True
