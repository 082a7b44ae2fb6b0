"""Only the privileges in the function files are granted, and row level security applies to every table."""

import re
from typing import LiteralString

import pytest
from support.rows import Rows
from support.table_dump import tables

from reactor.postgres.migrate import schema_dir

INLINED = {
    "acts_for",
    "attempt_error",
    "caller",
    "deadline",
    "due_at",
    "hint",
    "is_due",
    "is_marking",
    "is_overdue",
    "leaked_reservation",
    "lease_end",
    "lease_has_expired",
    "lost_attempt_error",
    "notified_until",
    "quota_of",
    "send",
    "size_of_source",
    "usage_of_source",
}
"""Functions without a pinned search_path, because PostgreSQL can't inline a function that pins it."""

UNPINNED = {"send_hints"}
"""Functions that are called only by triggers, which pin the search_path. A second pin would slow down each write."""

_GRANT = re.compile(r"^grant execute on function\s+([^;]+?\))\s+to\s+([^;]+);", re.MULTILINE)


def test_each_function_is_granted_to_the_roles_in_its_file_only(rows: Rows) -> None:
    written: set[tuple[str, str]] = set()
    for file in sorted((schema_dir() / "functions").glob("*.sql")):
        for function, roles in _GRANT.findall(file.read_text(encoding="utf-8")):
            name = rows.one("select %s::regprocedure::text as name", (function,)).name
            written |= {(name, role.strip()) for role in roles.split(",")}
    granted = rows.all(
        "select p.oid::regprocedure::text as name, coalesce(r.rolname, 'public') as role"
        "  from pg_proc as p cross join lateral aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as a"
        "  left join pg_roles as r on r.oid = a.grantee"
        " where p.pronamespace in ('public'::regnamespace, 'reactor'::regnamespace) and a.grantee <> p.proowner"
    )
    assert len(written) > 40
    assert {(row.name, row.role) for row in granted} == written
    assert {role for _, role in written} == {"authenticated", "service_role", "reactor_worker"}


def test_every_function_has_a_pinned_search_path_except_the_inlined_ones(rows: Rows) -> None:
    functions = rows.all(
        "select p.proname as name, p.prosecdef as as_owner,"
        "       'search_path=pg_catalog, pg_temp' = any(p.proconfig) as pinned"
        "  from pg_proc as p where p.pronamespace in ('public'::regnamespace, 'reactor'::regnamespace)"
    )
    unpinned = [function for function in functions if not function.pinned]
    assert {function.name for function in unpinned} == INLINED | UNPINNED
    for name in UNPINNED:
        callers = "select 1 from pg_proc where proname = %s and proacl::text ~ '(^|[{,])=X'"
        assert rows.all(callers, (name,)) == [], f"every role may execute {name}"
    assert not any(function.as_owner for function in unpinned)


def test_row_level_security_is_forced_on_every_table(rows: Rows) -> None:
    for schema, name, kind in tables(rows):
        if kind in "rp":
            table = rows.one(
                "select relrowsecurity, relforcerowsecurity from pg_class where oid = %s::regclass",
                (f"{schema}.{name}",),
            )
            assert tuple(table) == (True, True), name


def test_every_view_reads_with_its_readers_rights(rows: Rows) -> None:
    views = rows.all(
        "select c.relname as name, 'security_invoker=true' = any(c.reloptions) as as_reader, c.relkind::text as kind"
        "  from pg_class as c where c.relkind in ('v', 'm')"
        "   and c.relnamespace in ('public'::regnamespace, 'reactor'::regnamespace)"
    )
    assert [view.name for view in views if view.kind == "m" or not view.as_reader] == []


def test_every_policy_reads_the_user_once_per_statement(rows: Rows) -> None:
    policies = rows.all(
        "select policyname as name, coalesce(qual, '') || coalesce(with_check, '') as text from pg_policies"
        " where schemaname in ('public', 'reactor') and coalesce(qual, '') || coalesce(with_check, '') ~ 'uid\\('"
    )
    assert len(policies) == 4
    assert [policy.name for policy in policies if not re.search(r"\( ?SELECT auth\.uid\(\)", policy.text)] == []


def test_only_the_owner_the_service_and_the_worker_have_policies_that_show_all_rows(rows: Rows) -> None:
    """The exception is quota_plans: every user may read all plans."""
    shown = rows.all(
        "select tablename as name, unnest(roles)::text as role from pg_policies"
        " where schemaname in ('public', 'reactor') and permissive = 'PERMISSIVE' and qual = 'true'"
    )
    others = {(row.name, row.role) for row in shown if row.role not in {"service_role", "reactor_worker"}}
    owner = rows.one("select current_user::text as name").name
    assert {pair for pair in others if pair[1] != owner} == {("quota_plans", "authenticated")}


QUERIES_WITH_RULES: dict[str, LiteralString] = {
    "notify": (
        "select reactor.send('reactor_uploads', array_agg(changed.hint))"
        "  from (select reactor.hint(n.id, n.user_id, n.next_retry_at) as hint"
        "          from public.upload_queue as n limit 1001) as changed"
    ),
    "claim": (
        "update public.upload_queue as q"
        "   set errors = q.errors || reactor.lost_attempt_error(q.updated_at, q.retry_count, q.traceparent)"
        " where reactor.is_due(q.status, q.next_retry_at)"
        "    or reactor.lease_has_expired(q.status, q.lease_expires_at)"
    ),
    "expire": (
        "select r.id from public.interpretation_runs as r"
        " where reactor.is_overdue(r.timeout_at, r.heartbeat_at, coalesce(r.heartbeat_timeout, interval '1 minute'))"
        "   and reactor.acts_for(null, r.user_id) and not reactor.is_marking(r.id)"
    ),
    "notified until": "select reactor.notified_until(r.heartbeat_at) from public.interpretation_runs as r",
    "usage": (
        "select f.user_id, sum(f.total) from public.sources as s cross join lateral reactor.usage_of_source(s) as f"
        " group by f.user_id"
    ),
    "quota": (
        "select u.user_id from public.storage_usage as u join public.quota_plans as p on p.plan = u.plan"
        " cross join lateral reactor.quota_of(u, p, '2000-01') as q where q.used_bytes > q.limit_bytes"
    ),
    "reservation": (
        "select s.id from reactor.leaked_reservation() as l join public.sources as s on s.id = l.source_id"
        "   for update of s skip locked"
    ),
    "caller": "select reactor.caller() is null",
}


@pytest.mark.parametrize("name", QUERIES_WITH_RULES)
def test_a_shared_rule_becomes_part_of_the_query(rows: Rows, name: str) -> None:
    """If PostgreSQL can't inline a function, it calls the function for each row, without a warning."""
    plan = "\n".join(line for (line,) in rows.all("explain (verbose) " + QUERIES_WITH_RULES[name]))
    assert re.findall(rf"\b(?:{'|'.join(INLINED)})\(", plan) == []
    if name == "notify":
        assert "pg_notify(" in plan
