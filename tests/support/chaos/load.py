"""An app under load and its history: threads that reserve, spool and fail uploads, and run interpretations.

As in Jepsen's histories, every call has an outcome:

    ok        the call succeeded
    refused   a rule refused the call
    failed    the call had no effect: no connection was made, or the database rolled the call back
    unknown   an error came after the call was sent, so the call may have committed

The app repeats a failed or unknown call with the same arguments until the outcome is `ok` or `refused`. This
is safe because every function of the API is idempotent.
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
"""The first user's storage limit. It is so low that many reservations are refused."""

_UNDONE = {"40001", "40P01", "54000", "55P03"}
"""SQLSTATEs of calls that had no effect: serialization failure, deadlock, full notification queue, lock timeout."""

_GIVE_UP_S = 60.0
_AGAIN_S = 0.02


@frozen
class Operation:
    """One call and its outcome."""

    name: str
    outcome: str
    """'ok', 'refused', 'failed' or 'unknown'."""

    began: float
    took_s: float
    reason: str = ""


@define(eq=False)
class Intent:
    """One upload that the app attempts, and the answers that the app got for it."""

    user: UUID
    content: bytes
    name: str
    source: UUID | None = None
    queue_id: UUID | None = None
    acknowledged: bool = False
    """True after fail_upload has returned `ok`: from then on the reactor must store the upload."""

    cancelled: bool = False
    """True if the reservation was refused, or the content is stored already."""


@define(eq=False)
class Run:
    """One interpretation, and the answers that its worker got."""

    id: UUID
    began: bool = False
    completed: bool = False
    lost: str = ""
    """The code with which a heartbeat or the completion was refused; empty if none was refused."""

    abandoned: bool = False
    """True if the worker stopped sending heartbeats without completing the run."""


@define(eq=False)
class History:
    """All calls, uploads and runs of the app."""

    operations: list[Operation] = field(factory=list)
    intents: list[Intent] = field(factory=list)
    runs: list[Run] = field(factory=list)
    errors: list[BaseException] = field(factory=list)

    def counts(self) -> Counter[str]:
        """Return the number of operations by outcome."""
        return Counter(operation.outcome for operation in list(self.operations))

    def acknowledged(self) -> list[Intent]:
        return [intent for intent in list(self.intents) if intent.acknowledged]

    def longest_s(self, outcome: str = "ok") -> float:
        return max((op.took_s for op in list(self.operations) if op.outcome == outcome), default=0.0)


class _Session:
    """One connection of the app, reopened whenever it breaks."""

    def __init__(self, url: str, history: History) -> None:
        self._url = url
        self._history = history
        self._conn: psycopg.Connection[tuple[Any, ...]] | None = None

    def close(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            conn.close()

    def ask(self, statement: LiteralString, arguments: Sequence[Any]) -> Any:
        """Call a function until its outcome is ok or refused; return its answer. Raises TimeoutError after 60 s."""
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
            outcome, reason, value = "failed", str(error), str(error)  # the server is a standby: reconnect
            self.close()
        self._history.operations.append(Operation(name, outcome, began, time.monotonic() - began, reason))
        return outcome, value


class Load:
    """Threads that act as the app until `stop`."""

    def __init__(self, url: str, spool: Path, *, users: int = 6, seed: int = 0, pace_s: float = 0.01) -> None:
        """`pace_s` is the pause of each thread between two operations."""
        self.history = History()
        self.users = [uuid4() for _ in range(users)]
        self._url = url
        self._spool = spool
        self._seed = seed
        self._pace_s = pace_s
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def prepare(self, conn: psycopg.Connection[Any]) -> None:
        """Lift the plans' limits, except for the first user, whose limit is HOT_LIMIT_BYTES."""
        conn.execute("update public.quota_plans set storage_limit_bytes = null, interpretation_limit_month = null")
        conn.execute(
            "insert into public.storage_usage (user_id, storage_limit_bytes) values (%s, %s)",
            (self.users[0], HOT_LIMIT_BYTES),
        )

    def start(self, *, uploaders: int = 2, workers: int = 1) -> None:
        """Start threads that upload and threads that interpret."""
        for number in range(uploaders + workers):
            act = self._upload if number < uploaders else self._interpret
            thread = threading.Thread(target=self._guard, args=(act, random.Random(f"{self._seed}-{number}")))
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Stop after the current operations. Raises the first error of a thread."""
        self._stop.set()
        for thread in self._threads:
            thread.join(_GIVE_UP_S + 30)
            assert not thread.is_alive(), "the app hangs"
        for error in self.history.errors:
            raise error

    def wait_for(self, uploads: int) -> None:
        """Wait until this many more uploads are acknowledged."""
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
        except BaseException as error:  # noqa: BLE001  # `stop` raises it in the test's thread
            self.history.errors.append(error)
        finally:
            session.close()

    def _upload(self, session: _Session, chance: random.Random) -> None:
        """Reserve and spool one upload and call fail_upload, as an app does after its own attempt has failed."""
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
            intent.cancelled = True
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
        """Begin a run of a new stored source, send heartbeats for a while, then complete or abandon the run."""
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
        # a repeated call also returns ok if the first call has completed the run
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
    """Run the app within the block."""
    load.start(uploaders=uploaders, workers=workers)
    try:
        yield load.history
    finally:
        load.stop()
