"""A PostgreSQL server of our own, for when no database is configured: the demo, the tests, a first try.

Promises:

* Only who can read the password gets in. The server listens on 127.0.0.1 alone, has no Unix socket, and asks
  for a random password that is kept in a file of mode 0600.
* Nothing is left behind. When this process ends, however it ends, the kernel tells the server to shut down
  (on Linux; elsewhere only `stop` does).
* Nothing else is touched. Run by root, who may not run PostgreSQL, the server belongs to the owner of the
  data folder, or to `nobody` when it is new. No other folder changes hands or permissions.
* One server per data folder: a second start, also from another process, is refused.

Beside the data folder `postgres` stand `postgres.lock`, `postgres.log` and `postgres.password`.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from subprocess import Popen
from types import TracebackType
from typing import Self

from reactor.core.errors import ConfigInvalid, DatabaseUnavailable
from reactor.embedded.binaries import Account, account_for, choose_binaries
from reactor.embedded.supervisor import Keeper, is_held

SUPERUSER = "reactor"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0

_POLL_S = 0.01
_PORT_ATTEMPTS = 5
_LOG_LINES_SHOWN = 6
_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class EmbeddedPostgres:
    """One server on one data folder. A context manager: started on entry, stopped on exit.

    `durable=False` trades safety against power cuts for speed: for tests only. `bin_dir` is a folder with
    `postgres` and `initdb`; None means the wheel's, in the version that made the data folder, or the newest.
    `options` are server settings. A server that is started again keeps its port if it can.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        durable: bool = True,
        bin_dir: Path | None = None,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self.data_dir = data_dir.resolve()
        self.log_path = self._beside(".log")
        self._password_path = self._beside(".password")
        self._durable = durable
        self._bin_dir = bin_dir
        self._options = dict(options or {})
        self._port: int | None = None
        self._process: Popen[bytes] | None = None
        self._keeper: Keeper | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def port(self) -> int:
        if self._port is None:
            raise DatabaseUnavailable("the embedded PostgreSQL wasn't started")
        return self._port

    @property
    def url(self) -> str:
        """Where to connect as superuser, password included."""
        return f"postgresql://{SUPERUSER}:{self._password_path.read_text()}@127.0.0.1:{self.port}/postgres"

    @property
    def pid(self) -> int | None:
        """The postmaster's process id; None when it isn't running."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> str:
        """Start the server, making its data folder first if need be, and return its URL once it answers.

        Raises ConfigInvalid when the data folder or the programs can't be used, and DatabaseUnavailable when
        another process uses the folder or the server doesn't come up; then with the end of its log.
        """
        if self.pid is not None:
            return self.url
        self.stop()  # what is left of a server that ended by itself
        try:
            self._bring_up()
        except OSError as error:
            self.stop()
            raise ConfigInvalid(f"REACTOR_DATA_DIR: {self.data_dir} can't be used: {error}") from error
        except BaseException:
            self.stop()
            raise
        return self.url

    def stop(self) -> None:
        """Shut down at once but cleanly; by force after STOP_TIMEOUT_S. Repeating it is harmless."""
        self._end(signal.SIGINT)

    def restart(self, *, immediate: bool = False) -> str:
        """Stop, start, and return the URL. `immediate` stops as a crash would; the start recovers."""
        self._end(signal.SIGQUIT if immediate else signal.SIGINT)
        return self.start()

    def kill(self) -> None:
        """Kill the postmaster, as a crash would. Its children notice and end; `start` waits for them."""
        self._end(signal.SIGKILL)

    def _bring_up(self) -> None:
        self.data_dir.parent.mkdir(parents=True, exist_ok=True)
        account = account_for(self.data_dir)
        if account and (closed := account.first_closed(self.data_dir.parent)):
            raise ConfigInvalid(
                f"REACTOR_DATA_DIR: root can't run PostgreSQL, and {account.name}, who can, "
                f"can't enter {closed}; choose a folder such as /var/lib/reactor, or run as another user"
            )
        self._keeper = keeper = Keeper(self.data_dir, self._beside(".lock"), self.log_path)
        made_by = self._made_by()
        bin_dir = choose_binaries(made_by, account, self._bin_dir)
        if made_by is None:
            self._initialise(keeper, bin_dir, account)
        elif not self._password_path.exists():
            raise ConfigInvalid(
                f"REACTOR_DATA_DIR: {self._password_path} is missing; put it back, or move {self.data_dir} away"
            )
        self._launch(keeper, bin_dir, account)

    def _made_by(self) -> int | None:
        """Return the version that made the data folder; None when there is no data yet."""
        try:
            return int((self.data_dir / "PG_VERSION").read_text())
        except FileNotFoundError:
            return None

    def _initialise(self, keeper: Keeper, bin_dir: Path, account: Account | None) -> None:
        """Make a new cluster under another name, then rename it, so that a half-made one is never started."""
        if self.data_dir.exists() and any(self.data_dir.iterdir()):
            raise ConfigInvalid(f"REACTOR_DATA_DIR: {self.data_dir} is neither empty nor PostgreSQL's")
        unfinished, password = self._beside(".unfinished"), self._password_path
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        password.unlink(missing_ok=True)
        with os.fdopen(os.open(password, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(24))
        if account:
            os.chown(unfinished, account.uid, account.gid)
            os.chown(password, account.uid, account.gid)

        log_start = self._log_size()
        initdb = keeper.spawn(
            account,
            [
                bin_dir / "initdb",
                f"--pgdata={unfinished}",
                f"--username={SUPERUSER}",
                f"--pwfile={password}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
                "--no-instructions",
                *([] if self._durable else ["--no-sync"]),
            ],
        )
        try:
            status = initdb.wait()
        finally:
            initdb.kill()
            initdb.wait()
        if status != 0:
            raise DatabaseUnavailable(f"initdb failed: {self._log_end(log_start)}")
        unfinished.rename(self.data_dir)
        _sync_folder(self.data_dir.parent)

    def _launch(self, keeper: Keeper, bin_dir: Path, account: Account | None) -> None:
        """Start the postmaster and wait until it accepts connections; again if a program took its port."""
        self._forget_stale_pid()
        log_start = self._log_size()
        for _ in range(_PORT_ATTEMPTS):
            self._port = self._port or _free_port()
            log_start = self._log_size()
            self._process = keeper.spawn(
                account, [bin_dir / "postgres", "-D", self.data_dir, *self._settings(self._port)]
            )
            if self._becomes_ready(self._process):
                return
            if self._process.poll() is None or _is_free(self._port):
                break
            self._port = None
        raise DatabaseUnavailable(f"the embedded PostgreSQL didn't start: {self._log_end(log_start)}")

    def _settings(self, port: int) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": "",
            "timezone": "UTC",
            "log_timezone": "UTC",
            **({} if self._durable else _NOT_DURABLE),
            **self._options,
        }
        return [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]

    def _becomes_ready(self, process: Popen[bytes]) -> bool:
        """Wait for what pg_ctl waits for, line 8 of postmaster.pid. False: it ended, or takes too long."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while process.poll() is None and time.monotonic() < deadline:
            try:
                lines = (self.data_dir / "postmaster.pid").read_text().splitlines()
            except FileNotFoundError:
                lines = []
            if lines[:1] == [str(process.pid)] and "".join(lines[7:8]).strip() == "ready":
                return True
            time.sleep(_POLL_S)
        return False

    def _forget_stale_pid(self) -> None:
        """Remove a crashed server's postmaster.pid when its process id belongs to something else by now.

        PostgreSQL asks only whether *a* process has that id, and would refuse to start for ever: common in
        containers, where the same few ids come again. A postmaster's working folder is its data folder.
        """
        pid_file = self.data_dir / "postmaster.pid"
        try:
            pid = pid_file.read_text().partition("\n")[0]
            if not pid or Path(f"/proc/{pid}/cwd").readlink() != self.data_dir:
                pid_file.unlink()
        except OSError:
            return  # no such file, no such process, or not ours to see: PostgreSQL decides

    def _end(self, first: signal.Signals) -> None:
        """End the server with `first`, or else with ever stronger signals; then let go of everything."""
        process, self._process = self._process, None
        if process is not None:
            for signum in (first, signal.SIGQUIT, signal.SIGKILL):
                process.send_signal(signum)
                try:
                    process.wait(STOP_TIMEOUT_S)
                    break
                except subprocess.TimeoutExpired:
                    continue
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.close()

    def _beside(self, suffix: str) -> Path:
        return self.data_dir.with_name(self.data_dir.name + suffix)

    def _log_size(self) -> int:
        return self.log_path.stat().st_size if self.log_path.exists() else 0

    def _log_end(self, start: int) -> str:
        with self.log_path.open("rb") as log:
            log.seek(start)
            lines = log.read().decode(errors="replace").strip().splitlines()
        return " | ".join(lines[-_LOG_LINES_SHOWN:]) + f" (log: {self.log_path})"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def _sync_folder(folder: Path) -> None:
    """Make a rename inside the folder last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def running_url(data_dir: Path) -> str | None:
    """Return the URL of the server that runs on `data_dir`; None when none does, or it isn't ours to use."""
    try:
        if not is_held(data_dir.with_name(f"{data_dir.name}.lock")):
            return None  # postmaster.pid may still be there, after a crash
        lines = (data_dir / "postmaster.pid").read_text().splitlines()
        password = data_dir.with_name(f"{data_dir.name}.password").read_text().strip()
    except OSError:
        return None
    if len(lines) < 4:  # noqa: PLR2004  # pid, data folder, start time, port: not written whole yet
        return None
    return f"postgresql://{SUPERUSER}:{password}@127.0.0.1:{lines[3]}/postgres"
