"""The settings and their rules. The metadata of a field has the rule of the field.

reactor/configuration.py reads the environment and the file. It passes the public names to `problems`, so that a message
says REACTOR_LEASE and not lease_s.
"""

import re
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, TypeAlias

from attrs import field, fields_dict, frozen

from reactor.core.errors import ConfigInvalid

_YEAR_S: Final = 365 * 86_400.0
_LOG_LEVELS: Final = ("TRACE", "DEBUG", "INFO", "SUCCESS", "WARNING", "ERROR", "CRITICAL")

Seconds: TypeAlias = Annotated[float, "seconds"]
ConnectionString: TypeAlias = Annotated[str, "libpq connection string"]
UpperCase: TypeAlias = Annotated[str, "upper case"]
LowerCase: TypeAlias = Annotated[str, "lower case"]


def _must_be(words: str, holds: Callable[[Any], bool]) -> dict[str, Any]:
    """Return the metadata of a field: the rule `holds`, and `words` that complete "must be …"."""
    return {"words": words, "holds": holds}


def _within(words: str, low: float, high: float) -> dict[str, Any]:
    return _must_be(words, lambda value: low <= value <= high)


_POSITIVE: Final = _must_be("a duration of more than 0, at most 365d", lambda seconds: 0 < seconds <= _YEAR_S)


def _is_store(url: str) -> bool:
    return url == "s3://" or (url.startswith("file:///") and url != "file:///")


def _are_spools(spools: Mapping[str, Path]) -> bool:
    named = all(name.replace("-", "_").isidentifier() for name in spools)
    return named and "default" in spools and all(folder.is_absolute() for folder in spools.values())


def _is_token(token: str) -> bool:
    return bool(token) and token.isascii() and token.isprintable() and " " not in token


def _read_only(spools: Mapping[str, Path]) -> Mapping[str, Path]:
    return MappingProxyType(dict(spools))


@frozen(kw_only=True)
class Settings:
    """The reactor's settings. The constructor raises one ConfigInvalid with all problems.

    Durations are in seconds, more than 0 and at most 365 days, if the field has no other limits.
    """

    database_url: ConnectionString | None = field(default=None, repr=False)
    """REACTOR_DATABASE_URL, default None: use the embedded server. A libpq URL or key=value string; "" means that libpq
    reads its PG* variables."""

    listen_url: ConnectionString | None = field(default=None, repr=False)
    """REACTOR_LISTEN_URL, default None: use database_url. A direct connection, needed if database_url is a pooler."""

    store_url: str = field(metadata=_must_be("file:///folder or s3:// (buckets come from the rows)", _is_store))
    """REACTOR_STORE_URL, default: the folder `store` in data_dir. The object store."""

    s3_addressing: LowerCase = field(
        default="path", metadata=_must_be("path, virtual or auto", ("path", "virtual", "auto").__contains__)
    )
    """REACTOR_S3_ADDRESSING, default path. Where an address has the bucket: in its path, or (virtual) in its host name.
    `auto`: in the host name at AWS, in the path at another endpoint."""

    s3_checksum: LowerCase = field(
        default="sha256",
        metadata=_must_be("sha256, when_required or off", ("sha256", "when_required", "off").__contains__),
    )
    """REACTOR_S3_CHECKSUM, default sha256. `sha256`: each put has the SHA-256 of the row. `when_required`: only where
    S3 requires a checksum, which no put does. `off`: nor is a checksum in an answer compared."""

    s3_sse: str | None = field(
        default=None,
        metadata=_must_be(
            "AES256, aws:kms or aws:kms:KEY-ID", lambda sse: bool(re.fullmatch("AES256|aws:kms(:[!-~]+)?", sse))
        ),
    )
    """REACTOR_S3_SSE, default None: the bucket's own. The server-side encryption that each put asks for."""

    spools: Mapping[str, Path] = field(
        converter=_read_only, metadata=_must_be("words and absolute folders, one of them default", _are_spools)
    )
    """Maps the name of each spool to its folder. REACTOR_SPOOL_DIR sets the folder of `default` (without it: the folder
    `spool` in data_dir). REACTOR_SPOOLS sets other spools."""

    upload_concurrency: int = field(default=16, metadata=_within("a whole number from 1 to 1024", 1, 1024))
    """REACTOR_UPLOAD_CONCURRENCY, default 16. Maximum number of uploads in flight."""

    uploads_per_user: int = field(default=8, metadata=_within("a whole number from 1 to 1024", 1, 1024))
    """REACTOR_UPLOADS_PER_USER, default 8. Maximum number of uploads of one user in flight."""

    retry_base_s: Seconds = field(default=30.0, metadata=_POSITIVE)
    """REACTOR_RETRY_BASE, default 30s. The delay after the reactor's first failed attempt of an upload."""

    retry_factor: float = field(default=2.0, metadata=_within("a number from 1 to 100", 1, 100))
    """REACTOR_RETRY_FACTOR, default 2. The ratio of each delay to the previous delay."""

    retry_max_s: Seconds = field(default=600.0, metadata=_POSITIVE)
    """REACTOR_RETRY_MAX, default 10m. The cap of a delay before jitter; at least retry_base_s."""

    retry_jitter: float = field(
        default=0.1, metadata=_must_be("a number from 0 to below 1", lambda jitter: 0 <= jitter < 1)
    )
    """REACTOR_RETRY_JITTER, default 0.1. The fraction by which a delay may be shorter or longer."""

    attempt_timeout_s: Seconds = field(default=300.0, metadata=_POSITIVE)
    """REACTOR_ATTEMPT_TIMEOUT, default 5m. Maximum duration of one attempt."""

    lease_s: Seconds = field(default=30.0, metadata=_within("a duration from 1s to 1d", 1, 86_400))
    """REACTOR_LEASE, default 30s, from 1s to 1d. How long a reactor's claim of an upload lasts without renewal."""

    heartbeat_timeout_s: Seconds = field(default=60.0, metadata=_POSITIVE)
    """REACTOR_HEARTBEAT_TIMEOUT, default 1m. The heartbeat timeout of runs whose row has none."""

    reconcile_interval_s: Seconds = field(default=300.0, metadata=_POSITIVE)
    """REACTOR_RECONCILE_INTERVAL, default 5m. The time between two reconciliations."""

    wheel_horizon_s: Seconds = field(default=900.0, metadata=_POSITIVE)
    """REACTOR_WHEEL_HORIZON, default 15m. A row that is due later gets no timer; a later sweep schedules it."""

    shutdown_grace_s: Seconds = field(default=30.0, metadata=_within("a duration from 0s to 1d", 0, 86_400))
    """REACTOR_SHUTDOWN_GRACE, default 30s, from 0s to 1d. The time to finish uploads in flight after SIGTERM."""

    http_host: str = field(default="127.0.0.1", metadata=_must_be("a host name or an address", bool))
    """REACTOR_HTTP_HOST, default 127.0.0.1. The HTTP server's address. If it isn't loopback, http_token is required."""

    http_port: int = field(default=8321, metadata=_within("a port from 0 (any free one) to 65535", 0, 65_535))
    """REACTOR_HTTP_PORT, default 8321. The HTTP server's port; 0 means any free port."""

    http_token: str | None = field(
        default=None, repr=False, metadata=_must_be("printable ASCII without spaces", _is_token)
    )
    """REACTOR_HTTP_TOKEN, default None: the HTTP server refuses all changes. The token that authorises changes."""

    log_level: UpperCase = field(
        default="INFO", metadata=_must_be(f"one of {', '.join(_LOG_LEVELS)}", _LOG_LEVELS.__contains__)
    )
    """REACTOR_LOG_LEVEL, default INFO. The lowest level that is logged."""

    log_format: LowerCase = field(default="text", metadata=_must_be("text or json", ("text", "json").__contains__))
    """REACTOR_LOG_FORMAT, default text. Log lines as text for people, or as JSON objects."""

    trace_url: str | None = field(
        default=None,
        metadata=_must_be("an http:// or https:// URL", lambda url: url.startswith(("http://", "https://"))),
    )
    """REACTOR_TRACE_URL, default None: the page has no links to traces. The URL of Jaeger."""

    data_dir: Path = field(default=Path("reactor-data"))
    """REACTOR_DATA_DIR, default reactor-data. The folder of the embedded server, and of the default store and spool."""

    def __attrs_post_init__(self) -> None:
        if found := problems({name: getattr(self, name) for name in fields_dict(Settings)}):
            raise ConfigInvalid(*found)


def problems(
    values: Mapping[str, Any], named: Callable[[str], str] = str, shown: Callable[[str], str] = lambda _: ""
) -> list[str]:
    """Return a line for each value that breaks a rule, and for each pair of values that contradict each other.

    `values` maps field names to values. For a field name, `named` returns the name that messages show, and `shown`
    returns ", not …" with the value. The default of `shown` hides the value, because it may be a secret.
    """
    found: list[str] = []
    sound = dict(values)
    for name, attribute in fields_dict(Settings).items():
        rule, value = attribute.metadata, values.get(name)
        if rule and value is not None and not rule["holds"](value):
            found.append(f"{named(name)} must be {rule['words']}{shown(name)}")
            del sound[name]

    if sound.get("retry_max_s", _YEAR_S) < sound.get("retry_base_s", 0):
        found.append(f"{named('retry_max_s')} must be at least {named('retry_base_s')}")
    open_to_all = "http_host" in sound and not is_loopback(sound["http_host"])
    if open_to_all and values.get("http_token", "unknown") is None:
        found.append(
            f"{named('http_host')} opens the HTTP server to other machines: set {named('http_token')}, or use 127.0.0.1"
        )
    if values.get("database_url", "unknown") is None and values.get("listen_url") is not None:
        found.append(f"{named('listen_url')} needs {named('database_url')}: set it too, or neither")
    return found


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a host name or address."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
