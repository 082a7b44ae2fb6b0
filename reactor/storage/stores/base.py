"""The interface of an object store, and of the body that it reads.

Stores block. A put runs in a thread of the pool, so slow disks and sockets don't block the event loop. boto3 blocks
too, and no other client exposes status, error code and Retry-After.
"""

from typing import Protocol


class Body(Protocol):
    """The bytes of one upload, read once from start to end.

    `read` returns the last bytes only if all bytes are the recorded ones: a store must not keep an object of fewer
    bytes.
    """

    @property
    def size_bytes(self) -> int: ...

    @property
    def sha256(self) -> str | None:
        """Recorded SHA-256, lower-case hex; None when the row has none."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, b"" at the end. Raises ContentMismatch; StorageUnavailable once cancelled."""


class ObjectStore(Protocol):
    """A store of objects. Methods block, and may be called from several threads at once."""

    @property
    def name(self) -> str:
        """Label for logs, metrics and the breaker: scheme and host, never a path or a secret."""

    def put(self, bucket: str, key: str, body: Body, *, mime_type: str | None) -> str:
        """Store the body as bucket/key, all of it or nothing, and return its URL.

        May be repeated. Raises StorageUnavailable, StorageRejected, FileTooLarge, or the error of `body.read`.
        """

    def check(self) -> None:
        """Check that the store can be written to, as far as that is possible without a row's bucket.

        Raises ConfigInvalid with the setting and the fix, or StorageUnavailable in an outage: then the reactor may
        start.
        """

    def close(self) -> None: ...
