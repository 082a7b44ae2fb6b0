"""The simulated database: runs, reactor instances, and the method for each SQL statement of the reactor."""

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

from reactor.postgres import statements
from simulation.tables import DAY_S, MINUTE_S, Instance, RunRow, deadline
from simulation.uploads import UploadCalls

_SOON_S = 0.005


class PresenceAnswer(NamedTuple):
    now_at: float
    queue_usage: float
    instances: list[UUID]
    listening: list[UUID]


class Database(UploadCalls):
    """Every call that reactors and the workload make to PostgreSQL."""

    def answer(self, statement: LiteralString, parameters: Sequence[Any]) -> list[Any]:
        """Run a statement of reactor/postgres/statements.py as one transaction; return its rows."""
        calls: dict[str, Any] = {
            statements.CLAIM_UPLOADS: self.claim,
            statements.CLAIM_UPLOADS_EXCEPT: self.claim,
            statements.EXTEND_LEASES: self.extend,
            statements.SETTLE_UPLOADS: self.settle,
            statements.REFUSE_UPLOAD: self.refuse_upload,
            statements.CONFIRM_STORED: self.confirm_stored,
            statements.RESCUE_UPLOADS: self.rescue,
            statements.SWEEP_UPLOADS: self.sweep_uploads,
            statements.REPAIR_USAGE: self.repair_usage,
            statements.EXPIRE_RUNS: self.expire,
            statements.SWEEP_RUNS: self.sweep_runs,
            statements.CLOCK: lambda: [(self.now(),)],
            statements.REPORT_PRESENCE: self.report_presence,
            statements.DEREGISTER_INSTANCE: self.deregister_instance,
        }
        answers: list[Any] = calls[statement](*parameters)
        return answers

    # runs, called by the reactor

    def expire(self, ids: Collection[UUID], patience: timedelta | None) -> list[tuple[Any, ...]]:
        now, answers = self.now(), list[tuple[Any, ...]]()
        patience_s = None if patience is None else patience.total_seconds()
        for run in sorted((self.runs[i] for i in set(ids) if i in self.runs), key=lambda run: run.id):
            due_at = deadline(run, patience_s)
            if run.status != "running" or due_at is None:
                continue
            if due_at > now:
                answers.append((run.id, max(due_at, now + _SOON_S), None, None, None, None, None))
                continue
            is_timeout = run.timeout_at is not None and run.timeout_at <= now
            self._end(run, "failed", "INTERPRETATION_TIMEOUT" if is_timeout else "INTERPRETATION_HEARTBEAT_LOST")
            answers.append((run.id, None, run.error_code, now - due_at, run.traceparent, now, run.user_id))
        return answers

    def sweep_runs(self, horizon: timedelta, patience: timedelta, limit: int) -> list[tuple[UUID, int, float, float]]:
        until = self.now() + horizon.total_seconds()
        dues = [
            (due_at, run)
            for run in self.runs.values()
            if run.status == "running"
            and (due_at := deadline(run, patience.total_seconds())) is not None
            and due_at <= until
        ]
        dues.sort(key=lambda found: found[0])
        return [(run.id, self.tenant_of(run.user_id), due_at, run.heartbeat_at) for due_at, run in dues[:limit]]

    # runs, called by their workers and operators

    def begin(self, source_id: UUID, timeout_s: float, patience_s: float | None, traceparent: str, run_id: UUID) -> str:
        """Begin a run; return "ok" or the code of the refusal."""
        source, now = self.sources[source_id], self.now()
        if source.storage_status != "uploaded":
            return "STORAGE_PENDING" if source.storage_status == "pending" else "STORAGE_UPLOAD_FAILED"
        others = [r for r in self.runs.values() if r.source_id == source_id and r.status == "running"]
        self.expire([run.id for run in others if run.id != run_id], None)
        if any(run.status == "running" for run in others):
            return "ok" if run_id in {run.id for run in others} else "INTERPRETATION_IN_PROGRESS"
        self.runs[run_id] = RunRow(
            id=run_id,
            user_id=source.user_id,
            source_id=source_id,
            traceparent=traceparent,
            created_at=now,
            started_at=now,
            heartbeat_at=now,
            heartbeat_notified_until=now + MINUTE_S,
            timeout_at=round(now + timeout_s, 6),
            heartbeat_timeout=MINUTE_S if patience_s is None else patience_s,
        )
        self.notify_run(self.runs[run_id])
        return "ok"

    def heartbeat(self, run_id: UUID) -> bool:
        """Record a heartbeat. Returns False if the run has ended."""
        run = self._living(run_id)
        if run is None:
            return False
        before, run.heartbeat_at = run.heartbeat_at, self.now()
        if not before <= run.heartbeat_at < run.heartbeat_notified_until:
            run.heartbeat_notified_until = run.heartbeat_at + MINUTE_S
            self.notify_run(run)
        return True

    def complete_run(self, run_id: UUID) -> bool:
        run = self._living(run_id)
        if run is None:
            return self.runs[run_id].status == "completed"
        self._end(run, "completed", None)
        return True

    def fail_runs(self, ids: Collection[UUID]) -> list[UUID]:
        runs = [self.runs[i] for i in set(ids) if i in self.runs and self.runs[i].status == "running"]
        for run in runs:
            self._end(run, "failed", "INTERPRETATION_FAILED")
        return [run.id for run in runs]

    def _living(self, run_id: UUID) -> RunRow | None:
        """Fail the run if its deadline has passed. Returns the run if it is still running, else None."""
        self.expire([run_id], None)
        run = self.runs[run_id]
        return run if run.status == "running" else None

    def _end(self, run: RunRow, status: str, code: str | None) -> None:
        run.status, run.error_code, run.completed_at = status, code, self.now()
        self.notify_run(run)

    # reactors

    def report_presence(
        self,
        instance: UUID,
        _host: str,
        _pid: int,
        _port: int | None,
        _version: str,
        mode: str,
        canary: str | None,
        silent_after: timedelta,
    ) -> list[PresenceAnswer]:
        now = self.now()
        since = now - silent_after.total_seconds()
        before = self.instances.get(instance)
        listened = before is not None and before.mode == "listening" and before.seen_at > since
        self.instances[instance] = Instance(now, mode)
        if canary is not None:
            self.sent.append((canary, ""))
        if listened != (mode == "listening"):
            self.sent.append(("reactor_peers", str(instance)))
        alive = sorted(i for i, other in self.instances.items() if other.seen_at > since)
        listening = [i for i in alive if self.instances[i].mode == "listening"]
        return [PresenceAnswer(now, 0.0, alive, listening)]

    def deregister_instance(self, instance: UUID) -> list[tuple[None]]:
        since = self.now() - DAY_S
        left = [i for i, other in self.instances.items() if i == instance or other.seen_at < since]
        for i in left:
            if self.instances.pop(i).mode == "listening" and i == instance:
                self.sent.append(("reactor_peers", str(i)))
        return [(None,)]
