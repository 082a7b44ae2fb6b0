"""The spool: directories where an app leaves the bytes of an upload that failed.

Rows name files here. Anyone who can write a row can write a path, so a path is never trusted.

Invariant: no byte outside the spools is ever read or deleted. A path is split into plain names. Each folder, and then
the file, is opened relative to the folder before it and never through a link (confined_path.py). Only plain files with
one name are read (spooled_file.py). The way to the spool itself belongs to the operator, so a file directly in the
spool needs no walk: one name after the spool's path can't lead out.

Messages say what is wrong and never the path, because logs and rows keep them.
"""

import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from reactor.core.errors import (
    ConfigInvalid,
    ContentMismatch,
    ReactorError,
    SpoolFileMissing,
    SpoolPathForbidden,
    StorageUnavailable,
)
from reactor.storage import confined_path
from reactor.storage.spooled_file import Cancellable, Identity, SpooledFile, error_for, identity_of

# O_NONBLOCK: without it, opening a FIFO waits until a writer opens it too.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY

_REPLACED = "it was replaced, or written to, since it was read"

_SIMPLE_NAME = re.compile("[A-Za-z0-9_-][A-Za-z0-9._-]*")
"""A file directly in the spool: nothing in it can lead out."""

_SHA256 = re.compile("[0-9a-f]{64}")


class Spool:
    """Opens and removes spooled files by the spool's name and the path in the row. Safe to use from several threads."""

    def __init__(self, dirs: Mapping[str, Path]) -> None:
        self._dirs = {name: folder.absolute() for name, folder in dirs.items()}

    def open(self, spool: str, path: str, *, size_bytes: int, sha256: str | None, reader: Cancellable) -> SpooledFile:
        """Open a file that must have the recorded size and SHA-256 (lower-case hex; None: unknown).

        `path` is relative to the spool, or absolute inside it. Raises SpoolPathForbidden, SpoolFileMissing or
        ContentMismatch. Raises StorageUnavailable when the spool itself can't be opened: while a disk is unmounted, no
        queued upload may become dead.
        """
        if sha256 is not None and _SHA256.fullmatch(sha256) is None:
            raise ContentMismatch("the recorded SHA-256 isn't 64 lower-case hex digits")
        file = self._open_file(spool, self._names(spool, path))
        return SpooledFile(file, size_bytes=size_bytes, sha256=sha256, reader=reader)

    def remove(self, files: Iterable[tuple[str, str, Identity]]) -> list[str | None]:
        """Delete files that were opened, given by spool, path and identity. Return why each stays; None: it is gone.

        A file stays if another file has its name, or if it was written to since. A file that replaces it between our
        look and our unlink is lost: no system call does both at once.
        """
        return [self._remove(*file) for file in files]

    def discard(self, spool: str, path: str) -> bool:
        """Delete the plain file at this path, whatever it contains. Return False when there is none.

        Raises SpoolPathForbidden for a path that leads out of the spool.
        """
        *folders, name = self._names(spool, path)
        folder = self._open_folder(spool, folders)
        try:
            return _unlink(name, None, folder=folder)
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
        """Return the free space of the fullest spool; 0 when one of them can't be read, which is as urgent as full."""
        try:
            figures = [os.statvfs(folder) for folder in self._dirs.values()]
        except OSError:
            return 0
        return min((figure.f_bavail * figure.f_frsize for figure in figures), default=0)

    def _names(self, spool: str, path: str) -> list[str]:
        """Return the names of the folders below the spool, and last the name of the file."""
        if spool not in self._dirs:
            raise SpoolPathForbidden("the row names a spool that isn't configured; add it to REACTOR_SPOOLS")
        if _SIMPLE_NAME.fullmatch(path):
            return [path]
        try:
            return confined_path.names(_relative(self._dirs[spool], path))
        except ValueError as exc:
            raise SpoolPathForbidden(f"the path doesn't name a file inside the spool: {exc}") from None

    def _open_file(self, spool: str, names: Sequence[str]) -> int:
        """Return a new descriptor of the file."""
        *folders, name = names
        if not folders:
            try:
                return os.open(f"{self._dirs[spool]}/{name}", _FILE)
            except OSError:
                pass  # the walk finds out whether the spool or the file is missing
        folder = self._open_folder(spool, folders)
        try:
            return os.open(name, _FILE, dir_fd=folder)
        except OSError as exc:
            raise error_for(exc) from None
        finally:
            os.close(folder)

    def _open_folder(self, spool: str, folders: Sequence[str]) -> int:
        """Return a new descriptor of a folder of the spool."""
        try:
            root = confined_path.open_root(self._dirs[spool])
        except OSError as exc:
            raise StorageUnavailable(f"the spool's directory can't be opened: {exc.strerror}") from None
        try:
            return confined_path.descend(root, folders)
        except OSError as exc:
            raise error_for(exc) from None

    def _remove(self, spool: str, path: str, identity: Identity) -> str | None:
        """Delete one file. Return why it stays; None: it is gone."""
        try:
            return None if self._unlink(spool, self._names(spool, path), identity) else _REPLACED
        except (SpoolFileMissing, FileNotFoundError):
            return None
        except (ReactorError, OSError) as error:
            return getattr(error, "strerror", None) or str(error)

    def _unlink(self, spool: str, names: Sequence[str], identity: Identity) -> bool:
        *folders, name = names
        if not folders:
            try:
                return _unlink(f"{self._dirs[spool]}/{name}", identity)
            except OSError:
                pass  # the walk finds out whether the spool or the file is missing
        folder = self._open_folder(spool, folders)
        try:
            return _unlink(name, identity, folder=folder)
        finally:
            os.close(folder)


def _relative(root: Path, path: str) -> str:
    """Return `path` relative to the spool if it begins with the spool's directory, as configured or as resolved."""
    if path.startswith("/"):
        for folder in (str(root), os.path.realpath(root)):
            prefix = folder.rstrip("/") + "/"
            if path.startswith(prefix):
                return path[len(prefix) :]
    return path


def _unlink(name: str, identity: Identity | None, *, folder: int | None = None) -> bool:
    """Delete a plain file if it has this identity (None: any), and return whether it had."""
    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if not stat.S_ISREG(found.st_mode) or identity not in (None, identity_of(found)):
        return False
    os.unlink(name, dir_fd=folder)
    return True


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
