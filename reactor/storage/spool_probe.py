"""Checks the directories of the spools: access for this process, and free space."""

import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from reactor.core.errors import ConfigInvalid
from reactor.storage import confined_path

_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CONTENT = b"reactor doctor"


def probe(folder: Path) -> int:
    """List the folder; write, read and delete a small hidden file in it; return the free bytes of its disk.

    Raises ConfigInvalid with the step that failed, and the reason.
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
    """Write a file, read it and delete it; return whether the same bytes were read."""
    name = f".reactor-doctor-{secrets.token_hex(8)}"
    file = os.open(name, _NEW, 0o600, dir_fd=root)
    try:
        os.write(file, _CONTENT)  # a full disk raises ENOSPC here
        return os.pread(file, len(_CONTENT) + 1, 0) == _CONTENT
    finally:
        os.close(file)
        os.unlink(name, dir_fd=root)


def check_spools(dirs: Mapping[str, Path]) -> None:
    """Raise ConfigInvalid with a line for each spool that isn't a directory with full access for the reactor."""
    problems = [
        f"REACTOR_SPOOL_DIR / REACTOR_SPOOLS: spool '{name}' ({folder}) {problem}"
        for name, folder in dirs.items()
        if (problem := _problem(folder)) is not None
    ]
    if problems:
        raise ConfigInvalid(*problems)


def least_free_bytes(dirs: Mapping[str, Path]) -> int:
    """Return the least free space of all spools, in bytes; 0 if a spool can't be read, which is as urgent."""
    try:
        figures = [os.statvfs(folder) for folder in dirs.values()]
    except OSError:
        return 0
    return min((figure.f_bavail * figure.f_frsize for figure in figures), default=0)


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
