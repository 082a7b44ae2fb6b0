"""Opens, reads and deletes spooled files: the bytes of uploads that an app could not store.

Anyone who can write a row can write any path into it. Invariant: nothing outside the spools is read or deleted. Each
folder in a path, and then the file, is opened relative to its parent and never through a link (confined_path.py). Only
plain files with one hard link are read. The operator chooses the path of a spool, so a file directly in the spool is
opened by its full path. Messages never contain a path, because they are stored in logs and rows.
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

from reactor.core.errors import (
    ContentMismatch,
    ReactorError,
    SpoolFileMissing,
    SpoolPathForbidden,
    SpoolUnavailable,
    StorageUnavailable,
)
from reactor.core.refusal import Scope
from reactor.runtime.executor import Job
from reactor.storage import confined_path

T = TypeVar("T")
Identity: TypeAlias = tuple[int, int, int]
"""Device, inode, and time of the last write in nanoseconds. The same identity means the same file and bytes."""

# O_NONBLOCK: without it, opening a FIFO waits until a writer opens it too.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY

_CHUNK_BYTES = 1024 * 1024

_REPLACED = "it was replaced, or written to, since it was read"

_SIMPLE_NAME = re.compile("[A-Za-z0-9_-][A-Za-z0-9._-]*")
"""Matches the name of a file directly in the spool, which can't lead out of the spool."""

_SHA256 = re.compile("[0-9a-f]{64}")

# The path exists, but a part of it isn't a folder, or its end isn't a plain file.
_FORBIDDEN = {errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.ENODEV}

# The reactor lacks a resource for a moment, so the upload must be tried again.
_PASSING = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EBUSY}

# The disk or the server of the spool doesn't answer, so every upload of the spool would fail.
_UNREACHABLE = {
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ENOTCONN,
    errno.ESHUTDOWN,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.EREMOTEIO,
}

# The file may be at fault, or the rights or the disk of the whole spool.
_MAY_BE_SHARED = {errno.EACCES, errno.EPERM, errno.EIO, errno.EUCLEAN}


class Spool:
    """Opens and deletes spooled files by the name of the spool and the path in the row. Thread-safe."""

    def __init__(self, dirs: Mapping[str, Path]) -> None:
        self._dirs = {name: folder.absolute() for name, folder in dirs.items()}
        # an unmounted disk leaves an empty folder on another device
        self._devices = {name: folder.stat().st_dev for name, folder in self._dirs.items() if folder.exists()}

    def open(self, spool: str, path: str, *, size_bytes: int, sha256: str | None, reader: Job) -> "SpooledFile":
        """Open a file that must have the recorded size and SHA-256 (lower-case hex; None: not checked).

        `path` is relative to the spool, or an absolute path inside the spool. Raises SpoolPathForbidden,
        SpoolFileMissing or ContentMismatch. Raises SpoolUnavailable if the spool itself can't be read, so that no
        upload becomes dead while a disk is unmounted.
        """
        if sha256 is not None and _SHA256.fullmatch(sha256) is None:
            raise ContentMismatch("the recorded SHA-256 isn't 64 lower-case hex digits")
        try:
            file = self._call_in_folder(spool, path, lambda name, folder: os.open(name, _FILE, dir_fd=folder))
        except OSError as exc:
            raise error_for(exc) from None
        return SpooledFile(file, size_bytes=size_bytes, sha256=sha256, reader=reader)

    def remove(self, files: Iterable[tuple[str, str, Identity]]) -> list[str | None]:
        """Delete files, given by spool, path and identity. Return for each file why it still exists; None: it is gone.

        A file is not deleted if its identity differs, because it was replaced, or written to, since it was read. If it
        is replaced between `stat` and `unlink`, the new file is deleted, because no system call does both.
        """
        return [self._remove(*file) for file in files]

    def discard(self, spool: str, path: str) -> bool:
        """Delete the plain file at this path, whatever it contains. Return False if there is no such file.

        Raises SpoolPathForbidden for a path outside the spool, SpoolFileMissing or SpoolUnavailable on other errors.
        """
        try:
            return self._call_in_folder(spool, path, partial(_unlink, None))
        except FileNotFoundError:
            return False
        except OSError as exc:
            raise error_for(exc) from None

    def _remove(self, spool: str, path: str, identity: Identity) -> str | None:
        try:
            return None if self._call_in_folder(spool, path, partial(_unlink, identity)) else _REPLACED
        except (SpoolFileMissing, FileNotFoundError):
            return None
        except (ReactorError, OSError) as error:
            return getattr(error, "strerror", None) or str(error)

    def _call_in_folder(self, spool: str, path: str, call: Callable[[str, int | None], T]) -> T:
        """Return `call(name, folder)`. `folder` is the descriptor of a folder; None if `name` is an absolute path."""
        *folders, name = self._names(spool, path)
        if not folders:
            with suppress(OSError):  # the code below finds out whether the spool or the file is missing
                return call(f"{self._dirs[spool]}/{name}", None)
        try:
            root = confined_path.open_root(self._dirs[spool])
            if os.fstat(root).st_dev != self._devices.setdefault(spool, os.fstat(root).st_dev):
                os.close(root)
                raise SpoolUnavailable("the spool's directory is on another disk than at the start: mount the disk")
        except OSError as exc:
            reason = errno.errorcode.get(exc.errno or 0, "")
            raise SpoolUnavailable(f"the spool's directory can't be opened: {exc.strerror}", reason=reason) from None
        try:
            folder = confined_path.descend(root, folders)
        except OSError as exc:
            raise error_for(exc) from None
        try:
            return call(name, folder)
        finally:
            os.close(folder)

    def _names(self, spool: str, path: str) -> list[str]:
        """Return the names of the folders below the spool, then the name of the file."""
        if spool not in self._dirs:
            raise SpoolPathForbidden("the row names a spool that isn't configured; add it to REACTOR_SPOOLS")
        if _SIMPLE_NAME.fullmatch(path):
            return [path]
        if path.startswith("/"):
            for folder in (str(self._dirs[spool]), os.path.realpath(self._dirs[spool])):  # or with links resolved
                prefix = folder.rstrip("/") + "/"
                if path.startswith(prefix):
                    path = path[len(prefix) :]
                    break
        try:
            return confined_path.names(path)
        except ValueError as exc:
            raise SpoolPathForbidden(f"the path doesn't name a file inside the spool: {exc}") from None


class SpooledFile:
    """An open spooled file, read from start to end: the `Body` of an upload.

    `read` returns the last bytes only if the whole file has the recorded size and SHA-256. So a store that expects
    `size_bytes` bytes never gets a whole object of wrong bytes. As a context manager, closes the file on exit.
    """

    def __init__(self, file: int, *, size_bytes: int, sha256: str | None, reader: Job) -> None:
        """Take over the open descriptor `file`; close it if this raises. If `reader` is cancelled, `read` raises.

        Raises SpoolPathForbidden if this isn't a plain file with one hard link, ContentMismatch if the size differs.
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
                self._prove()  # already now, because a store may store an empty object without calling `read`
        except ReactorError:
            self.close()
            raise

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes (if negative, all remaining bytes); b"" at the end.

        Raises ContentMismatch, SpoolFileMissing on an I/O error, and StorageUnavailable after a cancellation.
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

    def restart(self) -> None:
        """Read again from the start, with a new proof of size and SHA-256. Raises SpoolFileMissing on an I/O error."""
        if self._position:
            try:
                os.lseek(self._file, 0, os.SEEK_SET)
            except OSError as exc:
                raise error_for(exc) from None
            self._hash = hashlib.sha256()
            self._position = 0

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1  # the system may reuse the descriptor for another file, which a later `read` must not read

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self, found: os.stat_result) -> None:
        if not stat.S_ISREG(found.st_mode):
            raise SpoolPathForbidden("the path names something that is no plain file")
        if found.st_nlink != 1:
            # another link may be outside the spool: users can make links to files that they may not read
            raise SpoolPathForbidden("the path names a file with more than one hard link, or a deleted one")
        if found.st_size != self.size_bytes:
            raise ContentMismatch("the spooled file doesn't have the recorded size")

    def _prove(self) -> None:
        if self.sha256 is not None and self._hash.hexdigest() != self.sha256:
            raise ContentMismatch("the spooled file doesn't have the recorded SHA-256")

    def _read_chunk(self, size: int) -> bytes:
        """Return up to `size` bytes. With the last bytes, check that the file isn't longer than recorded."""
        is_last = self._position + size == self.size_bytes
        try:
            chunk = os.read(self._file, size + is_last)
        except OSError as exc:
            raise error_for(exc) from None
        if len(chunk) > size:
            raise ContentMismatch("the spooled file became longer while it was being read")
        return chunk


def _identity_of(found: os.stat_result) -> Identity:
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _unlink(identity: Identity | None, name: str, folder: int | None) -> bool:
    """Delete the file if it is a plain file with this identity (None: any). Return whether it was deleted."""
    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if not stat.S_ISREG(found.st_mode) or identity not in (None, _identity_of(found)):
        return False
    os.unlink(name, dir_fd=folder)
    return True


def error_for(exc: OSError) -> ReactorError:
    """Return the error to raise for an OSError, with the system's message and without the path."""
    if exc.errno in _FORBIDDEN:
        return SpoolPathForbidden("the path passes a link or a plain file, or names no plain file")
    reason = errno.errorcode.get(exc.errno or 0, "")
    if exc.errno in _PASSING:
        message = f"the spooled file can't be opened now: {exc.strerror}"
        return SpoolUnavailable(message, reason=reason, scope=Scope.PASSING)
    if exc.errno in _UNREACHABLE:
        return SpoolUnavailable(f"the spool doesn't answer: {exc.strerror}", reason=reason)
    message = f"the spooled file can't be read: {exc.strerror}"
    return SpoolFileMissing(message, reason=reason, may_be_shared=exc.errno in _MAY_BE_SHARED)
