"""Children that don't outlive us, and a lock that tells when the last of them is gone.

The kernel's "your parent ended" signal comes when the *thread* that forked ends, and its request is forgotten
when a process changes its user. So one thread forks every child and lives as long as the keeper, and each
child asks for the signal after it has changed its user.
"""

import ctypes
import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from subprocess import Popen

from reactor.core.errors import DatabaseUnavailable
from reactor.embedded.binaries import Account

LEFTOVERS_TIMEOUT_S = 60.0
"""How long the children of a holder that has ended may take to end themselves."""

_POLL_S = 0.01
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND
_PR_SET_PDEATHSIG = 1
_prctl = getattr(ctypes.PyDLL(None), "prctl", None)  # looked up before any fork; None where not on Linux


class Keeper:
    """Holds the lock on one folder and runs programs for it.

    Every child inherits the lock: it is free exactly when the last of them is gone, even after a crash.
    """

    def __init__(self, folder: Path, lock_path: Path, log_path: Path) -> None:
        """Take the lock. Raises DatabaseUnavailable when a living process has it."""
        self._log_path = log_path
        self._lock = _take_lock(lock_path, folder)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="keeper")

    def spawn(self, account: Account | None, command: Sequence[str | Path]) -> Popen[bytes]:
        """Run a command as `account` (None: as ourselves), its words going to the log."""
        return self._thread.submit(self._fork, account, command).result()

    def close(self) -> None:
        """Let go. Children that still run get the signal."""
        self._thread.shutdown()
        os.ftruncate(self._lock, 0)  # what may still hold it is a grandchild that is about to end
        os.close(self._lock)

    def _fork(self, account: Account | None, command: Sequence[str | Path]) -> Popen[bytes]:
        with os.fdopen(os.open(self._log_path, _APPEND, 0o600), "ab") as log:
            return Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Neither our PG* variables nor our working folder, which the account may be unable to enter.
                env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
                cwd="/",
                pass_fds=[self._lock],
                start_new_session=True,  # Ctrl-C is for us: the server ends last, when we say so
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[account.gid] if account else None,
                preexec_fn=partial(_end_with_parent, os.getpid()),  # noqa: PLW1509  # system calls only
            )


def _end_with_parent(parent: int) -> None:
    """Ask the kernel to interrupt this process when its parent ends."""
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)


def _take_lock(path: Path, folder: Path) -> int:
    """Return the lock's descriptor. What is left of a holder that has ended is waited for."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + LEFTOVERS_TIMEOUT_S
    while not _try_lock(lock):
        holder = _holder(lock)
        if _runs(holder) or time.monotonic() > deadline:
            os.close(lock)
            raise DatabaseUnavailable(
                f"{folder} is in use by process {holder or '(unknown)'}: stop that one, or choose another "
                "REACTOR_DATA_DIR"
            )
        time.sleep(_POLL_S)
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock


def is_held(path: Path) -> bool:
    """Whether a living process has the lock. Raises OSError when there is none, or it isn't ours to see."""
    lock = os.open(path, os.O_RDONLY)
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
    """Return the process id in the lock file; None once its holder has let go, or before it has signed."""
    return int(os.pread(lock, 20, 0) or 0) or None


def _runs(pid: int | None) -> bool:
    if pid is None:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's
    return True
