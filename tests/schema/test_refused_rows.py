"""A row that the app's constraints or triggers refuse is dead with the server's message, and holds up no other row."""

import time
from collections import Counter
from typing import Any, LiteralString
from uuid import UUID, uuid4

import psycopg
import pytest
from support.rows import Rows, rows_of

from reactor.postgres import statements

COUNT = 40
BAD = 17


class Batch:
    """Claimed uploads of a user each. One of them is bad: its source has the file_name 'bad'."""

    def __init__(self, rows: Rows, *, count: int = COUNT, bad: int = BAD) -> None:
        self.rows = rows
        self.token = uuid4()
        self.sources = [
            rows.source(uuid4(), size=100, file_name="bad" if n == bad else "good", created_at=rows.at(n))
            for n in range(count)
        ]
        self.uploads = [
            rows.upload(rows.source_row(source).user_id, source=source, size=100) for source in self.sources
        ]
        self.bad, self.bad_source = self.uploads[bad], self.sources[bad]
        self.good = [upload for upload in self.uploads if upload != self.bad]

    def claim(self) -> None:
        assert {answer.state for answer in self.rows.claim(self.uploads, self.token).values()} == {"claimed"}

    def settle(self, verdict: str = "stored", **options: Any) -> dict[UUID, Any]:
        return self.rows.settlement([(upload, self.token, verdict) for upload in self.uploads], **options)


def trigger(rows: Rows, when: LiteralString, body: LiteralString, *, table: LiteralString = "sources") -> None:
    """Create a trigger of the app: `when` is like 'before update', `body` the statements before `return new`."""
    rows.run(
        "create function public.app_rule() returns trigger language plpgsql as $$ begin " + body + " return new; end $$"
    )
    rows.run(
        "create trigger app_rule " + when + " on public." + table + " for each row execute function public.app_rule()"
    )


def refuses_settlements(rows: Rows, kind: str) -> str:
    """Let the app refuse each change of the status of a source named 'bad'. Return a part of the server's message."""
    is_bad: LiteralString = "if new.file_name = 'bad' and new.storage_status <> 'pending' then "
    raises: LiteralString = is_bad + "raise exception 'the books are closed'; end if;"
    if kind == "check":
        rows.run(
            "alter table public.sources add constraint books_are_closed"
            " check (file_name <> 'bad' or storage_status = 'pending')"
        )
        return "books_are_closed"
    if kind == "deferred":
        rows.run(
            "create function public.app_rule() returns trigger language plpgsql as $$ begin "
            + raises
            + " return new; end $$"
        )
        rows.run(
            "create constraint trigger app_rule after update on public.sources deferrable initially deferred"
            " for each row execute function public.app_rule()"
        )
        return "the books are closed"
    if kind == "unique":
        rows.run("create table public.archive as select 'bad'::text as name")
        rows.run("create unique index archive_names on public.archive (name)")
    when, body, message = {
        "before": ("before update", "raise exception 'the books are closed'", "the books are closed"),
        "after": ("after update", "raise exception 'the books are closed'", "the books are closed"),
        "assert": ("before update", "assert false, 'the books are closed'", "the books are closed"),
        "cast": ("before update", "perform 'the books'::int", "the books"),
        "division": ("after update", "perform 1 / (new.byte_size - new.byte_size)", "division by zero"),
        # an app may raise any SQLSTATE
        "server's class": ("before update", "raise exception 'no disk' using errcode = 'disk_full'", "no disk"),
        "silent": ("before update", "return null", "left the row unchanged"),
        "unique": ("after update", "insert into public.archive values ('bad')", "duplicate key"),
    }[kind]
    trigger(rows, when, is_bad + body + "; end if;")
    return message


KINDS = [
    "check", "before", "after", "assert", "cast", "division", "server's class", "silent", "deferred", "unique",
]  # fmt: skip


@pytest.mark.parametrize("verdict", ["stored", "dead"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_refused_settlement_makes_its_upload_dead_and_settles_the_others(rows: Rows, kind: str, verdict: str) -> None:
    batch = Batch(rows)
    message = refuses_settlements(rows, kind)
    batch.claim()
    answers = batch.settle(verdict, url="file:///there" if verdict == "stored" else None)
    assert Counter(answer.state for answer in answers.values()) == {"settled": COUNT - 1, "refused": 1}
    assert answers[batch.bad].state == "refused"
    row = rows.upload_row(batch.bad)
    assert (row.status, row.error_code, row.lease_token) == ("dead", "DATABASE_REFUSED", None)
    assert message in row.error_message
    assert row.error_message == answers[batch.bad].message
    assert [entry["code"] for entry in row.errors] == ["DATABASE_REFUSED"]
    # the app refuses any change of the source, so the reservation stays
    assert rows.source_row(batch.bad_source).storage_status == "pending"
    assert rows.usage(row.user_id) == (0, 100, 0)
    for source in batch.sources:
        if source != batch.bad_source:
            assert rows.source_row(source).storage_status == ("uploaded" if verdict == "stored" else "failed")


def test_the_reservation_is_released_if_the_app_allows_it(rows: Rows) -> None:
    batch = Batch(rows)
    rows.run("alter table public.sources add constraint no_url check (storage_url is null)")
    batch.claim()
    answers = batch.settle(url=None)
    assert {answer.state for answer in answers.values()} == {"settled"}
    again = Batch(rows, count=2, bad=0)
    again.claim()
    assert {answer.state for answer in again.settle(url="file:///there").values()} == {"refused"}
    row = rows.upload_row(again.bad)
    assert rows.source_row(again.bad_source).storage_status == "failed"
    assert rows.usage(row.user_id) == (0, 0, 0)


@pytest.mark.parametrize("size", [1, 5, 500])
@pytest.mark.parametrize("bad", [0, 1, COUNT - 1])
def test_any_place_in_a_batch_may_be_refused(rows: Rows, size: int, bad: int) -> None:
    batch = Batch(rows, bad=bad)
    refuses_settlements(rows, "before")
    batch.claim()
    answers = batch.settle(size=size)
    assert {upload for upload, answer in answers.items() if answer.state == "refused"} == {batch.bad}
    assert {upload for upload, answer in answers.items() if answer.state == "settled"} == set(batch.good)


def test_several_refused_uploads_in_a_batch_are_found(rows: Rows) -> None:
    batch = Batch(rows)
    refuses_settlements(rows, "before")
    bad = {3, 4, 5, 20, 38}
    for n in bad:
        rows.run("update public.sources set file_name = 'bad' where id = %s", (batch.sources[n],))
    batch.claim()
    answers = batch.settle()
    refused = {batch.uploads.index(upload) for upload, answer in answers.items() if answer.state == "refused"}
    assert refused == bad | {BAD}
    assert len(answers) == COUNT


def test_a_batch_of_refused_uploads_ends_within_moments(rows: Rows) -> None:
    batch = Batch(rows, count=200)
    rows.run("update public.sources set file_name = 'bad'")
    refuses_settlements(rows, "after")
    batch.claim()
    began = time.monotonic()
    answers = batch.settle()
    assert {answer.state for answer in answers.values()} == {"refused"}
    assert time.monotonic() - began < 5.0


QUEUE_RULES: dict[str, tuple[LiteralString, LiteralString]] = {
    "a trigger on the deletion": (
        "before delete", "if old.object_path = 'bad' then raise exception 'no deletion'; end if; return old;",
    ),
    "a deletion that silently doesn't happen": (
        "before delete", "if old.object_path = 'bad' then return null; end if; return old;",
    ),
    "a trigger after the deletion": (
        "after delete", "if old.object_path = 'bad' then raise exception 'no deletion'; end if;",
    ),
}  # fmt: skip


@pytest.mark.parametrize("rule", QUEUE_RULES)
def test_a_refused_deletion_of_the_queue_row_leaves_the_source_as_it_was(rows: Rows, rule: str) -> None:
    batch = Batch(rows)
    rows.run("update public.upload_queue set object_path = 'bad' where id = %s", (batch.bad,))
    trigger(rows, *QUEUE_RULES[rule], table="upload_queue")
    batch.claim()
    answers = batch.settle(url="file:///there")
    assert Counter(answer.state for answer in answers.values()) == {"settled": COUNT - 1, "refused": 1}
    row = rows.upload_row(batch.bad)
    assert (row.status, row.error_code) == ("dead", "DATABASE_REFUSED")
    assert rows.source_row(batch.bad_source).storage_status == "failed"
    assert rows.usage(row.user_id) == (0, 0, 0)


def test_a_row_of_the_app_that_refers_to_the_upload_refuses_its_deletion(rows: Rows) -> None:
    batch = Batch(rows)
    rows.run("create table public.note (upload uuid references public.upload_queue (id))")
    rows.run("insert into public.note values (%s)", (batch.bad,))
    batch.claim()
    answers = batch.settle()
    assert Counter(answer.state for answer in answers.values()) == {"settled": COUNT - 1, "refused": 1}
    assert "note" in rows.upload_row(batch.bad).error_message


def test_a_constraint_on_the_usage_row_refuses_its_users_uploads_only(rows: Rows) -> None:
    batch = Batch(rows)
    user = rows.upload_row(batch.bad).user_id
    rows.run("alter table public.storage_usage add column plan_note text")
    rows.run("update public.storage_usage set plan_note = 'frozen' where user_id = %s", (user,))
    rows.run("alter table public.storage_usage add constraint frozen check (plan_note is null or total_bytes = 0)")
    batch.claim()
    answers = batch.settle()
    assert Counter(answer.state for answer in answers.values()) == {"settled": COUNT - 1, "refused": 1}
    assert answers[batch.bad].state == "refused"
    assert rows.usage(user) == (0, 0, 0)


def test_an_upload_whose_row_the_app_refuses_to_change_at_all_is_stuck(rows: Rows) -> None:
    batch = Batch(rows)
    batch.claim()
    rows.run("update public.upload_queue set object_path = 'bad' where id = %s", (batch.bad,))
    trigger(
        rows,
        "before update or delete",
        "if old.object_path = 'bad' then raise exception 'frozen'; end if;"
        " if tg_op = 'DELETE' then return old; end if;",
        table="upload_queue",
    )
    answers = batch.settle()
    assert Counter(answer.state for answer in answers.values()) == {"settled": COUNT - 1, "stuck": 1}
    row = rows.upload_row(batch.bad)
    assert (row.status, row.lease_token, row.error_code) == ("uploading", batch.token, None)
    assert rows.source_row(batch.bad_source).storage_status == "pending"


def test_a_retry_that_the_app_refuses_is_dead(rows: Rows) -> None:
    batch = Batch(rows)
    batch.claim()
    rows.run("update public.upload_queue set object_path = 'bad' where id = %s", (batch.bad,))
    trigger(
        rows,
        "before update of status",
        "if new.object_path = 'bad' and new.status = 'failed' then raise exception 'no more retries'; end if;",
        table="upload_queue",
    )
    answers = batch.settle("retry", code="STORAGE_UNAVAILABLE", message="503")
    assert Counter(answer.state for answer in answers.values()) == {"settled": COUNT - 1, "refused": 1}
    row = rows.upload_row(batch.bad)
    assert (row.status, row.error_code) == ("dead", "DATABASE_REFUSED")
    assert "no more retries" in row.error_message
    assert rows.source_row(batch.bad_source).storage_status == "failed"


def test_a_refused_upload_whose_lease_was_lost_is_left_alone(rows: Rows) -> None:
    batch = Batch(rows)
    refuses_settlements(rows, "before")
    batch.claim()
    thief = uuid4()
    rows.run("update public.upload_queue set lease_token = %s where id = %s", (thief, batch.bad))
    assert batch.bad not in batch.settle()
    assert rows.upload_row(batch.bad).status == "uploading"


def test_a_refusal_is_not_dead_while_another_session_locks_its_source(rows: Rows, migrated_url: str) -> None:
    """First the lock, then the refusal: the upload becomes dead together with its source."""
    batch = Batch(rows, count=3, bad=1)
    refuses_settlements(rows, "check")
    batch.claim()
    with rows_of(migrated_url) as other, other.conn.transaction():
        other.run("select from public.sources where id = %s for update", (batch.bad_source,))
        assert batch.settle()[batch.bad].state == "busy"
    assert batch.settle()[batch.bad].state == "refused"


def test_the_message_is_one_line_of_bounded_length(rows: Rows) -> None:
    batch = Batch(rows, count=2, bad=0)
    trigger(
        rows,
        "before update",
        "if new.file_name = 'bad' and new.storage_status <> 'pending' then"
        r" raise exception using message = E'first\nsecond\x1b[31m ' || repeat('x', 10000); end if;",
    )
    batch.claim()
    message = batch.settle()[batch.bad].message
    assert message.startswith("first second [31m xxx")
    assert message.endswith("(SQLSTATE P0001)")
    assert len(message) < 600
    assert message.isprintable()


def test_a_time_limit_is_not_caught(rows: Rows) -> None:
    """The server cancels a statement once; if the cancellation were caught, nothing would limit the rest."""
    batch = Batch(rows, count=2, bad=0)
    trigger(rows, "before update", "if new.file_name = 'bad' then perform pg_sleep(60); end if;")
    batch.claim()
    rows.run("set statement_timeout = '300ms'")
    with pytest.raises(psycopg.errors.QueryCanceled):
        batch.settle()


# claims, leases, rescue


def refuses_claims(rows: Rows, batch: Batch, body: LiteralString = "raise exception 'not now';") -> None:
    rows.run("update public.upload_queue set object_path = 'bad' where id = %s", (batch.bad,))
    rows.run(
        "create function public.app_rule() returns trigger language plpgsql as $$ begin"
        " if new.object_path = 'bad' and new.status = 'uploading' then " + body + " end if; return new; end $$"
    )
    rows.run(
        "create trigger app_rule before update on public.upload_queue for each row execute function public.app_rule()"
    )


@pytest.mark.parametrize("body", ["raise exception 'not now';", "return null;"])
def test_a_refused_claim_raises_and_changes_nothing(rows: Rows, body: LiteralString) -> None:
    """The reactor claims the batch in parts then, and refuses the row that is refused alone."""
    batch = Batch(rows)
    refuses_claims(rows, batch, body)
    with pytest.raises(psycopg.Error) as caught:
        batch.claim()
    assert caught.value.sqlstate == ("P0001" if "raise" in body else "RX003")
    assert {rows.upload_row(upload).status for upload in batch.uploads} == {"failed"}


def refuse(rows: Rows, upload: UUID, token: UUID | None = None) -> Any:
    return rows.one(statements.REFUSE_UPLOAD, (upload, token, "P0001", "not now"))


def test_a_due_upload_can_be_refused(rows: Rows) -> None:
    upload = rows.upload()
    answer = refuse(rows, upload)
    assert (answer.state, answer.message) == ("refused", "not now (SQLSTATE P0001)")
    row = rows.upload_row(upload)
    assert (row.status, row.error_code, row.error_message) == ("dead", "DATABASE_REFUSED", answer.message)
    assert rows.source_row(row.source_id).storage_status == "failed"
    assert rows.usage(row.user_id) == (0, 0, 0)


def test_only_a_due_upload_or_ones_own_is_refused(rows: Rows) -> None:
    later, leased = rows.upload(next_retry_at=rows.at(60)), rows.upload()
    rows.claim([leased])
    for upload in (later, leased, uuid4()):
        assert refuse(rows, upload).state == "gone"
        assert refuse(rows, upload, uuid4()).state == "gone"
    assert {rows.upload_row(upload).error_code for upload in (later, leased)} == {None}


def test_a_locked_upload_is_not_refused_yet(rows: Rows, migrated_url: str) -> None:
    upload = rows.upload()
    with rows_of(migrated_url) as other, other.conn.transaction():
        other.run("select from public.upload_queue where id = %s for update", (upload,))
        assert refuse(rows, upload).state == "busy"
    assert refuse(rows, upload).state == "refused"


def test_the_queue_row_alone_is_dead_if_the_app_refuses_to_change_the_source(rows: Rows) -> None:
    upload = rows.upload()
    trigger(rows, "before update", "raise exception 'no';")
    assert refuse(rows, upload).state == "refused"
    row = rows.upload_row(upload)
    assert (row.status, rows.source_row(row.source_id).storage_status) == ("dead", "pending")


def test_an_upload_is_stuck_if_the_app_refuses_to_mark_it_dead(rows: Rows) -> None:
    upload = rows.upload()
    trigger(rows, "before update", "return null;", table="upload_queue")
    assert refuse(rows, upload).state == "stuck"
    row = rows.upload_row(upload)
    assert (row.status, rows.source_row(row.source_id).storage_status) == ("failed", "pending")


EVERYBODYS: dict[str, tuple[LiteralString, LiteralString, type[psycopg.Error]]] = {
    "a renamed column": (
        "alter table public.sources rename column storage_url to url",
        "alter table public.sources rename column url to storage_url",
        psycopg.errors.UndefinedColumn,
    ),
    "a missing function": (
        "alter function reactor.attempt_error rename to gone",
        "alter function reactor.gone rename to attempt_error",
        psycopg.errors.UndefinedFunction,
    ),
    "a server that takes no writes": (
        "set default_transaction_read_only = on",
        "set default_transaction_read_only = off",
        psycopg.errors.ReadOnlySqlTransaction,
    ),
}


@pytest.mark.parametrize("kind", EVERYBODYS)
@pytest.mark.parametrize("verdict", ["stored", "retry", "dead"])
def test_a_settlement_that_would_fail_for_everybody_makes_no_upload_dead(rows: Rows, kind: str, verdict: str) -> None:
    """The call raises: the reactor keeps the outcomes, reports the cause and settles them when it has gone."""
    breaks, mends, error = EVERYBODYS[kind]
    batch = Batch(rows, count=3, bad=0)
    batch.claim()
    rows.run(breaks)
    with pytest.raises(error):
        batch.settle(verdict)
    rows.run(mends)
    assert {rows.upload_row(upload).status for upload in batch.uploads} == {"uploading"}
    assert {answer.state for answer in batch.settle(verdict).values()} == {"settled"}
