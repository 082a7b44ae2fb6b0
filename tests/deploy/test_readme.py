"""The upload of the example in deploy/README.md is stored, and the reactor writes only into the spool."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import aws
from support.app import App
from support.deploy_files import DEPLOY, document
from support.process import running, settings_of
from support.servers.fault_server import FaultServer

README = (DEPLOY / "README.md").read_text()


def test_addresses_are_those_that_compose_publishes() -> None:
    published: set[str] = set()
    for service in document(DEPLOY / "compose.yaml")["services"].values():
        published |= {port.split(":-")[1].split("}")[0] for port in service.get("ports", []) if ":-" in port}
    assert set(re.findall(r"<http://127\.0\.0\.1:(\d+)", README)) <= published


def test_the_upload_of_the_example_is_stored(app: App, tmp_path: Path) -> None:
    """The test runs the README's SQL with the README's file. A reactor must store the file."""
    [name] = re.findall(r"printf hello > /var/spool/reactor/(\S+)'", README)
    (app.spool / name).write_bytes(b"hello")
    [script] = re.findall(r"<<'SQL'\n(.*?)\nSQL\n", README, re.DOTALL)
    insert, look = (statement for statement in script.split(";\n"))
    with running(settings_of(app), cwd=tmp_path) as run:
        run.wait_until_ready()
        app.conn.execute(insert.encode())
        run.wait_for_line("stored 5 bytes")
    [row] = app.conn.execute(look.encode()).fetchall()
    assert row == {"storage_status": "uploaded", "storage_url": (app.store / "documents/hello.txt").as_uri()}
    assert (app.store / "documents/hello.txt").read_bytes() == b"hello"


@pytest.fixture
def s3_environment() -> Iterator[dict[str, str]]:
    with FaultServer() as server:
        yield aws.environment(server.endpoint, access_key="key", secret_key="secret")


AUDIT = """
import sys, os
def note(event, args):
    if event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        os.write(2, f"WRITES open {args[0]}\\n".encode())
    elif event in {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.chmod", "os.chown", "os.link", "os.symlink",
                   "os.truncate", "shutil.rmtree", "tempfile.mkstemp", "tempfile.mkdtemp"}:
        os.write(2, f"WRITES {event} {args[0]}\\n".encode())
sys.addaudithook(note)
"""


def test_the_reactor_writes_only_into_the_spool(app: App, tmp_path: Path, s3_environment: dict[str, str]) -> None:
    """The sandboxes of deploy/ forbid writes to other folders. In the spool, the reactor only removes files."""
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit/sitecustomize.py").write_text(AUDIT)
    env: dict[str, Any] = settings_of(app, STORE_URL="s3://") | s3_environment
    env |= {"PYTHONPATH": str(tmp_path / "audit"), "PYTHONDONTWRITEBYTECODE": "1"}
    with running(env, cwd=tmp_path) as run:
        run.wait_until_ready()
        [upload] = app.queue_uploads()
        run.wait_for_line("stored 1000 bytes")
        run.terminate()
        assert run.ended() == 0
    written = [line for line in run.log.splitlines() if line.startswith("WRITES")]
    assert written == [f"WRITES os.remove {app.spool / upload.key}"]
    assert not app.is_spooled(upload)
