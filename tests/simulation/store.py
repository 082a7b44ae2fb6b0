"""The simulated spool and object store: missing files, and puts that fail, hang or lose their answer."""

import random
from collections.abc import Callable, Iterable
from uuid import UUID

from anyio import CancelScope, sleep, sleep_forever
from attrs import Factory, define
from support.task_executor import TaskExecutor

from reactor.core.errors import ContentMismatch, SpoolFileMissing, StorageRefused, StorageRejected, StorageUnavailable
from reactor.postgres.upload_answers import Upload
from reactor.reactions.upload_attempt import UploadAttempt
from reactor.storage.spool import Identity
from simulation.checks import Checks
from simulation.faults import Faults
from simulation.loop import Node, VirtualLoop
from simulation.server import NO_NODE

BAD_BUCKET = "no-such-bucket"


@define
class Storage:
    """One spool folder and one store, shared by all reactors."""

    loop: VirtualLoop
    rng: random.Random
    faults: Faults
    checks: Checks
    files: dict[str, str] = Factory(dict)
    """Maps a file's path to its content hash."""
    objects: dict[tuple[str, str], str] = Factory(dict)
    """Maps (bucket, key) to the object's content hash."""
    is_down: bool = False
    refuses_everybody: bool = False
    puts: int = 0
    put_s: tuple[float, float] = (0.01, 0.2)
    hanging: set[UUID] = Factory(set)
    """Uploads whose next put hangs."""

    def happens(self, chance: float) -> bool:
        return chance > 0 and self.rng.random() < chance


class SimulatedThreads:
    """One reactor's threads, which put uploads into the store and remove spooled files. Implements `SpooledFiles`."""

    def __init__(self, storage: Storage, node: Node, *, concurrency: int, per_tenant: int) -> None:
        self.storage = storage
        self.node = node
        self.executor = TaskExecutor(self._put, concurrency, per_tenant=per_tenant, now=storage.loop.time)
        self._put_uploads: dict[int, Upload] = {}
        """Maps an upload's id, as an integer, to the upload that was put. The same integer is the file's identity."""

    async def _put(self, attempt: UploadAttempt) -> tuple[str, Identity]:
        upload, storage, faults = attempt.upload, self.storage, self.storage.faults
        storage.puts += 1
        storage.checks.on_put_started(self.node, upload)
        is_whole, found = False, storage.files.get(upload.temp_file_path or "", "")
        try:
            await sleep(0.001)
            if upload.id in storage.hanging:
                storage.hanging.remove(upload.id)
                await sleep_forever()
            _check_file(upload, found)
            slow = storage.happens(faults.store_is_slow)
            await sleep(storage.rng.uniform(5.0, 40.0) if slow else storage.rng.uniform(*storage.put_s))
            if storage.is_down or storage.happens(faults.store_refuses):
                retry_after_s = storage.rng.choice([None, None, 1.0, 40.0])
                raise StorageUnavailable("503 SlowDown", http_status=503, retry_after_s=retry_after_s)
            if storage.refuses_everybody:
                storage.checks.on_shared_refusal(upload)
                raise StorageRefused("400 ExpiredToken", http_status=400, reason="ExpiredToken")
            if upload.bucket == BAD_BUCKET:
                raise StorageRejected("400 InvalidBucketName", http_status=400)
            if storage.happens(faults.store_denies):
                raise StorageRejected("403 AccessDenied", http_status=403, may_be_shared=True)
            if storage.happens(faults.store_hangs):
                await sleep_forever()
            is_whole = True
            await sleep(0.001)
            self._store(upload, found)
            if storage.happens(faults.store_answer_lost):
                raise StorageUnavailable("connection reset by peer")
            await sleep(0.001)
        except BaseException:
            if is_whole and storage.rng.random() < 0.5:
                # all bytes were sent: the store may store the object after the reactor has given up
                storage.loop.call_later(storage.rng.uniform(0.0, 5.0), self._store, upload, found, context=NO_NODE)
            raise
        finally:
            storage.checks.on_put_ended(self.node, upload)
        self._put_uploads[upload.id.int] = upload
        return f"simulated://{upload.bucket}/{upload.object_path}", (upload.id.int, 0, 0)

    def _store(self, upload: Upload, content: str) -> None:
        self.storage.objects[upload.bucket, upload.object_path] = content

    async def run(self, call: Callable[[], list[str | None]]) -> list[str | None]:
        """Run a call after 0.5 ms, even if the caller is cancelled, because a real thread can't be cancelled either."""
        with CancelScope(shield=True):
            await sleep(0.0005)
        return call()

    def remove(self, files: Iterable[tuple[str, str, Identity]]) -> list[str | None]:
        return [self._remove(path, self._put_uploads.pop(identity[0])) for _, path, identity in files]

    def _remove(self, path: str, upload: Upload) -> str | None:
        if self.storage.happens(self.storage.faults.file_stays):
            return "Read-only file system"
        self.storage.checks.on_file_removed(upload)
        self.storage.files.pop(path, None)
        return None


def _check_file(upload: Upload, found: str) -> None:
    """Raise the error that the spool would raise for this content."""
    if not found:
        raise SpoolFileMissing("the spooled file can't be read")
    if found != upload.content_hash:
        raise ContentMismatch("the spooled file doesn't have the recorded SHA-256")
