"""The schema works on a platform like Supabase: each role gets every privilege, and the owner lacks BYPASSRLS.

These tests have their own server, because a role belongs to the whole server and not to one database.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
from support.callers import SERVICE_ONLY, Api, failed
from support.rows import Rows, rows_of
from support.table_dump import tables
from support.usage_check import assert_usage_matches_rows

from reactor.embedded.server import EmbeddedPostgres
from reactor.postgres.migrate import migrate

ROLES = """
create role anon nologin noinherit;
create role authenticated nologin noinherit;
create role service_role nologin noinherit bypassrls;
create role app_owner login createrole nosuperuser nobypassrls password 'owner';
"""

PLATFORM = """
create schema auth;
create function auth.uid() returns uuid language sql stable as $$
    select nullif(current_setting('request.jwt.claims', true)::jsonb ->> 'sub', '')::uuid
$$;
grant usage on schema auth to anon, authenticated, service_role, app_owner;
grant anon, authenticated, service_role to app_owner;
set role app_owner;
alter default privileges in schema public grant all on tables to anon, authenticated, service_role;
alter default privileges in schema public grant all on functions to anon, authenticated, service_role;
alter default privileges in schema public grant all on sequences to anon, authenticated, service_role;
"""


@pytest.fixture(scope="module")
def owner_url(reachable_module_folder: Path) -> Iterator[str]:
    """URL of a database on such a platform. The URL's user is app_owner, the owner."""
    programs = os.environ.get("REACTOR_TEST_POSTGRES_BIN")
    folder = reachable_module_folder / "postgres"
    with EmbeddedPostgres(folder, durable=False, bin_dir=Path(programs) if programs else None) as server:
        with psycopg.connect(server.url, autocommit=True) as conn:
            conn.execute(ROLES.encode())
            conn.execute(b"create database platform owner app_owner")
        url = urlsplit(server.url)._replace(path="/platform")
        with psycopg.connect(url.geturl(), autocommit=True) as conn:
            conn.execute(PLATFORM.encode())
        yield url._replace(netloc=f"app_owner:owner@127.0.0.1:{url.port}").geturl()
        assert_usage_matches_rows(url.geturl())


@pytest.fixture(scope="module")
def migrated(owner_url: str) -> str:
    migrate(owner_url)
    return owner_url


@pytest.fixture
def rows(migrated: str) -> Iterator[Rows]:
    with rows_of(migrated) as rows:
        yield rows


def test_the_owner_is_bound_by_row_level_security(rows: Rows) -> None:
    for table in tables(rows):
        bound = rows.one("select row_security_active(%s::regclass) as bound", (".".join(table[:2]),)).bound
        assert bound, table


def test_the_whole_api_works_for_a_service_that_connects_as_the_owner(rows: Rows) -> None:
    use_the_whole_api(Api(rows), rows)


def test_the_whole_api_works_for_the_service_role(rows: Rows) -> None:
    use_the_whole_api(Api(rows, "service_role", json.dumps({"role": "service_role"})), rows)


def use_the_whole_api(api: Api, rows: Rows) -> None:
    user = uuid4()
    source, queued = api.store(user, 7), api.reserve(user, 5)
    upload = api.fail(queued)
    run = api.begin(source)
    api.ok("heartbeat_interpretation", p_run_id=run)
    api.ok("complete_interpretation", p_run_id=run)
    api.ok("fail_interpretation", p_run_id=api.begin(source))
    api.ok("set_plan", p_user_id=user, p_plan="pro")
    assert api.ok("recalculate_usage", p_user_id=user)["changed"] is False
    usage = api.usage(user)
    assert (usage["plan"], usage["used_bytes"], usage["reserved_bytes"]) == ("pro", 7, 5)
    assert usage["interpretations_used"] == 2
    Api(rows).limit(user, bytes_=12, runs=2)
    over = {"p_user_id": user, "p_content_hash": "0" * 64, "p_byte_size": 1}
    api.refused("STORAGE_QUOTA_EXCEEDED", "reserve_upload", **over)
    api.refused("INTERPRETATION_QUOTA_EXCEEDED", "begin_interpretation", p_source_id=source)
    token = uuid4()
    rows.claim([upload], token)
    assert rows.settle([(upload, token, "stored")], url="s3://b/k") == {upload: None}
    assert rows.usage(user) == (12, 0, 2)


def test_a_user_works_with_their_own_rows_and_not_with_another_users(rows: Rows) -> None:
    user, other = uuid4(), Api(rows).reserve(uuid4())
    own = Api.of(rows, user)
    source = own.store(user)
    own.ok("complete_interpretation", p_run_id=own.begin(source))
    own.refused("NOT_FOUND", "fail_upload", **failed(other))


def test_rights_on_tables_that_the_platform_granted_are_revoked(rows: Rows) -> None:
    """Users may read the tables that have policies for users. Anonymous callers may read no table."""
    allowed = {
        (schema, name, role, right)
        for schema, name, _ in tables(rows)
        for role in ("anon", "authenticated")
        for right in ("select", "insert", "update", "delete", "truncate", "references", "trigger")
        if rows.one(
            "select has_schema_privilege(%s, %s, 'usage') and has_table_privilege(%s, %s, %s) as may",
            (role, schema, role, f"{schema}.{name}", right),
        ).may
    }
    readable = ("sources", "interpretation_runs", "upload_queue", "storage_usage", "quota_plans")
    assert allowed == {("public", name, "authenticated", "select") for name in readable}


def test_rights_on_functions_that_the_platform_granted_are_revoked(rows: Rows) -> None:
    executable = rows.all(
        "select p.proname as name, r.role, p.pronamespace::regnamespace::text as schema"
        "  from pg_proc as p cross join (values ('anon'), ('authenticated'), ('public')) as r (role)"
        " where p.pronamespace in ('public'::regnamespace, 'reactor'::regnamespace)"
        "   and exists (select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as a"
        "                where a.privilege_type = 'EXECUTE'"
        "                  and a.grantee = coalesce((select oid from pg_roles where rolname = r.role), 0))"
    )
    assert {(row.schema, row.role) for row in executable} == {("public", "authenticated")}
    assert {row.name for row in executable}.isdisjoint(SERVICE_ONLY)
    assert len(executable) == 8
