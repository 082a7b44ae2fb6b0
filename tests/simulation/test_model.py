"""The simulated database does what PostgreSQL does: the same calls return and write the same rows and notifications.

The simulation proves something only if its database behaves like the real one.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import timedelta
from typing import Any, ClassVar, LiteralString
from uuid import UUID, uuid4

import psycopg
import pytest
from attrs import asdict
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from psycopg.rows import namedtuple_row

from reactor.core.model import Verdict
from reactor.postgres import statements
from simulation.database import Database
from simulation.real import Real, install_test_clock, real
from simulation.server import EPOCH_S

_USERS = [UUID(int=n) for n in (1, 2)]
_TRACEPARENT = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
_PICKS = st.lists(st.integers(0, 8), min_size=1, max_size=6)
_SECONDS = st.sampled_from([1.0, 5.0, 30.0, 60.0])
_NOISE_S = 2e-5
"""More than the rounding error of a time: PostgreSQL and a float of seconds since 1970 both round to about 1 µs."""


class ModelAgainstPostgres(RuleBasedStateMachine):
    conn: ClassVar[psycopg.Connection[Any]]

    @initialize()
    def begin(self) -> None:
        self.stack = ExitStack()
        self.real: Real = self.stack.enter_context(real(self.conn))
        self.clock_s = EPOCH_S
        self.real.set_clock(self.clock_s)
        tenants = {user: self.real.answer("select uuid_hash(%s)", (user,)) for user in _USERS}
        self.model = Database(clock=lambda: self.clock_s, tenant_of=tenants.__getitem__)
        self.tokens = [uuid4() for _ in range(3)]
        self.reactors = [uuid4() for _ in range(2)]
        for n in range(5):
            self.reserve(_USERS[n % 2], n, 10)
            self.fail_upload(n, max_retries=1 + n % 2)
        for n in range(2):
            self.reserve(_USERS[n], 10 + n, 10)
            self.complete_upload(5 + n)
            self.begin_run(5 + n, timeout_s=60.0, patience_s=30.0, is_named=bool(n))

    def teardown(self) -> None:
        if hasattr(self, "stack"):
            self.stack.close()

    # both

    def both(self, statement: LiteralString, *parameters: Any) -> None:
        """Run a statement on PostgreSQL and on the model; assert that both return the same rows."""
        answered = self.real.rows(statement, parameters)
        modelled = self.model.answer(statement, parameters)
        assert_alike(in_order(answered), in_order(modelled))

    def pick(self, rows: dict[UUID, Any], picks: Sequence[int]) -> list[UUID]:
        """Return distinct ids of rows. One of the possible ids doesn't exist."""
        ids = [*rows, UUID(int=99)]
        return list(dict.fromkeys(ids[n % len(ids)] for n in picks))

    @invariant()
    def model_and_postgres_have_the_same_rows(self) -> None:
        if not hasattr(self, "model"):
            return
        for name in ("sources", "uploads", "runs", "usage", "instances"):
            rows = {key: asdict(row) | {"id": key} for key, row in getattr(self.model, name).items()}
            assert_alike(self.real.table(name), rows)
        sent, self.model.sent[:] = list(self.model.sent), []
        assert_alike(in_order(hints_in(self.real.sent())), in_order(hints_in(sent)))

    @rule(seconds=st.sampled_from([0.001, 0.5, 1.0, 5.0, 29.999, 30.0, 60.0, 3600.0, 90_000.0]))
    def time_passes(self, seconds: float) -> None:
        if self.clock_s < EPOCH_S + 10 * 86_400:  # the month must not end
            self.clock_s = round(self.clock_s + seconds, 3)
            self.real.set_clock(self.clock_s)

    # the app

    @rule(user=st.sampled_from(_USERS), content=st.integers(0, 12), size=st.sampled_from([0, 10, 400 << 20]))
    def reserve(self, user: UUID, content: int, size: int) -> None:
        said = self.real.answer(statements.RESERVE_UPLOAD, (user, f"{content:064x}", size, *[None] * 4, "{}"))
        made = UUID(said["source_id"]) if said["ok"] else uuid4()
        assert self.model.reserve(user, f"{content:064x}", size, made) == (made if said["ok"] else None)

    @precondition(lambda self: self.model.sources)
    @rule(pick=st.integers(0, 30), max_retries=st.integers(1, 3))
    def fail_upload(self, pick: int, max_retries: int) -> None:
        source = list(self.model.sources)[pick % len(self.model.sources)]
        arguments = (source, "bucket", "key", "file", None, "default", _TRACEPARENT, max_retries, "{}")
        said = self.real.answer(statements.FAIL_UPLOAD, arguments)
        made = UUID(said["queue_id"]) if said["ok"] and said["queue_id"] else uuid4()
        answered = self.model.fail_upload(source, "bucket", "key", "file", _TRACEPARENT, max_retries, made)
        assert answered == (
            "uploaded" if said.get("storage_status") == "uploaded" else made if said["ok"] else said["code"]
        )

    @precondition(lambda self: self.model.sources)
    @rule(pick=st.integers(0, 30))
    def complete_upload(self, pick: int) -> None:
        source = list(self.model.sources)[pick % len(self.model.sources)]
        said = self.real.answer(statements.COMPLETE_UPLOAD, (source, "file:///there"))
        assert self.model.complete_upload(source, "file:///there") == said["ok"]

    # the reactor and uploads

    @rule(picks=_PICKS, token=st.integers(0, 2), lease_s=_SECONDS)
    def claim(self, picks: list[int], token: int, lease_s: float) -> None:
        uploads = self.pick(self.model.uploads, picks)
        self.both(statements.CLAIM_UPLOADS, uploads, self.tokens[token], timedelta(seconds=lease_s))

    @rule(
        picks=_PICKS,
        token=st.integers(0, 2),
        verdicts=st.lists(st.sampled_from([v.value for v in Verdict]), min_size=6, max_size=6),
        delay_s=st.sampled_from([0.0, 0.25, 30.0]),
        seconds=_SECONDS,
    )
    def attempt(self, picks: list[int], token: int, verdicts: list[str], delay_s: float, seconds: float) -> None:
        """Make a complete attempt from claim to settlement, which random single steps would rarely make."""
        self.claim(picks, token, lease_s=5.0)
        # this settlement uses tokens[0], so it is refused if the claim used another token
        self.settle(picks, stranger=True, verdicts=verdicts, delay_s=delay_s)
        self.time_passes(seconds)
        self.settle(picks, stranger=False, verdicts=verdicts, delay_s=delay_s)

    @rule(picks=_PICKS, stranger=st.booleans(), lease_s=_SECONDS)
    def extend(self, picks: list[int], stranger: bool, lease_s: float) -> None:
        uploads = self.pick(self.model.uploads, picks)
        tokens = [self.token_of(upload, stranger) for upload in uploads]
        self.both(statements.EXTEND_LEASES, uploads, tokens, timedelta(seconds=lease_s))

    @rule(
        picks=_PICKS,
        stranger=st.booleans(),
        verdicts=st.lists(st.sampled_from([v.value for v in Verdict]), min_size=6, max_size=6),
        delay_s=st.sampled_from([0.0, 0.25, 30.0]),
    )
    def settle(self, picks: list[int], stranger: bool, verdicts: list[str], delay_s: float) -> None:
        uploads = self.pick(self.model.uploads, picks)
        count = len(uploads)
        self.both(
            statements.SETTLE_UPLOADS,
            uploads,
            [self.token_of(upload, stranger) for upload in uploads],
            verdicts[:count],
            [delay_s] * count,
            [None if verdict == "stored" else "STORAGE_UNAVAILABLE" for verdict in verdicts[:count]],
            [None] * count,
            ["file:///put" if verdict == "stored" else None for verdict in verdicts[:count]],
            500,
            count,
        )

    @rule(picks=_PICKS)
    def refuse_upload(self, picks: list[int]) -> None:
        for upload in self.pick(self.model.uploads, picks):
            self.both(statements.REFUSE_UPLOAD, upload, None, "P0001", "no")

    @rule(missing=st.integers(0, 2), picks=_PICKS, url=st.sampled_from(["file:///put", "file:///there"]))
    def confirm_stored(self, missing: int, picks: list[int], url: str) -> None:
        uploads = [UUID(int=missing), *self.pick(self.model.uploads, picks)]
        sources = self.pick(self.model.sources, [*range(missing, missing + len(uploads))])[: len(uploads)]
        sources += [UUID(int=99)] * (len(uploads) - len(sources))
        self.both(statements.CONFIRM_STORED, uploads, sources, [url] * len(uploads))

    def token_of(self, upload: UUID, stranger: bool) -> UUID:
        row = self.model.uploads.get(upload)
        return self.tokens[0] if stranger or row is None or row.lease_token is None else row.lease_token

    @rule(picks=st.none() | _PICKS, limit=st.integers(1, 3))
    def rescue(self, picks: list[int] | None, limit: int) -> None:
        self.both(statements.RESCUE_UPLOADS, None if picks is None else self.pick(self.model.uploads, picks), limit)

    @rule(horizon_s=st.sampled_from([0.0, 60.0, 900.0]))
    def sweep_uploads(self, horizon_s: float) -> None:
        self.both(statements.SWEEP_UPLOADS, timedelta(seconds=horizon_s), 100, 1000)

    @rule()
    def repair_usage(self) -> None:
        self.both(statements.REPAIR_USAGE, 1000)

    # an operator

    @rule(picks=_PICKS, verbs=st.lists(st.sampled_from(["requeue", "cancel", "purge"]), min_size=1, max_size=3))
    def operate(self, picks: list[int], verbs: list[LiteralString]) -> None:
        for verb in verbs:
            self._operate(self.pick(self.model.uploads, picks), verb)

    def _operate(self, uploads: list[UUID], verb: LiteralString) -> None:
        answered = self.real.rows(f"select * from reactor.{verb}_uploads(%s)", (uploads,))
        modelled = getattr(self.model, verb)(uploads)
        if verb == "requeue":
            assert_alike(in_order(answered), in_order(modelled))
        else:
            assert {row[0] for row in answered} == set(modelled)

    @rule(picks=_PICKS)
    def fail_runs(self, picks: list[int]) -> None:
        runs = self.pick(self.model.runs, picks)
        answered = self.real.rows("select * from reactor.fail_runs(%s, %s)", (runs, "because"))
        assert {row[0] for row in answered} == set(self.model.fail_runs(runs))

    # runs

    @precondition(lambda self: self.model.sources)
    @rule(pick=st.integers(0, 30), timeout_s=_SECONDS, patience_s=st.none() | _SECONDS, is_named=st.booleans())
    def begin_run(self, pick: int, timeout_s: float, patience_s: float | None, is_named: bool) -> None:
        source, run = list(self.model.sources)[pick % len(self.model.sources)], uuid4()
        patience = None if patience_s is None else timedelta(seconds=patience_s)
        arguments = (source, "{}", timedelta(seconds=timeout_s), patience, _TRACEPARENT, run)
        said = self.real.answer(statements.BEGIN_INTERPRETATION, arguments)
        answered = self.model.begin(source, timeout_s, patience_s, _TRACEPARENT, run)
        assert answered == ("ok" if said["ok"] else said["code"])
        if answered == "ok" and not is_named:
            # a run that an app inserts may have no heartbeat_timeout; then the reactor uses its default
            self.real.rows("update public.interpretation_runs set heartbeat_timeout = null where id = %s", (run,))
            self.model.runs[run].heartbeat_timeout = None
            self.model.notify_run(self.model.runs[run])

    @precondition(lambda self: self.model.runs)
    @rule(pick=st.integers(0, 30), completes=st.booleans())
    def work(self, pick: int, completes: bool) -> None:
        run = list(self.model.runs)[pick % len(self.model.runs)]
        if completes:
            said = self.real.answer(statements.COMPLETE_INTERPRETATION, (run,))
            assert self.model.complete_run(run) == said["ok"]
        else:
            said = self.real.answer(statements.HEARTBEAT_INTERPRETATION, (run,))
            assert self.model.heartbeat(run) == said["ok"]

    @rule(picks=_PICKS, patience_s=_SECONDS)
    def expire(self, picks: list[int], patience_s: float) -> None:
        self.both(statements.EXPIRE_RUNS, self.pick(self.model.runs, picks), timedelta(seconds=patience_s))

    @rule(horizon_s=st.sampled_from([0.0, 60.0]), patience_s=_SECONDS)
    def sweep_runs(self, horizon_s: float, patience_s: float) -> None:
        self.both(statements.SWEEP_RUNS, timedelta(seconds=horizon_s), timedelta(seconds=patience_s), 1000)

    # reactors

    @rule(
        which=st.integers(0, 1), mode=st.sampled_from(["starting", "listening"]), canary=st.none() | st.just("canary")
    )
    def report_presence(self, which: int, mode: str, canary: str | None) -> None:
        reactor = self.reactors[which]
        rows = self.real.rows(
            statements.REPORT_PRESENCE, (reactor, "host", 7, 8321, "0", mode, canary, timedelta(seconds=26))
        )
        [answered] = self.model.report_presence(reactor, "host", 7, 8321, "0", mode, canary, timedelta(seconds=26))
        assert_alike([(row.now_at, row.instances) for row in rows], [(answered.now_at, answered.instances)])

    @rule(which=st.integers(0, 1))
    def leave(self, which: int) -> None:
        self.real.rows(statements.DEREGISTER_INSTANCE, (self.reactors[which],))
        self.model.deregister_instance(self.reactors[which])


def in_order(rows: Sequence[Any]) -> list[tuple[Any, ...]]:
    return sorted((tuple(row) for row in rows), key=lambda row: [str(value) for value in row[:2]])


def hints_in(sent: Sequence[tuple[str, Any]]) -> list[tuple[Any, ...]]:
    """Return a tuple for each hint: channel, the hint's fields, and when it was sent (ms since 1970)."""
    hints: list[tuple[Any, ...]] = []
    for channel, payload in sent:
        if isinstance(payload, str):
            hints.append((channel, payload))
            continue
        for row_id, tenant, due_ms, *age_ms in payload["rows"]:
            hints.append((channel, row_id, tenant, due_ms, *age_ms, float(payload["at"])))
    return hints


def assert_alike(answered: Any, modelled: Any) -> None:
    """Assert that two results are equal to the millisecond."""
    assert plain(answered) == plain(modelled)


def plain(value: Any) -> Any:
    """Return a copy in which each float of seconds is rounded to whole ms.

    The exact times are whole ms, so rounding to 50 * _NOISE_S, which is 1 ms, removes an error of up to _NOISE_S.
    """
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return math.floor(value / _NOISE_S / 50 + 0.5) if isinstance(value, float) else value


@pytest.fixture
def held_clock(migrated_url: str) -> Iterator[psycopg.Connection[Any]]:
    install_test_clock(migrated_url)
    with psycopg.connect(migrated_url, autocommit=True, row_factory=namedtuple_row) as conn:
        yield conn


def check(conn: psycopg.Connection[Any], examples: int, steps: int) -> None:
    ModelAgainstPostgres.conn = conn
    run_state_machine_as_test(
        ModelAgainstPostgres,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=examples < 100,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_simulated_database_does_what_postgres_does(held_clock: psycopg.Connection[Any]) -> None:
    check(held_clock, examples=20, steps=25)


@pytest.mark.simulation
@pytest.mark.timeout(0)
def test_the_simulated_database_does_what_postgres_does_at_length(held_clock: psycopg.Connection[Any]) -> None:
    check(held_clock, examples=500, steps=50)
