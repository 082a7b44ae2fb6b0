"""The invariants of the simulation. `Checks` checks most of them at each step, and sums over all rows at the end.
simulation.py, workload.py and probes.py check the others.

I1 no upload is lost; I2 effects happen exactly once; I3 a reactor that lost a lease stops its put; I4 the store has the
object before the upload's row and spooled file are deleted; I5 attempts are bounded and never early; I6 no user
exceeds the limit; I7 reservations equal the pending bytes; I8 reconciliation finds what notifications missed; I9 each
reconnection is followed by a sweep; I10 a healthy run is never failed; I11 a stale run is always failed; I12 a run that
was failed is never completed; I19 no timer fires early; I20 a stopped reactor leaves nothing claimed;
I21 a locked row holds up only its upload, and costs no attempt; I22 a refused upload is dead, and only that one;
I23 a refusal of everybody makes no upload dead.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from reactor.core.events import Event, TimerFired
from reactor.postgres import statements
from reactor.postgres.upload_answers import Upload
from simulation.database import Database
from simulation.loop import Node, VirtualLoop
from simulation.tables import STORAGE_LIMIT_BYTES, UploadRow, Usage

_STOPS_WITHIN_S = 1.0
"""Seconds within which a reactor must end a put after a lost lease, and stop claiming after a request to stop."""

_NAMES = {statement: name for name, statement in vars(statements).items() if isinstance(statement, str)}

_CLAIMS = {statements.CLAIM_UPLOADS, statements.CLAIM_UPLOADS_EXCEPT}


class Checks:
    """Receives calls, events and puts; writes a trace and collects violations."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.trace: list[str] = []
        self.violations: list[str] = []
        self.faults_stopped = False
        self.stored: set[UUID] = set()
        """Uploads settled as stored."""
        self.removed: set[UUID] = set()
        """Uploads whose rows the app or an operator removed."""
        self.lease_ended: set[UUID] = set()
        """Uploads whose lease an operator ended."""
        self.queued: set[UUID] = set()
        """Every upload that was queued."""
        self.attempted_at: dict[UUID, float] = {}
        """The time at which the last put of each upload started."""
        self.live_at: dict[Node, float] = {}
        """The time at which each reactor's listening connection last became live."""
        self.swept_at: dict[tuple[Node, str], float] = {}
        self.closing_at: dict[Node, float] = {}
        """The time at which each reactor was asked to stop."""
        self.objects: Mapping[tuple[str, str], str] = {}
        """Maps (bucket, key) to the content of the store's object."""
        self._last_token: dict[UUID, UUID] = {}
        self._place: dict[UUID, tuple[str, str, str]] = {}
        self._putting: dict[UUID, dict[UUID, tuple[Node, bool]]] = defaultdict(dict)
        self._lease_lost_at: dict[tuple[Node, UUID, UUID], float] = {}
        self._refused_as_shared: set[tuple[UUID, UUID]] = set()
        """Upload and token of the attempts that the store refused as if for everybody, before their last retry."""

    def watch(self, db: Database) -> None:
        self.db = db

    def log(self, source: str, message: str) -> None:
        self.trace.append(f"{self._loop.time():12.6f} {source:<10} {message}")

    def add_violation(self, what: str) -> None:
        self.log("VIOLATED", what)
        self.violations.append(f"at {self._loop.time():.3f}: {what}")

    def on_event(self, node: Node, event: Event) -> None:
        """Add a reactor's event to the trace."""
        if isinstance(event, TimerFired):
            if event.lag_s < 0:
                self.add_violation(f"I19: a timer fired {-event.lag_s} s early")
            return
        row = getattr(event, "upload_id", None) or getattr(event, "run_id", "")
        more = getattr(event, "verdict", "") or getattr(event, "reason", "")
        self.log(node.name, f"{type(event).__name__} {str(row)[:8]} {more}".rstrip())

    # calls

    def on_call(self, node: Node, statement: str) -> None:
        self.log(node.name, f"→ {_NAMES[statement]}")
        if statement in {statements.SWEEP_UPLOADS, statements.SWEEP_RUNS}:
            self.swept_at[node, statement] = self._loop.time()
        if statement in _CLAIMS and self.faults_stopped and node in self.closing_at:
            late_s = self._loop.time() - self.closing_at[node]
            if late_s > _STOPS_WITHIN_S:
                self.add_violation(f"I20: {node.name} claims {late_s:.1f} s after it was asked to stop")

    def on_commit(self, node: Node, statement: str, parameters: Sequence[Any], rows: Sequence[Any]) -> None:
        """Check a call that the server has just committed."""
        if statement in _CLAIMS:
            for row in rows:
                if row.state == "claimed":
                    self._last_token[row.id] = parameters[1]
                    self._place[row.id] = (row.bucket, row.object_path, row.content_hash)
                    self._check_claim(row)
        elif statement == statements.SETTLE_UPLOADS:
            settled = {row.id for row in rows if row.state == "settled"}
            for upload, token, verdict in zip(*parameters[:3], strict=True):
                if upload in settled:
                    self._check_settled(node, upload, token, verdict)

    def on_claim_lost(self, row: UploadRow) -> None:
        """Restore a row's former token after a crash of the server has undone the row's claim."""
        self.log("database", f"lost the claim of {str(row.id)[:8]}")
        if row.lease_token is not None:
            self._last_token[row.id] = row.lease_token

    def _check_claim(self, row: Any) -> None:
        if row.attempt > row.max_retries:
            self.add_violation(f"I5: attempt {row.attempt} of {row.max_retries} of {row.id}")
        is_new = row.waited_since is not None and row.lost_at is None
        if is_new and row.due_at > self.db.now() + 1e-6:
            self.add_violation(f"I5: {row.id} was claimed {row.due_at - self.db.now():.3f} s before it was due")

    def on_shared_refusal(self, upload: Upload) -> None:
        """Record that the store refuses an attempt as it refuses all others now."""
        if upload.attempt < upload.max_retries:  # a last attempt may be an outlier (core/breakers.py)
            self._refused_as_shared.add((upload.id, upload.token))

    def _check_settled(self, node: Node, upload: UUID, token: UUID, verdict: str) -> None:
        if verdict == "dead" and (upload, token) in self._refused_as_shared:
            self.add_violation(f"I23: {upload} is dead because the store refused everybody")
        self.log("database", f"settled {str(upload)[:8]} {verdict} for {node.name}")
        if self._last_token[upload] != token:
            self.add_violation(f"I3: {upload} was settled with a token that isn't its last claim's")
        if verdict == "stored":
            if upload in self.stored:
                self.add_violation(f"I2: {upload} was settled as stored twice")
            self.stored.add(upload)
            bucket, key, content = self._place[upload]
            if self.objects.get((bucket, key)) != content:
                self.add_violation(f"I4: {upload} is settled as stored, but the store has no such object")

    def on_answer(self, node: Node, statement: str, parameters: Sequence[Any], rows: Sequence[Any]) -> None:
        """Record the leases whose loss a call of EXTEND_LEASES has just reported to a reactor."""
        if statement == statements.EXTEND_LEASES:
            held = {row[0] for row in rows}
            for upload, token in zip(*parameters[:2], strict=True):
                if upload not in held:
                    self._lease_lost_at.setdefault((node, upload, token), self._loop.time())

    def after_commit(self) -> None:
        for user, usage in self.db.usage.items():
            if usage.total_bytes + usage.reserved_bytes > STORAGE_LIMIT_BYTES:
                self.add_violation(f"I6: user {user} is over the limit")

    def on_listener_live(self, node: Node) -> None:
        self.live_at[node] = self._loop.time()

    def on_thaw(self, node: Node, seconds: float) -> None:
        """Add the time for which a reactor was frozen to its deadlines for ending puts."""
        for key in [key for key in self._lease_lost_at if key[0] is node]:
            self._lease_lost_at[key] += seconds

    # the store

    def on_put_started(self, node: Node, upload: Upload) -> None:
        self.attempted_at[upload.id] = self._loop.time()
        self._check_lease_not_lost(node, upload, "begins")
        others = [
            other
            for other, faults_were_stopped in self._putting[upload.id].values()
            if faults_were_stopped and not (other.is_dead or other.is_frozen)
        ]
        if others and self.faults_stopped and upload.id not in self.lease_ended:
            self.add_violation(f"no fault occurs, but {node.name} puts {upload.id} while {others[0].name} puts it")
        self._putting[upload.id][upload.token] = (node, self.faults_stopped)

    def on_put_ended(self, node: Node, upload: Upload) -> None:
        self._putting[upload.id].pop(upload.token, None)
        self._check_lease_not_lost(node, upload, "continues")

    def holder_of(self, upload: UUID) -> Node:
        """Return the reactor that is putting an upload."""
        [(node, _)] = self._putting[upload].values()
        return node

    def is_put(self, upload: UUID) -> bool:
        """Return whether a live reactor is putting an upload."""
        return any(not node.is_dead for node, _ in self._putting[upload].values())

    def _check_lease_not_lost(self, node: Node, upload: Upload, phase: str) -> None:
        lost_at = self._lease_lost_at.get((node, upload.id, upload.token))
        if lost_at is not None and self._loop.time() - lost_at > _STOPS_WITHIN_S:
            late_s = self._loop.time() - lost_at
            self.add_violation(f"I3: {node.name}'s put of {upload.id} {phase} {late_s:.1f} s after its lease was lost")

    def on_file_removed(self, upload: Upload) -> None:
        row = self.db.uploads.get(upload.id)
        if row is not None or self.db.sources[upload_source(self.db, upload)].storage_status != "uploaded":
            self.add_violation(f"I4: the spooled file of {upload.id} was removed before its settlement committed")

    # the end

    def unfinished(self) -> list[str]:
        """Return a description of each upload and run that has not ended."""
        uploads = [f"upload {r.id} {r.status}" for r in self.db.uploads.values() if r.status in {"failed", "uploading"}]
        return uploads + [f"run {run.id}" for run in self.db.runs.values() if run.status == "running"]

    def check_usage_and_losses(self) -> None:
        counted: dict[UUID, Usage] = {user: Usage() for user in self.db.usage}
        for source in self.db.sources.values():
            usage = counted[source.user_id]
            usage.total_bytes += source.byte_size if source.storage_status == "uploaded" else 0
            usage.reserved_bytes += source.byte_size if source.storage_status == "pending" else 0
            usage.total_sources += source.storage_status == "uploaded"
        if counted != self.db.usage:
            self.add_violation("I2, I7: the usage differs from the sum of the sources")
        lost = self.queued - self.db.uploads.keys() - self.stored - self.removed
        if lost:
            self.add_violation(f"I1: {sorted(lost)} were lost")


def upload_source(db: Database, upload: Upload) -> UUID:
    """Return an upload's source, found by its content hash because the upload's row may be deleted."""
    [source] = [s.id for s in db.sources.values() if s.content_hash == upload.content_hash]
    return source
