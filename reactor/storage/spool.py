"""The spool: directories where an app leaves the bytes of an upload that failed.

Rows name files here, and anyone who can write a row can write a path, so a path is never trusted.

Invariant: no byte outside the spools is ever read or deleted. It holds because every folder and the file
itself is opened relative to the one before, never through a link (see confined_path.py), and because only plain
files with a single name are taken.

Messages say what is wrong and never the path: they end up in logs and rows.
"""

import errno
import hashlib
import io
import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeAlias

from reactor.core.errors import (
    ConfigInvalid,
    ContentMismatch,
    ReactorError,
    SpoolFileMissing,
    SpoolPathForbidden,
    StorageUnavailable,
)
from reactor.storage import confined_path

# O_NONBLOCK: opening a FIFO would wait for a writer that may never come.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY

Identity: TypeAlias = tuple[int, int, int]
"""Device, inode and when it was last written to, in nanoseconds: which file it is, and that its bytes are the same."""

_REPLACED = "it was replaced, or written to, since it was read"

_CHUNK_BYTES = 1024 * 1024

_SHA256 = re.compile("[0-9a-f]{64}")

# What the system says of something that is there, but is no file or lies behind no folder.
_FORBIDDEN = {errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.ENODEV}

# What the system says of its own state and not of the file. Giving up an upload for these would be wrong.
_PASSING = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT}


class Cancellable(Protocol):
    """Whoever wants what is read."""

    is_cancelled: bool
    """Set from another thread once nobody waits for it any more."""


class Spool:
    """Opens spooled files by the spool's name and the path in the row. Safe to use from several threads."""

    def __init__(self, dirs: Mapping[str, Path]) -> None:
        self._dirs = {name: folder.absolute() for name, folder in dirs.items()}

    def open(self, spool: str, path: str, *, size_bytes: int, sha256: str | None, reader: Cancellable) -> "SpooledFile":
        """Open one file and hold it to its recorded size and SHA-256 (lower-case hex; None: unknown).

        `path` is relative to the spool, or absolute inside it. Raises SpoolPathForbidden, SpoolFileMissing,
        ContentMismatch, or StorageUnavailable when the spool itself can't be reached: an unmounted disk must
        not turn every queued upload into a dead one.
        """
        if sha256 is not None and _SHA256.fullmatch(sha256) is None:
            raise ContentMismatch("the recorded SHA-256 isn't 64 lower-case hex digits")
        *folders, name = self._names(spool, path)
        file = self._open_at_once(spool, name) if not folders else None
        if file is None:
            folder = self._open_folder(spool, folders)
            try:
                file = os.open(name, _FILE, dir_fd=folder)
            except OSError as exc:
                raise _refusal(exc) from None
            finally:
                os.close(folder)
        return SpooledFile(file, _plain(file), size_bytes=size_bytes, sha256=sha256, reader=reader)

    def remove(self, files: Iterable[tuple[str, str, Identity]]) -> list[str | None]:
        """Delete files that were opened, given by spool, path and identity. Return why each stays; None: it's gone.

        Another file that has taken the name since, or other bytes the file, is left alone. What does so in the instant
        between our look and our unlink is lost; no system call closes that gap.
        """
        reasons: list[str | None] = []
        at: tuple[str, list[str]] | None = None
        folder = -1  # that of the file before: most lie in the same one
        try:
            for spool, path, identity in files:
                try:
                    *folders, name = self._names(spool, path)
                    if at != (spool, folders):
                        if at is not None:
                            os.close(folder)
                            at = None
                        folder = self._open_folder(spool, folders)
                        at = (spool, folders)
                    reasons.append(None if _unlink(folder, name, identity) else _REPLACED)
                except (SpoolFileMissing, FileNotFoundError):
                    reasons.append(None)
                except (ReactorError, OSError) as error:
                    reasons.append(getattr(error, "strerror", None) or str(error))
        finally:
            if at is not None:
                os.close(folder)
        return reasons

    def discard(self, spool: str, path: str) -> bool:
        """Delete the plain file under this path, whichever it is; False when there is none.

        Raises SpoolPathForbidden for a path that leads out of the spool.
        """
        *folders, name = self._names(spool, path)
        folder = self._open_folder(spool, folders)
        try:
            return _unlink(folder, name, None)
        except OSError:
            return False
        finally:
            os.close(folder)

    def check(self) -> None:
        """Raise ConfigInvalid, one line for each spool that isn't a directory the reactor can work in."""
        problems = [
            f"REACTOR_SPOOL_DIR / REACTOR_SPOOLS: spool '{name}' ({folder}) {problem}"
            for name, folder in self._dirs.items()
            if (problem := _problem(folder)) is not None
        ]
        if problems:
            raise ConfigInvalid(*problems)

    def free_bytes(self) -> int:
        """Return the free space of the fullest spool; 0 when one can't be asked: as alarming as full."""
        try:
            figures = [os.statvfs(folder) for folder in self._dirs.values()]
        except OSError:
            return 0
        return min((figure.f_bavail * figure.f_frsize for figure in figures), default=0)

    def _names(self, spool: str, path: str) -> list[str]:
        """Return the names of the folders below the spool, and of the file in the last of them."""
        if spool not in self._dirs:
            raise SpoolPathForbidden("the row names a spool that isn't configured; add it to REACTOR_SPOOLS")
        try:
            return confined_path.names(_below(self._dirs[spool], path))
        except ValueError as exc:
            raise SpoolPathForbidden(f"the path doesn't name a file inside the spool: {exc}") from None

    def _open_at_once(self, spool: str, name: str) -> int | None:
        """Return a new descriptor of a file right in the spool, None where it can't be had: walking there says why.

        What leads to the spool is the operator's, the name is a single one, and not followed where it is a link.
        """
        try:
            return os.open(f"{self._dirs[spool]}/{name}", _FILE)
        except OSError:
            return None

    def _open_folder(self, spool: str, folders: Sequence[str]) -> int:
        """Return a new descriptor of a folder of the spool."""
        try:
            root = confined_path.open_root(self._dirs[spool])
        except OSError as exc:
            raise StorageUnavailable(f"the spool's directory can't be opened: {exc.strerror}") from None
        try:
            return confined_path.descend(root, folders)
        except OSError as exc:
            raise _refusal(exc) from None


class SpooledFile:
    """One open spooled file, read once from start to end: the `Body` of an upload.

    The last chunk is given out only when all that was read has the recorded size and SHA-256, so a store that
    was told the size never gets a whole object of wrong bytes. A context manager; closes its descriptor.
    """

    def __init__(
        self, file: int, found: os.stat_result, *, size_bytes: int, sha256: str | None, reader: Cancellable
    ) -> None:
        """Take over `file`, an open descriptor, which is closed also when this raises; `found` is what fstat says."""
        self._file = file
        self._size_bytes = size_bytes
        self._sha256 = sha256
        self._reader = reader
        self._hash = hashlib.sha256()
        self._position = 0
        self._proven = False
        self._identity = _identity(found)
        try:
            if found.st_size != size_bytes:
                raise ContentMismatch("the spooled file doesn't have the recorded size")
            if not size_bytes:
                self._read_some(0)
                self._prove()  # now: a store needn't read to store nothing
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
        return self._hash.hexdigest() if self._proven else None

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
        chunk = self._read_some(size)
        if not chunk:
            raise ContentMismatch("the spooled file became shorter while it was being read")
        self._hash.update(chunk)
        self._position += len(chunk)
        if len(chunk) == left:
            self._prove()
        return chunk

    def _prove(self) -> None:
        if self._sha256 is not None and self._hash.hexdigest() != self._sha256:
            raise ContentMismatch("the spooled file doesn't have the recorded SHA-256")
        self._proven = True

    def _read_some(self, size: int) -> bytes:
        """Return at most `size` bytes; with the last of them, hold the file to its end."""
        is_last = self._position + size == self._size_bytes
        try:
            chunk = os.read(self._file, size + is_last)
        except OSError as exc:
            raise _refusal(exc) from None
        if len(chunk) > size:
            raise ContentMismatch("the spooled file became longer while it was being read")
        return chunk

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Start again from the first byte. Nowhere else: the hash needs every byte, in order."""
        if (offset, whence) != (0, os.SEEK_SET):
            raise io.UnsupportedOperation("a spooled file is read from start to end")
        os.lseek(self._file, 0, os.SEEK_SET)
        self._hash = hashlib.sha256()
        self._position = 0
        self._proven = False
        return 0

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1  # a late read must not meet a descriptor's next owner

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _below(root: Path, path: str) -> str:
    """Return `path` relative to the spool if it begins with its directory, as set or as resolved."""
    if path.startswith("/"):
        for folder in (str(root), os.path.realpath(root)):
            prefix = folder.rstrip("/") + "/"
            if path.startswith(prefix):
                return path[len(prefix) :]
    return path


def _plain(file: int) -> os.stat_result:
    """Return what fstat says of a plain file with one name; close anything else, and raise SpoolPathForbidden."""
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode):
        os.close(file)
        raise SpoolPathForbidden("the path names something that is no plain file")
    if found.st_nlink != 1:
        # The other name may lie outside the spool: whoever could link it here may not be allowed to read it.
        os.close(file)
        raise SpoolPathForbidden("the path names a file with more than one hard link, or a deleted one")
    return found


def _identity(found: os.stat_result) -> Identity:
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _unlink(folder: int, name: str, identity: Identity | None) -> bool:
    """Delete a plain file, if it is the one that is meant (None: whichever it is); return whether it was."""
    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if not stat.S_ISREG(found.st_mode) or identity not in (None, _identity(found)):
        return False
    os.unlink(name, dir_fd=folder)
    return True


def _refusal(exc: OSError) -> ReactorError:
    """Say what the system said, without the path that `exc` carries."""
    if exc.errno in _FORBIDDEN:
        return SpoolPathForbidden("the path passes a link or a plain file, or names no plain file")
    if exc.errno in _PASSING:
        return StorageUnavailable(f"the spooled file can't be opened now: {exc.strerror}")
    return SpoolFileMissing(f"the spooled file can't be read: {exc.strerror}")


def _problem(folder: Path) -> str | None:
    try:
        found = folder.stat()
    except OSError as exc:
        return f"can't be found ({exc.strerror}); create it, or point the setting elsewhere"
    if not stat.S_ISDIR(found.st_mode):
        return "isn't a directory; point the setting at one"
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        return "isn't readable, writable and searchable for the reactor's user; change its owner or mode"
    return None
