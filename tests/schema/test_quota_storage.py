"""Storage quotas are exact with many concurrent writers: no user is ever over the limit, and every byte can be used."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from uuid import UUID, uuid4

import psycopg
import pytest
from support.callers import Api, content_hash, failed
from support.rows import Rows, rows_of

CONNECTIONS = 16
RESERVATIONS = 250
LIMIT = 600
"""Limit of each user in bytes. The writers request much more."""

WATCH = """
    create table public.over (user_id uuid, bytes bigint);
    create function public.look() returns trigger language plpgsql as $$
    begin
        insert into public.over
        select u.user_id, u.total_bytes + u.reserved_bytes from public.storage_usage as u
         where u.user_id = new.user_id and u.total_bytes + u.reserved_bytes > u.storage_limit_bytes;
        return null;
    end $$;
    create constraint trigger look after insert or update on public.storage_usage
        deferrable initially deferred for each row execute function public.look();
    alter table public.over enable row level security, force row level security;
"""
"""Records each user who is over the limit when a transaction commits."""


@pytest.fixture
def rows(migrated_url: str) -> Iterator[Rows]:
    with rows_of(migrated_url) as rows:
        rows.conn.execute(WATCH.encode())
        yield rows


def stampede(url: str, act: Callable[[Rows, int], Counter[str]]) -> Counter[str]:
    """Run `act` concurrently in all connections and add up the results. A deadlock raises an error."""
    ready = Barrier(CONNECTIONS)

    def enter(number: int) -> Counter[str]:
        with rows_of(url) as own:
            ready.wait()
            return act(own, number)

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        return sum(pool.map(enter, range(CONNECTIONS)), Counter())


def limited(rows: Rows, count: int) -> list[UUID]:
    users = [uuid4() for _ in range(count)]
    for user in users:
        Api(rows).limit(user, bytes_=LIMIT)
    return users


def assert_full_to_the_byte(rows: Rows, users: list[UUID]) -> None:
    assert rows.all("select * from public.over") == []
    for user in users:
        total, reserved, _ = rows.usage(user)
        assert total + reserved == LIMIT
        assert Api(rows).usage(user)["remaining_bytes"] == 0


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 10))])
def test_reservations_at_the_limits_edge_fill_it_to_the_byte_and_never_more(
    rows: Rows, migrated_url: str, seed: int
) -> None:
    """The sizes include 1 byte, so that the last reservations fill the limit exactly."""
    users = limited(rows, 4)

    def reserve(own: Rows, number: int) -> Counter[str]:
        chance, api, came = random.Random(f"{seed} {number}"), Api(own), Counter[str]()
        for _ in range(RESERVATIONS):
            user = users[0] if chance.random() < 0.7 else chance.choice(users[1:])  # mostly the first user
            arguments = {"p_user_id": user, "p_content_hash": content_hash()}
            answer = api.call("reserve_upload", p_byte_size=chance.choice([1, 1, 2, 3, 5, 8]), **arguments)
            came["ok" if answer["ok"] else answer["code"]] += 1
        return came

    came = stampede(migrated_url, reserve)

    assert came.keys() == {"ok", "STORAGE_QUOTA_EXCEEDED"}
    assert came.total() == CONNECTIONS * RESERVATIONS
    assert_full_to_the_byte(rows, users)
    rejections = rows.one("select sum(count) as all from reactor.quota_rejection").all
    assert rejections == came["STORAGE_QUOTA_EXCEEDED"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 10))])
def test_no_user_is_over_while_uploads_are_completed_failed_and_deleted_too(
    rows: Rows, migrated_url: str, seed: int
) -> None:
    users = limited(rows, 3)

    def live(own: Rows, number: int) -> Counter[str]:
        chance, api, came = random.Random(f"{seed} {number}"), Api(own), Counter[str]()
        mine: list[str] = []
        for _ in range(150):
            user, what = chance.choice([*users, users[0]]), chance.random()
            if what < 0.5 or not mine:
                content = content_hash(chance.randint(1, 400))  # other connections reserve the same content
                size = chance.choice([1, 7, 20])
                answer = api.call("reserve_upload", p_user_id=user, p_content_hash=content, p_byte_size=size)
                came[answer.get("code", "reserved")] += 1
                mine += [answer["source_id"]] if answer["ok"] else []
                continue
            source = chance.choice(mine)
            if what < 0.65:
                answer = api.call("complete_upload", p_source_id=source, p_storage_url="s3://b/k")
                came[answer.get("code", "completed")] += 1
            elif what < 0.75:
                answer = api.call("fail_upload", **failed(UUID(source)))
                came[answer.get("code", "stored")] += 1
            elif what < 0.8:
                came["given up"] += own.run(
                    "update public.sources set storage_status = 'failed' where id = %s", (source,)
                )
            else:
                came["deleted"] += own.run("delete from public.sources where id = %s", (source,))
        return came

    came = stampede(migrated_url, live)

    wanted = {"reserved", "STORAGE_QUOTA_EXCEEDED", "completed", "STORAGE_PENDING_RETRY", "deleted", "given up"}
    assert came.keys() >= wanted, "an expected result never occurred"
    fill_up(rows, users)
    assert_full_to_the_byte(rows, users)


def fill_up(rows: Rows, users: list[UUID]) -> None:
    """Reserve all remaining bytes of each user with one source, and check that one more byte is refused."""
    for user in users:
        left = Api(rows).usage(user)["remaining_bytes"]
        Api(rows).reserve(user, left)
        arguments = {"p_user_id": user, "p_content_hash": content_hash(), "p_byte_size": 1}
        assert Api(rows).refused("STORAGE_QUOTA_EXCEEDED", "reserve_upload", **arguments)["requested_bytes"] == 1


def test_direct_writes_that_race_the_functions_are_bound_by_the_same_limit(rows: Rows, migrated_url: str) -> None:
    """Half of the connections write sources directly. Each insert has rows of two users."""
    users = limited(rows, 3)

    def write(own: Rows, number: int) -> Counter[str]:
        chance, came = random.Random(number), Counter[str]()
        for _ in range(120):
            user = chance.choice(users)
            try:
                if number % 2:
                    arguments = {"p_user_id": user, "p_content_hash": content_hash()}
                    answer = Api(own).call("reserve_upload", p_byte_size=chance.choice([1, 9]), **arguments)
                    came[answer.get("code", "reserved")] += 1
                elif chance.random() < 0.6:
                    own.run(
                        "insert into public.sources (user_id, content_hash, byte_size, storage_status)"
                        " select u, gen_random_uuid()::text, %s, %s from unnest(%s::uuid[]) as u",
                        (chance.choice([1, 9]), chance.choice(["pending", "uploaded"]), chance.sample(users, 2)),
                    )
                    came["inserted"] += 1
                else:
                    came["enlarged"] += own.run(
                        "update public.sources set byte_size = byte_size + 1 where id in (select id from"
                        " public.sources where user_id = %s order by id limit 3 for no key update skip locked)",
                        (user,),
                    )
            except psycopg.DatabaseError as error:
                came[error.sqlstate or "no state"] += 1
        return came

    came = stampede(migrated_url, write)

    assert came.keys() == {"reserved", "STORAGE_QUOTA_EXCEEDED", "inserted", "enlarged", "RX101"}
    fill_up(rows, users)
    assert_full_to_the_byte(rows, users)


def test_a_direct_write_over_the_limit_raises_with_the_details_of_the_refusal(rows: Rows) -> None:
    (user,) = limited(rows, 1)
    rows.source(user, status="uploaded", size=LIMIT - 5)
    for status in ("pending", "uploaded"):
        with pytest.raises(psycopg.Error, match="STORAGE_QUOTA_EXCEEDED") as raised:
            rows.source(user, status=status, size=6)
        assert raised.value.sqlstate == "RX101"
        assert '"requested_bytes": 6' in str(raised.value.diag.message_detail)
    rows.source(user, status="failed", size=6)
    with pytest.raises(psycopg.Error, match="STORAGE_QUOTA_EXCEEDED"):
        rows.run("update public.sources set storage_status = 'uploaded' where storage_status = 'failed'")
    assert rows.usage(user) == (LIMIT - 5, 0, 1)
    rows.source(user, size=5)
