"""An app under load, and its history: it reserves, spools, fails uploads and runs interpretations, whatever happens.

As in Jepsen's histories, an operation ends in one of three ways. What was answered is known: `ok`, or `refused` by a
rule. What can't have happened is `failed`: no connection was to be had. What broke after it was sent is `unknown`, and
may have happened or not: the app repeats it, in the same words, until it knows. Every function of the contract bears
that.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, LiteralString
from uuid import UUID, uuid4

import psycopg
from attrs import define, field, frozen

from reactor.postgres import statements

BUCKET = "files"
HOT_LIMIT_BYTES = 400_000
"""What a hot user may store: so little that reservations are refused all the time."""

_UNDONE = {"40001", "40P01", "54000", "55P03"}
"""SQLSTATEs that say that nothing has happened: a deadlock, a full notification queue, a lock that wasn't to be had."""

_GIVE_UP_S = 60.0
_AGAIN_S = 0.02


@frozen
class Operation:
    """One call of the app's, and how it ended."""

    name: str
    outcome: str
    """'ok', 'refused', 'failed' or 'unknown'."""

    began: float
    took_s: float
    reason: str = ""


@define(eq=False)
class Intent:
    """One upload that the app owes, and how much of it is acknowledged."""

    user: UUID
    content: bytes
    name: str
    source: UUID | None = None
    queue_id: UUID | None = None
    acknowledged: bool = False
    """True once fail_upload was answered: from here on it is the reactor's."""

    cancelled: bool = False
    """True for what was refused, which owes nobody anything."""


@define(eq=False)
class Run:
    """One interpretation, and what its worker knows of it."""

    id: UUID
    began: bool = False
    completed: bool = False
    lost: str = ""
    """The code with which a heartbeat or the completion was refused."""

    abandoned: bool = False
    """True when its worker stopped without a word."""


@define(eq=False)
class History:
    """Everything that the app did and owes."""

    operations: list[Operation] = field(factory=list)
    intents: list[Intent] = field(factory=list)
    runs: list[Run] = field(factory=list)
    errors: list[BaseException] = field(factory=list)

    def counts(self) -> Counter[str]:
        """Return how many operations ended in each way."""
        return Counter(operation.outcome for operation in list(self.operations))

    def acknowledged(self) -> list[Intent]:
        return [intent for intent in list(self.intents) if intent.acknowledged]

    def longest_s(self, outcome: str = "ok") -> float:
        return max((op.took_s for op in list(self.operations) if op.outcome == outcome), default=0.0)


class _Session:
    """One connection of the app's, made anew whenever it broke."""

    def __init__(self, url: str, history: History) -> None:
        self._url = url
        self._history = history
        self._conn: psycopg.Connection[tuple[Any, ...]] | None = None

    def close(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            conn.close()

    def ask(self, statement: LiteralString, arguments: Sequence[Any]) -> Any:
        """Call a function, repeated until it answers, and return the answer. Raises TimeoutError after a minute."""
        give_up = time.monotonic() + _GIVE_UP_S
        while True:
            outcome, value = self._once(statement, arguments)
            if outcome in ("ok", "refused"):
                return value
            if time.monotonic() > give_up:
                raise TimeoutError(f"the database didn't answer the app for {_GIVE_UP_S:.0f} s: {value}")
            time.sleep(_AGAIN_S)

    def _once(self, statement: LiteralString, arguments: Sequence[Any]) -> tuple[str, Any]:
        began = time.monotonic()
        name = statement.partition("public.")[2].partition("(")[0]
        sent = False
        outcome, reason, value = "failed", "", None
        try:
            if self._conn is None or self._conn.closed:
                self._conn = psycopg.connect(self._url, autocommit=True, connect_timeout=5, application_name="app")
                self._conn.execute("set synchronous_commit = on; set statement_timeout = '20s'")
            sent = True
            row = self._conn.execute(statement, arguments).fetchone()
            assert row is not None
            value = row[0]
            outcome = "ok" if value["ok"] else "refused"
        except psycopg.OperationalError as error:
            undone = not sent or error.sqlstate in _UNDONE
            outcome, reason, value = ("failed" if undone else "unknown"), str(error), str(error)
            self.close()
        except psycopg.errors.ReadOnlySqlTransaction as error:
            outcome, reason, value = "failed", str(error), str(error)  # a standby's answer: look for the primary again
            self.close()
        self._history.operations.append(Operation(name, outcome, began, time.monotonic() - began, reason))
        return outcome, value


class Load:
    """Threads that act as the app until told to stop."""

    def __init__(self, url: str, spool: Path, *, users: int = 6, seed: int = 0, pace_s: float = 0.01) -> None:
        """`pace_s` is how long each thread rests between two operations."""
        self.history = History()
        self.users = [uuid4() for _ in range(users)]
        self._url = url
        self._spool = spool
        self._seed = seed
        self._pace_s = pace_s
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def prepare(self, conn: psycopg.Connection[Any]) -> None:
        """Lift the plans' limits, but for the first user, who runs into one all the time."""
        conn.execute("update public.quota_plans set storage_limit_bytes = null, interpretation_limit_month = null")
        conn.execute(
            "insert into public.storage_usage (user_id, storage_limit_bytes) values (%s, %s)",
            (self.users[0], HOT_LIMIT_BYTES),
        )

    def start(self, *, uploaders: int = 2, workers: int = 1) -> None:
        """Begin to upload, and to interpret."""
        for number in range(uploaders + workers):
            act = self._upload if number < uploaders else self._interpret
            thread = threading.Thread(target=self._guard, args=(act, random.Random(f"{self._seed}-{number}")))
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Stop when each operation has been answered. Raises what broke a thread."""
        self._stop.set()
        for thread in self._threads:
            thread.join(_GIVE_UP_S + 30)
            assert not thread.is_alive(), "the app hangs"
        for error in self.history.errors:
            raise error

    def wait_for(self, uploads: int) -> None:
        """Wait until as many uploads more are the reactor's."""
        enough = len(self.history.acknowledged()) + uploads
        give_up = time.monotonic() + _GIVE_UP_S
        while len(self.history.acknowledged()) < enough and not self.history.errors:
            assert time.monotonic() < give_up, self.history.counts()
            time.sleep(_AGAIN_S)

    def _guard(self, act: Callable[[_Session, random.Random], None], chance: random.Random) -> None:
        session = _Session(self._url, self.history)
        try:
            while not self._stop.is_set():
                act(session, chance)
                self._stop.wait(self._pace_s)
        except BaseException as error:  # noqa: BLE001  # a thread's error is the test's: `stop` raises it
            self.history.errors.append(error)
        finally:
            session.close()

    def _upload(self, session: _Session, chance: random.Random) -> None:
        """Reserve, spool, and fail one upload, as an app does whose own attempt failed."""
        user = chance.choice(self.users)
        content = chance.randbytes(chance.choice((16, 1_000, 20_000, 200_000)))
        if user == self.users[0]:
            content = chance.randbytes(40_000)
        intent = Intent(user, content, f"{user}/{uuid4().hex}")
        self.history.intents.append(intent)
        digest = sha256(content).hexdigest()
        answer = session.ask(
            statements.RESERVE_UPLOAD, (user, digest, len(content), "text/plain", "name", None, None, "{}")
        )
        if not answer["ok"] or answer["storage_status"] == "uploaded":
            intent.cancelled = True  # over the quota
            return
        intent.source = UUID(answer["source_id"])
        path = self._spool / intent.name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        answer = session.ask(
            statements.FAIL_UPLOAD,
            (intent.source, BUCKET, intent.name, intent.name, "503", "default", None, 100, "{}"),
        )
        if not answer["ok"]:
            raise AssertionError(answer)
        if answer["queue_id"] is not None:
            intent.queue_id = UUID(answer["queue_id"])
        intent.acknowledged = True

    def _interpret(self, session: _Session, chance: random.Random) -> None:
        """Begin a run of a stored source of its own, keep its heart beating for a while, and complete or abandon it."""
        source = self._stored_source(session, chance)
        run = Run(uuid4())
        self.history.runs.append(run)
        arguments = (source, "{}", "10 minutes", "1.5 s", None, run.id)
        run.began = session.ask(statements.BEGIN_INTERPRETATION, arguments)["ok"]
        for _ in range(chance.randrange(1, 8)):
            self._stop.wait(0.05)
            answer = session.ask(statements.HEARTBEAT_INTERPRETATION, (run.id,))
            if not answer["ok"]:
                run.lost = answer["code"]
                return
        if chance.random() < 0.3:
            run.abandoned = True
            return
        answer = session.ask(statements.COMPLETE_INTERPRETATION, (run.id,))
        # the answer may come to a repetition: what the first sending did isn't undone
        run.completed, run.lost = answer["ok"], answer.get("code") or ""

    def _stored_source(self, session: _Session, chance: random.Random) -> UUID:
        digest = sha256(chance.randbytes(16)).hexdigest()
        user = chance.choice(self.users[1:])
        answer = session.ask(statements.RESERVE_UPLOAD, (user, digest, 10, None, None, None, None, "{}"))
        source = UUID(answer["source_id"])
        session.ask(statements.COMPLETE_UPLOAD, (source, "elsewhere:"))
        return source


@contextmanager
def loading(load: Load, *, uploaders: int = 2, workers: int = 1) -> Iterator[History]:
    """Keep the app busy within the block."""
    load.start(uploaders=uploaders, workers=workers)
    try:
        yield load.history
    finally:
        load.stop()
