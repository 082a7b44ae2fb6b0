"""Uploads and runs come through, and every command works, whatever a database, a role or a variable sets."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql
from support.app import App, open_app
from support.process import reactor, settings_of
from support.recorder import Recorder
from support.stubborn_store import StubbornStore

from reactor.core.errors import StorageRejected
from reactor.core.events import AttemptSettled, DatabaseLost, RunExpired
from reactor.core.model import Verdict
from reactor.postgres.migrate import migrate

pytestmark = pytest.mark.timeout(120)

GERMAN = {"datestyle": "German, DMY", "intervalstyle": "sql_standard", "timezone": "Asia/Kathmandu"}
STRICT = {"default_transaction_read_only": "on", "default_transaction_isolation": "serializable", "search_path": '""'}
HASTY = {"statement_timeout": "50ms", "lock_timeout": "1ms", "idle_session_timeout": "200ms"}
BINARY = {"bytea_output": "escape", "extra_float_digits": "-15", "standard_conforming_strings": "off"}

DATABASES = {
    "German dates": ("UTF8", GERMAN),
    "read-only and serializable": ("UTF8", STRICT),
    "short limits": ("UTF8", HASTY),
    "odd formats": ("UTF8", BINARY),
    "LATIN1": ("LATIN1", {}),
    "LATIN1 with German dates": ("LATIN1", GERMAN),
    "WIN1251": ("WIN1251", {}),
    "SQL_ASCII": ("SQL_ASCII", {}),
}

MESSAGE = "400 Плохо \N{SNOWMAN}: caf\u00e9"
"""A store's answer. Not every database can store all of it."""

STORED_MESSAGE = {
    "UTF8": MESSAGE,
    "SQL_ASCII": MESSAGE,
    "LATIN1": "400 ????? ?: caf\u00e9",
    "WIN1251": "400 Плохо ?: caf?",
}


@pytest.fixture(params=DATABASES)
def odd_app(request: pytest.FixtureRequest, server_url: str, tmp_path: Path) -> Iterator[tuple[App, str]]:
    """An app in a database of this kind, and the database's encoding."""
    encoding, settings = DATABASES[request.param]
    name = "odd_database"
    identifier = sql.Identifier(name)
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(sql.SQL("drop database if exists {} with (force)").format(identifier))
        words = sql.SQL("create database {} encoding {} locale 'C' template template0")
        conn.execute(words.format(identifier, encoding))
        url = urlsplit(server_url)._replace(path=f"/{name}", query="client_encoding=utf8").geturl()
        with open_app(url, tmp_path) as app:
            known = {row[0] for row in conn.execute("select name from pg_catalog.pg_settings")}
            for key in settings.keys() & known:
                words = sql.SQL("alter database {} set {} = {}")
                conn.execute(words.format(identifier, sql.Identifier(key), settings[key]))
            migrate(url)
            yield app, encoding
        conn.execute(sql.SQL("drop database {} with (force)").format(identifier))


async def test_uploads_and_runs_come_through(odd_app: tuple[App, str], recorder: Recorder) -> None:
    app, encoding = odd_app
    store = StubbornStore(app.store)
    async with app.running_reactor(recorder, store=store):
        with app.conn.transaction():
            stored, dead = app.queue_uploads(2)
            store.fail(dead.key, StorageRejected(MESSAGE))
            run = app.begin_run(timeout_at="2000-01-01")
        await recorder.wait_for(AttemptSettled, lambda event: event.verdict is Verdict.STORED)
        await recorder.wait_for(AttemptSettled, lambda event: event.verdict is Verdict.DEAD)
        await recorder.wait_for(RunExpired)
    app.assert_stored(stored)
    assert recorder.events_of(DatabaseLost) == []
    row = app.row(dead)
    assert row is not None
    assert row["error_message"] == STORED_MESSAGE[encoding]

    for command in (
        ["uploads", "list"],
        ["uploads", "show", str(dead.id)],
        ["runs", "list"],
        ["runs", "show", str(run)],
        ["status"],
        ["quota", "show", str(dead.user)],
        ["uploads", "retry", str(dead.id)],
        ["reconcile", "--dry-run"],
        ["reconcile"],
        ["migrate"],
        ["migrate", "--status"],
    ):
        done = reactor(*command, env=settings_of(app))
        assert done.returncode == 0, (command, done.stderr)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PGCLIENTENCODING", "LATIN1"),
        ("PGCLIENTENCODING", "SQL_ASCII"),
        ("PGOPTIONS", "-c datestyle=German -c default_transaction_read_only=on -c search_path=nowhere"),
        ("PGTZ", "Asia/Kathmandu"),
    ],
)
def test_commands_work_whatever_a_variable_sets(app: App, name: str, value: str) -> None:
    [upload] = app.queue_uploads(status="dead", error_message=MESSAGE)
    run = app.begin_run(status="failed", error_message=MESSAGE)
    for command in (["uploads", "show", str(upload.id)], ["runs", "show", str(run)], ["reconcile"], ["migrate"]):
        done = reactor(*command, env=settings_of(app) | {name: value, "PYTHONIOENCODING": "utf-8"})
        assert done.returncode == 0, (command, done.stderr)
        assert MESSAGE in done.stdout or command[0] in {"reconcile", "migrate"}
