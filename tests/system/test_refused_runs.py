"""A run that the app's own constraint or trigger refuses to fail delays no other run, and is reported everywhere."""

from typing import LiteralString
from uuid import UUID

import psycopg
import pytest
from anyio import to_thread
from support.app import App
from support.process import fetch, reactor, settings_of
from support.recorder import Recorder

from reactor.core.events import DatabaseLost, RowsAccepted, RowsRefused, RunExpired
from reactor.engine import set_aside
from reactor.postgres.migrate import migrate
from reactor.postgres.refusals import forbidden_statuses
from reactor.postgres.session import connect

STALE = "2000-01-01"

_TRIGGER: LiteralString = """
    create function public.app_guard() returns trigger language plpgsql as $$
    begin
        if new.archived_at is not null and new.status = 'failed' then {} end if;
        return new;
    end $$;
    create {} on public.interpretation_runs {} for each row execute function public.app_guard()
"""

_BEFORE = ("trigger guard before update", "")
_DEFERRED = ("constraint trigger guard after update", "initially deferred")


def trigger(body: str, kind: tuple[str, str] = _BEFORE) -> str:
    return _TRIGGER.format(body, *kind)


_ALTER = "alter table public.interpretation_runs"

REFUSALS = {
    "a CHECK": (
        f"{_ALTER} add constraint archived check (archived_at is null or status <> 'failed')",
        "archived",
    ),
    "a trigger": (trigger("raise exception 'archived runs are closed';"), "archived runs are closed"),
    "a trigger that pretends an outage": (
        trigger("raise exception 'no' using errcode = '08006';"),
        "no (raised by public.app_guard)",
    ),
    "a trigger that pretends a crash": (trigger("raise exception 'no' using errcode = '57P02';"), "no (raised by"),
    "a trigger that pretends a standby": (trigger("raise exception 'no' using errcode = '25006';"), "no (raised by"),
    "a trigger without privilege": (trigger("raise exception 'no' using errcode = '42501';"), "no (raised by"),
    "a trigger with a missing table": (trigger("insert into public.nothing values (1);"), "public.nothing"),
    "a trigger with a bug": (trigger("new.status := 1 / 0;"), "division by zero"),
    "a trigger that asserts": (trigger("assert false, 'asserted';"), "asserted"),
    "a trigger on commit": (trigger("raise exception 'not at commit';", _DEFERRED), "not at commit"),
    "a message of several lines": (trigger("raise exception E'one\\ntwo\\x1b[31m';"), "one two"),
    "a domain": (
        f"""create domain public.short as text check (value !~ 'deadline');
            {_ALTER} alter column error_message type public.short""",
        "short_check",
    ),
    "a foreign key": (
        f"""create table public.app_code (code text primary key);
            {_ALTER} add column app_code text generated always as
                (case when archived_at is not null then error_code end) stored references public.app_code""",
        "interpretation_runs_app_code_fkey",
    ),
    "a unique index": (
        """create unique index one_failed on public.interpretation_runs (error_code) where archived_at is not null;
           insert into public.interpretation_runs (id, user_id, source_id, status, error_code, archived_at)
           select gen_random_uuid(), s.user_id, s.id, 'failed', 'INTERPRETATION_TIMEOUT', now()
             from public.sources as s limit 1""",
        "one_failed",
    ),
}


def begin_runs(app: App, count: int = 4) -> tuple[UUID, list[UUID]]:
    """Return a stale run that is archived, and other stale runs."""
    others = [app.begin_run(timeout_at=STALE) for _ in range(count)]
    return app.begin_run(timeout_at=STALE, archived_at=STALE), others


async def first_refusal(recorder: Recorder) -> RowsRefused:
    """Return the first refusal, which comes after the other rows of its batch are done."""
    recorded = recorder.events_of(RowsRefused)
    return recorded[0] if recorded else await recorder.wait_for(RowsRefused)


@pytest.mark.parametrize("name", REFUSALS)
async def test_the_others_are_failed_and_the_refused_run_is_reported(app: App, recorder: Recorder, name: str) -> None:
    app.disable_triggers()
    refused, others = begin_runs(app)
    app.conn.execute("set search_path = pg_catalog")
    statement, message = REFUSALS[name]
    app.conn.execute(statement.encode())
    if name == "a domain":
        app.conn.execute(
            "update public.interpretation_runs set timeout_at = null, heartbeat_at = %s where id = any(%s)",
            (STALE, others),
        )
    async with app.running_reactor(recorder) as running:
        event = await first_refusal(recorder)
        assert (event.row_ids, event.times, event.set_aside) == ([refused], 1, 1)
        assert message in event.reason
        assert event.reason.isprintable()
        assert {app.run(run)["status"] for run in others} == {"failed"}
        assert app.run(refused)["status"] == "running"
        assert running.not_ready() == []
        assert recorder.events_of(DatabaseLost) == []
        assert b'reactor_rows_set_aside{reaction="runs"} 1.0' in await running.metrics()
        _, page = await to_thread.run_sync(fetch, running.http_url + "/")
        assert "The database refuses 1 run" in page


@pytest.mark.parametrize("name", ["a CHECK", "a trigger", "a trigger on commit"])
def test_doctor_and_reconcile_report_a_refused_run(app: App, name: str) -> None:
    refused, others = begin_runs(app)
    statement, message = REFUSALS[name]
    app.conn.execute(statement.encode())
    done = reactor("reconcile", env=settings_of(app))
    assert done.returncode == 1
    assert "runs failed 4" in done.stdout
    assert "refused 1" in done.stdout
    assert message in done.stderr
    assert {app.run(run)["status"] for run in others} == {"failed"}

    before = app.run(refused)
    done = reactor("doctor", env=settings_of(app))
    assert done.returncode == 1
    assert f"refuses to fail the stale run {refused}" in done.stdout
    assert message in done.stdout
    assert app.run(refused) == before


async def test_one_refused_run_among_500_costs_few_statements(app: App, recorder: Recorder) -> None:
    app.disable_triggers()
    refused, others = begin_runs(app, 499)
    app.conn.execute(REFUSALS["a CHECK"][0].encode())
    async with app.running_reactor(recorder):
        assert (await first_refusal(recorder)).row_ids == [refused]
        assert len(recorder.events_of(RunExpired)) == 499
    assert {app.run(run)["status"] for run in others} == {"failed"}


async def test_a_run_that_is_not_refused_any_more_is_failed(
    app: App, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(set_aside, "_FIRST_S", 0.2)
    refused, _ = begin_runs(app)
    app.conn.execute(REFUSALS["a CHECK"][0].encode())
    async with app.running_reactor(recorder):
        second = await recorder.wait_for(RowsRefused, lambda event: event.times == 2)
        assert second.row_ids == [refused]
        app.conn.execute("alter table public.interpretation_runs drop constraint archived")
        await recorder.wait_for(RunExpired, lambda event: event.run_id == refused)
        assert (await recorder.wait_for(RowsAccepted)).set_aside == 0
    assert app.run(refused)["status"] == "failed"


async def test_a_refused_run_that_the_app_ends_is_forgotten(
    app: App, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(set_aside, "_FIRST_S", 0.2)
    refused, _ = begin_runs(app)
    app.conn.execute(REFUSALS["a CHECK"][0].encode())
    async with app.running_reactor(recorder):
        await first_refusal(recorder)
        app.conn.execute("delete from public.interpretation_runs where id = %s", (refused,))
        assert (await recorder.wait_for(RowsAccepted)).set_aside == 0


# a status that isn't allowed at all

FORBIDDEN: dict[str, tuple[LiteralString, str]] = {
    "a CHECK of a list": (
        "alter table public.interpretation_runs add constraint known check (status in ('running', 'completed'))",
        "public.interpretation_runs.status doesn't allow 'failed': add it to the CHECK known",
    ),
    "a CHECK of a pattern": (
        "alter table public.interpretation_runs add constraint pattern check (status ~ '^(pend|runn|compl)')",
        "public.interpretation_runs.status doesn't allow 'failed': add it to the CHECK pattern",
    ),
    "a CHECK that isn't validated": (
        "alter table public.interpretation_runs add constraint later check (status <> 'failed') not valid",
        "public.interpretation_runs.status doesn't allow 'failed': add it to the CHECK later",
    ),
    "a CHECK of sources": (
        "alter table public.sources add constraint stored check (storage_status <> 'failed')",
        "public.sources.storage_status doesn't allow 'failed': add it to the CHECK stored",
    ),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_migrate_and_doctor_report_a_status_that_is_not_allowed(app: App, name: str) -> None:
    statement, sentence = FORBIDDEN[name]
    app.conn.execute(statement)
    done = reactor("migrate", env=settings_of(app))
    assert done.returncode == 0
    assert f"reactor: warning: {sentence}" in done.stderr
    done = reactor("doctor", env=settings_of(app))
    assert done.returncode == 1
    assert sentence in done.stdout


@pytest.mark.parametrize(
    ("make_type", "sentence"),
    [
        ("create type public.run_status as enum ('pending', 'running', 'completed')", "the type public.run_status"),
        ("create domain public.run_status as text check (value <> 'failed')", "the type public.run_status"),
    ],
)
def test_a_type_without_the_status_is_reported(database_url: str, make_type: LiteralString, sentence: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute(make_type)
        conn.execute("create table public.interpretation_runs (id uuid primary key, status public.run_status)")
    with connect(database_url, application_name="test") as session:
        assert [each for each in forbidden_statuses(session) if sentence in each] == [
            f"public.interpretation_runs.status doesn't allow 'failed': add it to {sentence}"
        ]


@pytest.mark.parametrize(
    "allowed",
    [
        "check (status in ('pending', 'running', 'completed', 'failed'))",
        "check (archived_at is null or status <> 'failed')",
        "check (status is not null and length(status) < 10)",
    ],
)
def test_a_constraint_that_allows_the_status_is_not_reported(app: App, allowed: str) -> None:
    app.conn.execute(f"alter table public.interpretation_runs add constraint fine {allowed}".encode())
    warnings: list[str] = []
    assert migrate(app.url, on_warning=warnings.append) == []
    assert warnings == []
