"""A real collector (Streamfold's rotel, installed as a Python package). It receives, batches and forwards OTLP."""

import importlib.util
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TIMEOUT_S = 15.0


def agent() -> Path | None:
    """Return the collector's program; None if it isn't installed."""
    found = importlib.util.find_spec("rotel")
    if found is None or found.origin is None:
        return None
    return Path(found.origin).with_name("rotel-agent")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def collecting(program: Path, *, to: str) -> Iterator[dict[str, str]]:
    """Run the collector and let it forward to `to`; yield the collector's endpoint for each protocol."""
    http, grpc = _free_port(), _free_port()
    command = [
        str(program),
        "start",
        f"--otlp-http-endpoint=127.0.0.1:{http}",
        f"--otlp-grpc-endpoint=127.0.0.1:{grpc}",
        "--exporter=otlp",
        f"--otlp-exporter-endpoint={to}",
        "--otlp-exporter-protocol=http",
        "--batch-timeout=100ms",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, env={}) as process:
        try:
            deadline = time.monotonic() + _TIMEOUT_S
            while not (_listens(http) and _listens(grpc)):
                assert process.poll() is None, "the collector has ended"
                assert time.monotonic() < deadline, "the collector doesn't listen"
                time.sleep(0.02)
            yield {"http/protobuf": f"http://127.0.0.1:{http}", "grpc": f"http://127.0.0.1:{grpc}"}
        finally:
            process.terminate()
            process.wait(_TIMEOUT_S)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
