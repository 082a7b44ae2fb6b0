"""Measure how fast a backlog of due uploads is stored, from the first claim to the last commit.

Floor: the same claim and settle SQL on one plain connection, in batches of 500. The reactor and the peers (other job
queues) run in separate processes.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

from reactor.postgres.statements import CLAIM_UPLOADS, SETTLE_UPLOADS
from reactor.storage.stores import open_store
from reactor.storage.stores.base import ObjectStore

from .drain_process import drain_all
from .own_process import Figures, run_alone
from .peer import Peer
from .peers import PEERS
from .raw import raw
from .report import Report
from .server import BenchServer, queue

_BATCH = 500

_COLLECTOR = """
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response_only(200)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *_): pass
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


def drain(bench: BenchServer, report: Report, repeats: int) -> str | None:
    """Store 20 000 due uploads in a store that discards them, with tracing off and on. Floor: the same SQL alone."""
    case, uploads = "drain", 4_000 if bench.quick else 20_000
    with _collector() as endpoint:
        for _ in range(repeats):
            with bench.database() as url:
                ids = queue(url, uploads, None)
                report.add(case, "floor", per_s=uploads / asyncio.run(_floor(url, ids)))
            for name, traces in (("reactor", None), ("reactor, traced", endpoint)):
                with bench.database() as url, bench.spool() as spool, _exporting(traces):
                    queue(url, uploads, spool)
                    report.add(case, name, **run_alone("drain_process", url, str(spool), str(uploads)))
            for peer in PEERS:
                if peer.reason_missing() is None:
                    with bench.database("template1") as url:
                        report.add(case, peer.name, **_drained_by(peer, url, min(uploads, peer.jobs)))
    for peer in PEERS:
        if (reason_missing := peer.reason_missing()) is not None:
            report.note(case, f"{peer.name} skipped: {reason_missing}")
    report.goal(case, "of the floor, tracing off", report.ratio(case, "per_s", "reactor", "floor"), at_least=0.6)
    if report.has(case, "per_s", "pgqueuer"):
        report.goal(case, "of pgqueuer", report.ratio(case, "per_s", "reactor", "pgqueuer"), at_least=1.0)
    return "floor"


def drain_to_stores(bench: BenchServer, report: Report, repeats: int) -> str | None:
    """Store due uploads of 4 KiB and 1 MiB, spooled on disk, in the local store and in SeaweedFS."""
    case = "stores"
    for _ in range(repeats):
        for size, words, count in ((4096, "4 KiB", 2_000), (1 << 20, "1 MiB", 150)):
            uploads, content = count // 4 if bench.quick else count, os.urandom(size)
            for name, kept in (("local", _local(bench)), ("seaweedfs", _seaweed(bench, report, case))):
                with kept as store, bench.database() as url, bench.spool(in_memory=False) as spool:
                    if store is None:
                        continue
                    queue(url, uploads, spool, content=content)
                    figures = drain_all(url, spool, store, uploads)
                figures["mib_per_s"] = figures["per_s"] * size / (1 << 20)
                report.add(case, f"{name}, {words}", **figures)
    return None


def _drained_by(peer: Peer, url: str, jobs: int) -> Figures:
    if peer.has_process:
        return {"per_s": jobs / asyncio.run(peer.drain(url, jobs))}
    return run_alone("peer_process", peer.name, url, str(jobs))


async def _floor(url: str, ids: list[str]) -> float:
    conn = await raw(url)
    began = time.monotonic()
    for first in range(0, len(ids), _BATCH):
        token = uuid4()
        claim = (ids[first : first + _BATCH], token, timedelta(seconds=30))
        rows = await (await conn.execute(CLAIM_UPLOADS, claim, binary=True)).fetchall()
        count = len(rows)
        nothing = [None] * count
        outcomes = (["stored"] * count, [0.0] * count, nothing, nothing, ["none://bench"] * count, _BATCH, count)
        settle = ([row[1] for row in rows], [token] * count, *outcomes)
        settled = await (await conn.execute(SETTLE_UPLOADS, settle, binary=True)).fetchall()
        assert len(settled) == len(ids[first : first + _BATCH])
    took_s = time.monotonic() - began
    await conn.close()
    return took_s


@contextmanager
def _collector() -> Iterator[str]:
    """Run an OTLP collector that discards everything; yield its address."""
    process = subprocess.Popen([sys.executable, "-c", _COLLECTOR], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1/traces"
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


@contextmanager
def _exporting(endpoint: str | None) -> Iterator[None]:
    if endpoint is None:
        yield
        return
    os.environ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] = endpoint
    try:
        yield
    finally:
        del os.environ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"]


@contextmanager
def _local(bench: BenchServer) -> Iterator[ObjectStore | None]:
    with bench.spool(in_memory=False) as folder:
        store = open_store(f"file://{folder}", concurrency=16)
        yield store
        store.close()


@contextmanager
def _seaweed(bench: BenchServer, report: Report, case: str) -> Iterator[ObjectStore | None]:
    """Run a SeaweedFS server with a bucket and yield its store. Yield None if SeaweedFS isn't installed."""
    sys.path.insert(0, str(Path(__file__).parents[1]))  # to import `support`; pytest sets the same path
    from support.servers import seaweedfs  # noqa: PLC0415

    with bench.spool(in_memory=False) as folder:
        server = seaweedfs.SeaweedServer(folder)
        try:
            server.start()
        except RuntimeError as error:
            report.note(case, f"seaweedfs skipped: {error}")
            yield None
            return
        before = {name: os.environ.get(name) for name in server.environment}
        os.environ.update(server.environment)
        try:
            server.create_bucket("bench")
            yield (store := open_store("s3://", concurrency=16))
            store.close()
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
            server.kill()
