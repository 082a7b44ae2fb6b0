"""The interface of an object store, and of the body of an upload.

The methods of a store block, because boto3 blocks, and no other client exposes status, error code and Retry-After. A
put runs in a thread of the pool, so slow disks and sockets don't block the event loop.
"""

from typing import Protocol


class Body(Protocol):
    """The bytes of one upload, read from start to end.

    `read` returns the last bytes only if all bytes have the recorded size and SHA-256. So a store must not keep an
    object with fewer bytes than `size_bytes`.
    """

    @property
    def size_bytes(self) -> int: ...

    @property
    def sha256(self) -> str | None:
        """Recorded SHA-256, lower-case hex; None if the row has none."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, b"" at the end. Raises ContentMismatch; StorageUnavailable if cancelled."""

    def restart(self) -> None:
        """Read again from the start, with a new proof. Raises SpoolFileMissing on an I/O error."""


class ObjectStore(Protocol):
    """A store of objects. Its methods block and are thread-safe."""

    @property
    def name(self) -> str:
        """Name for logs and metrics: scheme and host, without path and secrets."""

    def put(self, bucket: str, key: str, body: Body, *, mime_type: str | None) -> str:
        """Store the whole body or nothing as bucket/key, and return the object's URL.

        May be repeated. Raises StorageUnavailable, StorageRefused, StorageRejected, FileTooLarge, or the error of
        `body.read`.
        """

    def renew(self) -> None:
        """Read credentials and configuration again; later puts use them, running puts end with the earlier ones.

        Raises StorageRefused if they can't be read; puts then use the earlier ones.
        """

    def check(self) -> None:
        """Check that the store can be written to, as far as this is possible without the bucket of a row.

        Raises ConfigInvalid with the setting and the fix. Raises StorageUnavailable during an outage of the store, and
        StorageRefused if the store refuses the reactor: then the reactor logs a warning and starts.
        """

    def close(self) -> None: ...
