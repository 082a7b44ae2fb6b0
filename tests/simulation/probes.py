"""Probes. Each probe causes one fault, and checks that the reactors recover within a limit."""

from collections.abc import Awaitable, Callable
from uuid import UUID

from anyio import sleep

from reactor.postgres import statements
from simulation.simulation import Simulation

_STEP_S = 0.01


async def _stored_within(sim: Simulation, upload: UUID, seconds: float, why: str) -> None:
    began = sim.loop.time()
    while upload not in sim.checks.stored:
        waited_s = sim.loop.time() - began
        await sleep(max(_STEP_S, waited_s / 20))
        if waited_s > seconds:
            sim.checks.add_violation(f"{why}: {upload} isn't stored after {seconds:.1f} s")
            return


async def _failed_at_deadline(sim: Simulation, why: str, within_s: float = 1.0) -> None:
    """I11: a run whose worker sends no more heartbeats is failed at its deadline."""
    patience_s = sim.rng.uniform(1.0, 5.0)
    run = sim.server.db.runs[sim.workload.begin_run(timeout_s=600.0, patience_s=patience_s)]
    if sim.rng.random() < 0.5:
        # this heartbeat sends no notification, so the timer fires at the old deadline and finds a later one
        await sleep(patience_s / 2)
        sim.server.commit(lambda: sim.server.db.heartbeat(run.id))
    await sleep(patience_s - 0.001)
    if run.status != "running":
        sim.checks.add_violation(f"I10: {why}: run {run.id} was failed before its deadline")
    await sleep(within_s + 0.001)
    if run.status == "running":
        sim.checks.add_violation(f"I11: {why}: run {run.id} isn't failed {within_s} s after its deadline")


async def no_fault(sim: Simulation) -> None:
    await _stored_within(sim, sim.workload.queue_upload(), 1.0, "no fault")
    await _failed_at_deadline(sim, "no fault")


async def a_claim_fails(sim: Simulation) -> None:
    sim.server.next_call_fails[statements.CLAIM_UPLOADS] = "before"
    await _stored_within(sim, sim.workload.queue_upload(), 2.0, "a claim failed")


async def a_claims_answer_is_lost(sim: Simulation) -> None:
    sim.server.next_call_fails[statements.CLAIM_UPLOADS] = "after"
    await _stored_within(sim, sim.workload.queue_upload(), sim.settings.lease_s + 2.0, "a claim's answer was lost")


async def a_settlement_fails(sim: Simulation) -> None:
    sim.server.next_call_fails[statements.SETTLE_UPLOADS] = sim.rng.choice(["before", "after"])
    upload = sim.workload.queue_upload()
    await _stored_within(sim, upload, 2.0, "a settlement failed")


async def an_expiry_fails(sim: Simulation) -> None:
    sim.server.next_call_fails[statements.EXPIRE_RUNS] = sim.rng.choice(["before", "after"])
    await _failed_at_deadline(sim, "an expiry failed", within_s=1.5)


async def listeners_die(sim: Simulation) -> None:
    """I9: after a reconnection, a sweep finds the rows that committed while no reactor listened."""
    sim.server.break_listeners()
    await _stored_within(sim, sim.workload.queue_upload(), 8.0, "no reactor listened")
    await sleep(8.0)
    for process in sim.processes:
        for sweep in (statements.SWEEP_UPLOADS, statements.SWEEP_RUNS):
            if sim.checks.swept_at.get((process.node, sweep), 0.0) < sim.checks.live_at[process.node]:
                sim.checks.add_violation(f"I9: {process.node.name} didn't sweep after it reconnected")


async def a_notification_is_lost(sim: Simulation) -> None:
    """I8: reconciliation finds the row of a lost notification."""
    sim.server.triggers_disabled = True
    upload = sim.workload.queue_upload()
    sim.server.triggers_disabled = False
    await _stored_within(sim, upload, sim.settings.reconcile_interval_s + 1.0, "its notification was lost")


async def a_reactor_dies(sim: Simulation) -> None:
    """Another reactor, or the same reactor after its restart, takes over the uploads of a killed reactor."""
    victim, upload = await _in_the_middle_of_a_put(sim)
    sim.processes[victim].kill()
    sim.processes[victim].start()
    await _stored_within(sim, upload, sim.settings.lease_s + 5.0, "its reactor died")


async def a_reactor_is_stopped(sim: Simulation) -> None:
    """I20: a reactor that was asked to stop finishes its uploads or hands them back."""
    victim, upload = await _in_the_middle_of_a_put(sim)
    process = sim.processes[victim]
    process.ask_to_stop()
    while process.is_running:
        await sleep(0.1)
    row = sim.server.db.uploads.get(upload)
    if row is not None and row.status == "uploading" and row.retry_count > 1:
        sim.checks.add_violation(f"I20: {upload} was handed back and its attempt was counted")
    process.start()
    # if the grace period is at least the attempt's timeout, the attempt fails and its retry waits for the backoff
    wait_s = 1.1 * sim.settings.retry_max_s if _grace_outlasts_attempt(sim) else 0.0
    await _stored_within(sim, upload, 15.0 + wait_s, "its reactor was stopped")


def _grace_outlasts_attempt(sim: Simulation) -> bool:
    return sim.settings.shutdown_grace_s >= sim.settings.attempt_timeout_s


async def a_reactor_is_frozen(sim: Simulation) -> None:
    """I3: a reactor that resumes must not change a row that another reactor has taken over."""
    victim, upload = await _in_the_middle_of_a_put(sim)
    sim.processes[victim].freeze()
    others = len(sim.processes) > 1
    await sleep(1.5 * sim.settings.lease_s)
    if others:
        await _stored_within(sim, upload, 5.0, "its reactor was frozen")
    sim.processes[victim].thaw()
    if not others:  # no reactor has taken the row over, so the put hangs until its attempt times out
        await sleep(sim.settings.attempt_timeout_s)
    await _stored_within(sim, upload, 1.1 * sim.settings.retry_max_s + 2.0, "its reactor was frozen")
    await _put_ended_within(sim, upload, sim.settings.lease_s / 3 + 1.0)


async def an_operator_intervenes(sim: Simulation) -> None:
    """If an operator cancels and requeues an upload during a put, a new attempt stores it, and the old put ends."""
    _, upload = await _in_the_middle_of_a_put(sim)
    sim.checks.lease_ended.add(upload)
    sim.server.commit(lambda: sim.server.db.cancel([upload]))
    sim.server.commit(lambda: sim.server.db.requeue([upload]))
    await _stored_within(sim, upload, sim.settings.lease_s + 2.0, "an operator intervened")
    await _put_ended_within(sim, upload, sim.settings.lease_s / 3 + 1.0)


async def a_put_takes_long(sim: Simulation) -> None:
    """The lease of a long put is extended until the put ends."""
    sim.storage.put_s = (1.8 * sim.settings.lease_s,) * 2
    if sim.storage.put_s[0] < sim.settings.attempt_timeout_s:
        upload = sim.workload.queue_upload()
        await sleep(_STEP_S)
        sim.server.next_call_fails[statements.EXTEND_LEASES] = "before"
        await _stored_within(sim, upload, sim.storage.put_s[0] + 1.0, "its put took long")
    sim.storage.put_s = (0.01, 0.2)


async def rows_are_locked(sim: Simulation) -> None:
    """I21: only the upload whose rows are locked waits, costs no attempt, and is stored soon after the release."""
    db = sim.server.db
    locked = sim.workload.queue_upload()
    source = db.sources[db.uploads[locked].source_id]
    key = sim.rng.choice([locked, source.id, source.user_id])
    db.locked.add(key)
    others = [sim.workload.queue_upload() for _ in range(5)]
    free = [i for i in others if db.uploads[i].user_id != source.user_id or key != source.user_id]
    for upload in free:
        await _stored_within(sim, upload, 1.0, "another upload was locked")
    await sleep(sim.rng.uniform(0.1, 2.0 * sim.settings.lease_s))
    if locked in sim.checks.stored:
        sim.checks.add_violation(f"I21: {locked} was stored while its rows were locked")
    elif db.uploads[locked].retry_count > 1:
        sim.checks.add_violation(f"I21: a lock cost {locked} {db.uploads[locked].retry_count} attempts")
    db.locked.discard(key)
    for upload in (locked, *others):
        await _stored_within(sim, upload, 1.0, "its lock was released")


async def an_upload_is_refused(sim: Simulation) -> None:
    """I22: an upload that the app refuses is dead with the reason, and all others are stored as usual."""
    db = sim.server.db
    uploads = [sim.workload.queue_upload() for _ in range(6)]
    refused = sim.rng.choice(uploads)
    if sim.rng.random() < 0.5:
        db.refused_claims.add(refused)
    else:
        db.refused_sources.add(db.uploads[refused].source_id)
    for upload in uploads:
        if upload != refused:
            await _stored_within(sim, upload, 1.0, "another upload was refused")
    await sleep(1.0)
    row = db.uploads[refused]
    if (row.status, row.error_code) != ("dead", "DATABASE_REFUSED"):
        sim.checks.add_violation(f"I22: the refused {refused} is {row.status} with {row.error_code}")


async def _put_ended_within(sim: Simulation, upload: UUID, seconds: float) -> None:
    """Check that no live reactor still puts the upload. A reactor notices a lost lease when it extends its leases."""
    await sleep(seconds)
    if sim.checks.is_put(upload):
        sim.checks.add_violation(f"I3: a put of {upload} continues {seconds:.1f} s after another reactor has stored it")


async def _in_the_middle_of_a_put(sim: Simulation) -> tuple[int, UUID]:
    """Queue an upload whose put hangs; return (number of the reactor that is putting it, upload)."""
    upload = sim.workload.queue_upload()
    sim.storage.hanging.add(upload)
    while upload not in sim.checks.attempted_at:
        await sleep(_STEP_S)
    await sleep(_STEP_S)
    holder = sim.checks.holder_of(upload)
    return next(n for n, process in enumerate(sim.processes) if process.node is holder), upload


_PROBES: list[Callable[[Simulation], Awaitable[None]]] = [
    no_fault,
    a_claim_fails,
    a_claims_answer_is_lost,
    a_settlement_fails,
    an_expiry_fails,
    listeners_die,
    a_notification_is_lost,
    a_reactor_dies,
    a_reactor_is_stopped,
    a_reactor_is_frozen,
    an_operator_intervenes,
    a_put_takes_long,
    rows_are_locked,
    an_upload_is_refused,
]


async def probe(sim: Simulation) -> None:
    """Run `no_fault`, three random probes and again `no_fault`."""
    chosen = sim.rng.sample(_PROBES[1:], 3)
    for attempt in (no_fault, *chosen, no_fault):
        sim.checks.log("simulation", f"probes: {attempt.__name__}")
        await attempt(sim)
        if sim.checks.violations:
            return
        await sleep(sim.rng.uniform(0.0, 5.0))
