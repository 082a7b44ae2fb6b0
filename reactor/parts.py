"""Builds the parts of a reactor that exist before its engine and its page: store, connections, executor, telemetry.

Opens nothing but the store; app.py opens the parts and closes them.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from attrs import frozen

from reactor.core.refusal import Guard, Place
from reactor.core.settings import Settings
from reactor.engine.faults import DatabaseFaults
from reactor.engine.readiness import Readiness
from reactor.postgres.connection import ConnectionPool, DedicatedConnection
from reactor.postgres.listener import Listener
from reactor.postgres.presence import Presence
from reactor.postgres.status import StatusQuery
from reactor.reactions.upload_attempt import UploadAttempt
from reactor.reactions.uploads import put
from reactor.runtime.clock import Clock
from reactor.runtime.thread_pool import ThreadPool
from reactor.storage.spool import Spool
from reactor.storage.spool_probe import check_spools, least_free_bytes
from reactor.storage.stores import open_store
from reactor.storage.stores.base import ObjectStore
from reactor.telemetry.dispatcher import Dispatcher
from reactor.web.recent import RecentActivity
from reactor.wiring import Ports, wire_presence

_CONNECTIONS = 3

Subscriptions = Mapping[type[Any], Callable[[Any], None]]


@frozen(kw_only=True)
class Parts:
    """The parts of a running reactor, without its engine and its web pages."""

    store: ObjectStore
    database: ConnectionPool
    claims: DedicatedConnection
    executor: ThreadPool[UploadAttempt]
    ports: Ports
    presence: Presence
    readiness: Readiness
    faults: DatabaseFaults
    recent: RecentActivity
    status: StatusQuery
    dispatcher: Dispatcher


def build_parts(
    settings: Settings,
    database_url: str,
    *,
    version: str,
    store: ObjectStore | None,
    subscribers: Sequence[Subscriptions],
    timers: Callable[[], int],
    on_status: Callable[[dict[str, Any]], None],
) -> Parts:
    """Build the parts. Raises ConfigInvalid if the store or a spool can't be used.

    `store` replaces the store of the settings. `timers` returns the number of timers in the wheel; `on_status` is
    called with the figures of each query.
    """
    clock = Clock()
    check_spools(settings.spools)
    spool = Spool(settings.spools)
    store = store or open_store(
        settings.store_url,
        concurrency=settings.upload_concurrency,
        addressing=settings.s3_addressing,
        checksum=settings.s3_checksum,
        sse=settings.s3_sse,
    )
    database = ConnectionPool(database_url, size=_CONNECTIONS)
    # a claim's commit needn't wait for the disk, because the settlement's commit makes both durable
    # (schema/README.md, decision 12)
    claims = DedicatedConnection(database_url, waits_for_disk=False)
    executor = ThreadPool(
        partial(put, spool, store),
        settings.upload_concurrency,
        per_tenant=settings.uploads_per_user,
        name="reactor-put",
    )
    ports = Ports(
        clock=clock,
        database=database,
        claims=claims,
        source=Listener(settings.listen_url or database_url),
        executor=executor,
        spool=spool,
        run_in_thread=executor.run,
        store_name=store.name,
    )
    readiness = Readiness(ports.health, clock)
    recent = RecentActivity(clock)
    faults = DatabaseFaults(clock, listens_elsewhere=settings.listen_url not in {None, database_url})
    status = StatusQuery(
        database,
        clock,
        heartbeat_timeout_s=settings.heartbeat_timeout_s,
        on_result=on_status,
        failing=faults.reason,
    )
    dispatcher = Dispatcher(
        version,
        os.environ,
        timers=timers,
        spool_free_bytes=partial(least_free_bytes, settings.spools),
        status=lambda: status.newest,
        places=[Place(Guard.STORE, store.name), *(Place(Guard.SPOOL, name) for name in settings.spools)],
        subscribers=[readiness.subscriptions(), faults.subscriptions(), recent.subscriptions(), *subscribers],
    )
    return Parts(
        store=store,
        database=database,
        claims=claims,
        executor=executor,
        ports=ports,
        presence=wire_presence(ports, version=version, emit=dispatcher),
        readiness=readiness,
        faults=faults,
        recent=recent,
        status=status,
        dispatcher=dispatcher,
    )
