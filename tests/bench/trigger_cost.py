"""Measure the cost of the triggers for an app: with our triggers, without triggers, and with a naive NOTIFY.

pgbench sends heartbeats and failed uploads. In the variant "none" the triggers are dropped, not disabled: if a trigger
is disabled, PostgreSQL still locks each row before it updates the row.
"""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import LiteralString

import psycopg

from .alternate import run_alternately
from .report import Report
from .server import BenchServer

_RUNS = 1_000
_EACH_S = 8.0
_RACES_A_REPEAT = 2
"""Races per repeat of `heartbeats`. Equal variants differ by up to 2.6 % in one race, and by 0.3 % in the median of 8
races."""

Variants = dict[str, Sequence[LiteralString]]
"""Maps the name of a variant to the statements that prepare its database."""

_BARE: LiteralString = """
    do $$ declare t record; begin
        for t in select tgname, tgrelid::regclass as name from pg_trigger where not tgisinternal and tgrelid in (
            'public.sources'::regclass, 'public.upload_queue'::regclass, 'public.interpretation_runs'::regclass)
        loop
            execute format('drop trigger %I on %s', t.tgname, t.name);
        end loop;
    end $$"""
_NAIVE: tuple[LiteralString, ...] = (
    _BARE,
    (
        "create function public.naive() returns trigger language plpgsql as"
        " $$ begin perform pg_notify('naive', new.id::text); return null; end $$"
    ),
    "create trigger naive after update on public.interpretation_runs for each row execute function public.naive()",
)
_APP_NOTIFIED: tuple[LiteralString, ...] = (
    _BARE,
    (
        "create function public.one() returns trigger language plpgsql as"
        " $$ begin perform pg_notify('one', new.id::text); return null; end $$"
    ),
    "create trigger one after insert on public.upload_queue for each row execute function public.one()",
)

_HEARTBEAT = (
    "\\set n random(1, {count})\n"
    "update public.interpretation_runs set heartbeat_at = clock_timestamp()"
    " where id = md5('run' || :n)::uuid;\n"
)
_FAIL = (
    "\\set n random(1, 10000)\n"
    "insert into public.upload_queue (source_id, user_id, bucket, object_path, byte_size, temp_file_path)"
    " select s.id, s.user_id, 'bench', 'path', 10, 'file' from public.sources as s"
    " where s.id = md5('source' || :n)::uuid;\n"
)
_FAIL_MANY = (
    "insert into public.upload_queue (source_id, user_id, bucket, object_path, byte_size, temp_file_path)"
    " select s.id, s.user_id, 'bench', 'path', 10, 'file' from public.sources as s limit 1000;\n"
)


def heartbeat_tax(bench: BenchServer, report: Report, repeats: int) -> str | None:
    """Update heartbeat_at from 8 and 32 clients: with our triggers, without triggers, with one NOTIFY per update."""
    case = "heartbeats"
    variants: Variants = {"none": (_BARE,), "reactor": (), "naive": _NAIVE}
    with tempfile.TemporaryDirectory(dir=bench.home) as folder:
        script = _script(folder, _HEARTBEAT.format(count=_RUNS))
        for _ in range(repeats * _RACES_A_REPEAT):
            for clients in (8, 32):
                for name, per_s in _race(bench, script, clients, _begin_runs, variants, races=_RACES_A_REPEAT).items():
                    report.add(case, f"{name}, {clients} clients", per_s=per_s)
    for clients in (8, 32):
        ours = report.ratio(case, "per_s", f"reactor, {clients} clients", f"none, {clients} clients")
        report.goal(case, f"tax at {clients} clients, %", 100 * (1 - ours), at_most=5)
    return "none, 32 clients"


def app_tax(bench: BenchServer, report: Report, repeats: int) -> str | None:
    """Queue failed uploads, singly and 1 000 at a time: with our triggers, without triggers, with a NOTIFY per row."""
    case = "app"
    variants: Variants = {"none": (_BARE,), "reactor": ()}
    with tempfile.TemporaryDirectory(dir=bench.home) as folder:
        for words, text, more in (
            ("one by one", _FAIL, Variants({"one NOTIFY": _APP_NOTIFIED})),
            ("1000 at a time", _FAIL_MANY, Variants()),
        ):
            script = _script(folder, text)
            for _ in range(repeats):
                for name, per_s in _race(bench, script, 1, _make_sources, variants | more).items():
                    report.add(case, f"{name}, {words}", per_s=per_s)
    beyond = report.ratio(case, "per_s", "reactor, one by one", "one NOTIFY, one by one")
    report.goal(case, "tax one by one beyond one NOTIFY, %", 100 * (1 - beyond), at_most=10)
    bulk = report.ratio(case, "per_s", "reactor, 1000 at a time", "none, 1000 at a time")
    report.goal(case, "tax in bulk, %", 100 * (1 - bulk), at_most=5)
    return "none, one by one"


def _race(
    bench: BenchServer,
    script: Path,
    clients: int,
    fill: Callable[[psycopg.Connection], None],
    variants: Variants,
    *,
    races: int = 1,
) -> dict[str, float]:
    """Run the script in the databases of all variants, in alternating slices; return transactions/s by variant.

    Each race takes the measuring time of a repeat divided by `races`.
    """
    each_s = (_EACH_S / 16 if bench.quick else _EACH_S) / races
    with ExitStack() as stack:
        urls = {name: stack.enter_context(bench.database()) for name in variants}
        for name, url in urls.items():
            _prepare(url, fill, variants[name])
        return run_alternately(bench, script, clients, urls, each_s)


def _script(folder: str, text: str) -> Path:
    Path(folder).chmod(0o755)
    script = Path(folder) / "script.sql"
    script.write_text(text)
    script.chmod(0o644)
    return script


def _prepare(url: str, fill: Callable[[psycopg.Connection], None], changes: Sequence[LiteralString]) -> None:
    with psycopg.connect(url, autocommit=True) as conn:
        fill(conn)
        for change in changes:
            conn.execute(change)
        conn.execute("vacuum analyze")
        conn.execute("checkpoint")


def _begin_runs(conn: psycopg.Connection) -> None:
    _make_sources(conn)
    conn.execute(
        "insert into public.interpretation_runs (id, user_id, source_id, status, timeout_at)"
        " select md5('run' || n)::uuid, md5((n %% 50)::text)::uuid, md5('source' || n)::uuid, 'running',"
        "        now() + interval '1 day' from generate_series(1, %s) as n",
        (_RUNS,),
    )


def _make_sources(conn: psycopg.Connection) -> None:
    conn.execute(
        "insert into public.sources (id, user_id, content_hash, storage_status, byte_size)"
        " select md5('source' || n)::uuid, md5((n % 50)::text)::uuid, n, 'pending', 10"
        "   from generate_series(1, 10000) as n"
    )
