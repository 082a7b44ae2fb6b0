"""Runs a PostgreSQL server on a local folder, for use without a configured database: demo, tests, first steps.

Promises:

* A password protects the data. The server listens only on 127.0.0.1, has no Unix socket, and requires a random
  password, which is in a file of mode 0600.
* The server ends with this process. On Linux, the kernel shuts the server down, however this process ends. On other
  systems, only `stop` shuts it down.
* Missing folders are created with mode 0700. Other folders keep their owners and permissions. PostgreSQL refuses to run
  as root, so under root the owner of the data folder runs the server, or `nobody` for a new folder.
* A data folder has at most one server. A second start raises DatabaseUnavailable, also in another process.

The files `postgres.lock`, `postgres.log` and `postgres.password` are next to the data folder `postgres`.
"""

import os
import secrets
import shutil
import signal
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from typing import Self

from reactor.core.errors import ConfigInvalid, DatabaseUnavailable
from reactor.embedded.binaries import Account, account_for, choose_binaries
from reactor.embedded.private import make_private
from reactor.embedded.supervisor import Supervisor, beside, is_held

SUPERUSER = "reactor"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0

_POLL_S = 0.01
_PORT_ATTEMPTS = 5
_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class EmbeddedPostgres:
    """A server on one data folder. As a context manager, it starts on entry and stops on exit.

    `durable=False` is faster, but a power cut loses data: use it only in tests. `bin_dir` is a folder with `postgres`
    and `initdb`; None means the wheel's programs, in the data folder's version, or in the newest for a new folder.
    `options` maps names of server settings to values. A restarted server has the same port if the port is still free.
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
        self._password_path = beside(self.data_dir, ".password")
        self._durable = durable
        self._bin_dir = bin_dir
        self._options = dict(options or {})
        self._port: int | None = None
        self._process: Popen[bytes] | None = None
        self._supervisor: Supervisor | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def port(self) -> int:
        if self._port is None:
            raise DatabaseUnavailable("the embedded PostgreSQL is not started")
        return self._port

    @property
    def url(self) -> str:
        """The connection URL of the superuser, with the password."""
        return f"postgresql://{SUPERUSER}:{self._password_path.read_text()}@127.0.0.1:{self.port}/postgres"

    @property
    def pid(self) -> int | None:
        """The process id of the postmaster; None if the postmaster is not running."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> str:
        """Start the server; return its URL when it accepts connections. Creates the data folder if that is missing.

        Raises ConfigInvalid if the data folder or the programs are unusable. Raises DatabaseUnavailable if another
        process uses the folder, or if the server does not start. In that case, the message has the end of the log.
        """
        if self.pid is not None:
            return self.url
        self.stop()  # releases the lock of a server that has ended
        try:
            self._bring_up()
        except BaseException as error:
            self.stop()
            if isinstance(error, OSError):
                raise ConfigInvalid(f"REACTOR_DATA_DIR: {self.data_dir} is unusable: {error}") from error
            raise
        return self.url

    def stop(self, first: signal.Signals = signal.SIGINT) -> None:
        """Stop the server and release the lock. Does nothing if the server is stopped.

        `first` is the first signal: SIGINT for a fast shutdown, SIGQUIT for a shutdown without a checkpoint, or
        SIGKILL. After SIGKILL, the postmaster's children end later, and `start` waits for them. If the server has not
        stopped after STOP_TIMEOUT_S, a stronger signal follows.
        """
        process, self._process = self._process, None
        if process is not None:
            for signum in (first, signal.SIGQUIT, signal.SIGKILL):
                process.send_signal(signum)
                with suppress(TimeoutExpired):
                    process.wait(STOP_TIMEOUT_S)
                    break
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            supervisor.close()

    def _bring_up(self) -> None:
        make_private(self.data_dir.parent)
        account = account_for(self.data_dir)
        if account and (closed := account.first_closed(self.data_dir.parent)):
            raise ConfigInvalid(
                f"REACTOR_DATA_DIR: PostgreSQL cannot run as root, and the account {account.name}, which would run it, "
                f"cannot enter {closed}; choose a folder such as /var/lib/reactor, or run as another user"
            )
        self._supervisor = supervisor = Supervisor(self.data_dir)
        version = self.data_dir / "PG_VERSION"
        data_major = int(version.read_text()) if version.exists() else None
        bin_dir = choose_binaries(data_major, account, self._bin_dir)
        if data_major is None:
            self._initialise(supervisor, bin_dir, account)
        elif not self._password_path.exists():
            raise ConfigInvalid(
                f"REACTOR_DATA_DIR: {self._password_path} is missing; put it back, or move {self.data_dir} away"
            )
        self._launch(supervisor, bin_dir, account)

    def _initialise(self, supervisor: Supervisor, bin_dir: Path, account: Account | None) -> None:
        """Create a cluster in another folder, then rename the folder, so that an unfinished cluster never starts."""
        if self.data_dir.exists() and any(self.data_dir.iterdir()):
            raise ConfigInvalid(f"REACTOR_DATA_DIR: {self.data_dir} is neither empty nor a PostgreSQL data folder")
        unfinished, password = beside(self.data_dir, ".unfinished"), self._password_path
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        password.unlink(missing_ok=True)
        with os.fdopen(os.open(password, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(24))
        if account:
            os.chown(unfinished, account.uid, account.gid)
            os.chown(password, account.uid, account.gid)

        words = [f"--pgdata={unfinished}", f"--username={SUPERUSER}", f"--pwfile={password}", "--auth=scram-sha-256"]
        words += ["--encoding=UTF8", "--locale=C", "--no-instructions", *([] if self._durable else ["--no-sync"])]
        initdb = supervisor.spawn(account, [bin_dir / "initdb", *words])
        try:
            status = initdb.wait()
        finally:
            initdb.kill()
            initdb.wait()
        if status != 0:
            raise DatabaseUnavailable(f"initdb failed: {supervisor.log_end()}")
        unfinished.rename(self.data_dir)
        folder = os.open(self.data_dir.parent, os.O_RDONLY)
        os.fsync(folder)  # the rename survives a power cut
        os.close(folder)

    def _launch(self, supervisor: Supervisor, bin_dir: Path, account: Account | None) -> None:
        """Start the postmaster; return when it accepts connections. Tries other ports if the port was taken."""
        self._remove_stale_pid_file()
        for _ in range(_PORT_ATTEMPTS):
            self._port = self._port or _free_port()
            settings = {
                "listen_addresses": "127.0.0.1",
                "port": str(self._port),
                "unix_socket_directories": "",
                "timezone": "UTC",
                "log_timezone": "UTC",
                **({} if self._durable else _NOT_DURABLE),
                **self._options,
            }
            words = [f"--{name}={value}" for name, value in settings.items()]
            self._process = supervisor.spawn(account, [bin_dir / "postgres", "-D", self.data_dir, *words])
            if self._wait_ready(self._process):
                return
            if self._process.poll() is None or _is_free(self._port):
                break
            self._port = None
        raise DatabaseUnavailable(f"the embedded PostgreSQL did not start: {supervisor.log_end()}")

    def _wait_ready(self, process: Popen[bytes]) -> bool:
        """Wait for `ready` in line 8 of postmaster.pid, like pg_ctl. Return False if the server ends or is too slow."""
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

    def _remove_stale_pid_file(self) -> None:
        """Remove postmaster.pid of a crashed server if the process id in this file now belongs to another program.

        PostgreSQL refuses to start while *any* process has that id. In containers this is common, because they reuse
        the same few ids. A postmaster is recognised by its working folder, which is its data folder.
        """
        pid_file = self.data_dir / "postmaster.pid"
        try:
            pid = pid_file.read_text().partition("\n")[0]
            if not pid or Path(f"/proc/{pid}/cwd").readlink() != self.data_dir:
                pid_file.unlink()
        except OSError:
            return  # no such file, no such process, or no permission: PostgreSQL decides


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


def running_url(data_dir: Path) -> str | None:
    """Return the URL of the server that runs on `data_dir`; None if no server runs or its files are unreadable."""
    try:
        if not is_held(data_dir):
            return None  # after a crash postmaster.pid may still exist
        lines = (data_dir / "postmaster.pid").read_text().splitlines()
        password = beside(data_dir, ".password").read_text().strip()
    except OSError:
        return None
    if len(lines) < 4:  # noqa: PLR2004  # pid, data folder, start time, port: not complete yet
        return None
    return f"postgresql://{SUPERUSER}:{password}@127.0.0.1:{lines[3]}/postgres"
