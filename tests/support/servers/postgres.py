"""A PostgreSQL server for one test, which the test can stop or kill, and a standby that the test can promote.

This server is durable, unlike the server that all tests share, because these tests check that no acknowledged commit
is lost.
"""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from reactor.embedded.binaries import account_for, choose_binaries
from reactor.embedded.server import EmbeddedPostgres

_START_S = 60.0
_LOOK_EVERY_S = 0.05


def programs() -> Path | None:
    """Return the folder of PostgreSQL programs from REACTOR_TEST_POSTGRES_BIN; None for those of the Python package."""
    given = os.environ.get("REACTOR_TEST_POSTGRES_BIN")
    return Path(given) if given else None


def accepts_connections(url: str) -> bool:
    """Return whether a client can connect to this URL within 5 s."""
    try:
        psycopg.connect(url, connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True


@contextmanager
def own_server(**options: str) -> Iterator[EmbeddedPostgres]:
    """Run a durable server with these PostgreSQL settings."""
    folder = Path(tempfile.mkdtemp(prefix="reactor-chaos-", dir="/tmp"))
    folder.chmod(0o711)
    try:
        with EmbeddedPostgres(folder / "postgres", bin_dir=programs(), options=options) as server:
            yield server
    finally:
        shutil.rmtree(folder)


class Standby:
    """A streaming replica of a server, made by pg_basebackup."""

    def __init__(self, primary: EmbeddedPostgres) -> None:
        self._primary = primary
        self._account = account_for(primary.data_dir)
        self._bin = choose_binaries(int((primary.data_dir / "PG_VERSION").read_text()), self._account, programs())
        self._data = primary.data_dir.with_name("standby")
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Copy the primary and start the standby. Returns when the standby accepts connections."""
        self._data.mkdir(mode=0o700)
        if self._account is not None:
            os.chown(self._data, self._account.uid, self._account.gid)
        self._run("pg_basebackup", "-d", self._primary.url, "-D", self._data, "-R", "-X", "stream", "-c", "fast")
        settings = {"port": str(self.port), "listen_addresses": "127.0.0.1", "unix_socket_directories": ""}
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with self._data.with_name("standby.log").open("ab") as log:
            self._process = subprocess.Popen(  # type: ignore[call-overload]
                [self._bin / "postgres", "-D", self._data, *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **self._identity,
            )
        give_up = time.monotonic() + _START_S
        while not accepts_connections(self.url_of("postgres")):
            assert self._process.poll() is None, self._data.with_name("standby.log").read_text()
            assert time.monotonic() < give_up, self._data.with_name("standby.log").read_text()
            time.sleep(_LOOK_EVERY_S)

    def promote(self) -> None:
        """Promote the standby. Returns when the standby has become a primary."""
        self._run("pg_ctl", "promote", "-w", "-D", self._data)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(10)

    def url_of(self, database: str) -> str:
        return (
            urlsplit(self._primary.url)
            ._replace(
                netloc=f"{urlsplit(self._primary.url).netloc.rpartition('@')[0]}@127.0.0.1:{self.port}",
                path=f"/{database}",
            )
            .geturl()
        )

    @property
    def _identity(self) -> dict[str, int]:
        return {} if self._account is None else {"user": self._account.uid, "group": self._account.gid}

    def _run(self, program: str, *arguments: str | Path) -> None:
        subprocess.run(  # type: ignore[call-overload]
            [self._bin / program, *arguments], check=True, capture_output=True, timeout=60, **self._identity
        )


@contextmanager
def standby_of(primary: EmbeddedPostgres) -> Iterator[Standby]:
    """Yield a standby of a running server; stop it on leaving."""
    standby = Standby(primary)
    try:
        standby.start()
        yield standby
    finally:
        standby.stop()


def free_port() -> int:
    """Return a free TCP port on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port
