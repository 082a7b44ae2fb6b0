"""What the reactor asks of an object store, and what it gives it to read.

Stores are blocking on purpose: a put runs in a worker thread, so that slow disks and sockets never hold up
the loop, and boto3 (the one client that shows status, code and Retry-After) is blocking anyway.
"""

from typing import Protocol

from attrs import frozen

from reactor.core.errors import ReactorError


class Body(Protocol):
    """The bytes of one upload, read once from start to end.

    `read` hashes as it goes, and gives out the last bytes only once size and SHA-256 have proven right: a
    store that gets less than `size_bytes` must not keep the object.
    """

    @property
    def size_bytes(self) -> int: ...

    @property
    def sha256(self) -> str | None:
        """Expected lower-case hex SHA-256; None when the row names none."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, b"" at the end.

        Raises ContentMismatch when the bytes aren't the row's, and StorageUnavailable once the attempt was
        cancelled.
        """


@frozen(kw_only=True)
class Probed:
    """What came of putting, reading back and deleting a small object, once the put had succeeded."""

    unread: ReactorError | None
    """Why it couldn't be read back, None when it could. The reactor itself never reads."""

    undeleted: ReactorError | None
    """Why it couldn't be deleted, None when it could. The reactor itself never deletes."""


class ObjectStore(Protocol):
    """One place that keeps objects. Methods block and may be called from several threads at once."""

    @property
    def name(self) -> str:
        """Label for logs, metrics and the breaker: scheme and host, never a path or a secret."""

    def put(self, bucket: str, key: str, body: Body, *, mime_type: str | None) -> str:
        """Store the body as bucket/key, whole or not at all, and return its URL.

        Putting the same bytes again is harmless. Raises StorageUnavailable, StorageRejected, FileTooLarge, or
        what `body.read` raised.
        """

    def check(self) -> None:
        """Prove, as far as can be without a row's bucket, that the store can be written to.

        Raises ConfigInvalid naming the setting and the fix, or StorageUnavailable when the store is down at
        the moment: that mends itself, and need not keep the reactor from starting.
        """

    def close(self) -> None: ...
