"""`reactor quota`, and how the other commands show and repair quotas and usage."""

import json
import re
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from support.app import App
from support.callers import Api, content_hash
from support.process import environment, reactor, settings_of
from support.rows import Rows


def call(app: App, *arguments: str, code: int = 0) -> tuple[str, str]:
    """Run a command, assert its exit code, and return its stdout and stderr."""
    done = reactor(*arguments, env=settings_of(app), cwd=app.spool.parent)
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


def call_json(app: App, *arguments: str) -> Any:
    """Run a command with --json and return its parsed output."""
    return json.loads(call(app, *arguments, "--json")[0])


def make_usage_wrong(rows: Rows, user: UUID) -> None:
    rows.run("update public.storage_usage set total_bytes = 77 where user_id = %s", (user,))


def test_quota_show_prints_a_users_usage_as_text_and_json(app: App, rows: Rows, api: Api) -> None:
    source = api.store(user := uuid4(), 30)
    api.reserve(user, 5)
    api.begin(source)
    shown = call_json(app, "quota", "show", str(user))
    usage = api.usage(user)
    del usage["ok"]
    assert shown == usage
    assert (shown["used_bytes"], shown["reserved_bytes"], shown["interpretations_used"]) == (30, 5, 1)
    text, _ = call(app, "quota", "show", str(user))
    assert re.search(r"^plan +free$", text, re.MULTILINE)
    assert re.search(r"^used_bytes +30$", text, re.MULTILINE)


def test_set_plan_changes_a_users_plan(app: App, api: Api) -> None:
    api.reserve(user := uuid4(), 1 << 30)
    assert call_json(app, "quota", "set-plan", str(user), "enterprise")["limit_bytes"] is None
    assert "unlimited" in call(app, "quota", "show", str(user))[0]
    api.reserve(user, 1)
    assert call_json(app, "quota", "set-plan", str(user), "free")["remaining_bytes"] == 0


def test_recalculate_corrects_wrong_usage_and_prints_it(app: App, rows: Rows, api: Api) -> None:
    users = sorted(uuid4() for _ in range(3))
    for user in users:
        api.store(user, 30)
    make_usage_wrong(rows, users[0])
    text, _ = call(app, "quota", "recalculate", *map(str, users))
    assert text.splitlines() == [
        f"{users[0]} was wrong and is corrected",
        *(f"{user} was correct" for user in users[1:]),
    ]
    make_usage_wrong(rows, users[1])
    [recounted] = call_json(app, "quota", "recalculate", str(users[1]))
    assert (recounted["changed"], recounted["used_bytes"]) == (True, 30)
    for user in users[:2]:
        make_usage_wrong(rows, user)
    assert call_json(app, "quota", "recalculate", "--all") == {"changed": 2}
    assert call(app, "quota", "recalculate", "--all")[0] == "the usage of every user was correct\n"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("set-plan", str(uuid4()), "gold"), "plan must be one of enterprise, free, pro"),
        (("set-plan", str(uuid4())), "PLAN"),
        (("show", "somebody"), "UUID"),
        (("show",), "USER"),
        (("recalculate",), "--all"),
        (("recalculate", str(uuid4()), "--all"), "--all"),
    ],
)
def test_wrong_use_exits_2_and_names_what_is_wrong(app: App, arguments: tuple[str, ...], text: str) -> None:
    out, err = call(app, "quota", *arguments, code=2)
    assert out == ""
    assert text in err
    assert app.all("select from public.storage_usage") == []


def test_a_database_that_is_not_migrated_is_one_clear_line(database_url: str, tmp_path: Path) -> None:
    done = reactor("quota", "show", str(uuid4()), env=environment(DATABASE_URL=database_url), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert "reactor migrate" in line


def test_status_shows_the_fullest_users_the_rejections_and_the_bytes_of_each_plan(app: App, api: Api) -> None:
    users = [uuid4() for _ in range(25)]
    for number, user in enumerate(users):
        api.limit(user, bytes_=100, runs=1000)
        api.reserve(user, 3 * number)
    api.limit(by_runs := uuid4(), bytes_=1000, runs=1)
    api.begin(api.store(by_runs, 9))
    api.ok("set_plan", p_user_id=users[0], p_plan="pro")
    for _ in range(2):
        api.refused(
            "STORAGE_QUOTA_EXCEEDED",
            "reserve_upload",
            p_user_id=users[1],
            p_content_hash=content_hash(),
            p_byte_size=1000,
        )

    status = call_json(app, "status")

    assert [user["user_id"] for user in status["users"]] == [str(by_runs), *(str(u) for u in users[:-20:-1])]
    usage = api.usage(by_runs)
    del usage["ok"]
    assert status["users"][0] == usage
    assert status["quota_rejections"] == [{"quota": "storage", "plan": "free", "count": 2, "last_hour": 2}]
    assert status["storage_usage"] == [
        {"plan": "free", "users": 25, "bytes": 9, "reserved_bytes": sum(3 * n for n in range(25))},
        {"plan": "pro", "users": 1, "bytes": 0, "reserved_bytes": 0},
    ]


def test_only_the_retry_that_exceeds_its_quota_is_refused_and_it_stays_unchanged(app: App, api: Api) -> None:
    user_over_quota, other_user = uuid4(), uuid4()
    [refused] = app.queue_uploads(user=user_over_quota, spooled=False)
    [retried] = app.queue_uploads(user=other_user, spooled=False)
    call(app, "reconcile")
    api.limit(user_over_quota, bytes_=len(refused.content) - 1)
    before = app.row(refused)
    out, err = call(app, "uploads", "retry", str(refused.id), str(retried.id), code=1)
    assert out == f"{retried.id} is due\n"
    [line] = err.splitlines()
    assert str(refused.id) in line
    assert "STORAGE_QUOTA_EXCEEDED" in line
    assert app.row(refused) == before
    assert (app.usage(refused), app.usage(retried)) == ((0, 0), (0, len(retried.content)))


def test_reconcile_releases_leaked_reservations_and_counts_them(app: App, rows: Rows, api: Api) -> None:
    leaked, young = api.reserve(user := uuid4(), 30), api.reserve(user, 7)
    rows.run("update public.sources set pending_since = now() - interval '25 hours' where id = %s", (leaked,))
    assert call_json(app, "reconcile", "--dry-run")["reservations_leaked"] == 1
    assert rows.usage(user) == (0, 37, 0)
    assert call_json(app, "reconcile")["reservations_released"] == 1
    assert rows.usage(user) == (0, 7, 0)
    assert rows.source_row(young).storage_status == "pending"
    assert "reservations released 0" in call(app, "reconcile")[0]
