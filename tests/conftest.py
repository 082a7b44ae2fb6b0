"""Fixtures for all tests: the PostgreSQL server, a database per test, app, recorder. Also sorts tests by folder.

REACTOR_TEST_DATABASE_URL is the server's URL for a superuser. Without the variable, the server runs in a container if a
container engine is running, otherwise it is the embedded server. REACTOR_TEST_POSTGRES_BIN selects the embedded server,
which then runs the programs in that folder.
"""

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import LiteralString
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql
from support.app import App, open_app
from support.callers import Api
from support.container_engine import docker_is_available
from support.recorder import Recorder
from support.rows import Rows, rows_of
from support.servers.otlp_receiver import Receiver, receiving
from support.servers.postgres import accepts_connections, programs
from support.stubborn_store import StubbornStore
from support.usage_check import assert_usage_matches_rows

from reactor.embedded.server import EmbeddedPostgres
from reactor.postgres.migrate import migrate

FIRST_WITH_STRATEGY = 150000

_ON_DISK = Path("/tmp")  # noqa: S108  # parent of a folder with a random name
_IN_MEMORY = Path("/dev/shm")  # noqa: S108  # parent of a folder with a random name

_TESTS = Path(__file__).parent
_LONGEST_FIRST = (
    "system", "web", "stress", "jaeger", "storage", "embedded", "deploy", "postgres", "client", "simulation", "engine",
    "schema",
)  # fmt: skip

NEEDED_IN_MEMORY_BYTES = 6 << 30
"""Enough for several servers at the same time, with up to 1 GiB of write-ahead log each."""


@cache
def backend() -> str:
    """Return the kind of the server: 'given', 'docker' or 'embedded'. Cached."""
    if os.environ.get("REACTOR_TEST_DATABASE_URL"):
        return "given"
    if programs() is None and docker_is_available():
        return "docker"
    return "embedded"


def pytest_report_header() -> str:
    chosen = programs() or "the wheel's programs"
    return (
        "postgres: "
        + {
            "given": "the server that REACTOR_TEST_DATABASE_URL names",
            "docker": "a container, by tests/support/docker-compose.yml",
            "embedded": f"embedded, {chosen}",
        }[backend()]
    )


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", type=float, default=600.0, help="seconds of mixed faults, for -m soak")


def pytest_xdist_auto_num_workers() -> int:
    """Return the number of workers for `-n auto`: one more than the cores, because tests wait half of the time."""
    return int(os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS") or len(os.sched_getaffinity(0)) + 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the slowest folders first, so that no worker still runs a long file when the others have finished."""
    order = {folder: number for number, folder in enumerate(_LONGEST_FIRST)}
    items.sort(key=lambda item: order.get(item.path.relative_to(_TESTS).parts[0], len(order)))


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The async backend of all tests: the only one that psycopg supports."""
    return "asyncio"


@contextmanager
def _reachable_folder(parent: Path = _ON_DISK) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="reactor-test-", dir=parent))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def reachable_folder() -> Iterator[Path]:
    """A folder that other accounts can enter, unlike pytest's tmp_path."""
    with _reachable_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def reachable_module_folder() -> Iterator[Path]:
    """A folder that other accounts can enter, shared by the tests of a file."""
    with _reachable_folder() as folder:
        yield folder


def _fastest_parent() -> Path:
    """Return /dev/shm if it is writable and has enough free space, else /tmp."""
    is_writable = _IN_MEMORY.is_dir() and os.access(_IN_MEMORY, os.W_OK)
    return _IN_MEMORY if is_writable and shutil.disk_usage(_IN_MEMORY).free >= NEEDED_IN_MEMORY_BYTES else _ON_DISK


@pytest.fixture(scope="session")
def server_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The server's URL for a superuser."""
    if backend() == "given":
        yield os.environ["REACTOR_TEST_DATABASE_URL"]
    elif backend() == "docker":
        services = request.getfixturevalue("docker_services")
        address = f"{request.getfixturevalue('docker_ip')}:{services.port_for('postgres', 5432)}"
        url = f"postgresql://reactor:reactor@{address}/postgres"
        services.wait_until_responsive(timeout=60, pause=0.1, check=lambda: accepts_connections(url))
        yield url
    else:
        with (
            _reachable_folder(_fastest_parent()) as folder,
            EmbeddedPostgres(folder / "postgres", durable=False, bin_dir=programs()) as server,
        ):
            yield server.url


@pytest.fixture(scope="session")
def docker_compose_file() -> str:
    return str(_TESTS / "support" / "docker-compose.yml")


@pytest.fixture(scope="session")
def _admin(server_url: str) -> Iterator[psycopg.Connection]:
    """A superuser's connection. It stays open, because connecting takes as long as creating a database."""
    with psycopg.connect(server_url, autocommit=True) as conn:
        yield conn


@contextmanager
def _database(admin: psycopg.Connection, options: LiteralString = "", template: str = "template0") -> Iterator[str]:
    """Create a database, yield its name, and drop it even if sessions are connected."""
    name = f"test_{secrets.token_hex(6)}"
    admin.execute(
        sql.SQL("create database {} template {} " + options).format(sql.Identifier(name), sql.Identifier(template))
    )
    try:
        yield name
    finally:
        _wait_for_sessions_to_end(admin, name)
        admin.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def _wait_for_sessions_to_end(admin: psycopg.Connection, database: str) -> None:
    """Wait up to 50 ms for closed sessions to end, because DROP DATABASE sleeps 100 ms if it finds one."""
    give_up = time.monotonic() + 0.05
    in_use = "select exists (select from pg_stat_activity where datname = %s)"
    while admin.execute(in_use, (database,)).fetchone() == (True,) and time.monotonic() < give_up:
        time.sleep(0.002)


def _url_of(server_url: str, database: str) -> str:
    return urlsplit(server_url)._replace(path=f"/{database}").geturl()


@pytest.fixture
def database_url(server_url: str, _admin: psycopg.Connection) -> Iterator[str]:
    """The URL of an empty database that only this test uses."""
    with _database(_admin) as name:
        url = _url_of(server_url, name)
        yield url
        assert_usage_matches_rows(url)


@pytest.fixture(scope="session")
def _template(server_url: str, _admin: psycopg.Connection) -> Iterator[str]:
    """The name of a migrated database, which `migrated_url` copies."""
    with _database(_admin) as name:
        migrate(_url_of(server_url, name))
        yield name


@pytest.fixture
def migrated_url(server_url: str, _admin: psycopg.Connection, _template: str) -> Iterator[str]:
    """URL of the test's own migrated database. At the end, storage_usage must equal the sums of the rows."""
    is_copied_as_files = _admin.info.server_version >= FIRST_WITH_STRATEGY
    with _database(_admin, "strategy file_copy" if is_copied_as_files else "", _template) as name:
        url = _url_of(server_url, name)
        yield url
        assert_usage_matches_rows(url)


@pytest.fixture
def recorder() -> Recorder:
    """Records a reactor's events and waits for them."""
    return Recorder()


@pytest.fixture
def rows(migrated_url: str) -> Iterator[Rows]:
    """A connection to the test's database with a lock_timeout of 5 s."""
    with rows_of(migrated_url) as rows:
        rows.run("set lock_timeout = '5s'")
        yield rows


@pytest.fixture
def api(rows: Rows) -> Api:
    """The SQL API, called over the connection of `rows`."""
    return Api(rows)


@pytest.fixture
def app(migrated_url: str, tmp_path: Path) -> Iterator[App]:
    """An app with its own spool and store."""
    with open_app(migrated_url, tmp_path) as app:
        yield app


@pytest.fixture
def store(app: App) -> StubbornStore:
    """The app's store, which the test can make fail or wait."""
    return StubbornStore(app.store)


@pytest.fixture
def collector() -> Iterator[Receiver]:
    """An OTLP collector. The test must put its `endpoint` into an OTEL_EXPORTER_OTLP_* variable."""
    with receiving() as receiver:
        yield receiver
