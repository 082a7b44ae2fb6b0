"""A trial of what this process may do in a folder, for the doctor."""

import os
import secrets
from pathlib import Path

from reactor.core.errors import ConfigInvalid
from reactor.storage import confined_path

_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CONTENT = b"reactor doctor"


def probe(folder: Path) -> int:
    """List the folder; write, read back and remove a small file; return the free bytes of its disk.

    The file's name begins with a dot and names the reactor, so that it isn't mistaken for an upload. Raises
    ConfigInvalid that says which step failed, and why.
    """
    step = "opened"
    try:
        root = confined_path.open_root(folder)
        try:
            step = "listed"
            with os.scandir(root) as entries:
                next(entries, None)
            step = "written to"
            is_same = _write_and_remove(root)
            step = "asked for its free space"
            figures = os.fstatvfs(root)
        finally:
            os.close(root)
    except OSError as error:
        raise ConfigInvalid(f"{folder} can't be {step} ({error.strerror})") from error
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
