"""The links between the reactor's page and a real Jaeger, both ways, with real addresses."""

import json
import re
from typing import Any
from urllib.parse import urlsplit

from support.deploy_files import DEPLOY, document
from support.process import fetch, reactor
from support.servers.fault_server import answers
from support.servers.jaeger import has, named, only
from support.traced import TracedApp, one_by_one

PATTERNS: list[dict[str, str]] = json.loads((DEPLOY / "jaeger/ui.json").read_text())["linkPatterns"]
SERVICES = document(DEPLOY / "compose.yaml")["services"]


def linked(key: str, tags: dict[str, Any]) -> str:
    """Return the address to which Jaeger links a tag, by the patterns of deploy/jaeger/ui.json."""
    [pattern] = [pattern for pattern in PATTERNS if pattern["key"] == key]
    return re.sub(r"#\{([^}]+)\}", lambda match: str(tags[match[1]]), pattern["url"])


def test_the_page_and_the_command_lead_to_the_trace_and_the_trace_to_the_page(traced: TracedApp) -> None:
    with traced.reacting() as run:
        traced.s3.fault = one_by_one(answers(400, "KeyTooLongError"))
        [upload] = traced.app.queue_uploads()
        trace_id = traced.trace_id(upload.id)
        spans = traced.jaeger.trace(trace_id, has("upload"))

        [address] = re.findall(r'href="([^"]+)"[^>]*>Open in Jaeger', run.get(f"/uploads/{upload.id}")[1])
        assert address == f"{traced.jaeger.url}/trace/{trace_id}"
        assert fetch(address)[0] == 200  # the user interface, which reads the trace from the query API
        shown = reactor("uploads", "show", str(upload.id), env=traced.environment(), cwd=traced.folder)
        assert address in shown.stdout

        back = urlsplit(linked("upload.id", dict(only(spans, "upload").tags)))
        status, page = run.get(back.path)
        assert status == 200
        assert str(upload.id) in page
        assert "KeyTooLongError" in page

        command = only(spans, "upload").tags["upload.retry_command"].split()
        assert reactor(*command[1:], env=traced.environment(), cwd=traced.folder).returncode == 0
        traced.wait_until_gone(upload)
        ends = named(traced.jaeger.trace(trace_id, has("upload", 2)), "upload")
        assert sorted(span.tags["upload.outcome"] for span in ends) == ["dead", "stored"]


def test_the_trace_of_a_run_leads_to_its_page(traced: TracedApp) -> None:
    with traced.reacting() as run:
        run_id = traced.app.begin_run(timeout_at=traced.app.one("select clock_timestamp()"))
        [address] = re.findall(r'href="([^"]+)"[^>]*>Open in Jaeger', run.get(f"/runs/{run_id}")[1])
        [span] = traced.jaeger.trace(address.rpartition("/")[2])
        status, page = run.get(urlsplit(linked("interpretation.id", dict(span.tags))).path)
        assert status == 200
        assert str(run_id) in page


def test_the_links_have_the_addresses_of_compose() -> None:
    [port] = SERVICES["reactor"]["ports"]
    default = re.sub(r"\$\{\w+:-(\d+)\}", r"\1", port).rpartition(":")[0]
    assert {urlsplit(pattern["url"]).netloc for pattern in PATTERNS} == {default}
    assert all(pattern["type"] == "tags" for pattern in PATTERNS)
