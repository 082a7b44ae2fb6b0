"""What must hold, whatever happens: asked at each step where that is cheap, and of everything at the end.

The numbers are those of the invariants in README.md.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from reactor.core.events import Event, TimerFired
from reactor.postgres import statements
from reactor.postgres.upload_queue import Upload
from simulation.database import Database
from simulation.loop import Node, VirtualLoop
from simulation.tables import STORAGE_LIMIT_BYTES, UploadRow, Usage

_STOPS_WITHIN_S = 1.0
"""How soon work on a row must stop, once its reactor was told that the row isn't its own."""

_NAMES = {statement: name for name, statement in vars(statements).items() if isinstance(statement, str)}


class Checks:
    """Watches, remembers, and collects what is wrong."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.trace: list[str] = []
        self.violations: list[str] = []
        self.is_calm = False
        self.stored: set[UUID] = set()
        """Uploads that were settled as stored."""
        self.let_go: set[UUID] = set()
        """Uploads whose rows the app or an operator took away."""
        self.taken_away: set[UUID] = set()
        """Uploads whose leases an operator ended."""
        self.known: set[UUID] = set()
        """Uploads that were ever queued."""
        self.attempted_at: dict[UUID, float] = {}
        """When the last put of an upload began."""
        self.live_at: dict[Node, float] = {}
        """When a reactor's listening connection became live, the last time."""
        self.swept_at: dict[tuple[Node, str], float] = {}
        self.closing_at: dict[Node, float] = {}
        """When a reactor was told to stop."""
        self.objects: Mapping[tuple[str, str], str] = {}
        """What the store has, by bucket and key."""
        self._last_token: dict[UUID, UUID] = {}
        self._place: dict[UUID, tuple[str, str, str]] = {}
        self._putting: dict[UUID, dict[UUID, tuple[Node, bool]]] = defaultdict(dict)
        self._told_lost: dict[tuple[Node, UUID, UUID], float] = {}

    def watch(self, db: Database) -> None:
        self.db = db

    def tell(self, who: str, what: str) -> None:
        self.trace.append(f"{self._loop.time():12.6f} {who:<10} {what}")

    def violated(self, what: str) -> None:
        self.tell("VIOLATED", what)
        self.violations.append(f"at {self._loop.time():.3f}: {what}")

    def hear(self, node: Node, event: Event) -> None:
        """Take in what a reactor tells."""
        if isinstance(event, TimerFired):
            if event.lag_s < 0:
                self.violated(f"I19: a timer fired {-event.lag_s} s early")
            return
        row = getattr(event, "upload_id", None) or getattr(event, "run_id", "")
        more = getattr(event, "verdict", "") or getattr(event, "reason", "")
        self.tell(node.name, f"{type(event).__name__} {str(row)[:8]} {more}".rstrip())

    # calls

    def sends(self, node: Node, statement: str) -> None:
        self.tell(node.name, f"→ {_NAMES[statement]}")
        if statement in {statements.SWEEP_UPLOADS, statements.SWEEP_RUNS}:
            self.swept_at[node, statement] = self._loop.time()
        if statement == statements.CLAIM_UPLOADS and self.is_calm and node in self.closing_at:
            late_s = self._loop.time() - self.closing_at[node]
            if late_s > _STOPS_WITHIN_S:
                self.violated(f"I20: {node.name} claims {late_s:.1f} s after it was told to stop")

    def answers(self, node: Node, statement: str, parameters: Sequence[Any], rows: Sequence[Any]) -> None:
        """The server has committed a call."""
        if statement == statements.CLAIM_UPLOADS:
            for row in rows:
                if row.state == "claimed":
                    self._last_token[row.id] = parameters[1]
                    self._place[row.id] = (row.bucket, row.object_path, row.content_hash)
                    self._check_claim(row)
        elif statement == statements.SETTLE_UPLOADS:
            settled = {row.id for row in rows}
            for upload, token, verdict in zip(*parameters[:3], strict=True):
                if upload in settled:
                    self._check_settled(node, upload, token, verdict)

    def forgets(self, row: UploadRow) -> None:
        """The server has crashed and forgotten a claim: the row is as it was before, and its token the last again."""
        self.tell("database", f"forgets a claim of {str(row.id)[:8]}")
        if row.lease_token is not None:
            self._last_token[row.id] = row.lease_token

    def _check_claim(self, row: Any) -> None:
        if row.attempt > row.max_retries:
            self.violated(f"I5: attempt {row.attempt} of {row.max_retries} of {row.id}")
        is_new = row.waited_since is not None and row.lost_at is None
        if is_new and row.due_at > self.db.now() + 1e-6:
            self.violated(f"I5: {row.id} was claimed {row.due_at - self.db.now():.3f} s before it was due")

    def _check_settled(self, node: Node, upload: UUID, token: UUID, verdict: str) -> None:
        self.tell("database", f"settled {str(upload)[:8]} {verdict} for {node.name}")
        if self._last_token[upload] != token:
            self.violated(f"I3: {upload} was settled by a token that isn't its last")
        if verdict == "stored":
            if upload in self.stored:
                self.violated(f"I2: {upload} was settled as stored twice")
            self.stored.add(upload)
            bucket, key, content = self._place[upload]
            if self.objects.get((bucket, key)) != content:
                self.violated(f"I4: {upload} is settled as stored, and the store hasn't got it")

    def is_told(self, node: Node, statement: str, parameters: Sequence[Any], rows: Sequence[Any]) -> None:
        """A reactor has the answer to its call."""
        if statement == statements.EXTEND_LEASES:
            held = {row[0] for row in rows}
            for upload, token in zip(*parameters[:2], strict=True):
                if upload not in held:
                    self._told_lost.setdefault((node, upload, token), self._loop.time())

    def after_commit(self) -> None:
        for user, books in self.db.usage.items():
            if books.total_bytes + books.reserved_bytes > STORAGE_LIMIT_BYTES:
                self.violated(f"I6: user {user} is over the limit")

    def is_live(self, node: Node) -> None:
        self.live_at[node] = self._loop.time()

    def thawed(self, node: Node, seconds: float) -> None:
        """Time that a reactor couldn't use isn't held against it."""
        for key in [key for key in self._told_lost if key[0] is node]:
            self._told_lost[key] += seconds

    # the store

    def put_begins(self, node: Node, upload: Upload) -> None:
        self.attempted_at[upload.id] = self._loop.time()
        self._check_not_lost(node, upload, "begins")
        others = [
            other
            for other, was_calm in self._putting[upload.id].values()
            if was_calm and not (other.is_dead or other.is_frozen)
        ]
        if others and self.is_calm and upload.id not in self.taken_away:
            self.violated(f"{upload.id} is put by {node.name} and {others[0].name} at once, though both are well")
        self._putting[upload.id][upload.token] = (node, self.is_calm)

    def put_ends(self, node: Node, upload: Upload) -> None:
        self._putting[upload.id].pop(upload.token, None)
        self._check_not_lost(node, upload, "still goes on")

    def holder_of(self, upload: UUID) -> Node:
        """Return the reactor that is putting an upload."""
        [(node, _)] = self._putting[upload].values()
        return node

    def is_put(self, upload: UUID) -> bool:
        """Return whether some reactor that lives is putting an upload."""
        return any(not node.is_dead for node, _ in self._putting[upload].values())

    def _check_not_lost(self, node: Node, upload: Upload, what: str) -> None:
        told_at = self._told_lost.get((node, upload.id, upload.token))
        if told_at is not None and self._loop.time() - told_at > _STOPS_WITHIN_S:
            late_s = self._loop.time() - told_at
            self.violated(f"I3: {node.name}'s put of {upload.id} {what} {late_s:.1f} s after its lease was lost")

    def removes(self, upload: Upload) -> None:
        row = self.db.uploads.get(upload.id)
        if row is not None or self.db.sources[upload_source(self.db, upload)].storage_status != "uploaded":
            self.violated(f"I4: the spooled file of {upload.id} is removed, and its settlement hasn't committed")

    # the end

    def drained(self) -> list[str]:
        """Return what is still owed."""
        owed = [f"upload {r.id} {r.status}" for r in self.db.uploads.values() if r.status in {"failed", "uploading"}]
        return owed + [f"run {run.id}" for run in self.db.runs.values() if run.status == "running"]

    def check_books(self) -> None:
        counted: dict[UUID, Usage] = {user: Usage() for user in self.db.usage}
        for source in self.db.sources.values():
            books = counted[source.user_id]
            books.total_bytes += source.byte_size if source.storage_status == "uploaded" else 0
            books.reserved_bytes += source.byte_size if source.storage_status == "pending" else 0
            books.total_sources += source.storage_status == "uploaded"
        if counted != self.db.usage:
            self.violated("I2, I7: the books aren't what the sources add up to")
        lost = self.known - self.db.uploads.keys() - self.stored - self.let_go
        if lost:
            self.violated(f"I1: {sorted(lost)} are nowhere")


def upload_source(db: Database, upload: Upload) -> UUID:
    """Return the source of an upload whose row may be gone: its content names it."""
    [source] = [s.id for s in db.sources.values() if s.content_hash == upload.content_hash]
    return source
