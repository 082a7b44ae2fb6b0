"""The bench's PostgreSQL with default durability, databases cloned from a migrated one, spools, and a null store."""

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import LiteralString
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from reactor.cli.process import tune_garbage_collector
from reactor.core.settings import Settings
from reactor.embedded.server import EmbeddedPostgres
from reactor.postgres.migrate import migrate
from reactor.storage.stores.base import Body

USERS = 50
EMPTY_SHA256 = sha256(b"").hexdigest()

_MEMORY = Path("/dev/shm")  # noqa: S108  # parent of a folder with a random name

_QUEUE: LiteralString = """
    with made as (
        insert into public.sources (id, user_id, content_hash, storage_status, byte_size)
        select md5(%(salt)s || n)::uuid, md5((n %% %(users)s)::text)::uuid, md5(%(salt)s || n) || md5(n::text),
               'pending', %(size)s
          from generate_series(1, %(count)s) as n
        returning id, user_id, byte_size)
    insert into public.upload_queue (source_id, user_id, bucket, object_path, content_hash, byte_size, temp_file_path,
                                     next_retry_at)
    select id, user_id, 'bench', id::text, %(sha256)s, byte_size, id::text, clock_timestamp() + %(due_in)s::interval
      from made
    returning id, temp_file_path
"""


class NoStore:
    """A store that reads every upload and keeps nothing."""

    name = "none"

    def put(self, bucket: str, key: str, body: Body, *, mime_type: str | None) -> str:  # noqa: ARG002  # required by ObjectStore
        body.read()
        return f"none://{bucket}/{key}"

    def check(self) -> None: ...

    def renew(self) -> None: ...

    def close(self) -> None: ...


class BenchServer:
    """A PostgreSQL server and folders for one run of the bench."""

    def __init__(self, home: Path, memory: Path, server: EmbeddedPostgres, *, quick: bool) -> None:
        self.home = home
        self.memory = memory
        """Folder for spools that must not slow a measurement down: in memory if the system has /dev/shm."""
        self.server = server
        self.quick = quick
        self._number = 0
        self._templates: set[str] = set()
        with self.admin() as conn:
            conn.execute("create database migrated template template0")
        migrate(self._url("migrated"))
        with psycopg.connect(self._url("migrated")) as conn:
            conn.execute("update public.quota_plans set storage_limit_bytes = null, interpretation_limit_month = null")

    def admin(self) -> psycopg.Connection:
        return psycopg.connect(self.server.url, autocommit=True)

    def _url(self, name: str) -> str:
        return urlsplit(self.server.url)._replace(path=f"/{name}").geturl()

    @contextmanager
    def database(self, template: str = "migrated") -> Iterator[str]:
        """Yield the URL of a fresh database, dropped at the end."""
        self._number += 1
        name = f"bench_{self._number}"
        with self.admin() as conn:
            conn.execute(
                sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(template))
            )
            conn.execute("checkpoint")
        tune_garbage_collector()  # as `reactor run` does; it also freezes the imports of bench and peers
        try:
            yield self._url(name)
        finally:
            with self.admin() as conn:
                conn.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))

    def make_template(self, name: str, fill: Callable[[str], object]) -> None:
        """Create a migrated database and fill it. Do nothing if an earlier case has created it."""
        if name in self._templates:
            return
        with self.admin() as conn:
            conn.execute(sql.SQL("create database {} template migrated").format(sql.Identifier(name)))
        fill(self._url(name))
        self._templates.add(name)

    @contextmanager
    def spool(self, *, in_memory: bool = True) -> Iterator[Path]:
        """Yield an empty spool, removed at the end."""
        folder = Path(tempfile.mkdtemp(dir=self.memory if in_memory else self.home))
        try:
            yield folder
        finally:
            shutil.rmtree(folder)


def settings(url: str, spool: Path, **more: object) -> Settings:
    """Return default settings with this database, this spool and no fixed HTTP port."""
    where: dict[str, object] = {
        "database_url": url,
        "store_url": "file:///none",
        "spools": {"default": spool},
        "http_port": 0,
    }
    return Settings(**(where | more))  # type: ignore[arg-type]


def queue(
    url: str,
    count: int,
    spool: Path | None,
    *,
    content: bytes = b"",
    due_in: str = "0",
    salt: str = "",
    users: int = USERS,
) -> list[str]:
    """Queue `count` uploads without notifications, write their files into `spool` if given, and return the ids."""
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("set session_replication_role = replica")  # no triggers; usage is recounted below
        given = {
            "count": count,
            "users": users,
            "salt": salt,
            "size": len(content),
            "sha256": sha256(content).hexdigest(),
            "due_in": due_in,
        }
        rows = conn.execute(_QUEUE, given).fetchall()
        conn.execute("set session_replication_role = origin")
        conn.execute("select reactor.recount_users(null, 100000)")
        conn.execute("vacuum analyze")
        conn.execute("checkpoint")
    if spool is not None:
        for _, name in rows:
            (spool / name).write_bytes(content)
    return [str(row_id) for row_id, _ in rows]


@contextmanager
def bench_server(*, quick: bool) -> Iterator[BenchServer]:
    """Start the server; stop it and remove its folders at the end."""
    home = Path(tempfile.mkdtemp(prefix="reactor-bench-"))
    memory = Path(tempfile.mkdtemp(prefix="reactor-bench-", dir=_MEMORY if _MEMORY.is_dir() else None))
    home.chmod(0o755)
    try:
        with EmbeddedPostgres(home / "postgres", options={"max_wal_size": "4GB"}) as server:
            yield BenchServer(home, memory, server, quick=quick)
    finally:
        shutil.rmtree(memory)
        shutil.rmtree(home)


def machine(bench: BenchServer) -> dict[str, str]:
    """Return a description of the machine and the software, by topic."""
    with bench.admin() as conn:
        asked = "select version(), current_setting('fsync'), current_setting('synchronous_commit')"
        row = conn.execute(asked).fetchone()
    assert row is not None
    cpu = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    names = ("reactor", "psycopg", "anyio", "pgqueuer", "asyncpg", "procrastinate")
    return {
        "cpu": f"{os.cpu_count()} x {cpu}",
        "load": " ".join(f"{load:.1f}" for load in os.getloadavg()),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "postgres": f"{row[0].partition(' on ')[0]}, fsync {row[1]}, synchronous_commit {row[2]}",
        "packages": ", ".join(f"{name} {version}" for name in names if (version := _version(name))),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
