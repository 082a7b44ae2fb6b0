"""The spool: directories where an app leaves the bytes of an upload that failed, and one open file of them.

Anyone who can write a row can write a path. Invariant: no byte outside the spools is ever read or deleted. Each folder
of a path, and then the file, is opened relative to the one before and never through a link (confined_path.py). Only
plain files with one name are read. The path of the spool itself is the operator's, so a file directly in it needs no
walk. Messages never contain a path, because logs and rows keep them.
"""

import errno
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Self, TypeAlias, TypeVar

from reactor.core.errors import ContentMismatch, ReactorError, SpoolFileMissing, SpoolPathForbidden, StorageUnavailable
from reactor.runtime.executor import Job
from reactor.storage import confined_path

T = TypeVar("T")
Identity: TypeAlias = tuple[int, int, int]
"""Device, inode and time of the last write in nanoseconds. Equal identities: the same file with the same bytes."""

# O_NONBLOCK: without it, opening a FIFO waits until a writer opens it too.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY

_CHUNK_BYTES = 1024 * 1024

_REPLACED = "it was replaced, or written to, since it was read"

_SIMPLE_NAME = re.compile("[A-Za-z0-9_-][A-Za-z0-9._-]*")
"""A file directly in the spool: nothing in it can lead out."""

_SHA256 = re.compile("[0-9a-f]{64}")

# The path exists, but passes something other than a folder, or ends at something other than a plain file.
_FORBIDDEN = {errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.ENODEV}

# The fault is in the system and not in the file, so the upload must be tried again.
_TRANSIENT = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT}


class Spool:
    """Opens and removes spooled files by the spool's name and the path in the row. Safe to use from several threads."""

    def __init__(self, dirs: Mapping[str, Path]) -> None:
        self._dirs = {name: folder.absolute() for name, folder in dirs.items()}

    def open(self, spool: str, path: str, *, size_bytes: int, sha256: str | None, reader: Job) -> "SpooledFile":
        """Open a file that must have the recorded size and SHA-256 (lower-case hex; None: unknown).

        `path` is relative to the spool, or absolute inside it. Raises SpoolPathForbidden, SpoolFileMissing,
        ContentMismatch, or StorageUnavailable when the spool can't be opened: while a disk is unmounted, no upload may
        become dead.
        """
        if sha256 is not None and _SHA256.fullmatch(sha256) is None:
            raise ContentMismatch("the recorded SHA-256 isn't 64 lower-case hex digits")
        try:
            file = self._call_in_folder(spool, path, lambda name, folder: os.open(name, _FILE, dir_fd=folder))
        except OSError as exc:
            raise _error_for(exc) from None
        return SpooledFile(file, size_bytes=size_bytes, sha256=sha256, reader=reader)

    def remove(self, files: Iterable[tuple[str, str, Identity]]) -> list[str | None]:
        """Delete files that were opened, given by spool, path and identity. Return why each stays; None: it is gone.

        A file stays if another file has its name, or if it was written to since. A file that replaces it between
        `stat` and `unlink` is lost: no system call does both at once.
        """
        return [self._remove(*file) for file in files]

    def discard(self, spool: str, path: str) -> bool:
        """Delete the plain file at this path, whatever it contains. Return False when there is none.

        Raises SpoolPathForbidden for a path out of the spool, SpoolFileMissing or StorageUnavailable on other errors.
        """
        try:
            return self._call_in_folder(spool, path, partial(_unlink, None))
        except FileNotFoundError:
            return False
        except OSError as exc:
            raise _error_for(exc) from None

    def _remove(self, spool: str, path: str, identity: Identity) -> str | None:
        try:
            return None if self._call_in_folder(spool, path, partial(_unlink, identity)) else _REPLACED
        except (SpoolFileMissing, FileNotFoundError):
            return None
        except (ReactorError, OSError) as error:
            return getattr(error, "strerror", None) or str(error)

    def _call_in_folder(self, spool: str, path: str, call: Callable[[str, int | None], T]) -> T:
        """Return `call(name, folder)`: the file's name and a descriptor of its folder, None for an absolute name."""
        *folders, name = self._names(spool, path)
        if not folders:
            with suppress(OSError):  # the walk finds out whether the spool or the file is missing
                return call(f"{self._dirs[spool]}/{name}", None)
        try:
            root = confined_path.open_root(self._dirs[spool])
        except OSError as exc:
            raise StorageUnavailable(f"the spool's directory can't be opened: {exc.strerror}") from None
        try:
            folder = confined_path.descend(root, folders)
        except OSError as exc:
            raise _error_for(exc) from None
        try:
            return call(name, folder)
        finally:
            os.close(folder)

    def _names(self, spool: str, path: str) -> list[str]:
        """Return the names of the folders below the spool, and last the name of the file."""
        if spool not in self._dirs:
            raise SpoolPathForbidden("the row names a spool that isn't configured; add it to REACTOR_SPOOLS")
        if _SIMPLE_NAME.fullmatch(path):
            return [path]
        if path.startswith("/"):
            for folder in (str(self._dirs[spool]), os.path.realpath(self._dirs[spool])):  # as configured, as resolved
                prefix = folder.rstrip("/") + "/"
                if path.startswith(prefix):
                    path = path[len(prefix) :]
                    break
        try:
            return confined_path.names(path)
        except ValueError as exc:
            raise SpoolPathForbidden(f"the path doesn't name a file inside the spool: {exc}") from None


class SpooledFile:
    """One open spooled file, read once from start to end: the `Body` of an upload.

    It returns the last chunk only if all bytes together have the recorded size and SHA-256, so a store that was given
    the size never has a whole object of wrong bytes. A context manager that closes the file.
    """

    def __init__(self, file: int, *, size_bytes: int, sha256: str | None, reader: Job) -> None:
        """Take over `file`, an open descriptor, which is also closed when this raises. `reader` may be cancelled.

        Raises SpoolPathForbidden for anything but a plain file with one name, and ContentMismatch for another size.
        """
        self._file = file
        self.size_bytes = size_bytes
        self.sha256 = sha256
        self._reader = reader
        self._hash = hashlib.sha256()
        self._position = 0
        try:
            found = os.fstat(file)
            self.identity = _identity_of(found)
            self._check(found)
            if not size_bytes:
                self._read_chunk(0)
                self._prove()  # now: a store may keep an empty object without reading
        except ReactorError:
            self.close()
            raise

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes (all that are left when negative), b"" at the end.

        Raises ContentMismatch, SpoolFileMissing on an I/O error, and StorageUnavailable once cancelled.
        """
        if size < 0:
            return b"".join(iter(partial(self.read, _CHUNK_BYTES), b""))
        if self._reader.is_cancelled:
            raise StorageUnavailable("the attempt was cancelled while the file was being read")
        left = self.size_bytes - self._position
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

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1  # a later read must not use a descriptor that the system has given to another file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self, found: os.stat_result) -> None:
        if not stat.S_ISREG(found.st_mode):
            raise SpoolPathForbidden("the path names something that is no plain file")
        if found.st_nlink != 1:
            # the other name may lie outside the spool, where the user who made the link may not read
            raise SpoolPathForbidden("the path names a file with more than one hard link, or a deleted one")
        if found.st_size != self.size_bytes:
            raise ContentMismatch("the spooled file doesn't have the recorded size")

    def _prove(self) -> None:
        if self.sha256 is not None and self._hash.hexdigest() != self.sha256:
            raise ContentMismatch("the spooled file doesn't have the recorded SHA-256")

    def _read_chunk(self, size: int) -> bytes:
        """Return at most `size` bytes. With the last of them, check that the file ends there."""
        is_last = self._position + size == self.size_bytes
        try:
            chunk = os.read(self._file, size + is_last)
        except OSError as exc:
            raise _error_for(exc) from None
        if len(chunk) > size:
            raise ContentMismatch("the spooled file became longer while it was being read")
        return chunk


def _identity_of(found: os.stat_result) -> Identity:
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _unlink(identity: Identity | None, name: str, folder: int | None) -> bool:
    """Delete a plain file if it has this identity (None: any), and return whether it had."""
    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if not stat.S_ISREG(found.st_mode) or identity not in (None, _identity_of(found)):
        return False
    os.unlink(name, dir_fd=folder)
    return True


def _error_for(exc: OSError) -> ReactorError:
    """Return the error to raise for an error of the system, with its words but without the path in it."""
    if exc.errno in _FORBIDDEN:
        return SpoolPathForbidden("the path passes a link or a plain file, or names no plain file")
    if exc.errno in _TRANSIENT:
        return StorageUnavailable(f"the spooled file can't be opened now: {exc.strerror}")
    return SpoolFileMissing(f"the spooled file can't be read: {exc.strerror}")
