"""Rows that another session has locked hold up nothing else: claims, settlements, rescues and leases skip them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, LiteralString
from uuid import UUID, uuid4

import psycopg
import pytest
from support.rows import Rows, rows_of

AT_ONCE_S = 2.0
"""Far more than a call takes, and far less than the locks are held."""


@contextmanager
def held(url: str, *statements: tuple[LiteralString, Any]) -> Iterator[psycopg.Connection[Any]]:
    """Run statements in a transaction that stays open during the block and is then rolled back."""
    with rows_of(url) as other, other.conn.transaction(force_rollback=True):
        for statement, parameters in statements:
            other.conn.execute(statement, parameters)
        yield other.conn


class Claimed:
    """A claimed upload of a user of its own."""

    def __init__(self, rows: Rows) -> None:
        self.user = uuid4()
        self.source = rows.source(self.user)
        self.upload = rows.upload(self.user, source=self.source)
        self.token = uuid4()
        rows.claim([self.upload], self.token)

    def ended(self, verdict: str = "stored") -> tuple[UUID, UUID, str]:
        return self.upload, self.token, verdict


# claims


def test_a_check_of_a_foreign_key_neither_stops_a_claim_nor_waits_for_it(rows: Rows, migrated_url: str) -> None:
    """An app's table refers to upload_queue; inserting into it locks the upload FOR KEY SHARE."""
    rows.run("create table public.note (upload uuid references public.upload_queue (id))")
    first, second = rows.upload(), rows.upload()
    with held(migrated_url, ("insert into public.note values (%s)", (first,))):
        assert rows.claim([first])[first].state == "claimed"
    with rows.conn.transaction():
        assert rows.claim([second])[second].state == "claimed"
        with rows_of(migrated_url) as app:
            app.run("set lock_timeout = '1s'")
            app.run("insert into public.note values (%s)", (second,))


LOCKS_OF_A_ROW: list[LiteralString] = [
    "select from public.upload_queue where id = %s for update",
    "select from public.upload_queue where id = %s for no key update",
    "select from public.upload_queue where id = %s for share",
    "update public.upload_queue set metadata = '{\"a\": 1}' where id = %s",
    "delete from public.upload_queue where id = %s",
]


@pytest.mark.parametrize("statement", LOCKS_OF_A_ROW)
def test_a_locked_row_is_returned_as_locked_and_costs_no_attempt(
    rows: Rows, migrated_url: str, statement: LiteralString
) -> None:
    upload = rows.upload()
    with held(migrated_url, (statement, (upload,))):
        assert rows.claim([upload])[upload].state == "locked"
    claimed = rows.claim([upload])[upload]
    assert (claimed.state, claimed.attempt) == ("claimed", 1)


def test_a_row_that_another_reactor_is_claiming_is_locked_and_then_leased(rows: Rows, migrated_url: str) -> None:
    upload = rows.upload()
    with rows_of(migrated_url) as peer, peer.conn.transaction():
        peer.claim([upload], lease_s=20)
        assert rows.claim([upload])[upload].state == "locked"
    answer = rows.claim([upload])[upload]
    assert answer.state == "waiting"
    assert answer.due_at == pytest.approx(rows.at(20).timestamp(), abs=3)


def test_a_lock_on_the_whole_table_fails_a_claim_within_moments(rows: Rows, migrated_url: str) -> None:
    upload = rows.upload()
    with held(migrated_url, ("lock table public.upload_queue in exclusive mode", ())):
        began = time.monotonic()
        with pytest.raises(psycopg.errors.LockNotAvailable):
            rows.claim([upload])
        assert time.monotonic() - began < AT_ONCE_S
    assert rows.upload_row(upload).retry_count == 0


# settlements

LOCKS_OF_A_SETTLEMENT: dict[str, LiteralString] = {
    "the queue row": "select from public.upload_queue where id = %(upload)s for update",
    "the queue row, by a foreign key": "select from public.upload_queue where id = %(upload)s for key share",
    "the source": "select from public.sources where id = %(source)s for update",
    "the source, by an update": "update public.sources set file_name = 'b' where id = %(source)s",
    "the usage row": "select from public.storage_usage where user_id = %(user)s for update",
    "the usage row, by a source of the user": "insert into public.sources (user_id, content_hash, storage_status, "
    "byte_size) values (%(user)s, 'other', 'pending', 1)",
}


@pytest.mark.parametrize("verdict", ["stored", "dead"])
@pytest.mark.parametrize("lock", LOCKS_OF_A_SETTLEMENT)
def test_only_the_upload_whose_rows_are_locked_is_busy(rows: Rows, migrated_url: str, lock: str, verdict: str) -> None:
    locked, *others = [Claimed(rows) for _ in range(4)]
    values = {"upload": locked.upload, "source": locked.source, "user": locked.user}
    ended = [each.ended(verdict) for each in [others[0], locked, *others[1:]]]
    is_needed = verdict == "stored" or "by a foreign key" not in lock
    with held(migrated_url, (LOCKS_OF_A_SETTLEMENT[lock], values)):
        began = time.monotonic()
        answers = rows.settlement(ended)
        assert time.monotonic() - began < AT_ONCE_S
        states = {upload: answer.state for upload, answer in answers.items()}
        assert states == {each.upload: "settled" for each in others} | {
            locked.upload: "busy" if is_needed else "settled"
        }
    if is_needed:
        assert answers[locked.upload].message is None  # the row was skipped, without a lock timeout
        assert rows.upload_row(locked.upload).status == "uploading"
        assert rows.settlement([locked.ended(verdict)])[locked.upload].state == "settled"


@pytest.mark.parametrize("verdict", ["retry", "deferred"])
@pytest.mark.parametrize("lock", ["the source", "the usage row", "the queue row, by a foreign key"])
def test_an_upload_that_waits_again_needs_its_queue_row_only(
    rows: Rows, migrated_url: str, lock: str, verdict: str
) -> None:
    claimed = Claimed(rows)
    values = {"upload": claimed.upload, "source": claimed.source, "user": claimed.user}
    with held(migrated_url, (LOCKS_OF_A_SETTLEMENT[lock], values)):
        assert rows.settlement([claimed.ended(verdict)])[claimed.upload].state == "settled"


def test_a_usage_row_that_another_session_is_inserting_holds_up_its_user_only(rows: Rows, migrated_url: str) -> None:
    """The user's row was deleted, and another session's transaction has made a new one."""
    new, *others = [Claimed(rows) for _ in range(3)]
    rows.run("delete from public.storage_usage where user_id = %s", (new.user,))
    insert: LiteralString = "insert into public.storage_usage (user_id) values (%s)"
    with held(migrated_url, (insert, (new.user,))):
        began = time.monotonic()
        answers = rows.settlement([each.ended() for each in (new, *others)])
        assert time.monotonic() - began < AT_ONCE_S
    assert [answers[each.upload].state for each in (new, *others)] == ["busy", "settled", "settled"]
    assert answers[new.upload].message is None
    assert rows.settlement([new.ended()])[new.upload].state == "settled"
    assert rows.usage(new.user)[0] == 10


def test_a_lock_that_a_trigger_of_the_app_waits_for_holds_up_its_upload_only(rows: Rows, migrated_url: str) -> None:
    """The app counts each user's sources in a table of its own."""
    rows.run("create table public.tally (user_id uuid primary key, n int not null default 0)")
    rows.run(
        "create function public.count_sources() returns trigger language plpgsql as $$ begin"
        " update public.tally set n = n + 1 where user_id = new.user_id; return new; end $$"
    )
    rows.run("create trigger tally after update on public.sources for each row execute function public.count_sources()")
    locked, *others = [Claimed(rows) for _ in range(40)]
    rows.run("insert into public.tally select user_id from public.sources")
    ended = [each.ended() for each in (*others[:20], locked, *others[20:])]
    with held(migrated_url, ("update public.tally set n = 9 where user_id = %s", (locked.user,))):
        began = time.monotonic()
        answers = rows.settlement(ended)
        assert time.monotonic() - began < AT_ONCE_S
        assert answers[locked.upload].state == "busy"
        assert "lock timeout" in answers[locked.upload].message
        assert {answers[each.upload].state for each in others} == {"settled"}
    assert rows.settlement([locked.ended()])[locked.upload].state == "settled"


def test_an_advisory_lock_of_the_app_holds_up_its_upload_only(rows: Rows, migrated_url: str) -> None:
    rows.run(
        "create function public.take_turn() returns trigger language plpgsql as $$ begin"
        " perform pg_advisory_xact_lock(hashtext(new.user_id::text)); return new; end $$"
    )
    rows.run("create trigger turn before update on public.sources for each row execute function public.take_turn()")
    locked, *others = [Claimed(rows) for _ in range(10)]
    with held(migrated_url, ("select pg_advisory_xact_lock(hashtext(%s::text))", (locked.user,))):
        answers = rows.settlement([each.ended() for each in (locked, *others)])
    assert answers[locked.upload].state == "busy"
    assert {answers[each.upload].state for each in others} == {"settled"}


def test_a_lock_on_a_whole_table_makes_all_busy_within_moments(rows: Rows, migrated_url: str) -> None:
    claimed = [Claimed(rows) for _ in range(300)]
    with held(migrated_url, ("lock table public.sources in share mode", ())):
        began = time.monotonic()
        answers = rows.settlement([each.ended() for each in claimed])
        assert time.monotonic() - began < AT_ONCE_S
        assert {answer.state for answer in answers.values()} == {"busy"}
    assert {answer.state for answer in rows.settlement([each.ended() for each in claimed]).values()} == {"settled"}


def test_two_settlements_of_one_users_uploads_wait_for_nothing(rows: Rows, migrated_url: str) -> None:
    user = uuid4()
    uploads, token = [rows.upload(user) for _ in range(2)], uuid4()
    rows.claim(uploads, token)
    with rows_of(migrated_url) as peer, peer.conn.transaction():
        assert peer.settlement([(uploads[0], token, "stored")])[uploads[0]].state == "settled"
        assert rows.settlement([(uploads[1], token, "stored")])[uploads[1]].state == "busy"
    assert rows.settlement([(uploads[1], token, "stored")])[uploads[1]].state == "settled"
    assert rows.usage(user) == (20, 0, 2)


def test_a_row_that_references_a_usage_row_holds_up_no_write(rows: Rows, migrated_url: str) -> None:
    rows.run("create table public.customer (id uuid references public.storage_usage (user_id))")
    claimed = Claimed(rows)
    with held(migrated_url, ("insert into public.customer values (%s)", (claimed.user,))):
        assert rows.settlement([claimed.ended()])[claimed.upload].state == "settled"


# rescue


def lost(rows: Rows, **columns: Any) -> UUID:
    lease: dict[str, Any] = {"status": "uploading", "lease_token": uuid4(), "lease_expires_at": rows.at(-1)}
    return rows.upload(**{"retry_count": 1} | lease | columns)


@pytest.mark.parametrize("lock", ["the queue row", "the source", "the usage row"])
@pytest.mark.parametrize("status", ["failed", "uploading"])
def test_a_rescue_skips_the_dead_upload_whose_rows_are_locked(
    rows: Rows, migrated_url: str, status: str, lock: str
) -> None:
    columns: dict[str, Any] = {"retry_count": 5} | ({} if status == "uploading" else {"status": "failed"})
    locked, free = lost(rows, **columns), lost(rows, **columns)
    row = rows.upload_row(locked)
    values = {"upload": locked, "source": row.source_id, "user": row.user_id}
    with held(migrated_url, (LOCKS_OF_A_SETTLEMENT[lock], values)):
        began = time.monotonic()
        assert rows.rescue() == {free: "dead"}
        assert time.monotonic() - began < AT_ONCE_S
    assert rows.rescue([locked]) == {locked: "dead"}


@pytest.mark.parametrize("lock", ["the source", "the usage row"])
def test_an_upload_with_attempts_left_is_rescued_although_its_source_or_usage_is_locked(
    rows: Rows, migrated_url: str, lock: str
) -> None:
    upload = lost(rows)
    row = rows.upload_row(upload)
    values = {"upload": upload, "source": row.source_id, "user": row.user_id}
    with held(migrated_url, (LOCKS_OF_A_SETTLEMENT[lock], values)):
        assert rows.rescue() == {upload: "retry"}


def test_one_users_locked_usage_row_hides_no_other_users_rescue(rows: Rows, migrated_url: str) -> None:
    """The locked user has more uploads than one call rescues."""
    user = uuid4()
    for _ in range(5):
        lost(rows, user=user, retry_count=5)
    others = [lost(rows, retry_count=5) for _ in range(5)]
    with held(migrated_url, ("select from public.storage_usage where user_id = %s for update", (user,))):
        assert rows.rescue(limit=5) == dict.fromkeys(others, "dead")


def test_an_upload_without_a_usage_row_is_rescued(rows: Rows) -> None:
    upload = lost(rows, retry_count=5)
    rows.run("delete from public.storage_usage")
    assert rows.rescue() == {upload: "dead"}


# leases


def test_a_locked_rows_lease_is_not_extended_and_not_lost(rows: Rows, migrated_url: str) -> None:
    locked, free, gone = Claimed(rows), Claimed(rows), Claimed(rows)
    rows.all("select reactor.cancel_uploads(%s)", ([gone.upload],))
    every = [locked, free, gone]
    with held(migrated_url, ("select from public.upload_queue where id = %s for update", (locked.upload,))):
        began = time.monotonic()
        extended = rows.extension([each.upload for each in every], [each.token for each in every])
        assert time.monotonic() - began < AT_ONCE_S
        rows.run("set statement_timeout = '5s'")
        assert rows.claim([locked.upload]).get(locked.upload).state == "waiting"  # type: ignore[union-attr]
    assert extended == {locked.upload: False, free.upload: True}


def test_a_locked_row_with_an_expired_lease_is_not_taken_over(rows: Rows, migrated_url: str) -> None:
    upload = lost(rows)
    with held(migrated_url, ("select from public.upload_queue where id = %s for share", (upload,))):
        assert rows.claim([upload])[upload].state == "locked"
        assert rows.rescue() == {}


def test_a_check_of_a_foreign_key_does_not_stop_an_extension(rows: Rows, migrated_url: str) -> None:
    claimed = Claimed(rows)
    with held(migrated_url, ("select from public.upload_queue where id = %s for key share", (claimed.upload,))):
        assert rows.extension([claimed.upload], [claimed.token]) == {claimed.upload: True}
