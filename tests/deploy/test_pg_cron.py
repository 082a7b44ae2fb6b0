"""The jobs of pg_cron.sql do their work on a database without a reactor. The tests execute them as pg_cron does."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from support.app import App, open_app
from support.deploy_files import DEPLOY

JOBS = ("reactor-fail-stale-runs", "reactor-rescue-uploads", "reactor-repair-usage", "reactor-forget-cron-runs")

PG_CRON_STAND_IN = """
    create schema cron;
    create table cron.job (jobid bigint generated always as identity, jobname text unique, schedule text, command text);
    create table cron.job_run_details (jobid bigint, end_time timestamptz);
    create function cron.schedule(job_name text, schedule text, command text) returns bigint language sql as
        'insert into cron.job (jobname, schedule, command) values ($1, $2, $3)
         on conflict (jobname) do update set schedule = excluded.schedule, command = excluded.command returning jobid';
    grant usage on schema cron to reactor_worker;
    grant select on cron.job to reactor_worker;
    grant select, delete on cron.job_run_details to reactor_worker;
"""
"""A stand-in for the tables of pg_cron and for cron.schedule, because the PostgreSQL of the Python package has no
pg_cron. The tests execute the real commands of the jobs."""


@pytest.fixture
def app(migrated_url: str, tmp_path: Path) -> Iterator[App]:
    with open_app(migrated_url, tmp_path) as app:
        app.conn.execute(PG_CRON_STAND_IN)
        for _ in range(2):  # running the file again changes nothing
            app.conn.execute((DEPLOY / "pg_cron.sql").read_bytes())
        yield app


def run_job(app: App, name: str) -> None:
    """Run one job's command as reactor_worker."""
    command = app.one("select command from cron.job where jobname = %s", name)
    with psycopg.connect(app.url, autocommit=True) as conn:
        conn.execute("set role reactor_worker")
        conn.execute(sql.SQL(command))


def test_running_the_file_twice_schedules_each_job_once(app: App) -> None:
    assert {row["jobname"] for row in app.all("select jobname from cron.job")} == set(JOBS)


def test_stale_runs_are_failed_and_live_runs_are_not(app: App) -> None:
    late, silent = app.begin_run(timeout_at="2000-01-01"), app.begin_run(heartbeat_at="2000-01-01")
    alive = app.begin_run(timeout_at="2100-01-01", heartbeat_at="2000-01-01", heartbeat_timeout="200 years")
    run_job(app, "reactor-fail-stale-runs")
    assert [app.run(run)["error_code"] for run in (late, silent)] == [
        "INTERPRETATION_TIMEOUT",
        "INTERPRETATION_HEARTBEAT_LOST",
    ]
    assert app.run(alive)["status"] == "running"


def test_uploads_with_an_expired_lease_are_released_or_dead_if_no_retry_is_left(app: App) -> None:
    leased: dict[str, Any] = {"status": "uploading", "lease_token": uuid4(), "lease_expires_at": "2000-01-01"}
    [freed] = app.queue_uploads(retry_count=1, **leased)
    [spent] = app.queue_uploads(retry_count=5, **leased)
    [held] = app.queue_uploads(retry_count=1, **leased | {"lease_expires_at": "2100-01-01"})
    [due] = app.queue_uploads()
    run_job(app, "reactor-rescue-uploads")

    rows = [app.row(upload) for upload in (freed, spent, held, due)]
    assert [row and row["status"] for row in rows] == ["failed", "dead", "uploading", "failed"]
    assert app.usage(spent) == (0, 0)  # the dead upload's reservation is released
    assert app.is_spooled(due)  # no job puts a file into the object store
    app.assert_usage_matches_rows()


def test_a_reservation_without_an_upload_is_released_after_a_day(app: App) -> None:
    user = uuid4()
    app.all("select public.reserve_upload(%s, %s, 100)", user, "0" * 64)
    app.conn.execute("update public.sources set pending_since = now() - interval '25 hours'")
    run_job(app, "reactor-repair-usage")
    assert app.all("select reserved_bytes from public.storage_usage") == [{"reserved_bytes": 0}]


def test_run_details_of_these_jobs_are_deleted_after_a_week_and_those_of_others_kept(app: App) -> None:
    app.conn.execute("select cron.schedule('another', '* * * * *', 'select 1')")
    app.conn.execute("insert into cron.job_run_details select jobid, now() - interval '8 days' from cron.job")
    app.conn.execute("insert into cron.job_run_details select jobid, now() from cron.job")
    run_job(app, "reactor-forget-cron-runs")
    kept = app.all(
        "select jobname, count(*) from cron.job_run_details join cron.job using (jobid) group by jobname order by 1"
    )
    assert [(row["jobname"], row["count"]) for row in kept] == [("another", 2), *((job, 1) for job in sorted(JOBS))]
