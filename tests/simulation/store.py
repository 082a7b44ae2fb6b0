"""The spool and the object store as reactors meet them: files that are gone, puts that fail, hang or half succeed."""

import random
from collections.abc import Sequence
from uuid import UUID

from anyio import CancelScope, sleep, sleep_forever
from attrs import Factory, define
from support.task_executor import TaskExecutor

from reactor.core.errors import ContentMismatch, SpoolFileMissing, StorageRejected, StorageUnavailable
from reactor.postgres.upload_queue import Upload
from reactor.reactions.uploads import UploadAttempt
from reactor.storage.transfer import StoredObject
from simulation.checks import Checks
from simulation.faults import Faults
from simulation.loop import Node, VirtualLoop
from simulation.server import NOBODY

BAD_BUCKET = "no-such-bucket"


@define
class Storage:
    """One spool folder and one store, shared by all reactors."""

    loop: VirtualLoop
    rng: random.Random
    faults: Faults
    checks: Checks
    files: dict[str, str] = Factory(dict)
    """The content's hash by the file's path."""
    objects: dict[tuple[str, str], str] = Factory(dict)
    """The content's hash by bucket and key."""
    is_down: bool = False
    puts: int = 0
    put_s: tuple[float, float] = (0.01, 0.2)
    holds: set[UUID] = Factory(set)
    """Uploads whose next put hangs."""

    def happens(self, chance: float) -> bool:
        return chance > 0 and self.rng.random() < chance


class SimulatedTransfer:
    """One reactor's way from the spool to the store. A `Transfer`."""

    store_name = "simulated"

    def __init__(self, storage: Storage, node: Node, *, concurrency: int, per_tenant: int) -> None:
        self.storage = storage
        self.node = node
        self.executor = TaskExecutor(self._put, concurrency, per_tenant=per_tenant, now=storage.loop.time)

    async def _put(self, put: UploadAttempt) -> StoredObject:
        upload, storage, faults = put.upload, self.storage, self.storage.faults
        storage.puts += 1
        storage.checks.put_begins(self.node, upload)
        is_whole, found = False, storage.files.get(upload.temp_file_path or "", "")
        try:
            await sleep(0.001)
            if upload.id in storage.holds:
                storage.holds.remove(upload.id)
                await sleep_forever()
            _check_file(upload, found)
            slow = storage.happens(faults.store_is_slow)
            await sleep(storage.rng.uniform(5.0, 40.0) if slow else storage.rng.uniform(*storage.put_s))
            if storage.is_down or storage.happens(faults.store_refuses):
                retry_after_s = storage.rng.choice([None, None, 1.0, 40.0])
                raise StorageUnavailable("503 SlowDown", http_status=503, retry_after_s=retry_after_s)
            if upload.bucket == BAD_BUCKET:
                raise StorageRejected("404 NoSuchBucket", http_status=404)
            if storage.happens(faults.store_denies):
                raise StorageRejected("403 AccessDenied", http_status=403, denied=True)
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
                # all was sent: the store takes it though nobody waits for its answer
                storage.loop.call_later(storage.rng.uniform(0.0, 5.0), self._store, upload, found, context=NOBODY)
            raise
        finally:
            storage.checks.put_ends(self.node, upload)
        return StoredObject(f"simulated://{upload.bucket}/{upload.object_path}", (1, 1, 1))

    def _store(self, upload: Upload, content: str) -> None:
        self.storage.objects[upload.bucket, upload.object_path] = content

    async def remove(self, stored: Sequence[tuple[Upload, StoredObject]]) -> Sequence[tuple[Upload, str]]:
        storage, left = self.storage, []
        with CancelScope(shield=True):
            for upload, _ in stored:
                await sleep(0.0005)
                if storage.happens(storage.faults.file_stays):
                    left.append((upload, "Read-only file system"))
                    continue
                storage.checks.removes(upload)
                storage.files.pop(upload.temp_file_path or "", None)
        return left


def _check_file(upload: Upload, found: str) -> None:
    """Refuse what the spool would refuse."""
    if not found:
        raise SpoolFileMissing("the spooled file can't be read")
    if found != upload.content_hash:
        raise ContentMismatch("the spooled file doesn't have the recorded SHA-256")
