"""Only the table's owner may change the audit log, and tenants may not read the log."""

from collections.abc import Iterator
from typing import LiteralString
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from support.rows import Rows, rows_of


@pytest.fixture
def rows(migrated_url: str) -> Iterator[Rows]:
    with rows_of(migrated_url) as rows:
        rows.all("select reactor.operate(%s, 'ana', '127.0.0.1', 'cancel', %s, null, null)", (uuid4(), [rows.upload()]))
        yield rows


def refused(rows: Rows, role: str, statement: LiteralString) -> bool:
    """Run a statement as a role and roll it back. Return whether the role lacks a privilege for it."""
    try:
        with rows.conn.transaction(force_rollback=True):
            rows.run(sql.SQL("set local role {}").format(sql.Identifier(role)))
            rows.run(statement)
    except psycopg.errors.InsufficientPrivilege:
        return True
    return False


@pytest.mark.parametrize("role", ["anon", "authenticated"])
def test_tenants_neither_read_it_nor_operate(rows: Rows, role: str) -> None:
    assert refused(rows, role, "select from reactor.audit_log")
    assert refused(rows, role, "select reactor.operate(gen_random_uuid(), 'x', 'x', 'reconcile', '{}', null, null)")
    assert refused(rows, role, "select reactor.live_summary('1 minute', 10)")


@pytest.mark.parametrize("role", ["reactor_worker", "service_role"])
def test_the_roles_that_write_it_may_read_and_not_change_it(rows: Rows, role: str) -> None:
    assert not refused(rows, role, "select from reactor.audit_log")
    assert refused(rows, role, "update reactor.audit_log set actor = 'someone else'")
    assert refused(rows, role, "delete from reactor.audit_log")
    assert refused(rows, role, "truncate reactor.audit_log")
    columns: LiteralString = "id, actor, remote_address, action, ids, changed, outcome"
    values: LiteralString = "gen_random_uuid(), 'x', 'x', 'retry', '{}', 0, '{}'"
    assert refused(rows, role, f"insert into reactor.audit_log ({columns}) values ({values})")
    assert not refused(rows, role, "select reactor.operate(gen_random_uuid(), 'x', 'x', 'reconcile', '{}', null, null)")


@pytest.mark.parametrize(
    ("actor", "remote_address", "action"),
    [("", "here", "retry"), ("x" * 81, "here", "retry"), ("ana", "x" * 101, "retry"), ("ana", "here", "drop")],
)
def test_a_change_that_cannot_be_recorded_is_not_made(rows: Rows, actor: str, remote_address: str, action: str) -> None:
    upload = rows.upload(status="dead")
    with pytest.raises(psycopg.Error):
        rows.all(
            "select reactor.operate(%s, %s, %s, %s, %s, null, null)", (uuid4(), actor, remote_address, action, [upload])
        )
    assert rows.upload_row(upload).status == "dead"
    assert len(rows.all("select from reactor.audit_log")) == 1
