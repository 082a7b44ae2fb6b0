"""The public surface: exported names, commands, settings, addresses, SQL functions, payloads, metrics, spans, codes.

`surface.txt` in this folder lists what users may depend on, so that a review shows every change of the surface.
To rewrite it: REACTOR_TEST_UPDATE_SNAPSHOT=1 pytest tests/system/test_surface.py
"""

import inspect
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import click
import pytest
from click.testing import CliRunner
from starlette.routing import Route
from support.app import App
from support.recorder import Recorder
from support.rows import notification_log, rows_of
from support.servers.otlp_receiver import ReceivedSpan, receiving
from support.stubborn_store import StubbornStore

import reactor
from reactor.cli import main
from reactor.core.error_codes import CATALOGUE
from reactor.core.errors import StorageRejected, StorageUnavailable
from reactor.core.events import AttemptSettled, Reconciled, RunExpired
from reactor.core.settings import Settings
from reactor.web.routes import Routes

SURFACE = Path(__file__).with_name("surface.txt")
UPLOAD, SOURCE, RUN, USER = (UUID(int=number) for number in range(1, 5))


def assert_unchanged(section: str, lines: Iterator[str]) -> None:
    """Compare a section of surface.txt with these lines, or rewrite it if REACTOR_TEST_UPDATE_SNAPSHOT is set."""
    sections = dict(re.findall(r"^== (.+)\n((?:(?!== ).*\n)*)", SURFACE.read_text(encoding="utf-8"), re.MULTILINE))
    found = "".join(f"{line.rstrip()}\n" for line in lines)
    if os.environ.get("REACTOR_TEST_UPDATE_SNAPSHOT"):
        sections[section] = found + "\n"
        text = "".join(f"== {name}\n{sections[name]}" for name in sorted(sections))
        SURFACE.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    else:
        assert found.splitlines() == sections[section].rstrip("\n").splitlines()


def test_the_exported_names_and_their_parameters_are_unchanged() -> None:
    assert_unchanged("exports", exports())


def exports() -> Iterator[str]:
    for name in sorted(reactor.__all__):
        exported = getattr(reactor, name)
        yield f"reactor.{name}"
        if inspect.isfunction(exported):
            yield f"  {signature(exported)}"
        if inspect.isclass(exported) and exported is not Settings:
            for method, member in sorted(vars(exported).items()):
                if method == "__init__" or not method.startswith("_"):
                    yield f"  .{method}{signature(member) if callable(member) else ''}"


def signature(member: Callable[..., object]) -> str:
    """Return the names and defaults of the parameters. Types are left out, because they may move to other modules."""
    parameters = inspect.signature(member).parameters.values()
    text = "(" + ", ".join(str(each.replace(annotation=each.empty)) for each in parameters) + ")"
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def test_the_commands_and_their_help_are_unchanged() -> None:
    assert_unchanged("commands", commands(main, []))


def commands(command: click.Command, path: list[str]) -> Iterator[str]:
    command_line = " ".join(["reactor", *path])
    yield f"$ {command_line} --help"
    shown = CliRunner().invoke(main, [*path, "--help"], prog_name="reactor", env={"COLUMNS": "110"})
    assert shown.exit_code == 0
    yield from shown.output.splitlines()
    if isinstance(command, click.Group):
        ctx = click.Context(command)
        for name in command.list_commands(ctx):
            subcommand = command.get_command(ctx, name)
            assert subcommand is not None
            yield from commands(subcommand, [*path, name])


def test_the_settings_and_their_defaults_are_unchanged() -> None:
    assert_unchanged("settings", settings())


def settings() -> Iterator[str]:
    for name, parameter in inspect.signature(Settings).parameters.items():
        default = "required" if parameter.default is parameter.empty else repr(parameter.default)
        yield f"REACTOR_{name.removesuffix('_s').upper()} {name} = {default}"
    yield "REACTOR_SPOOL_DIR"


def test_the_error_codes_are_unchanged() -> None:
    assert_unchanged(
        "error codes",
        (
            f"{error.code} {error.sqlstate or '-'} {error.http_status} {'retryable' if error.retryable else 'final'}"
            for error in CATALOGUE.values()
        ),
    )


def test_the_sql_functions_and_their_arguments_are_unchanged(migrated_url: str) -> None:
    with rows_of(migrated_url) as rows:
        functions = rows.all(
            "select format('%%s(%%s) returns %%s; may execute: %%s', p.proname, pg_get_function_arguments(p.oid),"
            "       pg_get_function_result(p.oid), (select string_agg(r.rolname, ' ' order by r.rolname)"
            "       from pg_roles as r where r.rolname in ('anon', 'authenticated', 'service_role', 'reactor_worker')"
            "        and has_function_privilege(r.oid, p.oid, 'execute'))) as line"
            "  from pg_proc as p where p.pronamespace = 'public'::regnamespace order by p.proname"
        )
    assert_unchanged("SQL functions", (row.line for row in functions))


def test_the_payloads_of_notifications_are_unchanged(migrated_url: str) -> None:
    with (
        rows_of(migrated_url) as rows,
        notification_log(migrated_url) as notifications,
        notification_log(migrated_url) as other,
    ):
        rows.conn.execute(
            "insert into public.sources (id, user_id, content_hash, storage_status, byte_size)"
            " values (%s, %s, repeat('0', 64), 'pending', 5)",
            (SOURCE, USER),
        )
        rows.conn.execute(
            "insert into public.upload_queue (id, source_id, user_id, bucket, object_path, byte_size)"
            " values (%s, %s, %s, 'b', 'p', 5)",
            (UPLOAD, SOURCE, USER),
        )
        rows.conn.execute(
            "insert into public.interpretation_runs (id, source_id, user_id, status, timeout_at)"
            " values (%s, %s, %s, 'running', 'epoch')",
            (RUN, SOURCE, USER),
        )
        rows.conn.execute("update public.interpretation_runs set status = 'completed' where id = %s", (RUN,))
        uploads, runs = notifications.payloads("reactor_uploads"), other.payloads("reactor_runs")
    lines = [*(f"reactor_uploads {text}" for text in uploads), *(f"reactor_runs {text}" for text in runs)]
    assert_unchanged("payloads", (re.sub(r'"at":\d{13}', '"at":<ms>', line) for line in lines))


async def test_the_metrics_and_spans_are_unchanged(
    app: App, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reactor handles a stored, a retried and a dead upload and a stale run; then a single reconciliation runs."""
    store = StubbornStore(app.store)
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        async with app.running_reactor(recorder, store=store) as running:
            with app.conn.transaction():
                stored, dead = app.queue_uploads(2)
                store.fail(stored.key, StorageUnavailable("503", http_status=503))
                store.fail(dead.key, StorageRejected("404", http_status=404))
            app.begin_run(timeout_at="2020-01-01")
            await recorder.wait_for_all(3, AttemptSettled)
            await recorder.wait_for(RunExpired)
            await running.status()
            metrics = (await running.metrics()).decode()
        await app.drain(recorder)
        await recorder.wait_for(Reconciled)
        spans = receiver.spans
    assert_unchanged("spans", span_lines(spans))
    assert_unchanged("metrics", iter(sorted(metric_lines(metrics))))


def span_lines(spans: list[ReceivedSpan]) -> Iterator[str]:
    for name in sorted({span.name for span in spans}):
        of_name = [span for span in spans if span.name == name]
        kinds = {span.kind for span in of_name}
        attributes = {key for span in of_name for key in span.attributes}
        yield f"{name} {' '.join(sorted(kinds))}: {' '.join(sorted(attributes))}"


def metric_lines(text: str) -> Iterator[str]:
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE):
        if name.startswith(("storage", "interpretation", "quota", "reactor")):
            labels = set(re.findall(rf"^{name}(?:_bucket|_sum|_count)?\{{([^}}]*)\}}", text, re.MULTILINE))
            names = {label for text in labels for label in re.findall(r'(\w+)="', text)} - {"le"}
            yield f"{name} {kind} {' '.join(sorted(names))}"


def test_the_addresses_of_the_page_are_unchanged() -> None:
    assert_unchanged("addresses", addresses())


def addresses() -> Iterator[str]:
    nothing: Any = None  # only the routes are read, no handler runs
    for route in Routes(nothing, nothing, nothing, nothing, nothing).routes():
        assert isinstance(route, Route)
        yield f"{' '.join(sorted((route.methods or set()) - {'HEAD'}))} {route.path}"
