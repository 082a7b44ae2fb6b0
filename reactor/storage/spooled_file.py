"""One open spooled file: it proves the recorded size and SHA-256 while it is read.

Messages say what is wrong and never the path, because logs and rows keep them.
"""

import errno
import hashlib
import io
import os
import stat
from types import TracebackType
from typing import Protocol, Self, TypeAlias

from reactor.core.errors import (
    ContentMismatch,
    ReactorError,
    SpoolFileMissing,
    SpoolPathForbidden,
    StorageUnavailable,
)

Identity: TypeAlias = tuple[int, int, int]
"""Device, inode and time of the last write in nanoseconds. Equal identities: the same file with the same bytes."""

_CHUNK_BYTES = 1024 * 1024

# The path exists, but passes something other than a folder, or ends at something other than a plain file.
_FORBIDDEN = {errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.ENODEV}

# The fault is in the system and not in the file, so the upload must be tried again.
_TRANSIENT = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT}


class Cancellable(Protocol):
    """The job for which a file is read."""

    is_cancelled: bool
    """Another thread sets it once the result is not wanted any more."""


class SpooledFile:
    """One open spooled file, read once from start to end: the `Body` of an upload.

    It returns the last chunk only if all bytes together have the recorded size and SHA-256, so a store that was given
    the size never has a whole object of wrong bytes. A context manager that closes the file.
    """

    def __init__(self, file: int, *, size_bytes: int, sha256: str | None, reader: Cancellable) -> None:
        """Take over `file`, an open descriptor, which is also closed when this raises.

        Raises SpoolPathForbidden for anything but a plain file with one name, and ContentMismatch for another size.
        """
        self._file = file
        self._size_bytes = size_bytes
        self._sha256 = sha256
        self._reader = reader
        self._hash = hashlib.sha256()
        self._position = 0
        self._is_proven = False
        try:
            found = os.fstat(file)
            self._identity = identity_of(found)
            self._check(found)
            if not size_bytes:
                self._read_chunk(0)
                self._prove()  # now: a store may keep an empty object without reading
        except ReactorError:
            self.close()
            raise

    @property
    def identity(self) -> Identity:
        return self._identity

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    @property
    def sha256(self) -> str | None:
        return self._sha256

    @property
    def digest(self) -> str | None:
        """SHA-256 of the bytes, lower-case hex; None until all of them were read and proven."""
        return self._hash.hexdigest() if self._is_proven else None

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes (all that are left when negative), b"" at the end.

        Raises ContentMismatch, SpoolFileMissing on an I/O error, and StorageUnavailable once cancelled.
        """
        if size < 0:
            chunks = [self.read(_CHUNK_BYTES)]
            while self._position < self._size_bytes:
                chunks.append(self.read(_CHUNK_BYTES))
            return b"".join(chunks)
        if self._reader.is_cancelled:
            raise StorageUnavailable("the attempt was cancelled while the file was being read")
        left = self._size_bytes - self._position
        size = min(size, left, _CHUNK_BYTES)
        if not size:
            return b""
        chunk = self._read_chunk(size)
        if not chunk:
            raise ContentMismatch("the spooled file became shorter while it was being read")
        self._hash.update(chunk)
        self._position += len(chunk)
        if len(chunk) == left:
            self._prove()
        return chunk

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go back to the first byte and start the hash again. No other position: the hash needs all bytes in order."""
        if (offset, whence) != (0, os.SEEK_SET):
            raise io.UnsupportedOperation("a spooled file is read from start to end")
        os.lseek(self._file, 0, os.SEEK_SET)
        self._hash = hashlib.sha256()
        self._position = 0
        self._is_proven = False
        return 0

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1  # a later read must not use a descriptor that the system has given to another file

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _check(self, found: os.stat_result) -> None:
        if not stat.S_ISREG(found.st_mode):
            raise SpoolPathForbidden("the path names something that is no plain file")
        if found.st_nlink != 1:
            # the other name may lie outside the spool, where the user who made the link may not read
            raise SpoolPathForbidden("the path names a file with more than one hard link, or a deleted one")
        if found.st_size != self._size_bytes:
            raise ContentMismatch("the spooled file doesn't have the recorded size")

    def _prove(self) -> None:
        if self._sha256 is not None and self._hash.hexdigest() != self._sha256:
            raise ContentMismatch("the spooled file doesn't have the recorded SHA-256")
        self._is_proven = True

    def _read_chunk(self, size: int) -> bytes:
        """Return at most `size` bytes. With the last of them, check that the file ends there."""
        is_last = self._position + size == self._size_bytes
        try:
            chunk = os.read(self._file, size + is_last)
        except OSError as exc:
            raise error_for(exc) from None
        if len(chunk) > size:
            raise ContentMismatch("the spooled file became longer while it was being read")
        return chunk


def identity_of(found: os.stat_result) -> Identity:
    return found.st_dev, found.st_ino, found.st_mtime_ns


def error_for(exc: OSError) -> ReactorError:
    """Return the error to raise for an error of the system, with its words but without the path in it."""
    if exc.errno in _FORBIDDEN:
        return SpoolPathForbidden("the path passes a link or a plain file, or names no plain file")
    if exc.errno in _TRANSIENT:
        return StorageUnavailable(f"the spooled file can't be opened now: {exc.strerror}")
    return SpoolFileMissing(f"the spooled file can't be read: {exc.strerror}")
