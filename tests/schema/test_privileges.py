"""Users may only read their own rows, the reactor may write only by functions, anonymous callers may do nothing."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, LiteralString
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql
from support.rows import Rows

from reactor.postgres import statements

TABLES = ["sources", "interpretation_runs", "upload_queue", "storage_usage"]
ALL_TABLES = [*TABLES, "quota_plans"]


@pytest.fixture
def users(rows: Rows) -> tuple[UUID, UUID]:
    """Two users who each have one row in each table."""
    both = uuid4(), uuid4()
    for user in both:
        source = rows.source(user)
        rows.upload(user, source=source)
        rows.start_run(user, source=source)
    return both


@contextmanager
def acting_as(rows: Rows, role: str, user: UUID | None = None) -> Iterator[None]:
    """Run the block as PostgREST runs a request, with a role and a token's claims. Roll the transaction back."""
    with rows.conn.transaction():
        rows.run(sql.SQL("set local role {}").format(sql.Identifier(role)))
        if user:
            claims = json.dumps({"sub": str(user), "role": role})
            rows.all("select set_config('request.jwt.claims', %s, true)", (claims,))
        yield
        raise psycopg.Rollback


def refused(rows: Rows, statement: LiteralString | sql.Composed, parameters: tuple[Any, ...] = ()) -> bool:
    """Return whether PostgreSQL refuses a statement because of a missing privilege or row level security."""
    try:
        with rows.conn.transaction():
            rows.run(statement, parameters)
    except psycopg.errors.InsufficientPrivilege:
        return True
    return False


# the system catalog


def test_every_function_that_runs_as_its_owner_pins_its_search_path(rows: Rows) -> None:
    functions = rows.all(
        "select p.oid::regprocedure::text as name, p.proconfig from pg_proc as p"
        " where p.prosecdef and p.pronamespace in ('reactor'::regnamespace, 'public'::regnamespace)"
    )
    assert len(functions) > 10
    assert [f.name for f in functions if "search_path=pg_catalog, pg_temp" not in (f.proconfig or [])] == []


def test_only_the_named_roles_may_execute_a_function_of_the_reactor(rows: Rows) -> None:
    granted = rows.all(
        "select p.oid::regprocedure::text as name, coalesce(r.rolname, 'public') as grantee"
        "  from pg_proc as p cross join lateral aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as a"
        "  left join pg_roles as r on r.oid = a.grantee"
        " where p.pronamespace = 'reactor'::regnamespace and a.grantee <> p.proowner"
    )
    assert {row.grantee for row in granted} == {"reactor_worker", "service_role"}


def test_every_table_has_row_level_security(rows: Rows) -> None:
    tables = rows.all(
        "select c.relnamespace::regnamespace || '.' || c.relname as name, c.relrowsecurity as on from pg_class as c"
        " where c.relkind in ('r', 'p') and c.relnamespace in ('reactor'::regnamespace, 'public'::regnamespace)"
        " order by 1"
    )
    assert [table.name for table in tables if not table.on] == []
    ours = {*(f"public.{table}" for table in ALL_TABLES), "reactor.instance", "reactor.migration"}
    assert {table.name for table in tables} >= ours


def test_the_worker_has_no_special_role_attribute(rows: Rows) -> None:
    role = rows.one(
        "select rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication from pg_roles"
        " where rolname = 'reactor_worker'"
    )
    assert not any(role)
    assert rows.all("select from pg_auth_members where member = 'reactor_worker'::regrole") == []


def test_the_worker_may_only_read_tables(rows: Rows) -> None:
    granted = rows.all(
        "select distinct privilege_type from information_schema.role_table_grants where grantee = 'reactor_worker'"
    )
    assert [row.privilege_type for row in granted] == ["SELECT"]


# users


@pytest.mark.parametrize("table", TABLES)
def test_a_user_sees_their_own_rows_and_no_others(rows: Rows, users: tuple[UUID, UUID], table: str) -> None:
    query = sql.SQL("select user_id from public.{}").format(sql.Identifier(table))
    assert {row.user_id for row in rows.all(query)} == set(users)
    for user in users:
        with acting_as(rows, "authenticated", user):
            assert [row.user_id for row in rows.all(query)] == [user]


@pytest.mark.parametrize("table", TABLES)
def test_a_user_without_a_token_sees_nothing(rows: Rows, users: tuple[UUID, UUID], table: str) -> None:
    with acting_as(rows, "authenticated"):
        assert rows.all(sql.SQL("select from public.{}").format(sql.Identifier(table))) == []


@pytest.mark.parametrize("table", ALL_TABLES)
@pytest.mark.parametrize("role", ["authenticated", "reactor_worker"])
def test_users_and_the_worker_write_no_table_directly(
    rows: Rows, users: tuple[UUID, UUID], role: str, table: str
) -> None:
    name = sql.Identifier("public", table)
    column = sql.Identifier("plan" if table == "quota_plans" else "user_id")
    with acting_as(rows, role, users[0]):
        assert refused(rows, sql.SQL("insert into {} select * from {}").format(name, name))
        assert refused(rows, sql.SQL("update {} set {} = {}").format(name, column, column))
        assert refused(rows, sql.SQL("delete from {}").format(name))
        assert refused(rows, sql.SQL("truncate {} cascade").format(name))


@pytest.mark.parametrize("table", ALL_TABLES)
def test_anonymous_callers_read_and_write_nothing(rows: Rows, users: tuple[UUID, UUID], table: str) -> None:
    name = sql.Identifier("public", table)
    with acting_as(rows, "anon", users[0]):
        assert refused(rows, sql.SQL("select from {}").format(name))
        assert refused(rows, sql.SQL("delete from {}").format(name))


@pytest.mark.parametrize("role", ["anon", "authenticated"])
def test_users_have_no_access_to_the_schema_reactor(rows: Rows, users: tuple[UUID, UUID], role: str) -> None:
    with acting_as(rows, role, users[0]):
        assert refused(rows, "select * from reactor.instance")
        assert refused(rows, "select reactor.status('1 minute')")
        assert refused(rows, "select reactor.cancel_uploads('{}')")


def test_the_service_reads_and_writes_everything(rows: Rows, users: tuple[UUID, UUID]) -> None:
    with acting_as(rows, "service_role"):
        source = rows.source(users[0])
        rows.upload(users[0], source=source)
        run = rows.start_run(users[0], source=source)
        assert rows.run("update public.interpretation_runs set status = 'completed' where id = %s", (run,)) == 1
        assert rows.run("update public.storage_usage set plan = 'pro'") == 2
        assert rows.run("delete from public.sources") == 3
        assert rows.run("insert into public.quota_plans (plan) values ('own')") == 1


# the worker


def test_the_worker_may_do_everything_that_the_reactor_does(rows: Rows, users: tuple[UUID, UUID]) -> None:
    upload = rows.upload(users[0])
    run = rows.start_run(timeout_at=rows.at(-1))
    token, instance = uuid4(), uuid4()
    patience = timedelta(minutes=1)
    with acting_as(rows, "reactor_worker"):
        presence = (instance, "host", 7, 8321, "1.0", "listening", "reactor_canary_x", patience)
        assert instance in rows.one(statements.REPORT_PRESENCE, presence).instances
        assert len(rows.all(statements.SWEEP_UPLOADS, (patience, 10, 10))) == 3
        assert run in {row.id for row in rows.all(statements.SWEEP_RUNS, (patience, patience, 10))}
        assert rows.claim([upload], token)[upload].state == "claimed"
        assert rows.extend([upload], [token]) == {upload}
        assert rows.settle([(upload, token, "stored")]) == {upload: None}
        assert rows.rescue() == {}
        assert rows.expire([run])[run].code == "INTERPRETATION_TIMEOUT"
        assert rows.one(statements.STATUS, (patience,)).status["uploads"]["failed"] == 2
        assert rows.all("select reactor.requeue_uploads('{}')") == []
        assert rows.all("select reactor.cancel_uploads('{}')") == []
        assert rows.all("select * from reactor.purge_uploads('{}')") == []
        assert rows.all("select reactor.fail_runs('{}', 'no')") == []
        assert len(rows.all("select * from public.upload_queue")) == 2
        rows.all(statements.DEREGISTER_INSTANCE, (instance,))
        assert rows.all("select from reactor.instance") == []


def missing(rows: Rows, role: str | None) -> list[str]:
    if role is None:
        return [row.missing_privileges for row in rows.all(statements.MISSING_PRIVILEGES)]
    with rows.conn.transaction():
        rows.run(sql.SQL("set local role {}").format(sql.Identifier(role)))
        return [row.missing_privileges for row in rows.all(statements.MISSING_PRIVILEGES)]


@pytest.mark.parametrize("role", ["reactor_worker", "service_role", None])
def test_the_worker_the_service_and_the_owner_lack_no_privilege(rows: Rows, role: str | None) -> None:
    assert missing(rows, role) == []


@pytest.mark.parametrize("table", TABLES[:3])
def test_a_removed_policy_is_reported(rows: Rows, table: str) -> None:
    name = sql.Identifier(table)
    rows.run(sql.SQL("drop policy reactor_worker_reads on public.{}").format(name))
    (problem,) = missing(rows, "reactor_worker")
    assert table in problem
    assert "row level security" in problem


def test_a_policy_that_shows_only_some_rows_is_reported(rows: Rows) -> None:
    rows.run("alter policy reactor_worker_reads on public.upload_queue using (byte_size > 5)")
    (problem,) = missing(rows, "reactor_worker")
    assert "upload_queue" in problem


def test_a_restrictive_policy_is_reported_whatever_the_others_show(rows: Rows) -> None:
    rows.run("create policy not_all on public.upload_queue as restrictive for select using (byte_size > 5)")
    (problem,) = missing(rows, "reactor_worker")
    assert "upload_queue" in problem


@pytest.mark.parametrize("table", TABLES[:3])
def test_a_revoked_right_to_read_is_reported(rows: Rows, table: str) -> None:
    rows.run(sql.SQL("revoke select on public.{} from reactor_worker").format(sql.Identifier(table)))
    (problem,) = missing(rows, "reactor_worker")
    assert table in problem
    assert "may not read" in problem


@pytest.mark.parametrize(
    "function",
    [
        "claim_uploads(uuid[], uuid, interval, text[], text[])",
        "extend_leases(uuid[], uuid[], interval)",
        "settle_uploads(uuid[], uuid[], text[], float8[], text[], text[], text[], int, int)",
        "refuse_upload(uuid, uuid, text, text)",
        "confirm_stored(uuid[], uuid[], text[])",
        "rescue_uploads(uuid[], int)",
        "sweep_uploads(interval, int, int)",
        "expire_runs(uuid[], interval)",
        "sweep_runs(interval, interval, int)",
        "report_presence(uuid, text, integer, integer, text, text, text, interval)",
        "deregister_instance(uuid)",
    ],
)
def test_a_revoked_right_to_execute_is_reported(rows: Rows, function: LiteralString) -> None:
    rows.run("revoke execute on function reactor." + function + " from reactor_worker")
    (problem,) = missing(rows, "reactor_worker")
    assert function.partition("(")[0] in problem
    assert "may not execute" in problem
