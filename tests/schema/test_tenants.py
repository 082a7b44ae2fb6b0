"""No table and no function of the schemas public and reactor gives a tenant access to another tenant's rows.

The system catalog lists the tables and functions. A new table or view is therefore tested automatically, and a new
function without a call in `attempts` fails the tests.
"""

import json
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from attrs import frozen
from psycopg import sql
from support.callers import NIL, SERVICE_ONLY, Api, content_hash, failed
from support.rows import Rows
from support.table_dump import dump, tables


@frozen
class Tenant:
    """A user with two sources, one queued upload and one run."""

    user: UUID
    source: UUID
    pending: UUID
    upload: UUID
    run: UUID


def tenant(rows: Rows) -> Tenant:
    api, user = Api(rows), uuid4()
    source, pending = api.store(user), api.reserve(user)
    return Tenant(user=user, source=source, pending=pending, upload=api.fail(pending), run=api.begin(source))


@pytest.fixture
def alice(rows: Rows) -> Tenant:
    return tenant(rows)


@pytest.fixture
def bob(rows: Rows) -> Tenant:
    """The other tenant. The fixture also inserts rows into the reactor's own tables."""
    bob = tenant(rows)
    gone = rows.start_run(bob.user, source=bob.source)
    rows.run("delete from public.interpretation_runs where id = %s", (gone,))
    rows.run("insert into reactor.instance (id, host, version, mode) values (%s, 'h', '1', 'polling')", (uuid4(),))
    rows.run("insert into reactor.quota_rejection values (now(), 'storage', 'free', 1, 1)")
    return bob


TOKENS = {
    "no token": "",
    "an empty object": "{}",
    "no user": '{"role": "authenticated"}',
    "a subject that is no UUID": '{"sub": "robert"}',
    "a list": "[]",
    "no JSON": "{sub: x}",
    "the nil UUID": json.dumps({"sub": str(NIL)}),
}
OPEN = {"quota_plans"}
"""Tables that every user may read."""


def seen(rows: Rows, role: str, claims: str, schema: str, name: str) -> list[str] | None:
    """Return the rows that a role can read, as text; None if PostgreSQL refuses."""
    try:
        with rows.conn.transaction():
            rows.run(sql.SQL("set local role {}").format(sql.Identifier(role)))
            rows.all("select set_config('request.jwt.claims', %s, true)", (claims,))
            found = rows.all(sql.SQL("select t::text as text from {} as t").format(sql.Identifier(schema, name)))
    except (psycopg.errors.InsufficientPrivilege, psycopg.DataError):
        return None  # DataError: the policy converts the claims, which fails for an invalid token
    return [row.text for row in found]


def test_a_user_reads_only_their_own_rows_in_every_table_and_view(rows: Rows, alice: Tenant, bob: Tenant) -> None:
    found = {}
    claims = json.dumps({"sub": str(alice.user)})
    for schema, name, _ in tables(rows):
        lines = seen(rows, "authenticated", claims, schema, name)
        assert not any(str(word) in line for line in lines or () for word in (bob.user, bob.source, bob.run))
        if lines is not None:
            found[name] = len(lines)
    assert found == {"sources": 2, "interpretation_runs": 1, "upload_queue": 1, "storage_usage": 1, "quota_plans": 3}


@pytest.mark.parametrize("claims", TOKENS.values(), ids=TOKENS.keys())
def test_a_user_without_a_valid_token_reads_no_row(rows: Rows, alice: Tenant, bob: Tenant, claims: str) -> None:
    for schema, name, _ in tables(rows):
        assert not seen(rows, "authenticated", claims, schema, name) or name in OPEN


def test_anonymous_callers_read_nothing_whatever_their_claims(rows: Rows, alice: Tenant) -> None:
    for schema, name, _ in tables(rows):
        assert seen(rows, "anon", json.dumps({"sub": str(alice.user)}), schema, name) is None


@pytest.mark.parametrize("role", ["authenticated", "anon"])
def test_a_user_writes_no_table_directly_neither_the_others_rows_nor_their_own(
    rows: Rows, alice: Tenant, bob: Tenant, role: str
) -> None:
    before, claims = dump(rows), json.dumps({"sub": str(alice.user)})
    tried = 0
    for schema, name, _ in tables(rows):
        table = sql.Identifier(schema, name)
        column = rows.one(
            "select attname from pg_attribute where attrelid = %s::regclass and attnum = 1", (f"{schema}.{name}",)
        ).attname
        for statement in (
            sql.SQL("insert into {} default values").format(table),
            sql.SQL("insert into {} select * from {} on conflict do nothing").format(table, table),
            sql.SQL("update {} set {} = {}").format(table, sql.Identifier(column), sql.Identifier(column)),
            sql.SQL("delete from {}").format(table),
            sql.SQL("truncate {} cascade").format(table),
            sql.SQL("lock {} in access exclusive mode").format(table),
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege), rows.conn.transaction():
                rows.run(sql.SQL("set local role {}").format(sql.Identifier(role)))
                rows.all("select set_config('request.jwt.claims', %s, true)", (claims,))
                rows.run(statement)
            tried += 1
    assert tried >= 6 * 9
    assert dump(rows) == before


def attempts(of: Tenant) -> dict[str, list[dict[str, Any]]]:
    """Return the arguments of calls on a tenant's rows, for each function that users may execute."""
    new = {"p_content_hash": content_hash(), "p_byte_size": 1}
    return {
        "reserve_upload": [{"p_user_id": of.user} | new],
        "complete_upload": [{"p_source_id": one, "p_storage_url": "s3://mine/x"} for one in (of.source, of.pending)],
        "fail_upload": [failed(of.source), failed(of.pending)],
        "begin_interpretation": [{"p_source_id": of.source}, {"p_source_id": of.source, "p_run_id": of.run}],
        "heartbeat_interpretation": [{"p_run_id": of.run}],
        "complete_interpretation": [{"p_run_id": of.run}],
        "fail_interpretation": [{"p_run_id": of.run}],
        "get_usage": [{"p_user_id": of.user}],
    }


def functions(rows: Rows, schema: str) -> list[Any]:
    """Return name, signature and argument types of each function, and whether it is a trigger function."""
    with rows.conn.transaction():
        rows.run("set local search_path = pg_catalog")  # then the names of the reactor's own types have their schema
        return rows.all(
            "select p.proname as name, p.oid::regprocedure::text as signature,"
            "       array(select format_type(t, null) from unnest(p.proargtypes) as t) as types,"
            "       p.prorettype = 'trigger'::regtype as of_trigger"
            "  from pg_proc as p where p.pronamespace = %s::regnamespace order by 1",
            (schema,),
        )


def test_each_function_of_the_api_is_tried_here_and_there_are_no_others(rows: Rows, bob: Tenant) -> None:
    assert {function.name for function in functions(rows, "public")} == {*attempts(bob), *SERVICE_ONLY}


def test_a_user_changes_nothing_in_another_users_rows_and_reads_nothing_from_them(
    rows: Rows, alice: Tenant, bob: Tenant
) -> None:
    """The result for another user's row is the same as for a missing row."""
    before, own = dump(rows), Api.of(rows, alice.user)
    stranger = Tenant(user=uuid4(), source=uuid4(), pending=uuid4(), upload=uuid4(), run=uuid4())
    strangers = attempts(stranger)
    for function, calls in attempts(bob).items():
        for arguments, as_if in zip(calls, strangers[function], strict=True):
            answer = own.call(function, **arguments)
            assert answer["ok"] is False, (function, arguments)
            assert answer == own.call(function, **as_if)
            assert not any(str(word) in json.dumps(answer) for word in (bob.user, bob.source, bob.run))
    assert dump(rows) == before


@pytest.mark.parametrize("claims", TOKENS.values(), ids=TOKENS.keys())
def test_a_user_without_a_valid_token_does_nothing(rows: Rows, bob: Tenant, claims: str) -> None:
    before, stranger = dump(rows), Api(rows, "authenticated", claims)
    for function, calls in attempts(bob).items():
        for arguments in calls:
            stranger.refused("NOT_ALLOWED", function, **arguments)
    assert dump(rows) == before


def test_a_user_uses_up_their_own_quota_and_no_other_users(rows: Rows, alice: Tenant, bob: Tenant) -> None:
    Api(rows).limit(alice.user, bytes_=20, runs=1)
    over = {"p_user_id": alice.user, "p_content_hash": content_hash(), "p_byte_size": 1}
    Api.of(rows, alice.user).refused("STORAGE_QUOTA_EXCEEDED", "reserve_upload", **over)
    Api.of(rows, bob.user).reserve(bob.user, 1)
    Api.of(rows, bob.user).begin(Api.of(rows, bob.user).store(bob.user))


def test_anonymous_callers_may_execute_nothing_and_users_no_function_for_services_or_the_reactor(
    rows: Rows, alice: Tenant, bob: Tenant
) -> None:
    before, tried = dump(rows), 0
    for schema in ("public", "reactor"):
        for function in functions(rows, schema):
            for role in ("anon", "authenticated"):
                if role == "authenticated" and schema == "public" and function.name not in SERVICE_ONLY:
                    continue
                arguments = sql.SQL(", ").join(sql.SQL("null::" + of_type) for of_type in function.types)
                with pytest.raises(psycopg.errors.InsufficientPrivilege), rows.conn.transaction():
                    rows.run(sql.SQL("set local role {}").format(sql.Identifier(role)))
                    rows.all("select set_config('request.jwt.claims', %s, true)", (f'{{"sub": "{alice.user}"}}',))
                    rows.all(sql.SQL("select {}({})").format(sql.Identifier(schema, function.name), arguments))
                tried += 1
    assert tried > 70
    assert dump(rows) == before


def test_a_user_reserves_fails_completes_and_interprets_their_own_sources(rows: Rows) -> None:
    own = Api.of(rows, user := uuid4())
    source = own.reserve(user)
    own.fail(source)
    own.ok("complete_upload", p_source_id=source, p_storage_url="s3://b/k")
    run = own.begin(source)
    own.ok("heartbeat_interpretation", p_run_id=run)
    own.ok("complete_interpretation", p_run_id=run)
    own.ok("fail_interpretation", p_run_id=own.begin(source))
    assert own.usage(user)["interpretations_used"] == 2
