"""Runs child processes that end with this process, and locks a folder until the last child has ended.

The kernel sends the parent-death signal when the *thread* that forked the child ends, and a change of user cancels the
request for this signal. So one thread, which lives as long as the supervisor, forks every child. Each child requests
the signal after it has changed its user.
"""

import ctypes
import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from subprocess import Popen

from reactor.core.errors import DatabaseUnavailable
from reactor.embedded.binaries import Account

LEFTOVERS_TIMEOUT_S = 60.0
"""How long to wait until the children of an ended process release the lock."""

_POLL_S = 0.01
_LOG_LINES_SHOWN = 6
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND
_PR_SET_PDEATHSIG = 1
_prctl = getattr(ctypes.PyDLL(None), "prctl", None)  # looked up before any fork; None on other systems than Linux


class Supervisor:
    """Locks one folder and runs programs for it.

    Invariant: every child inherits the lock, so the lock is free only after the last child has ended, even after a
    crash of this process.
    """

    def __init__(self, folder: Path) -> None:
        """Take the lock. Raises DatabaseUnavailable if a live process has it."""
        self._log_path = beside(folder, ".log")
        self._log_start = 0
        self._lock = _take_lock(folder)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="supervisor")

    def spawn(self, account: Account | None, command: Sequence[str | Path]) -> Popen[bytes]:
        """Start a command under `account` (None: the account of this process). Its output is appended to the log."""
        return self._thread.submit(self._fork, account, command).result()

    def close(self) -> None:
        """Release the lock. Children that still run receive the parent-death signal."""
        self._thread.shutdown()
        # a child may keep the lock for a moment: without an id in the file, other processes wait until the child ends
        os.ftruncate(self._lock, 0)
        os.close(self._lock)

    def log_end(self) -> str:
        """Return the last lines of the latest child's log, joined into one line, and the log's path."""
        with self._log_path.open("rb") as log:
            log.seek(self._log_start)
            lines = log.read().decode(errors="replace").strip().splitlines()
        return " | ".join(lines[-_LOG_LINES_SHOWN:]) + f" (log: {self._log_path})"

    def _fork(self, account: Account | None, command: Sequence[str | Path]) -> Popen[bytes]:
        with os.fdopen(os.open(self._log_path, _APPEND, 0o600), "ab") as log:
            self._log_start = log.tell()
            return Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # no PG* variables. The working folder differs from this process's, which may be closed to the account
                env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
                cwd="/",
                pass_fds=[self._lock],
                start_new_session=True,  # Ctrl-C reaches this process only, which stops the server last
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[account.gid] if account else None,
                preexec_fn=partial(_end_with_parent, os.getpid()),  # noqa: PLW1509  # system calls only
            )


def _end_with_parent(parent: int) -> None:
    """Request that the kernel sends SIGINT to this process when its parent ends."""
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0)
    if os.getppid() != parent:  # the parent ended before the request
        os._exit(1)


def beside(folder: Path, suffix: str) -> Path:
    """Return the path of the file next to `folder` with the folder's name and this suffix."""
    return folder.with_name(folder.name + suffix)


def _take_lock(folder: Path) -> int:
    """Lock the folder's lock file and return its descriptor. If the holder has ended, wait for its children."""
    lock = os.open(beside(folder, ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + LEFTOVERS_TIMEOUT_S
    while not _try_lock(lock):
        holder = _holder(lock)
        if _runs(holder) or time.monotonic() > deadline:
            os.close(lock)
            raise DatabaseUnavailable(
                f"{folder} is in use by process {holder or '(unknown)'}: stop that process, or choose another "
                "REACTOR_DATA_DIR"
            )
        time.sleep(_POLL_S)
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock


def is_held(folder: Path) -> bool:
    """Return whether a live process has the folder's lock. Raises OSError if the lock file is missing or unreadable."""
    lock = os.open(beside(folder, ".lock"), os.O_RDONLY)
    try:
        return not _try_lock(lock) and _runs(_holder(lock))
    finally:
        os.close(lock)


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(lock: int) -> int | None:
    """Return the process id in the lock file; None if a holder released the lock or has not written its id yet."""
    return int(os.pread(lock, 20, 0) or 0) or None


def _runs(pid: int | None) -> bool:
    if pid is None:
        return False
    try:
        with suppress(PermissionError):  # a process of another user
            os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
