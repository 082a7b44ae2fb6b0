"""Opens folders below a root folder, and never anything outside it.

`names` checks the text of a path. `descend` then opens one folder after the other, each relative to the one before and
never through a link, so a folder that is moved or replaced meanwhile can't lead out. The caller decides what a
ValueError (for a text) or an OSError means for an upload.
"""

import os
from collections.abc import Iterable
from contextlib import suppress

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def names(path: str) -> list[str]:
    """Return the names in a relative path. Raises ValueError, without the path, for a name that no file can have."""
    parts = path.split("/")
    if path.startswith("/"):
        raise ValueError("it is absolute")
    if "" in parts:
        raise ValueError("one of its names is empty")
    if "." in parts or ".." in parts:
        raise ValueError("'.' and '..' are not allowed in it")
    if "\0" in path:
        raise ValueError("it contains a NUL byte")
    try:
        if not path.isascii():
            os.fsencode(path)
    except UnicodeEncodeError:
        raise ValueError("it is not valid text") from None
    return parts


def open_root(folder: str | os.PathLike[str]) -> int:
    """Open the folder that a setting names. Links on the way to it belong to the operator and are followed."""
    return os.open(folder, _FOLDER & ~os.O_NOFOLLOW)


def descend(root: int, folders: Iterable[str], *, create: bool = False) -> int:
    """Return a descriptor of the folder below `root` under these names. Closes `root`, also when this raises.

    Raises NotADirectoryError for a link or a file. With `create`, missing folders are made and forced to disk.
    """
    folder = root
    try:
        for name in folders:
            if create:
                with suppress(FileExistsError):
                    os.mkdir(name, dir_fd=folder)
                    os.fsync(folder)
            below = os.open(name, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = below
    except BaseException:
        os.close(folder)
        raise
    return folder
