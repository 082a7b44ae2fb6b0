"""How the parts of one reactor fit together, whatever is behind its ports."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from attrs import frozen

from reactor.core.backoff import Backoff
from reactor.core.circuit_breaker import CircuitBreaker
from reactor.core.events import Emit
from reactor.core.settings import Settings
from reactor.engine.listen import PRESENCE_EXPIRES_S, Listen
from reactor.engine.reconcile import Reconcile
from reactor.engine.schedule import ReadyQueue, Schedule
from reactor.engine.supervisor import Engine
from reactor.engine.worker import BATCH, Worker
from reactor.postgres.connection import QueryRunner
from reactor.postgres.listener import NotificationSource
from reactor.postgres.presence import PEERS_CHANNEL, Presence
from reactor.postgres.upload_queue import Runs, UploadQueue
from reactor.postgres.usage import StorageUsage
from reactor.reactions.runs import StaleRuns
from reactor.reactions.uploads import FailedUploads
from reactor.runtime.auto_reset_event import Wakeup
from reactor.runtime.clock import Clock
from reactor.storage.transfer import Transfer

if TYPE_CHECKING:
    from reactor.reactions.base import Reaction


@frozen(kw_only=True)
class Ports:
    """All that a reactor has to do with the world, opened."""

    clock: Clock
    database: QueryRunner
    claims: QueryRunner
    """A connection that does nothing but claim."""

    transfer: Transfer
    listener: Callable[[Sequence[str]], NotificationSource]
    """Makes the listening connection, told its channels."""


def wire(ports: Ports, settings: Settings, *, horizon_s: float, emit: Emit) -> Engine:
    """Wire the pipelines, their schedule and the reconciliation."""
    clock = ports.clock
    uploads = FailedUploads(
        UploadQueue(ports.database, claims=ports.claims, lease_s=settings.lease_s),
        transfer=ports.transfer,
        backoff=Backoff(
            base_s=settings.retry_base_s,
            factor=settings.retry_factor,
            max_s=settings.retry_max_s,
            jitter=settings.retry_jitter,
        ),
        breaker=CircuitBreaker(),
        clock=clock,
        emit=emit,
        attempt_timeout_s=settings.attempt_timeout_s,
        lease_s=settings.lease_s,
    )
    runs = StaleRuns(
        Runs(ports.database, heartbeat_timeout_s=settings.heartbeat_timeout_s),
        heartbeat_timeout_s=settings.heartbeat_timeout_s,
        emit=emit,
    )
    ready_queues = {uploads.name: ReadyQueue(), runs.name: ReadyQueue()}
    schedule = Schedule(clock, ready_queues, horizon_s=horizon_s, emit=emit)
    idle_event = Wakeup()
    pipelines: list[tuple[Reaction[Any], Worker[Any]]] = []
    for reaction, concurrency, per_tenant in (
        (uploads, settings.upload_concurrency, settings.uploads_per_user),
        (runs, BATCH, BATCH),
    ):
        work: Worker[Any] = Worker(
            reaction,
            ready_queues[reaction.name],
            schedule,
            clock=clock,
            emit=emit,
            concurrency=concurrency,
            per_tenant=per_tenant,
            lease_s=settings.lease_s,
            on_idle=idle_event.set,
        )
        pipelines.append((reaction, work))
    reconcile = Reconcile(
        pipelines,
        schedule,
        StorageUsage(ports.database),
        clock=clock,
        emit=emit,
        interval_s=settings.reconcile_interval_s,
        horizon_s=horizon_s,
    )
    schedule.on_left = reconcile.look_later
    return Engine(clock=clock, schedule=schedule, pipelines=pipelines, reconcile=reconcile, idle_event=idle_event)


def presence_of(ports: Ports, *, version: str) -> Presence:
    """Return the reactor's sign of life, not yet given."""
    return Presence(ports.database, ports.clock, version=version, silent_after_s=PRESENCE_EXPIRES_S)


def listen_with(ports: Ports, engine: Engine, presence: Presence, *, emit: Emit) -> Listen:
    """Wire the listening connection to what it wakes."""
    pipelines = {reaction.channel: (reaction, work) for reaction, work in engine.pipelines}
    return Listen(
        ports.listener([*pipelines, presence.channel, PEERS_CHANNEL]),
        presence,
        pipelines,
        engine.schedule,
        engine.reconcile,
        clock=ports.clock,
        emit=emit,
    )
