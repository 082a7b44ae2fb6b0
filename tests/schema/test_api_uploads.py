"""The API for uploads: reserve, complete, fail. A repeated call has no further effect."""

import re
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from uuid import UUID, uuid4

import psycopg
import pytest
from support.callers import Api, content_hash, failed
from support.rows import TRACEPARENT, Rows, rows_of

AT_ONCE = 8
URL = "s3://bucket/key"


def give_up(rows: Rows, upload: UUID) -> None:
    """Claim an upload and settle it as dead."""
    token = uuid4()
    rows.claim([upload], token)
    rows.settle([(upload, token, "dead")], code="STORAGE_REJECTED")


# reserve_upload


def test_a_reservation_holds_its_bytes_and_records_what_the_app_passed(rows: Rows, api: Api) -> None:
    user, sha256 = uuid4(), content_hash()
    answer = api.ok(
        "reserve_upload",
        p_user_id=user,
        p_content_hash=sha256,
        p_byte_size=70,
        p_mime_type="text/plain",
        p_file_name="a.txt",
        p_source_type="mail",
        p_source_agent_id="agent 7",
        p_source_metadata={"thread": 1},
    )
    source = rows.source_row(UUID(answer.pop("source_id")))
    assert answer == {"ok": True, "deduplicated": False, "storage_status": "pending", "storage_url": None}
    assert (source.user_id, source.content_hash, source.byte_size) == (user, sha256, 70)
    assert (source.mime_type, source.file_name, source.source_type) == ("text/plain", "a.txt", "mail")
    assert (source.source_agent_id, source.source_metadata) == ("agent 7", {"thread": 1})
    assert rows.usage(user) == (0, 70, 0)


@pytest.mark.parametrize("size", [0, 1 << 50])
def test_the_smallest_and_the_largest_size_are_reserved(rows: Rows, api: Api, size: int) -> None:
    api.ok("set_plan", p_user_id=(user := uuid4()), p_plan="enterprise")
    api.reserve(user, size)
    assert rows.usage(user) == (0, size, 0)


def test_the_same_content_again_is_the_same_source_and_one_reservation(rows: Rows, api: Api) -> None:
    user, content = uuid4(), {"p_content_hash": content_hash(), "p_byte_size": 40}
    first = api.ok("reserve_upload", p_user_id=user, **content)
    again = api.ok("reserve_upload", p_user_id=user, **content)
    assert again == first | {"deduplicated": True}
    api.ok("complete_upload", p_source_id=first["source_id"], p_storage_url=URL)
    stored = api.ok("reserve_upload", p_user_id=user, **content)
    assert stored == first | {"deduplicated": True, "storage_status": "uploaded", "storage_url": URL}
    other = api.ok("reserve_upload", p_user_id=uuid4(), **content)
    assert other["source_id"] != first["source_id"], "two users got the same source"
    assert rows.usage(user) == (40, 0, 1)


def test_the_same_content_is_deduplicated_even_if_nothing_more_fits(api: Api) -> None:
    api.limit(user := uuid4(), bytes_=10)
    source = api.reserve(user, 10, "one")
    assert api.reserve(user, 10, "one") == source


def test_the_same_content_reserved_concurrently_is_one_source_and_one_reservation(
    rows: Rows, migrated_url: str
) -> None:
    user, ready = uuid4(), Barrier(AT_ONCE)

    def reserve(content: int) -> tuple[str, bool]:
        answer = own[content % AT_ONCE].ok(
            "reserve_upload", p_user_id=user, p_content_hash=content_hash(content // AT_ONCE + 1), p_byte_size=3
        )
        return answer["source_id"], answer["deduplicated"]

    def reserve_all(number: int) -> list[tuple[str, bool]]:
        answers = []
        for content in range(20):
            ready.wait()
            answers.append(reserve(content * AT_ONCE + number))
        return answers

    connections = [
        psycopg.connect(migrated_url, autocommit=True, row_factory=rows.conn.row_factory) for _ in range(AT_ONCE)
    ]
    own = [Api(Rows(conn)) for conn in connections]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        by_caller = list(pool.map(reserve_all, range(AT_ONCE)))
    for conn in connections:
        conn.close()
    for of_one_content in zip(*by_caller, strict=True):
        assert len({source for source, _ in of_one_content}) == 1
        assert [deduplicated for _, deduplicated in of_one_content].count(False) == 1
    assert rows.usage(user) == (0, 60, 0)


def test_a_reservation_over_the_limit_is_refused_with_the_figures_and_counted(rows: Rows, api: Api) -> None:
    api.limit(user := uuid4(), bytes_=100)
    api.store(user, 30)
    api.reserve(user, 50)
    over = {"p_user_id": user, "p_content_hash": content_hash(), "p_byte_size": 21}
    assert api.refused("STORAGE_QUOTA_EXCEEDED", "reserve_upload", **over) == {
        "plan": "free",
        "limit_bytes": 100,
        "used_bytes": 30,
        "reserved_bytes": 50,
        "requested_bytes": 21,
    }
    answer = Api.of(rows, user).call("reserve_upload", **over)
    assert re.search(r"21 bytes.* 100 bytes .*free.* 80 ", answer["message"])
    assert rows.usage(user) == (30, 50, 1)
    counted = rows.all("select quota, plan, sum(count) as count from reactor.quota_rejection group by 1, 2")
    assert [tuple(row) for row in counted] == [("storage", "free", 2)]
    api.reserve(user, 20)


def test_a_failed_source_is_reserved_again(rows: Rows, api: Api) -> None:
    user = uuid4()
    source = api.reserve(user, 10, "one")
    first = api.fail(source)
    give_up(rows, first)
    assert rows.usage(user) == (0, 0, 0)
    since = rows.source_row(source).pending_since
    assert api.reserve(user, 10, "one") == source
    assert rows.usage(user) == (0, 10, 0)
    assert rows.source_row(source).pending_since > since
    assert api.fail(source) != first


def test_a_failed_source_that_no_longer_fits_stays_failed(rows: Rows, api: Api) -> None:
    user = uuid4()
    source = api.reserve(user, 10, "one")
    give_up(rows, api.fail(source))
    api.limit(user, bytes_=9)
    again = {"p_user_id": user, "p_content_hash": content_hash("one"), "p_byte_size": 10}
    api.refused("STORAGE_QUOTA_EXCEEDED", "reserve_upload", **again)
    api.refused("STORAGE_QUOTA_EXCEEDED", "complete_upload", p_source_id=source, p_storage_url=URL)
    assert rows.source_row(source).storage_status == "failed"
    assert rows.one("select count(*) from public.upload_queue where status = 'dead'").count == 1


# complete_upload


def test_completing_an_upload_twice_equals_completing_it_once_and_its_bytes_are_used(rows: Rows, api: Api) -> None:
    source = api.reserve(user := uuid4(), 10)
    done = {"ok": True, "source_id": str(source), "storage_status": "uploaded", "storage_url": URL}
    assert api.ok("complete_upload", p_source_id=source, p_storage_url=URL) == done
    assert api.ok("complete_upload", p_source_id=source, p_storage_url="s3://elsewhere/key") == done
    assert rows.usage(user) == (10, 0, 1)


def test_completing_an_upload_that_was_queued_removes_it_from_the_queue(rows: Rows, api: Api) -> None:
    source = api.reserve(user := uuid4(), 10)
    api.fail(source)
    api.ok("complete_upload", p_source_id=source, p_storage_url=URL)
    assert rows.all("select from public.upload_queue") == []
    assert rows.usage(user) == (10, 0, 1)


def test_completing_a_failed_source_takes_its_bytes_again(rows: Rows, api: Api) -> None:
    source = api.reserve(user := uuid4(), 10)
    give_up(rows, api.fail(source))
    api.ok("complete_upload", p_source_id=source, p_storage_url=URL)
    assert rows.all("select from public.upload_queue") == []
    assert rows.usage(user) == (10, 0, 1)


@pytest.mark.parametrize("verdict", ["stored", "retry", "dead", "deferred"])
def test_completing_a_claimed_upload_leaves_the_row_for_the_reactor_to_settle(
    rows: Rows, api: Api, verdict: str
) -> None:
    source = api.reserve(user := uuid4(), 10)
    upload, token = api.fail(source), uuid4()
    rows.claim([upload], token)
    api.ok("complete_upload", p_source_id=source, p_storage_url=URL)
    assert rows.upload_row(upload).status == "uploading"
    assert rows.settle([(upload, token, verdict)]).keys() == {upload}
    assert rows.source_row(source).storage_status == "uploaded"
    assert rows.usage(user) == (10, 0, 1)


# fail_upload


def test_failing_an_upload_twice_queues_it_once_and_due_immediately(rows: Rows, api: Api) -> None:
    source = api.reserve(user := uuid4(), 10, "one")
    arguments = failed(source) | {"p_error_message": "x" * 3000, "p_spool": "other", "p_max_retries": 3}
    answer = api.ok("fail_upload", **arguments, p_metadata={"k": "v"})
    upload = UUID(answer["queue_id"])
    pending = {"ok": True, "queue_id": str(upload), "source_id": str(source), "storage_status": "pending"}
    assert answer == pending | {"code": "STORAGE_PENDING_RETRY"}
    row = rows.upload_row(upload)
    assert (row.user_id, row.content_hash, row.byte_size) == (user, content_hash("one"), 10)
    assert (row.bucket, row.object_path, row.temp_file_path, row.spool) == ("bucket", "a/key", "a/file", "other")
    assert (row.status, row.retry_count, row.max_retries, row.metadata) == ("failed", 0, 3, {"k": "v"})
    assert row.error_message == "x" * 2000
    assert api.ok("fail_upload", **arguments) == answer
    assert rows.claim([upload])[upload].state == "claimed"
    assert api.ok("fail_upload", **arguments) == answer, "the answer changed after a reactor had claimed the upload"
    assert rows.usage(user) == (0, 10, 0)


def test_a_failure_reported_by_many_concurrently_is_one_upload(rows: Rows, api: Api, migrated_url: str) -> None:
    source, ready = api.reserve(uuid4()), Barrier(AT_ONCE)

    def fail(_: int) -> UUID:
        with rows_of(migrated_url) as own:
            ready.wait()
            return Api(own).fail(source)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        assert len(set(pool.map(fail, range(AT_ONCE)))) == 1
    assert len(rows.all("select from public.upload_queue")) == 1


def test_a_failure_reported_after_the_upload_was_stored_queues_nothing(rows: Rows, api: Api) -> None:
    source = api.store(uuid4())
    answer = api.ok("fail_upload", **failed(source))
    assert answer == {"ok": True, "queue_id": None, "source_id": str(source), "storage_status": "uploaded"}
    assert rows.all("select from public.upload_queue") == []


def test_a_failure_reported_after_the_upload_is_dead_is_refused(rows: Rows, api: Api) -> None:
    source = api.reserve(uuid4())
    give_up(rows, upload := api.fail(source))
    assert api.refused("STORAGE_UPLOAD_FAILED", "fail_upload", **failed(source)) == {"queue_id": str(upload)}
    assert rows.upload_row(upload).status == "dead"


def test_a_failure_reported_after_the_reservation_was_released_reserves_again_or_is_refused(
    rows: Rows, api: Api
) -> None:
    """Reconciliation releases the bytes of a reservation if the app makes no call for a day."""
    user = uuid4()
    lost = [api.reserve(user, 10) for _ in range(2)]
    rows.run("update public.sources set storage_status = 'failed'")
    api.limit(user, bytes_=15)
    api.fail(lost[0])
    api.refused("STORAGE_QUOTA_EXCEEDED", "fail_upload", **failed(lost[1]))
    assert rows.usage(user) == (0, 10, 0)
    assert len(rows.all("select from public.upload_queue")) == 1


def test_the_apps_trace_is_continued_and_an_invalid_one_replaced(rows: Rows, api: Api) -> None:
    given = [TRACEPARENT, None, "", "00-broken", TRACEPARENT.upper(), "00-" + "0" * 32 + "-0123456789abcdef-01"]
    kept = [rows.upload_row(api.fail(api.reserve(uuid4()), p_traceparent=one)).traceparent for one in given]
    assert kept[0] == TRACEPARENT
    assert all(re.fullmatch(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-03", one) for one in kept[1:])
    assert len(set(kept)) == len(kept)


@pytest.mark.parametrize("argument", ["p_object_path", "p_temp_file_path"])
def test_a_user_may_not_name_a_file_in_another_users_folder(rows: Rows, argument: str) -> None:
    user, other = uuid4(), uuid4()
    own, source = Api.of(rows, user), Api(rows).reserve(user)
    theirs = [f"{other}/x", f"/{other}/x", f"//{other}/x", f"{str(other).upper()}/x", f"/var/spool/{other}/x"]
    for path in [*theirs, f"prefix/{other}/{user}/x"]:
        details = own.refused("NOT_ALLOWED", "fail_upload", **failed(source) | {argument: path})
        assert details == {"argument": argument}
    assert rows.all("select from public.upload_queue") == []


@pytest.mark.parametrize(
    "path", ["{user}/x", "{user}/{other}/x", "prefix/{user}/{other}", "/spool/{user}/x", "{other}", "x/{other}"]
)
def test_a_user_may_name_files_in_their_own_folder_or_in_a_folder_of_no_user(rows: Rows, path: str) -> None:
    """The file name may be any UUID. If folder names are UUIDs, the first of them must be the user's id."""
    own = Api.of(rows, user := uuid4())
    named = path.format(user=user, other=uuid4())
    upload = own.fail(own.reserve(user), p_object_path=named, p_temp_file_path=named)
    assert rows.upload_row(upload).object_path == named


def test_a_service_may_name_any_folder(rows: Rows, api: Api) -> None:
    upload = api.fail(api.reserve(uuid4()), p_object_path=f"{uuid4()}/x", p_temp_file_path=f"{uuid4()}/x")
    assert rows.upload_row(upload).status == "failed"
