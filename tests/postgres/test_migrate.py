"""`migrate` works on an empty database, a migrated one, one of an older app, and one like Supabase's."""

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from reactor.core.errors import MigrationChanged
from reactor.embedded.server import EmbeddedPostgres
from reactor.postgres.migrate import migrate, plan, schema_dir, schema_files

ALL_FILES = [file.name for file in schema_files()]
ALICE = "00000000-0000-4000-8000-00000000000a"
BOB = "00000000-0000-4000-8000-00000000000b"
SOURCE = "00000000-0000-4000-8000-000000000001"

OLDER_APP = f"""
create table sources (
    id uuid primary key default gen_random_uuid(),
    user_id uuid not null,
    content_hash text not null,
    mime_type text,
    storage_url text not null,
    file_size bigint,
    original_filename text,
    created_at timestamptz default now()
);
create table interpretation_runs (
    id uuid primary key default gen_random_uuid(),
    user_id uuid not null,
    source_id uuid references sources (id),
    interpretation_config jsonb,
    status text not null check (status in ('pending', 'running', 'completed', 'failed')),
    started_at timestamptz,
    completed_at timestamptz,
    error_message text,
    created_at timestamptz default now()
);
insert into sources (id, user_id, content_hash, storage_url, file_size, original_filename) values
    ('{SOURCE}', '{ALICE}', 'a1', 'file:a1', 100, 'one.pdf'),
    (default, '{ALICE}', 'a2', 'file:a2', 20, 'two.pdf'),
    (default, '{BOB}', 'b1', 'file:b1', null, 'three.pdf');
insert into interpretation_runs (user_id, source_id, status) values ('{ALICE}', '{SOURCE}', 'completed');
"""

SUPABASE_ROLES = """
create role anon nologin noinherit;
create role authenticated nologin noinherit;
create role service_role nologin noinherit bypassrls;
create role app_owner login createrole password 'owner';
"""

SUPABASE_AUTH = f"""
create schema auth;
create function auth.uid() returns uuid language sql stable as $$ select '{ALICE}'::uuid $$;
grant usage on schema auth to anon, authenticated, service_role, app_owner;
"""


@pytest.fixture
def new_server(reachable_folder: Path) -> Iterator[EmbeddedPostgres]:
    """A server that only one test uses, because all databases of a server share its roles."""
    programs = os.environ.get("REACTOR_TEST_POSTGRES_BIN")
    folder = reachable_folder / "postgres"
    with EmbeddedPostgres(folder, durable=False, bin_dir=Path(programs) if programs else None) as server:
        yield server


@pytest.fixture
def edited_schema(tmp_path: Path) -> Path:
    """A copy of schema/ that a test may edit."""
    return Path(shutil.copytree(schema_dir(), tmp_path / "schema"))


def run(url: str, script: str) -> None:
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(script.encode())


def rows(url: str, query: str, *, role: str = "none") -> list[tuple[object, ...]]:
    with psycopg.connect(url, options=f"-c role={role}") as conn:
        return conn.execute(query.encode()).fetchall()


def database(server: EmbeddedPostgres, name: str, options: str = "") -> str:
    run(server.url, f"create database {name} {options}")
    return urlsplit(server.url)._replace(path=f"/{name}").geturl()


def test_all_files_are_applied_in_order_and_none_a_second_time(database_url: str) -> None:
    assert {step.state for step in plan(database_url)} == {"pending"}
    names: list[str] = []

    assert migrate(database_url, on_file=names.append) == names == ALL_FILES
    ledger = rows(database_url, "select * from reactor.migration order by name")

    assert migrate(database_url, on_file=names.append) == []
    assert names == ALL_FILES
    assert rows(database_url, "select * from reactor.migration order by name") == ledger
    assert {step.state for step in plan(database_url)} == {"applied"}
    assert rows(database_url, "select reactor.missing_privileges()") == []


def test_nothing_is_applied_if_a_migration_was_edited(migrated_url: str, edited_schema: Path) -> None:
    """Neither a new migration that sorts before the edited one nor a changed function file is applied."""
    with (edited_schema / "migrations/0003_create_plans_and_usage.sql").open("a") as file:
        file.write("create table edited ();\n")
    (edited_schema / "migrations/0000_come_first.sql").write_text("create table first ();\n")
    (edited_schema / "functions/lib_usage_of_source.sql").write_text("create table last ();\n")
    before = rows(migrated_url, "select * from reactor.migration order by name")

    with pytest.raises(MigrationChanged, match=r"migrations/0003_create_plans_and_usage.sql was edited"):
        migrate(migrated_url, root=edited_schema)

    assert rows(migrated_url, "select * from reactor.migration order by name") == before
    assert rows(migrated_url, "select from pg_tables where tablename in ('edited', 'first', 'last')") == []


def test_a_migration_of_a_newer_version_is_refused(migrated_url: str) -> None:
    run(migrated_url, "insert into reactor.migration values ('migrations/9999_x.sql', '')")
    with pytest.raises(MigrationChanged, match="run a newer reactor"):
        migrate(migrated_url)


def test_a_changed_function_file_is_applied_again_and_no_other(migrated_url: str, edited_schema: Path) -> None:
    with (edited_schema / "functions/admin_status.sql").open("a") as file:
        file.write("comment on function reactor.status(interval) is 'edited';\n")

    assert migrate(migrated_url, root=edited_schema) == ["functions/admin_status.sql"]

    assert rows(migrated_url, "select obj_description('reactor.status(interval)'::regprocedure, 'pg_proc')") == [
        ("edited",)
    ]


def test_functions_may_be_applied_in_any_order(database_url: str, migrated_url: str, edited_schema: Path) -> None:
    """The test renames the files to reverse their order. The resulting functions and triggers must be the same."""
    folder = edited_schema / "functions"
    files = sorted(folder.glob("*.sql"), reverse=True)
    for number, file in enumerate(files):
        file.rename(folder / f"{number:03}_{file.name}")

    migrate(database_url, root=edited_schema)

    functions = (
        "select p.oid::regprocedure::text, pg_get_functiondef(p.oid), p.proacl::text from pg_proc as p"
        " where p.pronamespace in ('public'::regnamespace, 'reactor'::regnamespace) order by 1"
    )
    triggers = "select tgname, pg_get_triggerdef(oid) from pg_trigger where not tgisinternal order by 1, 2"
    for query in (functions, triggers):
        assert rows(database_url, query) == rows(migrated_url, query) != []


def test_an_equal_unique_index_of_the_apps_is_used_instead_of_another(database_url: str) -> None:
    run(database_url, OLDER_APP + "create unique index by_content on sources (content_hash, user_id);")

    migrate(database_url)

    unique = (
        "select indexrelid::regclass::text from pg_index"
        " where indrelid = 'sources'::regclass and indisunique and not indisprimary"
    )
    assert rows(database_url, unique) == [("by_content",)]


def test_an_index_that_an_earlier_try_left_invalid_is_built_again(database_url: str) -> None:
    run(
        database_url,
        OLDER_APP
        + "create index interpretation_runs_of_source on interpretation_runs (source_id);"
        + "update pg_index set indisvalid = false where indexrelid = 'interpretation_runs_of_source'::regclass;",
    )

    migrate(database_url)

    valid = "select indisvalid from pg_index where indexrelid = 'interpretation_runs_of_source'::regclass"
    assert rows(database_url, valid) == [(True,)]


def test_concurrent_migrators_apply_each_file_once(new_server: EmbeddedPostgres) -> None:
    """Two migrators run on each of two databases concurrently. Both databases share the server's roles."""
    urls = [database(new_server, name) for name in ("one", "two")]
    with ThreadPoolExecutor(4) as threads:
        applied = list(threads.map(migrate, [*urls, *urls]))
    for first, second in ((applied[0], applied[2]), (applied[1], applied[3])):
        assert sorted([first, second]) == [[], ALL_FILES]


def test_an_older_apps_rows_are_kept_and_counted(database_url: str) -> None:
    run(database_url, OLDER_APP)

    migrate(database_url)

    assert rows(
        database_url, "select content_hash, storage_url, file_size, storage_status from sources order by 1"
    ) == [
        ("a1", "file:a1", 100, "uploaded"),
        ("a2", "file:a2", 20, "uploaded"),
        ("b1", "file:b1", None, "uploaded"),
    ]
    assert rows(database_url, "select status, timeout_at from interpretation_runs") == [("completed", None)]
    usage = "select user_id::text, total_bytes, reserved_bytes, total_sources from storage_usage order by 1"
    assert rows(database_url, usage) == [(ALICE, 120, 0, 2), (BOB, 0, 0, 1)]

    # the older app's statements still work
    run(
        database_url,
        "insert into sources (user_id, content_hash, storage_url, file_size) "
        f"values ('{BOB}', 'b2', 'file:b2', 7); delete from sources where content_hash = 'a2'",
    )
    assert rows(database_url, usage) == [(ALICE, 100, 0, 1), (BOB, 7, 0, 2)]


def test_an_owner_without_superuser_rights_migrates_a_database_like_supabases(new_server: EmbeddedPostgres) -> None:
    run(new_server.url, SUPABASE_ROLES)
    url = database(new_server, "supabase", "owner app_owner")
    run(url, SUPABASE_AUTH)
    parts = urlsplit(url)
    owner_url = parts._replace(netloc=f"app_owner:owner@127.0.0.1:{parts.port}").geturl()
    roles = "select rolname, rolbypassrls from pg_roles where rolname ~ '^(anon|authenticated|service_role)$'"
    before = rows(url, roles)

    assert migrate(owner_url) == ALL_FILES
    assert migrate(owner_url) == []

    assert rows(url, roles) == before
    assert rows(url, "select auth.uid()::text") == [(ALICE,)]
    run(
        url,
        f"insert into sources (user_id, content_hash, byte_size) values ('{ALICE}', 'a', 5), ('{BOB}', 'b', 6)",
    )
    assert rows(url, "select content_hash from sources", role="authenticated") == [("a",)]
    assert rows(url, "select total_bytes from storage_usage", role="authenticated") == [(5,)]
    assert rows(url, "select count(*) from sources", role="reactor_worker") == [(2,)]
    assert rows(url, "select reactor.missing_privileges()", role="reactor_worker") == []
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        rows(url, "select * from storage_usage", role="anon")
