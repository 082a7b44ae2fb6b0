"""Detects with Linux's inotify whether any process reads, changes or removes a file, under any of its names.

Opening a file is not reported, because the spool must open a file to count its hard links safely.
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
    """Watches files for reads, writes, changes of attributes or links, moves and removals."""

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
        """Return (file name, inotify mask) for each event since the last call."""
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
    """Assert at the end of the block that no process read, changed, linked or removed any of these files."""
    watch = Watch(*paths)
    try:
        yield watch
        assert watch.touched() == []
    finally:
        watch.close()
