"""A folder, tried: what the system lets this process do in it."""

import os
import secrets
from pathlib import Path

from reactor.core.errors import ConfigInvalid
from reactor.storage import confined_path

_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CONTENT = b"reactor doctor"


def probe(folder: Path) -> int:
    """List the folder, write a small file, read it back, remove it; return the free bytes of its disk.

    The file's name begins with a dot and says whose it is, so that nobody takes it for an upload. Raises
    ConfigInvalid saying which of these can't be done, and why.
    """
    doing = "opened"
    try:
        root = confined_path.open_root(folder)
        try:
            doing = "listed"
            with os.scandir(root) as entries:
                next(entries, None)
            doing = "written to"
            is_same = _write_and_remove(root)
            doing = "asked for its free space"
            figures = os.fstatvfs(root)
        finally:
            os.close(root)
    except OSError as error:
        raise ConfigInvalid(f"{folder} can't be {doing} ({error.strerror})") from error
    if not is_same:
        raise ConfigInvalid(f"{folder} gave back other bytes than were written")
    return figures.f_bavail * figures.f_frsize


def _write_and_remove(root: int) -> bool:
    """Return whether the bytes that were read back are those that were written."""
    name = f".reactor-doctor-{secrets.token_hex(8)}"
    file = os.open(name, _NEW, 0o600, dir_fd=root)
    try:
        os.write(file, _CONTENT)  # a full disk raises ENOSPC here
        return os.pread(file, len(_CONTENT) + 1, 0) == _CONTENT
    finally:
        os.close(file)
        os.unlink(name, dir_fd=root)
