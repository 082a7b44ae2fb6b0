"""Builds the object graph of a reactor. All dependencies are constructor arguments, and tests can replace the ports.

clock ─► schedule ◄─ requests ─► reconcile ─► workers (one per reaction) ─► completer, leases
            ▲                                     │
listen ─────┴──── source, presence                └─► reaction ─► upload queue, executor, spool, store
"""

import asyncio
from functools import partial

from attrs import Factory, field, frozen

from reactor.core.backoff import Backoff
from reactor.core.breakers import Breakers
from reactor.core.events import Emit
from reactor.core.settings import Settings
from reactor.engine.listen import PRESENCE_EXPIRES_S, Listen
from reactor.engine.reconcile import Reconcile
from reactor.engine.requests import ReconcileRequests
from reactor.engine.schedule import ReadyQueue, Schedule
from reactor.engine.supervisor import Engine
from reactor.engine.worker import AttemptWorker, DirectWorker
from reactor.postgres.call_health import CallHealth, WatchedCalls
from reactor.postgres.connection import QueryRunner
from reactor.postgres.listener import NotificationSource
from reactor.postgres.presence import Presence
from reactor.postgres.runs import Runs
from reactor.postgres.upload_queue import UploadQueue
from reactor.postgres.usage import StorageUsage
from reactor.reactions.runs import StaleRuns
from reactor.reactions.upload_attempt import UploadAttempt
from reactor.reactions.upload_failures import UploadFailures
from reactor.reactions.uploads import FailedUploads, RunInThread, SpooledFiles
from reactor.runtime.clock import Clock
from reactor.runtime.executor import Executor


@frozen(kw_only=True)
class Ports:
    """The clock, connections, threads and files that the engine uses. All are open."""

    clock: Clock
    database: QueryRunner
    claims: QueryRunner
    """A connection that executes nothing but claims and readings of the database's clock."""

    source: NotificationSource
    executor: Executor[UploadAttempt]
    """Executes the attempts: stores uploads."""

    spool: SpooledFiles
    run_in_thread: RunInThread
    """Runs a short call that removes spooled files."""

    store_name: str

    health: CallHealth = field(default=Factory(lambda self: CallHealth(self.clock), takes_self=True))
    """Records which calls of the engine fail."""


def wire_presence(ports: Ports, *, version: str, emit: Emit) -> Presence:
    """Return the presence of this reactor, which isn't reported yet."""
    database = WatchedCalls(ports.database, ports.health, emit)
    return Presence(database, ports.clock, version=version, expires_s=PRESENCE_EXPIRES_S)


def wire_engine(ports: Ports, settings: Settings, *, horizon_s: float, emit: Emit) -> Engine:
    """Build schedule, workers and reconciliation. Add the ready queue and the worker of a new reaction here."""
    clock, idle, requests = ports.clock, asyncio.Event(), ReconcileRequests()
    ready = {FailedUploads.name: ReadyQueue(), StaleRuns.name: ReadyQueue()}
    database = WatchedCalls(ports.database, ports.health, emit)
    schedule = Schedule(clock, ready, requests, horizon_s=horizon_s, emit=emit)
    workers = (
        AttemptWorker(
            _failed_uploads(ports, settings, emit),
            ready[FailedUploads.name],
            schedule,
            requests,
            clock=clock,
            emit=emit,
            idle=idle,
            health=ports.health,
            concurrency=settings.upload_concurrency,
            per_tenant=settings.uploads_per_user,
            lease_s=settings.lease_s,
        ),
        DirectWorker(
            StaleRuns(
                Runs(database, heartbeat_timeout_s=settings.heartbeat_timeout_s),
                heartbeat_timeout_s=settings.heartbeat_timeout_s,
                emit=emit,
            ),
            ready[StaleRuns.name],
            schedule,
            requests,
            clock=clock,
            emit=emit,
            idle=idle,
            health=ports.health,
        ),
    )
    reconcile = Reconcile(
        workers,
        schedule,
        requests,
        StorageUsage(database),
        clock=clock,
        emit=emit,
        interval_s=settings.reconcile_interval_s,
        horizon_s=horizon_s,
        health=ports.health,
    )
    return Engine(clock=clock, schedule=schedule, workers=workers, requests=requests, reconcile=reconcile, idle=idle)


def _failed_uploads(ports: Ports, settings: Settings, emit: Emit) -> FailedUploads:
    breakers = Breakers(ports.store_name)
    backoff = Backoff(
        base_s=settings.retry_base_s,
        factor=settings.retry_factor,
        max_s=settings.retry_max_s,
        jitter=settings.retry_jitter,
    )
    return FailedUploads(
        UploadQueue(
            WatchedCalls(ports.database, ports.health, emit),
            claims=WatchedCalls(ports.claims, ports.health, emit),
            lease_s=settings.lease_s,
        ),
        executor=ports.executor,
        spool=ports.spool,
        run_in_thread=ports.run_in_thread,
        breakers=breakers,
        failures=UploadFailures(breakers, backoff, clock=ports.clock, emit=emit),
        clock=ports.clock,
        emit=emit,
        attempt_timeout_s=settings.attempt_timeout_s,
        lease_s=settings.lease_s,
    )


def wire_listen(ports: Ports, engine: Engine, presence: Presence, *, emit: Emit) -> Listen:
    """Build the listening connection. A notification on a reaction's channel schedules the rows that it names."""
    return Listen(
        ports.source,
        presence,
        {
            worker.reaction.channel: partial(engine.schedule.schedule_notified, worker.reaction)
            for worker in engine.workers
        },
        schedule=engine.schedule,
        reconcile=engine.reconcile,
        requests=engine.requests,
        clock=ports.clock,
        emit=emit,
    )
