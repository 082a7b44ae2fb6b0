"""A real PgBouncer in front of the tests' server. Needs the Debian package pgbouncer."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from support.servers.postgres import accepts_connections, free_port

_START_S = 10.0
_ACCOUNT = "nobody"


@contextmanager
def running_pgbouncer(database_url: str, folder: Path, *, mode: str) -> Iterator[str]:
    """Start PgBouncer in this pool mode; yield a URL that connects through it. Other accounts must reach `folder`."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        pytest.skip("PgBouncer isn't installed: apt-get install pgbouncer")
    server = urlsplit(database_url)
    port = free_port()
    config = folder / "pgbouncer.ini"
    config.write_text(
        "[databases]\n"
        f"* = host={server.hostname} port={server.port} user={server.username} password={server.password}\n"
        "[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = any\npool_mode = {mode}\nignore_startup_parameters = extra_float_digits\n"
    )
    config.chmod(0o644)  # PgBouncer refuses to run as root, so another account reads this file
    account = {"user": _ACCOUNT} if os.geteuid() == 0 else {}
    with (folder / "pgbouncer.log").open("ab") as log:
        process = subprocess.Popen([program, config], stdin=subprocess.DEVNULL, stdout=log, stderr=log, **account)  # type: ignore[call-overload]
    try:
        url = server._replace(netloc=f"{server.username}@127.0.0.1:{port}").geturl()
        give_up = time.monotonic() + _START_S
        while not accepts_connections(url):
            assert process.poll() is None, (folder / "pgbouncer.log").read_text()
            assert time.monotonic() < give_up, (folder / "pgbouncer.log").read_text()
            time.sleep(0.05)
        yield url
    finally:
        process.kill()
        process.wait()
