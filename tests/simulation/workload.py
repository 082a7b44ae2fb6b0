"""The workload: an app whose uploads fail, workers that interpret, and an operator who intervenes."""

import random
from functools import partial
from uuid import UUID, uuid4

from anyio import create_task_group, sleep

from simulation.checks import Checks
from simulation.faults import Faults
from simulation.server import NO_NODE, Server
from simulation.store import BAD_BUCKET, Storage

_SIZE_BYTES = 100


class Workload:
    """The database's clients other than reactors. Their calls never fail, so reactors cause every violation."""

    def __init__(self, server: Server, storage: Storage, checks: Checks, rng: random.Random, faults: Faults) -> None:
        self._server = server
        self._storage = storage
        self._checks = checks
        self._rng = rng
        self._faults = faults
        self._users = [uuid4() for _ in range(3)]

    # single steps

    def queue_upload(self, *, poison: str = "", max_retries: int = 5) -> UUID:
        """Spool a file and call fail_upload as an app does; return the queued upload."""
        db, content = self._server.db, uuid4().hex
        source, upload = uuid4(), uuid4()
        path = f"/spool/{content}"
        if poison != "missing":
            self._storage.files[path] = "other bytes" if poison == "changed" else content
        bucket = BAD_BUCKET if poison == "bucket" else "bucket"

        def write() -> None:
            db.reserve(self._rng.choice(self._users), content, _SIZE_BYTES, source)
            db.fail_upload(source, bucket, content, path, f"00-{content}-{content[:16]}-01", max_retries, upload)

        self._server.commit(write)
        self._disturb(upload, source)
        self._checks.queued.add(upload)
        self._checks.log("app", f"queues {str(upload)[:8]} {poison}".rstrip())
        return upload

    def _disturb(self, upload: UUID, source: UUID) -> None:
        """At random, lock rows of an upload for a while, or let the app's triggers refuse changes of them."""
        db, faults = self._server.db, self._faults
        if self._server.happens(faults.locked):
            key = self._rng.choice([upload, source, db.sources[source].user_id])
            db.locked.add(key)
            seconds = self._rng.choice([0.1, 1.0, 5.0, 40.0])
            self._server.loop.call_later(seconds, db.locked.discard, key, context=NO_NODE)
        if self._server.happens(faults.refused):
            self._rng.choice(
                [
                    partial(db.refused_sources.add, source),
                    partial(db.refused_claims.add, upload),
                    partial(self.refuse_all_changes, upload, self._rng.choice([1.0, 20.0])),
                ]
            )()

    def refuse_all_changes(self, upload: UUID, seconds: float) -> None:
        """Let the app refuse every change of an upload's row for a while."""
        db = self._server.db
        db.refused_claims.add(upload)
        db.refused_changes.add(upload)

        def allow() -> None:
            db.refused_claims.discard(upload)
            db.refused_changes.discard(upload)

        self._server.loop.call_later(seconds, allow, context=NO_NODE)

    def begin_run(self, *, timeout_s: float, patience_s: float | None) -> UUID:
        """Begin a run of a stored source."""
        db, run = self._server.db, uuid4()

        def write() -> None:
            source = db.reserve(self._rng.choice(self._users), uuid4().hex, _SIZE_BYTES, uuid4())
            assert source is not None
            db.complete_upload(source, "simulated://by-the-app")
            assert db.begin(source, timeout_s, patience_s, f"00-{run.hex}-{run.hex[:16]}-01", run) == "ok"

        self._server.commit(write)
        self._checks.log("worker", f"begins {str(run)[:8]}")
        return run

    # continuous work

    async def run(self, seconds: float) -> None:
        async with create_task_group() as tasks:
            tasks.start_soon(self._upload, seconds)
            tasks.start_soon(self._interpret, seconds)
            tasks.start_soon(self._operate, seconds)

    async def _upload(self, seconds: float) -> None:
        until, rate = self._server.loop.time() + seconds, self._rng.uniform(3.0, 20.0)
        while self._server.loop.time() < until:
            await sleep(self._rng.expovariate(1 / rate))
            for _ in range(self._rng.choice([1, 1, 1, 2, 8])):
                poison = self._rng.choice(["missing", "changed", "bucket"])
                upload = self.queue_upload(
                    poison=poison if self._rng.random() < self._faults.poison else "",
                    max_retries=self._rng.choice([5, 5, 5, 1, 100]),
                )
                if self._rng.random() < self._faults.operator_acts:
                    await sleep(self._rng.uniform(0.0, 10.0))
                    self._complete(upload)

    def _complete(self, upload: UUID) -> None:
        """Complete a queued upload, as an app does if its own slow attempt succeeds later."""
        row = self._server.db.uploads.get(upload)
        if row is not None:
            if row.status != "uploading":
                self._checks.removed.add(upload)
            self._server.commit(lambda: self._server.db.complete_upload(row.source_id, "simulated://by-the-app"))
            self._checks.log("app", f"completes {str(upload)[:8]}")

    async def _interpret(self, seconds: float) -> None:
        until, rate = self._server.loop.time() + seconds, self._rng.uniform(10.0, 40.0)
        async with create_task_group() as tasks:
            while self._server.loop.time() < until:
                await sleep(self._rng.expovariate(1 / rate))
                tasks.start_soon(self._run_interpretation)

    async def _run_interpretation(self) -> None:
        """Send heartbeats of one run, then complete the run or abandon it. Ends early if the run was failed."""
        patience_s = self._rng.choice([None, 5.0, 20.0])
        run = self.begin_run(timeout_s=self._rng.choice([30.0, 120.0, 600.0]), patience_s=patience_s)
        if self._rng.random() < 0.3:  # the app sets no heartbeat_timeout, so the reactor uses its default
            self._server.db.runs[run].heartbeat_timeout = None
        heartbeats = self._rng.randrange(8)
        for _ in range(heartbeats):
            await sleep(self._rng.uniform(0.1, 0.5) * (patience_s or 20.0))
            if not self._server.commit(lambda: self._server.db.heartbeat(run)):
                return
        row = self._server.db.runs[run]
        if self._rng.random() < 0.5:
            was_failed = row.status == "failed"
            if self._server.commit(lambda: self._server.db.complete_run(run)) and was_failed:
                self._checks.add_violation(f"I12: run {run} was completed after it had failed")

    async def _operate(self, seconds: float) -> None:
        until, db = self._server.loop.time() + seconds, self._server.db
        while self._server.loop.time() < until:
            await sleep(self._rng.uniform(0.0, 2.0))
            if self._rng.random() > self._faults.operator_acts:
                continue
            uploads = self._rng.sample(sorted(db.uploads), min(2, len(db.uploads)))
            verb = self._rng.choice(["requeue", "requeue", "cancel", "purge", "fail"])
            self._checks.log("operator", f"{verb} {[str(i)[:8] for i in uploads]}")
            if verb == "requeue":
                self._server.commit(partial(db.requeue, uploads))
            elif verb == "cancel":
                self._server.commit(partial(db.cancel, uploads))
            elif verb == "purge":
                self._purge(uploads)
            else:
                running = [run.id for run in db.runs.values() if run.status == "running"]
                self._server.commit(partial(db.fail_runs, running[:1]))

    def _purge(self, uploads: list[UUID]) -> None:
        paths = {i: self._server.db.uploads[i].temp_file_path for i in uploads}
        for upload in self._server.commit(lambda: self._server.db.purge(uploads)):
            self._checks.removed.add(upload)
            self._storage.files.pop(paths[upload] or "", None)
