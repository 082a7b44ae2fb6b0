"""Checks that the object store responds, and that each bucket accepts, returns and deletes a small object."""

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from reactor.core.errors import (
    ConfigInvalid,
    DatabaseFailure,
    ReactorError,
    StorageRefused,
    StorageRejected,
    StorageUnavailable,
)
from reactor.core.refusal import Guard
from reactor.core.settings import Settings
from reactor.doctor.finding import Check, CheckGroup, Finding, ok, problem, warning
from reactor.doctor.spools import examine_folder
from reactor.postgres.server_info import ServerProbe
from reactor.storage.stores import store_folder

if TYPE_CHECKING:
    from reactor.storage.stores.s3 import S3Store

_BUCKETS_PROBED = 5
_TIMEOUT_S = 3.0
_UNREACHABLE_FIX = "check AWS_ENDPOINT_URL, the network path to it, and that the store is running"

_OTHER_SETTINGS: Final = MappingProxyType(
    {"checksum": ("off",), "addressing": ("virtual", "path"), "sse": ("AES256", "aws:kms")}
)
"""Values of the settings REACTOR_S3_* to try when a bucket refuses a probe."""


def store_group(settings: Settings, buckets: Sequence[str]) -> CheckGroup:
    """Return the checks of the configured store. Probes `buckets` in addition to those of queued uploads."""
    folder = store_folder(settings.store_url)
    if folder is None:
        return S3Checks(settings, buckets).group()
    fix = "make it a folder owned by the reactor's user, or set REACTOR_STORE_URL to another folder"
    return CheckGroup([Check("store", partial(_examine_store_folder, folder), fix)])


def _examine_store_folder(folder: Path) -> Iterator[Finding]:
    """Check the folder. If it is missing and `reactor run` could create it, only warn."""
    ancestor = next(path for path in (folder, *folder.parents) if path.exists())
    if ancestor == folder or not ancestor.is_dir() or not os.access(ancestor, os.W_OK | os.X_OK, effective_ids=True):
        yield from examine_folder("store", folder)
    else:
        fix = "if a disk belongs there, mount it first; else create the folder, or correct REACTOR_STORE_URL"
        yield warning("store", f"{folder} does not exist; `reactor run` would create it", fix)


class S3Checks:
    """Checks of an S3 server. Probes the buckets of queued uploads, and each --bucket: `name` or `name/prefix`."""

    def __init__(self, settings: Settings, buckets: Sequence[str]) -> None:
        self._database_url = settings.database_url or ""
        self._requested_buckets = buckets
        self._options: dict[str, Any] = {
            "addressing": settings.s3_addressing,
            "checksum": settings.s3_checksum,
            "sse": settings.s3_sse,
        }
        self._refused: StorageRefused | None = None
        """The store's refusal of a request without a bucket; the probes of buckets report it too."""
        self._opened = ExitStack()

    def group(self) -> CheckGroup:
        """Return the checks, in order."""
        checks = [
            Check("store", self._connect, _UNREACHABLE_FIX),
            Check("buckets", self._probe_buckets, _UNREACHABLE_FIX, needs=["store"]),
        ]
        return CheckGroup(checks, close=self._opened.close)

    def _connect(self) -> Iterator[Finding]:
        try:
            self._store = self._open()
            self._store.check()
        except ConfigInvalid as error:
            yield problem("store", str(error), "correct the AWS_* variable or the file that the message names")
            return
        except StorageRefused as error:
            self._refused = error
        yield ok("store", f"{self._store.name} answers")

    def _open(self, **changes: str) -> "S3Store":
        """Return the configured store, with changed settings REACTOR_S3_*. It is closed with the group."""
        # boto3 takes 0.2 s to import; a folder store does not need it
        from reactor.storage.stores.s3 import S3Store  # noqa: PLC0415 - see above

        options = {**self._options, **changes}
        store = S3Store(concurrency=1, connect_timeout_s=_TIMEOUT_S, read_timeout_s=_TIMEOUT_S, **options)
        self._opened.callback(store.close)
        return store

    def _probe_buckets(self) -> Iterator[Finding]:
        targets = list(dict.fromkeys(self._requested_buckets))
        queued, count = list[str](), 0
        with suppress(DatabaseFailure), closing(ServerProbe(self._database_url)) as server:
            queued, count = server.buckets(_BUCKETS_PROBED)  # an outage is reported by the database's checks
        targets += [bucket for bucket in queued if bucket not in {target.partition("/")[0] for target in targets}]
        if not targets and self._refused is not None:
            yield problem("buckets", str(self._refused), f"check {self._refused.refusal.check}")
        elif not targets:
            seen = "no bucket is known, because no upload is queued: credentials and buckets are not checked"
            yield warning("buckets", seen, "name the bucket that your app uses: `reactor doctor --bucket NAME`")
        if count > len(queued):
            seen = f"{len(queued)} of the {count} buckets of queued uploads are probed; --bucket NAME adds one"
            yield ok("buckets", seen)
        for target in targets:
            yield self._probe(target)

    def _probe(self, target: str) -> Finding:
        bucket, _, prefix = target.partition("/")
        check = f"bucket {bucket}"
        key = f"{prefix}.reactor-doctor-{secrets.token_hex(8)}"
        try:
            unread, undeleted = self._store.probe(bucket, key)
        except ReactorError as error:
            return problem(check, str(error), self._working_setting(error, bucket, key) or _fix(error, bucket))
        if unread is not None and not (isinstance(unread, StorageRejected) and unread.refusal.may_be_shared):
            return problem(check, f"accepted an object but did not return it: {unread}", _fix(unread, bucket))
        if undeleted is not None:
            seen = f"accepts objects, which is all that the reactor needs; the probe {key} was not deleted: {undeleted}"
            fix = f"delete it with other credentials, or allow s3:DeleteObject on {bucket}/{prefix}.reactor-doctor-*"
            return warning(check, seen, fix)
        if unread is not None:
            return ok(check, "accepts and deletes objects; reading is not allowed, and the reactor does not need it")
        return ok(check, "accepted, returned and deleted a small object")

    def _working_setting(self, error: ReactorError, bucket: str, key: str) -> str | None:
        """Return the fix if the bucket accepts the object with another setting; None if it doesn't."""
        is_answer = isinstance(error, StorageRejected) or getattr(error, "http_status", None) is not None
        if not is_answer or (isinstance(error, StorageRefused) and error.refusal.guard is Guard.STORE):
            return None
        for name, values in _OTHER_SETTINGS.items():
            for value in values:
                if value == self._options[name]:
                    continue
                with suppress(ReactorError):
                    self._open(**{name: value}).probe(bucket, key)
                    return f"set REACTOR_S3_{name.upper()}={value}: with it, the bucket accepts the object"
        return None


def _fix(error: ReactorError, bucket: str) -> str:
    """Return the fix for an error of the store."""
    match error:
        case StorageUnavailable(http_status=None):
            return _UNREACHABLE_FIX
        case StorageUnavailable():
            return "the store is unavailable at the moment: check its own status, and try again"
        case StorageRejected() if error.refusal.may_be_shared:
            return (
                "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN), this host's clock, and that "
                f"the credentials allow s3:PutObject in {bucket}; if only below a prefix: --bucket {bucket}/PREFIX/"
            )
        case StorageRefused() if error.refusal.reason == "NoSuchBucket":
            return (
                f"create the bucket {bucket}, or correct the bucket in the rows; check that AWS_ENDPOINT_URL and "
                "AWS_REGION are those of the bucket"
            )
        case StorageRefused():
            return f"check {error.refusal.check}"
        case _:
            return "compare AWS_REGION and AWS_ENDPOINT_URL with what the store's console shows for the bucket"
