"""What tracing costs: how fast a backlog is drained with it off and on, by turns, in one run.

    python tests/bench/tracing_cost.py [--repeats 5] [--uploads 3000]

Starts a PostgreSQL of its own with default durability, and a collector in a process of its own, which takes each
request and throws it away. Each turn queues the uploads in one statement and times how `reactor reconcile` drains them;
every trace is sampled, which is the default. Figures of one run may be compared, no others.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path

import psycopg
from loguru import logger

from reactor.app import Reactor
from reactor.core.settings import Settings
from reactor.edge.embedded import EmbeddedPostgres
from reactor.edge.migrate import migrate
from reactor.edge.objects.base import Body

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

_QUEUE = """
with s as (
    insert into public.sources (user_id, content_hash, storage_status, byte_size)
    select md5((n %% 50)::text)::uuid, md5(random()::text || n), 'pending', 0 from generate_series(1, %s) as n
    returning id, user_id)
insert into public.upload_queue (source_id, user_id, bucket, object_path, content_hash, byte_size, temp_file_path)
select s.id, s.user_id, 'bench', s.id::text, %s, 0, s.id::text from s
returning temp_file_path
"""


class NoStore:
    """Takes everything and keeps nothing."""

    name = "none"

    def put(self, bucket: str, key: str, body: Body, *, mime_type: str | None) -> str:  # noqa: ARG002  # a Protocol's
        body.read()
        return f"none://{bucket}/{key}"

    def check(self) -> None: ...

    def close(self) -> None: ...


def drain(url: str, spool: Path, uploads: int) -> tuple[float, int, int]:
    """Queue uploads and drain them; return uploads a second, and the spans that were sent and lost."""
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("truncate public.sources cascade")
        conn.execute("alter table public.upload_queue disable trigger reactor_notify_inserted")
        for (name,) in conn.execute(_QUEUE, (uploads, sha256(b"").hexdigest())):
            (spool / name).touch()
        conn.execute("vacuum analyze public.upload_queue")
        conn.execute("checkpoint")
    settings = Settings(database_url=url, store_url="file:///none", spools={"default": spool}, uploads_per_user=16)
    ended: list[float] = []
    reactor = Reactor(settings, store=NoStore(), listener=lambda _event: ended.append(time.perf_counter()))
    asyncio.run(reactor.drain())
    outbox = reactor.telemetry._outbox
    with psycopg.connect(url) as conn:
        assert conn.execute("select count(*) from public.upload_queue").fetchone() == (0,)
    seconds = ended[-1] - ended[0]
    return uploads / seconds, outbox.sent if outbox else 0, outbox.lost if outbox else 0


def measure(url: str, spool: Path, endpoint: str, repeats: int, uploads: int) -> None:
    speeds: dict[bool, list[float]] = {False: [], True: []}
    drain(url, spool, uploads)  # the first is never like the others
    for repeat in range(repeats):
        for is_on in (False, True) if repeat % 2 else (True, False):
            os.environ.pop("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", None)
            if is_on:
                os.environ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] = endpoint
            speed, sent, lost = drain(url, spool, uploads)
            speeds[is_on].append(speed)
            _say(f"{repeat + 1} {'on ' if is_on else 'off'} {speed:7.0f} uploads/s   {sent} spans sent, {lost} lost")
    off, on = (statistics.median(speeds[is_on]) for is_on in (False, True))
    # by pairs: each ran side by side, whatever else the machine did meanwhile
    costs = [100 * (1 - on / off) for off, on in zip(speeds[False], speeds[True], strict=True)]
    _say(
        f"medians: off {off:.0f}, on {on:.0f} uploads/s; tracing costs {statistics.median(costs):.1f} %"
        f" ({min(costs):.1f} to {max(costs):.1f})"
    )


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201  # a benchmark's output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--uploads", type=int, default=3000)
    arguments = parser.parse_args()
    logger.remove()
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        del os.environ[name]
    collector = subprocess.Popen([sys.executable, "-c", _COLLECTOR], stdout=subprocess.PIPE, text=True)
    assert collector.stdout is not None
    endpoint = f"http://127.0.0.1:{int(collector.stdout.readline())}/v1/traces"
    try:
        with tempfile.TemporaryDirectory(prefix="reactor-bench-") as folder:
            home = Path(folder)
            home.chmod(0o755)
            spool = home / "spool"
            spool.mkdir()
            with EmbeddedPostgres(home / "postgres") as server:
                migrate(server.url)
                measure(server.url, spool, endpoint, arguments.repeats, arguments.uploads)
    finally:
        collector.terminate()
        collector.wait()


if __name__ == "__main__":
    main()
