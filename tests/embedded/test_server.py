"""The embedded server starts and recovers, refuses a second server on its folder, and ends with its process."""

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

import reactor
from reactor.core.errors import ConfigInvalid, DatabaseUnavailable
from reactor.embedded import binaries
from reactor.embedded.server import EmbeddedPostgres, running_url

IS_ROOT = os.geteuid() == 0
NOBODY = pwd.getpwnam("nobody")

CHILD = """
import os, sys, psycopg
from pathlib import Path
from reactor.embedded import server as embedded_server
data_dir, bin_dir, uid = sys.argv[1:]
if uid:
    os.setgroups([]); os.setgid(int(uid)); os.setuid(int(uid))
with embedded_server.EmbeddedPostgres(Path(data_dir), durable=False, bin_dir=Path(bin_dir)) as server:
    with psycopg.connect(server.url) as conn:
        print(server.pid, *conn.execute("select 6 * 7").fetchone(), flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def data_dir(reachable_folder: Path) -> Path:
    return reachable_folder / "postgres"


def ask(server: EmbeddedPostgres, query: str) -> object:
    """Return the single value of a query's first row."""
    with psycopg.connect(server.url, autocommit=True) as conn:
        row = conn.execute(query.encode()).fetchone()
    return row and row[0]


def change(server: EmbeddedPostgres, statement: str) -> None:
    with psycopg.connect(server.url, autocommit=True) as conn:
        conn.execute(statement.encode())


def start_child(data_dir: Path, uid: int | str = "") -> subprocess.Popen[str]:
    """Start a process that runs a server as user `uid` (empty: this user) until the test closes the process's stdin."""
    bin_dir = binaries.choose_binaries(None, binaries.account_for(data_dir))
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(data_dir), str(bin_dir), str(uid)],
        cwd=Path(reactor.__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def is_alive(pid: int) -> bool:
    """Return whether a process runs. A zombie doesn't run."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_new_server_answers_on_loopback_only_and_by_password(data_dir: Path) -> None:
    data_dir.with_name("postgres.unfinished").mkdir()  # a killed first start leaves such a folder
    before = data_dir.parent.stat()

    with EmbeddedPostgres(data_dir) as server:
        assert ask(server, "select current_user") == "reactor"
        assert ask(server, "show listen_addresses") == "127.0.0.1"
        assert ask(server, "show unix_socket_directories") == ""
        assert ask(server, "show fsync") == "on"
        assert ask(server, "show timezone") == "UTC"
        assert ask(server, "select getdatabaseencoding()") == "UTF8"
        assert ask(server, "select datcollate from pg_database where datname = 'postgres'") == "C"
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(f"postgresql://reactor:guess@127.0.0.1:{server.port}/postgres")

    assert data_dir.with_name("postgres.password").stat().st_mode & 0o777 == 0o600
    after = data_dir.parent.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


def test_data_and_port_survive_a_restart_an_immediate_shutdown_and_a_kill(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir, options={"max_connections": "20"})
    with server:
        port = server.port
        change(server, "create table kept (n int)")
        change(server, "insert into kept values (1)")
        server.stop()
        server.start()
        change(server, "insert into kept values (2)")
        server.stop(signal.SIGQUIT)
        server.start()
        change(server, "insert into kept values (3)")
        server.stop(signal.SIGKILL)
        assert server.pid is None
        server.start()
        assert server.start() == server.url  # starting a running server changes nothing
        assert ask(server, "select sum(n)::int from kept") == 6
        assert ask(server, "show max_connections") == "20"
        assert server.port == port
        server.stop(signal.SIGKILL)
        assert running_url(data_dir) is None
    assert running_url(data_dir) is None
    with EmbeddedPostgres(data_dir) as another:
        assert running_url(data_dir) == another.url
        assert ask(another, "select sum(n)::int from kept") == 6


def test_several_servers_start_at_once_and_outlive_the_threads_that_started_them(reachable_folder: Path) -> None:
    servers = [EmbeddedPostgres(reachable_folder / f"server{n}", durable=False) for n in range(3)]
    try:
        with ThreadPoolExecutor(3) as threads:
            urls = list(threads.map(EmbeddedPostgres.start, servers))
        assert len(set(urls)) == 3
        assert [ask(server, "show fsync") for server in servers] == ["off"] * 3
    finally:
        for server in servers:
            server.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the parent-death signal")
def test_no_server_survives_the_kill_of_its_parent(data_dir: Path) -> None:
    child = start_child(data_dir)
    assert child.stdout is not None
    output = child.stdout.readline().split()
    assert output[1:] == ["42"], child.communicate()
    postmaster = int(output[0])
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
    processes = [postmaster, *map(int, children)]
    assert len(processes) > 3

    child.send_signal(signal.SIGKILL)
    child.communicate()

    deadline = time.monotonic() + 10
    while any(map(is_alive, processes)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(is_alive, processes))
    with EmbeddedPostgres(data_dir, durable=False) as server:  # the folder can be used again
        assert ask(server, "select 1") == 1


def test_an_ordinary_user_can_run_a_server(data_dir: Path) -> None:
    if IS_ROOT:
        os.chown(data_dir.parent, NOBODY.pw_uid, NOBODY.pw_gid)
    child = start_child(data_dir, NOBODY.pw_uid if IS_ROOT else "")
    output, errors = child.communicate(timeout=30)
    assert (child.returncode, output.split()[1:]) == (0, ["42"]), errors
    assert data_dir.stat().st_uid == (NOBODY.pw_uid if IS_ROOT else os.getuid())


def test_a_stale_pid_file_that_names_another_program_is_removed(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir, durable=False) as server:
        owner = data_dir.stat().st_uid
        server.stop(signal.SIGKILL)
        other = subprocess.Popen(["/bin/sleep", "60"], user=owner, cwd="/")
        try:
            pid_file = data_dir / "postmaster.pid"
            _, _, rest = pid_file.read_text().partition("\n")
            pid_file.write_text(f"{other.pid}\n{rest}")
            server.start()
            assert ask(server, "select 1") == 1
        finally:
            other.kill()
            other.wait()


def test_a_second_server_on_the_same_folder_is_refused(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir, durable=False) as server:
        with pytest.raises(DatabaseUnavailable, match=f"in use by process {os.getpid()}"):
            EmbeddedPostgres(data_dir).start()
        _, errors = start_child(data_dir).communicate(timeout=30)
        assert errors.splitlines()[-1].endswith(
            f"DatabaseUnavailable: {data_dir} is in use by process {os.getpid()}: stop that process, "
            "or choose another REACTOR_DATA_DIR"
        )
        assert ask(server, "select 1") == 1


def test_the_version_that_made_the_data_runs_it(data_dir: Path) -> None:
    available = binaries.installed_binaries()
    with EmbeddedPostgres(data_dir, durable=False, bin_dir=available[16]):
        pass
    with EmbeddedPostgres(data_dir, durable=False) as server:
        assert str(ask(server, "show server_version")).startswith("16.")
    with pytest.raises(
        ConfigInvalid, match="PostgreSQL 16 made the data, but only PostgreSQL 18 is available; upgrade"
    ):
        EmbeddedPostgres(data_dir, bin_dir=available[18]).start()


def test_missing_programs_are_an_error_that_says_what_to_do(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigInvalid, match="nowhere/postgres cannot run"):
        EmbeddedPostgres(data_dir, bin_dir=Path("/nowhere")).start()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ConfigInvalid) as caught:
        EmbeddedPostgres(data_dir).start()
    assert caught.value.problems == (
        "no database: set REACTOR_DATABASE_URL, or install the embedded one: pip install 'pgreactor[embedded]'",
    )


def test_a_failed_start_reports_the_end_of_the_log(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir, durable=False, options={"work_mem": "much"})
    with pytest.raises(DatabaseUnavailable, match=r'start: .*"work_mem": "much".*\(log: .*postgres.log\)'):
        server.start()
    assert server.pid is None


def test_a_program_that_names_no_version_is_refused(data_dir: Path, tmp_path: Path) -> None:
    program = tmp_path / "postgres"
    program.write_text("#!/bin/sh\necho hello\n")
    program.chmod(0o755)
    with pytest.raises(ConfigInvalid, match="postgres is not PostgreSQL: 'hello'"):
        EmbeddedPostgres(data_dir, bin_dir=tmp_path).start()


def test_a_folder_with_other_files_is_refused_and_left_unchanged(data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "letter").write_text("dear")
    with pytest.raises(ConfigInvalid, match="neither empty nor a PostgreSQL data folder"):
        EmbeddedPostgres(data_dir).start()
    assert [path.name for path in data_dir.iterdir()] == ["letter"]


@pytest.mark.skipif(not IS_ROOT, reason="only root runs the server as another account")
def test_a_data_folder_that_the_account_cannot_enter_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(ConfigInvalid, match=r"REACTOR_DATA_DIR: PostgreSQL cannot run as root.*choose a folder"):
        EmbeddedPostgres(tmp_path / "postgres").start()


@pytest.mark.skipif(not IS_ROOT, reason="only root runs the server as another account")
def test_programs_that_the_account_cannot_reach_are_copied_once(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    wheel = binaries.installed_binaries()[18].parents[1]
    shutil.copytree(wheel / "pginstall18", tmp_path / wheel.name / "pginstall18")
    shutil.copytree(wheel.with_name(f"{wheel.name}.libs"), tmp_path / f"{wheel.name}.libs")
    monkeypatch.setattr(binaries, "CACHE_DIR", cache := data_dir.with_name("cache"))
    monkeypatch.setattr(binaries, "installed_binaries", lambda: {18: tmp_path / wheel.name / "pginstall18" / "bin"})

    with EmbeddedPostgres(data_dir, durable=False) as server:
        assert Path(f"/proc/{server.pid}/exe").readlink().is_relative_to(cache)
        copied_at = cache.stat().st_mtime_ns
        server.stop()
        server.start()
        assert cache.stat().st_mtime_ns == copied_at
