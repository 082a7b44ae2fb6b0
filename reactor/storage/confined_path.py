"""Walk from a folder to what lies below it, and never anywhere else.

A path is checked as words first (`names`), then walked one folder at a time, each opened relative to the one
before and never through a link (`descend`). So nothing that is moved or replaced while we walk can lead out:
there is no moment between looking and opening.

Functions raise ValueError for words that no path below a folder has, and OSError as the system gives it. What
that means for an upload is the caller's business.
"""

import os
from collections.abc import Iterable

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def names(path: str) -> list[str]:
    """Split a relative path into its names.

    Raises ValueError when one is empty, "." or "..", or can't be a file's name at all. The message never
    contains the path.
    """
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
    """Open the folder that a setting names. Links on the way to it are the operator's and are followed."""
    return os.open(folder, _FOLDER & ~os.O_NOFOLLOW)


def descend(root: int, folders: Iterable[str], *, create: bool = False) -> int:
    """Return a descriptor of the folder that lies below `root` under these names; `root` is used up, also by an error.

    A link, or anything else that is no folder, raises NotADirectoryError. With `create`, folders that are
    missing are made, and are on disk before this returns.
    """
    folder = root
    try:
        for name in folders:
            if create:
                _make(folder, name)
            below = os.open(name, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = below
    except BaseException:
        os.close(folder)
        raise
    return folder


def _make(parent: int, name: str) -> None:
    try:
        os.mkdir(name, dir_fd=parent)
    except FileExistsError:
        return
    os.fsync(parent)
