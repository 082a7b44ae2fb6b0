"""After any write to sources, storage_usage equals a recount of the rows."""

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from uuid import UUID, uuid4, uuid5

import psycopg
import pytest
from support.rows import Rows, rows_of
from support.usage_check import wrong_usage

STATUSES = ["pending", "uploaded", "failed"]
OPERATIONS = 150
WRITERS = 4
FIRST_WITH_MERGE = 150000
SPACE = UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")


@pytest.fixture
def rows(migrated_url: str) -> Iterator[Rows]:
    with rows_of(migrated_url) as rows:
        rows.lift_quotas()
        yield rows


class Writer:
    """An app that makes random writes to sources. Other apps write for the same users."""

    def __init__(self, rows: Rows, seed: int, users: Callable[[], list[UUID]]) -> None:
        self.rows = rows
        self.random = random.Random(seed)  # seeded, so that a failure can be repeated
        self.users = users
        self.mine: list[UUID] = []
        self.operations: list[Callable[[], object]] = [
            self.insert,
            self.insert,
            self.update,
            self.move,
            self.delete,
            self.upsert,
            self.settle,
            self.delete_and_insert,
            self.write_and_roll_back,
        ]
        if rows.conn.info.server_version >= FIRST_WITH_MERGE:
            self.operations.append(self.merge)

    def write(self) -> None:
        self.random.choice(self.operations)()

    def keep_to_one_lock_order(self) -> None:
        """Leave out operations that lock usage rows in another order, because they could deadlock."""
        self.operations = [self.insert, self.insert, self.update, self.move, self.delete, self.upsert, self.settle]

    def some(self) -> list[UUID]:
        return self.random.sample(self.mine, min(len(self.mine), self.random.randint(0, 5)))

    def values(self) -> tuple[list[UUID], list[str], list[int | None], list[str]]:
        """Return users, statuses, sizes and content hashes of a few sources."""
        count = self.random.randint(0, 6)
        return (
            self.random.choices(self.users(), k=count),
            self.random.choices(STATUSES, k=count),
            [self.random.choice([None, 0, self.random.randint(1, 1 << 40)]) for _ in range(count)],
            [f"{self.random.getrandbits(128):032x}" for _ in range(count)],
        )

    def insert(self) -> None:
        made = self.rows.all(
            "insert into public.sources (user_id, storage_status, byte_size, content_hash)"
            " select * from unnest(%s::uuid[], %s::text[], %s::bigint[], %s::text[]) returning id",
            self.values(),
        )
        self.mine += [row.id for row in made]

    def update(self) -> None:
        self.rows.run(
            "update public.sources set storage_status = (%s::text[])[1 + mod(abs(uuid_hash(id)), 3)],"
            " byte_size = nullif(byte_size, 0) / 2 where id = any(%s)",
            (self.random.sample(STATUSES, 3), self.some()),
        )

    def move(self) -> None:
        self.rows.run(
            "update public.sources set user_id = %s where id = any(%s)",
            (self.random.choice(self.users()), self.some()),
        )

    def delete(self) -> None:
        gone = self.some()
        self.rows.run("delete from public.sources where id = any(%s)", (gone,))
        self.mine = [source for source in self.mine if source not in gone]

    def upsert(self) -> None:
        """Upsert rows that exist. PostgreSQL then fires the statement triggers of both INSERT and UPDATE."""
        self.rows.run(
            "insert into public.sources (id, user_id, storage_status, byte_size, content_hash)"
            " select id, user_id, 'uploaded', 7, content_hash from public.sources where id = any(%s)"
            " on conflict (id) do update set storage_status = excluded.storage_status, byte_size = 7",
            (self.some(),),
        )

    def settle(self) -> None:
        uploads = self.rows.all(
            "insert into public.upload_queue (source_id, user_id, bucket, object_path, byte_size)"
            " select id, user_id, 'bucket', 'path', 1 from public.sources where id = any(%s) returning id",
            (self.some(),),
        )
        token = uuid4()
        claimed = self.rows.claim([row.id for row in uploads], token)
        if claimed:
            verdicts = ["stored", "retry", "dead", "deferred"]
            self.rows.settle([(upload, token, self.random.choice(verdicts)) for upload in claimed])

    def delete_and_insert(self) -> None:
        gone = self.some()
        made = self.rows.all(
            "with gone as (delete from public.sources where id = any(%s) returning user_id, content_hash)"
            " insert into public.sources (user_id, content_hash, storage_status, byte_size)"
            " select user_id, 'new' || content_hash, 'pending', 3 from gone returning id",
            (gone,),
        )
        self.mine = [source for source in self.mine if source not in gone] + [row.id for row in made]

    def merge(self) -> None:
        chosen = self.some()
        self.rows.run(
            "merge into public.sources as s"
            " using (select unnest(%s::uuid[]) as id, generate_series(1, 9) as n) as c on s.id = c.id"
            " when matched and c.n = 1 then delete"
            " when matched and c.n > 1 then update set storage_status = 'uploaded', byte_size = c.n",
            (chosen,),
        )
        self.mine = [source for source in self.mine if source not in chosen[:1]]

    def write_and_roll_back(self) -> None:
        kept = list(self.mine)
        with self.rows.conn.transaction():
            self.insert()
            self.delete()
            raise psycopg.Rollback
        self.mine = kept


@pytest.mark.parametrize("seed", range(4))
def test_usage_equals_the_rows_after_each_of_many_random_writes(rows: Rows, seed: int) -> None:
    users = [uuid4() for _ in range(5)]
    writer = Writer(rows, seed, lambda: users)
    for number in range(OPERATIONS):
        writer.write()
        assert wrong_usage(rows.conn) == [], f"wrong usage after operation {number} of seed {seed}"
    assert writer.mine


def test_many_concurrent_writers_for_the_same_users_neither_deadlock_nor_miscount(
    rows: Rows, migrated_url: str
) -> None:
    """New users keep appearing, so several writers insert the same usage row concurrently. Recounts run meanwhile."""
    ended = Event()

    def write(seed: int) -> None:
        written = 0

        def users() -> list[UUID]:
            era = written // 10  # writers at about the same pace have the same users
            return [uuid5(SPACE, f"{name}") for name in range(era, era + 6)]

        with rows_of(migrated_url) as own:
            writer = Writer(own, seed, users)
            writer.keep_to_one_lock_order()
            for _ in range(OPERATIONS):
                writer.write()
                written += 1

    def recount() -> int:
        count = 0
        with rows_of(migrated_url) as own:
            while not ended.is_set():
                own.all("select * from reactor.recount_users(null, 1000)")
                count += 1
        return count

    with ThreadPoolExecutor(WRITERS + 1) as pool:
        recounts = pool.submit(recount)
        writers = [pool.submit(write, seed) for seed in range(WRITERS)]
        try:
            for writer in writers:
                writer.result()
        finally:
            ended.set()
        assert recounts.result() > 1
    assert wrong_usage(rows.conn) == []
    assert rows.one("select count(*) as users from public.storage_usage").users > 6


@pytest.mark.parametrize("other", ["recount", "runs", "run that moves"])
def test_usage_rows_are_inserted_before_any_is_locked(rows: Rows, migrated_url: str, other: str) -> None:
    """While a session waits for an app's new usage row, it must not hold a lock on another row that the app needs."""
    low, high = sorted([uuid4(), uuid4()])
    source = rows.source(low)
    run = rows.start_run(low, source=source)
    rows.source(high)
    rows.run("delete from public.storage_usage where user_id = %s", (high,))  # like a user from before the migration
    with rows_of(migrated_url) as app, rows_of(migrated_url) as second, ThreadPoolExecutor(1) as pool:

        def lock_both() -> None:
            if other == "recount":
                second.all("select * from reactor.recount_users(null, 1000)")
            elif other == "runs":
                second.run(
                    "insert into public.interpretation_runs (user_id, source_id, status)"
                    " select u, %s, 'running' from unnest(%s::uuid[]) as u",
                    (source, [low, high]),
                )
            else:
                second.run("update public.interpretation_runs set user_id = %s where id = %s", (high, run))

        with app.conn.transaction():
            app.source(high)
            locked = pool.submit(lock_both)
            rows.wait_for_lock(second.conn)
            app.source(low)
        locked.result()
    rows.all("select * from reactor.recount_users(null, 1000)")
    assert wrong_usage(rows.conn) == []


def test_deleting_a_source_releases_its_bytes(rows: Rows) -> None:
    user = uuid4()
    stored, pending = rows.source(user, status="uploaded", size=30), rows.source(user, size=12)
    rows.source(user, status="failed", size=99)
    assert rows.usage(user) == (30, 12, 1)
    rows.run("delete from public.sources where id = %s", (pending,))
    assert rows.usage(user) == (30, 0, 1)
    rows.run("delete from public.sources where id = %s", (stored,))
    assert rows.usage(user) == (0, 0, 0)


def test_a_statement_that_changes_no_usage_does_not_write_the_usage_row(rows: Rows) -> None:
    """If it wrote the row, an update of a file name would wait for each concurrent upload of the same user."""
    source = rows.source(user := uuid4())
    before = rows.one("select xmin::text, xmax::text, ctid::text from public.storage_usage where user_id = %s", (user,))
    rows.run("update public.sources set file_name = 'other' where id = %s", (source,))
    after = rows.one("select xmin::text, xmax::text, ctid::text from public.storage_usage where user_id = %s", (user,))
    assert before == after


def test_a_table_with_file_size_instead_of_byte_size_is_counted(rows: Rows) -> None:
    rows.run("alter table public.sources add column file_size int")
    user = uuid4()
    rows.source(user, status="uploaded", size=None, file_size=44)
    rows.source(user, status="uploaded", size=6, file_size=44)
    assert rows.usage(user) == (50, 0, 2)


def test_wrong_usage_never_fails_the_apps_write(rows: Rows) -> None:
    source = rows.source(user := uuid4(), status="uploaded", size=50)
    rows.run("update public.storage_usage set total_bytes = 1, total_sources = 0")
    assert rows.run("delete from public.sources where id = %s", (source,)) == 1
    assert rows.usage(user) == (0, 0, 0)


def test_a_recount_corrects_all_figures(rows: Rows) -> None:
    users = sorted(uuid4() for _ in range(5))
    for user in users[:4]:
        rows.source(user, status="uploaded", size=8)
        rows.source(user, size=4)
    rows.run(
        "update public.storage_usage set total_bytes = 12345, reserved_bytes = 99, total_sources = 7, plan = 'pro'"
    )
    rows.run("delete from public.storage_usage where user_id = %s", (users[1],))
    rows.run(
        "insert into public.storage_usage (user_id, total_bytes, reserved_bytes, total_sources) values (%s, 5, 5, 5)",
        (users[4],),
    )

    after, steps, changed = None, 0, 0
    while found := rows.all("select * from reactor.recount_users(%s::uuid, 2)", (after,)):
        after, steps, changed = found[0].last_user, steps + 1, changed + found[0].changed

    assert (steps, changed) == (3, 5)
    assert [rows.usage(user) for user in users] == [(8, 4, 1)] * 4 + [(0, 0, 0)]
    assert rows.one("select count(*) as kept from public.storage_usage where plan = 'pro'").kept == 3
    assert rows.one("select count(last_calculated) as dated from public.storage_usage").dated == 5
