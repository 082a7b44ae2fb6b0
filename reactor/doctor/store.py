"""The object store: does it answer, and does it take, give back and remove a small object in each bucket."""

import os
import secrets
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from reactor.core.errors import DatabaseUnavailable, ReactorError, StorageRejected, StorageUnavailable
from reactor.core.settings import Settings
from reactor.doctor.finding import Check, Finding, Group, ok, problem, warning
from reactor.doctor.spools import examine_folder
from reactor.postgres.server_info import Server
from reactor.storage.stores import store_folder

if TYPE_CHECKING:
    from reactor.storage.stores.s3 import S3Store

_BUCKETS_PROBED = 5
_PATIENCE_S = 3.0


def store_group(settings: Settings, buckets: Sequence[str]) -> Group:
    """Return the checks of the store that the settings name; `buckets` are probed beside those that rows name."""
    folder = store_folder(settings.store_url)
    if folder is None:
        return S3Checks(settings, buckets).group()
    fix = "make it a folder that belongs to the reactor's user, or name another in REACTOR_STORE_URL"
    return Group(checks=[Check(name="store", examine=partial(_examine_folder, folder), fix=fix)])


def _examine_folder(folder: Path) -> Iterator[Finding]:
    """A folder that isn't there is made by `reactor run`, below whatever is there."""
    above = next(path for path in (folder, *folder.parents) if path.exists())
    if above == folder or not above.is_dir() or not os.access(above, os.W_OK | os.X_OK, effective_ids=True):
        yield from examine_folder("store", folder)
    else:
        yield warning(
            "store",
            f"{folder} isn't there; `reactor run` would make it",
            "if a disk belongs there, mount it first; else make the folder, or correct REACTOR_STORE_URL",
        )


class S3Checks:
    """Examines an S3 server. Buckets come from rows and from whoever asks, a name or name/prefix."""

    def __init__(self, settings: Settings, buckets: Sequence[str]) -> None:
        self._database_url = settings.database_url or ""
        self._asked_for = buckets
        self._store: S3Store | None = None

    def group(self) -> Group:
        fix = "check AWS_ENDPOINT_URL, the network on the way there, and that the store runs"
        return Group(
            checks=[
                Check(name="store", examine=self._reach, fix=fix),
                Check(name="buckets", examine=self._buckets, fix=fix, needs=["store"]),
            ],
            close=self._close,
        )

    def _close(self) -> None:
        if self._store is not None:
            self._store.close()

    def _reach(self) -> Iterator[Finding]:
        # boto3 takes 0.2 s to import, which who stores in a folder needn't wait for
        from reactor.storage.stores.s3 import S3Store  # noqa: PLC0415 - see above

        store = self._store = S3Store(concurrency=1, connect_timeout_s=_PATIENCE_S, read_timeout_s=_PATIENCE_S)
        store.check()
        yield ok("store", f"{store.name} answers")

    def _buckets(self) -> Iterator[Finding]:
        places = list(dict.fromkeys(self._asked_for))
        try:
            server = Server(self._database_url)
            try:
                named, count = server.buckets(_BUCKETS_PROBED)
            finally:
                server.close()
        except DatabaseUnavailable:
            named, count = [], 0  # what is wrong there is said by its own checks
        places += [bucket for bucket in named if bucket not in {place.partition("/")[0] for place in places}]
        if not places:
            yield warning(
                "buckets",
                "none is known, for no upload is queued: neither credentials nor a bucket could be proven",
                "name the bucket that your app uses: `reactor doctor --bucket NAME`",
            )
        if count > len(named):
            yield ok("buckets", f"{len(named)} of {count} that rows name are probed; --bucket NAME adds others")
        for place in places:
            yield self._probe(place)

    def _probe(self, place: str) -> Finding:
        if self._store is None:
            raise StorageUnavailable("the store wasn't opened")
        bucket, _, prefix = place.partition("/")
        check = f"bucket {bucket}"
        key = f"{prefix}.reactor-doctor-{secrets.token_hex(8)}"
        try:
            probed = self._store.probe(bucket, key)
        except ReactorError as error:
            return problem(check, str(error), _fix(error, bucket))
        unread, undeleted = probed.unread, probed.undeleted
        if unread is not None and not _is_denied(unread):
            return problem(check, f"took an object, but didn't give it back: {unread}", _fix(unread, bucket))
        if undeleted is not None:
            return warning(
                check,
                f"takes objects, which is all that the reactor needs; the probe {key} stays: {undeleted}",
                f"remove it with other credentials, or allow s3:DeleteObject on {bucket}/{prefix}.reactor-doctor-*",
            )
        if unread is not None:
            return ok(check, "takes and removes objects; reading them isn't allowed, and the reactor needn't")
        return ok(check, "took a small object, gave it back and removed it")


def _is_denied(error: ReactorError) -> bool:
    return isinstance(error, StorageRejected) and error.denied


def _fix(error: ReactorError, bucket: str) -> str:
    """Tell an unreachable store, a wrong bucket and bad credentials apart."""
    match error:
        case StorageUnavailable(http_status=None):
            return "check AWS_ENDPOINT_URL, the network on the way there, and that the store runs"
        case StorageUnavailable():
            return "the store answers that it can't at the moment: look at its own state, and ask again"
        case StorageRejected(denied=True):
            return (
                "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN), this host's clock, and that "
                f"they may s3:PutObject in {bucket}; where only a prefix is allowed: --bucket {bucket}/PREFIX/"
            )
        case StorageRejected(http_status=404):
            return (
                f"make the bucket {bucket}, or let the rows name the right one; check that AWS_ENDPOINT_URL and "
                "AWS_REGION are where it is"
            )
        case _:
            return "check AWS_REGION and AWS_ENDPOINT_URL against what the store's own console says of the bucket"
