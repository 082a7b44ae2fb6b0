"""An object store in a local folder: each object is the file <root>/<bucket>/<key>.

An object appears whole or not at all: the bytes are written to a file without a name and forced to disk, and then the
file gets its name. If this process crashes before that, the system deletes the file.
"""

import errno
import os
import secrets
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from urllib.parse import quote

from reactor.core.errors import ConfigInvalid, FileTooLarge, ReactorError, StorageRejected, StorageUnavailable
from reactor.storage import confined_path
from reactor.storage.stores.base import Body

_CHUNK_BYTES = 1024 * 1024

_PATH_MAX = 4096  # on Linux, including the NUL at the end

# These errors are caused by the name. Errors other than these and EFBIG are caused by the disk, and may be transient.
_BAD_NAME = {errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EINVAL, errno.EILSEQ}

# The filesystem, or the kernel (EISDIR), doesn't support files without a name.
_NO_TMPFILE = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT}


class LocalStore:
    """Stores objects below `root`. Several threads and processes may use the same root."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()

    @property
    def name(self) -> str:
        return "file"

    def put(self, bucket: str, key: str, body: Body, *, mime_type: str | None) -> str:  # noqa: ARG002 - no place for it
        """Write or replace the file root/bucket/key; return its file:// URL. Raises the errors of `ObjectStore.put`.

        Never creates the root: while its disk is unmounted, objects would be written into a new folder, and the next
        mount would hide them.
        """
        try:
            folders, name = self._split(bucket, key)
        except ValueError as exc:
            raise StorageRejected(f"the bucket or the object's path can't be used: {exc}") from None
        try:
            root = confined_path.open_root(self._root)
        except OSError as exc:
            raise StorageUnavailable(f"the store's folder can't be opened: {exc.strerror}") from None
        try:
            folder = confined_path.descend(root, folders, create=True)
            try:
                _write(folder, name, iter(partial(body.read, _CHUNK_BYTES), b""))
            finally:
                os.close(folder)
        except OSError as exc:
            raise _error_for(exc) from None
        return "file://" + quote(f"{self._root}/{bucket}/{key}")

    def check(self) -> None:
        """Create the root if it is missing; write and delete a file in it. Raises ConfigInvalid."""
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            root = confined_path.open_root(self._root)
            try:
                probe = _new_name()
                _write(root, probe, [b"reactor"])
                os.unlink(probe, dir_fd=root)
            finally:
                os.close(root)
        except OSError as exc:
            raise ConfigInvalid(
                f"REACTOR_STORE_URL: {self._root} can't be written to ({exc.strerror}); "
                "make it a folder that belongs to the reactor's user, or name another"
            ) from exc

    def renew(self) -> None:
        """Do nothing: a folder needs no credentials."""

    def close(self) -> None:
        """Do nothing: no file stays open between puts."""

    def _split(self, bucket: str, key: str) -> tuple[list[str], str]:
        if len(confined_path.names(bucket)) != 1:
            raise ValueError("the bucket is more than one name")
        *folders, name = confined_path.names(key)
        # `descend` has no limit of length, but an app opens the object by its path
        if len(os.fsencode(f"{self._root}/{bucket}/{key}")) >= _PATH_MAX:
            raise ValueError("together they are too long for a path")
        return [bucket, *folders], name


def _write(folder: int, name: str, chunks: Iterable[bytes]) -> None:
    """Write a file and force it to disk; then name it `name`, which replaces an existing file."""
    file, temporary = _new_file(folder)
    try:
        with open(file, "wb", closefd=False) as output:
            output.writelines(chunks)
        os.fsync(file)
        if temporary is None:
            link: Callable[[str], None] = partial(
                os.link, f"/proc/self/fd/{file}", dst_dir_fd=folder, follow_symlinks=True
            )
            try:
                link(name)
            except FileExistsError:
                # link(2) can't replace a file; rename(2) can, but needs a file with a name
                first_name = _new_name()
                link(first_name)
                temporary = first_name
        if temporary is not None:
            os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            temporary = None
    finally:
        os.close(file)
        if temporary is not None:
            os.unlink(temporary, dir_fd=folder)
    os.fsync(folder)


def _new_file(folder: int) -> tuple[int, str | None]:
    """Open a new file; return its descriptor, and its temporary name if the filesystem requires a name, else None."""
    try:
        return os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o666, dir_fd=folder), None
    except OSError as exc:
        if exc.errno not in _NO_TMPFILE:
            raise
    temporary = _new_name()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(temporary, flags, 0o666, dir_fd=folder), temporary


def _new_name() -> str:
    return f".reactor-{secrets.token_hex(8)}"


def _error_for(exc: OSError) -> ReactorError:
    """Return the error to raise for an OSError, with the system's message and without the path."""
    if exc.errno == errno.EFBIG:
        return FileTooLarge(f"the store's filesystem takes no file of this size: {exc.strerror}")
    if exc.errno in _BAD_NAME:
        return StorageRejected(f"the bucket or the object's path can't be used: {exc.strerror}")
    return StorageUnavailable(f"the store's folder can't be written to: {exc.strerror}")
