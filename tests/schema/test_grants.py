"""What the catalogue says of rights is what the files say, and what row level security needs."""

import re

from support.rows import Rows
from support.table_dump import tables

from reactor.postgres.migrate import schema_dir

INLINED = {
    "acts_for",
    "attempt_error",
    "caller",
    "deadline",
    "due_at",
    "effective_quota",
    "hint",
    "is_due",
    "is_marking",
    "is_overdue",
    "leaked_reservation",
    "lease_end",
    "lease_has_expired",
    "lost_attempt_error",
    "notified_until",
    "send",
    "size_of_source",
    "usage_of_source",
}
"""Functions that are inlined, which they couldn't be with a search_path; they run as their caller."""

HURRIED = {"send_hints"}
"""Functions that triggers with a pinned search_path call for each write of an app's, and nobody else may."""

_GRANT = re.compile(r"^grant execute on function\s+([^;]+?\))\s+to\s+([^;]+);", re.MULTILINE)


def test_each_function_is_granted_to_whom_its_file_says_and_to_nobody_else(rows: Rows) -> None:
    said: set[tuple[str, str]] = set()
    for file in sorted((schema_dir() / "functions").glob("*.sql")):
        for function, roles in _GRANT.findall(file.read_text(encoding="utf-8")):
            name = rows.one("select %s::regprocedure::text as name", (function,)).name
            said |= {(name, role.strip()) for role in roles.split(",")}
    granted = rows.all(
        "select p.oid::regprocedure::text as name, coalesce(r.rolname, 'public') as role"
        "  from pg_proc as p cross join lateral aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as a"
        "  left join pg_roles as r on r.oid = a.grantee"
        " where p.pronamespace in ('public'::regnamespace, 'reactor'::regnamespace) and a.grantee <> p.proowner"
    )
    assert len(said) > 40
    assert {(row.name, row.role) for row in granted} == said
    assert {role for _, role in said} == {"authenticated", "service_role", "reactor_worker"}


def test_every_function_has_a_pinned_search_path_but_those_that_are_inlined(rows: Rows) -> None:
    functions = rows.all(
        "select p.proname as name, p.prosecdef as as_owner,"
        "       'search_path=pg_catalog, pg_temp' = any(p.proconfig) as pinned"
        "  from pg_proc as p where p.pronamespace in ('public'::regnamespace, 'reactor'::regnamespace)"
    )
    free = [function for function in functions if not function.pinned]
    assert {function.name for function in free} == INLINED | HURRIED
    for name in HURRIED:
        callers = "select 1 from pg_proc where proname = %s and proacl::text ~ '(^|[{,])=X'"
        assert rows.all(callers, (name,)) == [], f"everybody may execute {name}"
    assert not any(function.as_owner for function in free)


def test_every_table_binds_its_owner_as_well(rows: Rows) -> None:
    for schema, name, kind in tables(rows):
        if kind in "rp":
            table = rows.one(
                "select relrowsecurity, relforcerowsecurity from pg_class where oid = %s::regclass",
                (f"{schema}.{name}",),
            )
            assert tuple(table) == (True, True), name


def test_every_view_sees_what_its_reader_may(rows: Rows) -> None:
    views = rows.all(
        "select c.relname as name, 'security_invoker=true' = any(c.reloptions) as as_reader, c.relkind::text as kind"
        "  from pg_class as c where c.relkind in ('v', 'm')"
        "   and c.relnamespace in ('public'::regnamespace, 'reactor'::regnamespace)"
    )
    assert [view.name for view in views if view.kind == "m" or not view.as_reader] == []


def test_no_policy_asks_who_the_user_is_once_for_a_row(rows: Rows) -> None:
    asking = rows.all(
        "select policyname as name, coalesce(qual, '') || coalesce(with_check, '') as text from pg_policies"
        " where schemaname in ('public', 'reactor') and coalesce(qual, '') || coalesce(with_check, '') ~ 'uid\\('"
    )
    assert len(asking) == 4
    assert [policy.name for policy in asking if not re.search(r"\( ?SELECT auth\.uid\(\)", policy.text)] == []


def test_only_their_owner_the_service_and_the_worker_have_policies_that_show_everything(rows: Rows) -> None:
    """The plans are no secret."""
    shown = rows.all(
        "select tablename as name, unnest(roles)::text as role from pg_policies"
        " where schemaname in ('public', 'reactor') and permissive = 'PERMISSIVE' and qual = 'true'"
    )
    everybodys = {(row.name, row.role) for row in shown if row.role not in {"service_role", "reactor_worker"}}
    owner = rows.one("select current_user::text as name").name
    assert {pair for pair in everybodys if pair[1] != owner} == {("quota_plans", "authenticated")}


def test_hints_are_made_and_sent_by_the_query_that_finds_them(rows: Rows) -> None:
    """PostgreSQL enters a function where it can't inline it, which it does without a word; triggers pay for it."""
    plan = rows.all(
        "explain (verbose) select reactor.send('reactor_uploads', array_agg(changed.hint))"
        "  from (select reactor.hint(n.id, n.user_id, n.next_retry_at) as hint"
        "          from public.upload_queue as n limit 1001) as changed"
    )
    text = "\n".join(line for (line,) in plan)
    assert "pg_notify(" in text
    assert re.findall(r"\b(?:hint|send)\(", text) == []
