"""The kernel's word on whether anybody read, changed or removed a file, by whatever name: Linux's inotify.

To open one isn't to read it: how many names a file has can only be asked safely of one that is open.
"""

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ACCESS, _MODIFY, _ATTRIB, _DELETE_SELF, _MOVE_SELF = 0x1, 0x2, 0x4, 0x400, 0x800
_EVENT = struct.Struct("iIII")


class Watch:
    """Files that nobody is to touch."""

    def __init__(self, *paths: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._inotify = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._paths: dict[int, Path] = {}
        for path in paths:
            events = _ACCESS | _MODIFY | _ATTRIB | _DELETE_SELF | _MOVE_SELF
            watch = self._libc.inotify_add_watch(self._inotify, os.fsencode(path), events)
            assert watch >= 0, os.strerror(ctypes.get_errno())
            self._paths[watch] = path

    def touched(self) -> list[tuple[str, int]]:
        """Return the names of the files that were touched since it was last asked, with inotify's word for how."""
        found = []
        try:
            left = os.read(self._inotify, 1 << 20)
        except BlockingIOError:
            return []
        while left:
            watch, mask, _cookie, length = _EVENT.unpack_from(left)
            found.append((self._paths[watch].name, mask))
            left = left[_EVENT.size + length :]
        return found

    def close(self) -> None:
        os.close(self._inotify)


@contextmanager
def untouched(*paths: Path) -> Iterator[Watch]:
    """Assert on leaving that nobody read, changed, linked or removed any of these in between."""
    watch = Watch(*paths)
    try:
        yield watch
        assert watch.touched() == []
    finally:
        watch.close()
