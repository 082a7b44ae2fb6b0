"""Single faults in a calm world, each with the time in which the reactors must have got over it."""

from collections.abc import Awaitable, Callable
from uuid import UUID

from anyio import sleep

from reactor.postgres import statements
from simulation.world import World

_STEP_S = 0.01


async def _stored_within(world: World, upload: UUID, seconds: float, why: str) -> None:
    began = world.loop.time()
    while upload not in world.checks.stored:
        waited_s = world.loop.time() - began
        await sleep(max(_STEP_S, waited_s / 20))
        if waited_s > seconds:
            world.checks.violated(f"{why}: {upload} isn't stored after {seconds:.1f} s")
            return


async def _failed_at_deadline(world: World, why: str, within_s: float = 1.0) -> None:
    """A run whose worker falls silent is failed as its deadline passes: I11."""
    patience_s = world.rng.uniform(1.0, 5.0)
    run = world.server.db.runs[world.people.begin_run(timeout_s=600.0, patience_s=patience_s)]
    if world.rng.random() < 0.5:  # a heartbeat of which nobody is told: the deadline is looked at, and found moved
        await sleep(patience_s / 2)
        world.server.commit(lambda: world.server.db.heartbeat(run.id))
    await sleep(patience_s - 0.001)
    if run.status != "running":
        world.checks.violated(f"I10: {why}: run {run.id} was failed before its time")
    await sleep(within_s + 0.001)
    if run.status == "running":
        world.checks.violated(f"I11: {why}: run {run.id} isn't failed {within_s} s after its deadline")


async def nothing(world: World) -> None:
    await _stored_within(world, world.people.owe(), 1.0, "nothing is wrong")
    await _failed_at_deadline(world, "nothing is wrong")


async def a_claim_fails(world: World) -> None:
    world.server.next_call_fails[statements.CLAIM_UPLOADS] = "before"
    await _stored_within(world, world.people.owe(), 2.0, "a claim failed")


async def a_claims_answer_is_lost(world: World) -> None:
    world.server.next_call_fails[statements.CLAIM_UPLOADS] = "after"
    await _stored_within(world, world.people.owe(), world.settings.lease_s + 2.0, "a claim's answer was lost")


async def a_settlement_fails(world: World) -> None:
    world.server.next_call_fails[statements.SETTLE_UPLOADS] = world.rng.choice(["before", "after"])
    upload = world.people.owe()
    await _stored_within(world, upload, 2.0, "a settlement failed")


async def an_expiry_fails(world: World) -> None:
    world.server.next_call_fails[statements.EXPIRE_RUNS] = world.rng.choice(["before", "after"])
    await _failed_at_deadline(world, "an expiry failed", within_s=1.5)


async def listeners_die(world: World) -> None:
    """What commits while nobody listens is found by the look that follows each reconnection: I9."""
    world.server.break_listeners()
    await _stored_within(world, world.people.owe(), 8.0, "nobody listened")
    await sleep(8.0)
    for process in world.processes:
        for sweep in (statements.SWEEP_UPLOADS, statements.SWEEP_RUNS):
            if world.checks.swept_at.get((process.node, sweep), 0.0) < world.checks.live_at[process.node]:
                world.checks.violated(f"I9: {process.node.name} hasn't looked since it listens again")


async def a_notification_is_lost(world: World) -> None:
    """Reconciliation finds the row: I8."""
    world.server.is_mute = True
    upload = world.people.owe()
    world.server.is_mute = False
    await _stored_within(world, upload, world.settings.reconcile_interval_s + 1.0, "its notification was lost")


async def a_reactor_dies(world: World) -> None:
    """Others, or itself once it is back, take over what it had."""
    victim, upload = await _in_the_middle_of_a_put(world)
    world.processes[victim].kill()
    world.processes[victim].start()
    await _stored_within(world, upload, world.settings.lease_s + 5.0, "its reactor died")


async def a_reactor_is_stopped(world: World) -> None:
    """It finishes or hands back what it has: I20."""
    victim, upload = await _in_the_middle_of_a_put(world)
    process = world.processes[victim]
    process.ask_to_stop()
    while process.is_running:
        await sleep(0.1)
    row = world.server.db.uploads.get(upload)
    if row is not None and row.status == "uploading" and row.retry_count > 1:
        world.checks.violated(f"I20: {upload} wasn't handed back unspent")
    process.start()
    # with a grace period so long, the attempt came to its own end: it failed, and waits for the next
    wait_s = 1.1 * world.settings.retry_max_s if _outlasts(world) else 0.0
    await _stored_within(world, upload, 15.0 + wait_s, "its reactor was stopped")


def _outlasts(world: World) -> bool:
    return world.settings.shutdown_grace_s >= world.settings.attempt_timeout_s


async def a_reactor_is_frozen(world: World) -> None:
    """It must not touch what others have taken over: I3."""
    victim, upload = await _in_the_middle_of_a_put(world)
    world.processes[victim].freeze()
    others = len(world.processes) > 1
    await sleep(1.5 * world.settings.lease_s)
    if others:
        await _stored_within(world, upload, 5.0, "its reactor was frozen")
    world.processes[victim].thaw()
    if not others:  # it has the row still, and the put that hangs
        await sleep(world.settings.attempt_timeout_s)
    await _stored_within(world, upload, 1.1 * world.settings.retry_max_s + 2.0, "its reactor was frozen")
    await _let_go_within(world, upload, world.settings.lease_s / 3 + 1.0)


async def an_operator_intervenes(world: World) -> None:
    """An upload that is cancelled and retried in the middle of a put is begun anew once the put has let go."""
    _, upload = await _in_the_middle_of_a_put(world)
    world.checks.taken_away.add(upload)
    world.server.commit(lambda: world.server.db.cancel([upload]))
    world.server.commit(lambda: world.server.db.requeue([upload]))
    await _stored_within(world, upload, world.settings.lease_s + 2.0, "an operator intervened")
    await _let_go_within(world, upload, world.settings.lease_s / 3 + 1.0)


async def a_put_takes_long(world: World) -> None:
    """Its lease is extended for as long as it lasts."""
    world.storage.put_s = (1.8 * world.settings.lease_s,) * 2
    if world.storage.put_s[0] < world.settings.attempt_timeout_s:
        upload = world.people.owe()
        await sleep(_STEP_S)
        world.server.next_call_fails[statements.EXTEND_LEASES] = "before"
        await _stored_within(world, upload, world.storage.put_s[0] + 1.0, "its put took long")
    world.storage.put_s = (0.01, 0.2)


async def _let_go_within(world: World, upload: UUID, seconds: float) -> None:
    """Whoever isn't the row's holder any more is told so as it extends its lease, and stops."""
    await sleep(seconds)
    if world.checks.is_put(upload):
        world.checks.violated(f"I3: a put of {upload} goes on {seconds:.1f} s after another has stored it")


async def _in_the_middle_of_a_put(world: World) -> tuple[int, UUID]:
    """Return which reactor is at an upload that hangs, and the upload."""
    upload = world.people.owe()
    world.storage.holds.add(upload)
    while upload not in world.checks.attempted_at:
        await sleep(_STEP_S)
    await sleep(_STEP_S)
    holder = world.checks.holder_of(upload)
    return next(n for n, process in enumerate(world.processes) if process.node is holder), upload


_PROBES: list[Callable[[World], Awaitable[None]]] = [
    nothing,
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
]


async def probe(world: World) -> None:
    """Try some, in any order; with nothing wrong first and last."""
    chosen = world.rng.sample(_PROBES[1:], 3)
    for attempt in (nothing, *chosen, nothing):
        world.checks.tell("world", f"probes: {attempt.__name__}")
        await attempt(world)
        if world.checks.violations:
            return
        await sleep(world.rng.uniform(0.0, 5.0))
