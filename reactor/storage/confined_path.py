"""Opens folders below a root folder, and never a folder outside the root.

`names` checks the text of a path. `descend` then opens the folders of the path, each relative to its parent and never
through a link, so a folder that is moved or replaced in the meantime can't lead out of the root. The caller decides
what a ValueError of `names` or an OSError of `descend` means for an upload.
"""

import os
from collections.abc import Iterable
from contextlib import suppress

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def names(path: str) -> list[str]:
    """Return the names in a relative path. Raises ValueError, without the path in its text, for a forbidden path."""
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
    """Open the folder that a setting names. Follows links in its path, because the operator has chosen the path."""
    return os.open(folder, _FOLDER & ~os.O_NOFOLLOW)


def descend(root: int, folders: Iterable[str], *, create: bool = False) -> int:
    """Return a descriptor of the folder at the path `folders` below `root`. Closes `root`, also after an error.

    Raises NotADirectoryError for a link or a file. With `create`, creates missing folders and forces them to disk.
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
