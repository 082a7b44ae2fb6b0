"""`reactor doctor` finds what is wrong, names what mends it, leaves nothing behind, and tells no secret."""

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from attrs import asdict
from psycopg import sql
from support import aws
from support.process import environment, reactor
from support.servers.fault_server import FaultServer, Request, answers, stores
from support.servers.pgbouncer import bouncing
from support.servers.seaweedfs import SeaweedServer

from reactor.doctor.examine import examine
from reactor.doctor.traces import traces_group
from reactor.embedded.server import EmbeddedPostgres
from reactor.postgres.migrate import migrate, schema_files

WORKER = "reactor_worker"
PASSWORD = "worker"  # noqa: S105 - of a throw-away server
SECRET = "s3cr3t-0f-th3-t3sts"  # noqa: S105 - a mark to look for
CLOSED = "127.0.0.1:1"
"""An address at which nobody listens."""

pytestmark = pytest.mark.timeout(180)  # several commands to a test, each of them a process

FORCES = [file.name for file in schema_files() if "force" in file.name and not file.is_function]

Findings = dict[str, dict[str, Any]]


@pytest.fixture
def owner(migrated_url: str) -> Iterator[psycopg.Connection[Any]]:
    """The tables' owner; the reactor's role can log in meanwhile."""
    with psycopg.connect(migrated_url, autocommit=True) as conn:
        conn.execute(sql.SQL("alter role {} password {}").format(sql.Identifier(WORKER), PASSWORD))
        yield conn
        conn.execute(sql.SQL("alter role {} password null").format(sql.Identifier(WORKER)))


@pytest.fixture
def env(owner: psycopg.Connection[Any], migrated_url: str, tmp_path: Path) -> dict[str, str]:
    """What the reactor needs for all to be well."""
    for folder in ("spool", "store"):
        (tmp_path / folder).mkdir()
    return environment(
        DATABASE_URL=as_worker(migrated_url),
        SPOOL_DIR=str(tmp_path / "spool"),
        STORE_URL=(tmp_path / "store").as_uri(),
    )


@pytest.fixture(scope="module")
def bucketful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    """An S3 server with a bucket."""
    with SeaweedServer(tmp_path_factory.mktemp("seaweed")) as server:
        server.create_bucket("documents")
        yield server


@pytest.fixture
def faulty() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


def as_worker(url: str) -> str:
    return at(url, urlsplit(url).netloc.rpartition("@")[2])


def at(url: str, address: str) -> str:
    return urlsplit(url)._replace(netloc=f"{WORKER}:{PASSWORD}@{address}").geturl()


def examined(env: dict[str, str], *arguments: str, code: int) -> Findings:
    """Run the doctor, which must exit with this code; return its findings by check. No check finds two things here."""
    done = reactor("doctor", "--json", *arguments, env=env)
    assert done.returncode == code, done.stdout + done.stderr
    findings = json.loads(done.stdout)
    by_check = {finding["check"]: finding for finding in findings}
    assert len(by_check) == len(findings), findings
    for finding in findings:
        assert set(finding) == {"check", "verdict", "seen", "fix"}
        assert bool(finding["fix"]) is (finding["verdict"] in {"problem", "warning"})
    return by_check


def traces_examined(**variables: str) -> Findings:
    """Do what the doctor does for the traces alone, here instead of in a process of its own."""
    return {finding.check: asdict(finding) for finding in examine([traces_group(variables)])}


def wrong(findings: Findings) -> set[str]:
    """Return the checks that found a problem."""
    return {check for check, finding in findings.items() if finding["verdict"] == "problem"}


def assert_finds(findings: Findings, check: str, seen: str, fix: str) -> None:
    """Assert that one check, and no other, found a problem with these words in it."""
    assert wrong(findings) == {check}, findings
    assert seen in findings[check]["seen"]
    assert fix in findings[check]["fix"]


# all well


def test_all_is_well(env: dict[str, str], tmp_path: Path) -> None:
    findings = examined(env, code=0)
    assert list(findings) == [
        "settings",
        "database",
        "server version",
        "primary",
        "migrations",
        "role",
        "row level security",
        "listen",
        "notification queue",
        "clock",
        "spool default",
        "store",
        "traces",
    ]
    on_a_full_disk = {"spool default", "store"}
    assert {check for check, finding in findings.items() if finding["verdict"] != "ok"} <= on_a_full_disk
    assert "direct connection" in findings["listen"]["seen"]
    assert list((tmp_path / "spool").iterdir()) == list((tmp_path / "store").iterdir()) == []


def test_for_people_it_prints_a_line_for_each_and_how_to_mend_it(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "spool").rmdir()
    done = reactor("doctor", env=env)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    [at_] = [number for number, line in enumerate(lines) if line.startswith("problem  spool default")]
    assert "No such file or directory" in lines[at_]
    assert "fix: " in lines[at_ + 1]
    assert "REACTOR_SPOOL_DIR" in lines[at_ + 1]
    assert done.stderr.startswith("1 problem, ")
    assert "\x1b" not in done.stdout


def test_wrong_settings_are_told_and_exit_2(env: dict[str, str]) -> None:
    done = reactor("doctor", "--json", env=env | {"REACTOR_LEASE": "soon", "REACTOR_HTTP_PORT": "many"})
    assert done.returncode == 2
    findings = json.loads(done.stdout)
    assert [finding["check"] for finding in findings] == ["settings", "settings"]
    assert {"REACTOR_LEASE", "REACTOR_HTTP_PORT"} == {finding["seen"].split()[0] for finding in findings}


# the database


@pytest.mark.parametrize("mode", ["transaction", "statement"])
def test_a_transaction_pooler_is_found(
    env: dict[str, str], migrated_url: str, reachable_folder: Path, mode: str
) -> None:
    with bouncing(as_worker(migrated_url), reachable_folder, mode=mode) as pooled:
        findings = examined(env | {"REACTOR_DATABASE_URL": pooled}, code=1)
        assert_finds(findings, "listen", "transaction pooler", "REACTOR_LISTEN_URL")

        listening_directly = {"REACTOR_DATABASE_URL": pooled, "REACTOR_LISTEN_URL": as_worker(migrated_url)}
        findings = examined(env | listening_directly, code=0)
        assert "direct connection" in findings["listen"]["seen"]

        findings = examined(env | {"REACTOR_LISTEN_URL": pooled}, code=1)
        assert_finds(findings, "listen", "REACTOR_LISTEN_URL leads through", "direct connection")


def test_a_session_pooler_is_only_warned_of(env: dict[str, str], migrated_url: str, reachable_folder: Path) -> None:
    with bouncing(as_worker(migrated_url), reachable_folder, mode="session") as pooled:
        findings = examined(env | {"REACTOR_DATABASE_URL": pooled}, code=0)
    assert findings["listen"]["verdict"] == "warning"
    assert "session mode" in findings["listen"]["seen"]
    assert "REACTOR_LISTEN_URL" in findings["listen"]["fix"]


def test_listening_to_another_database_is_found(env: dict[str, str], server_url: str) -> None:
    findings = examined(env | {"REACTOR_LISTEN_URL": server_url}, code=1)
    assert_finds(findings, "listen", "another database", "same database")


def test_a_database_that_is_not_migrated_is_found(env: dict[str, str], database_url: str) -> None:
    findings = examined(env | {"REACTOR_DATABASE_URL": database_url}, code=1)
    assert_finds(findings, "migrations", "aren't applied", "reactor migrate")
    assert findings["role"]["verdict"] == findings["row level security"]["verdict"] == "skipped"
    assert findings["listen"]["verdict"] == "ok"


def test_a_missing_migration_is_found(env: dict[str, str], owner: psycopg.Connection[Any]) -> None:
    owner.execute("delete from reactor.migration where name = 'migrations/0007_index_sources_and_runs.sql'")
    assert_finds(examined(env, code=1), "migrations", "0007_index_sources_and_runs", "reactor migrate")


def test_an_edited_migration_is_found(env: dict[str, str], owner: psycopg.Connection[Any]) -> None:
    owner.execute("update reactor.migration set checksum = '' where name like 'migrations/0003%'")
    assert_finds(examined(env, code=1), "migrations", "0003_create_plans_and_usage.sql edited", "restore")


def test_a_missing_grant_is_found(env: dict[str, str], owner: psycopg.Connection[Any]) -> None:
    owner.execute("revoke execute on function reactor.claim_uploads from reactor_worker")
    assert_finds(examined(env, code=1), "role", "may not execute reactor.claim_uploads", "grant execute on function")


def test_a_schema_that_the_role_may_not_use_is_found(env: dict[str, str], owner: psycopg.Connection[Any]) -> None:
    owner.execute("revoke usage on schema reactor from reactor_worker")
    findings = examined(env, code=1)
    assert "permission denied" in findings["migrations"]["seen"]
    assert "reactor_worker" in findings["migrations"]["fix"]


def test_hidden_rows_are_found(env: dict[str, str], owner: psycopg.Connection[Any]) -> None:
    owner.execute("drop policy reactor_worker_reads on public.upload_queue")
    assert_finds(examined(env, code=1), "role", "hides rows of public.upload_queue", "policy")


def test_a_superuser_is_warned_of(env: dict[str, str], migrated_url: str) -> None:
    findings = examined(env | {"REACTOR_DATABASE_URL": migrated_url}, code=0)
    assert findings["role"]["verdict"] == "warning"
    assert "superuser" in findings["role"]["seen"]
    assert "reactor_worker" in findings["role"]["fix"]


def test_row_level_security_that_is_off_is_found(env: dict[str, str], owner: psycopg.Connection[Any]) -> None:
    tables = ("public.quota_plans", "public.sources", "reactor.instance")
    for table in tables:
        owner.execute(f"alter table {table} disable row level security".encode())
    fix = "alter table public.quota_plans enable row level security`, for each of them"
    assert_finds(examined(env, code=1), "row level security", f"off for {', '.join(tables)}: ", fix)


@pytest.mark.skipif(not FORCES, reason="no migration of this version forces row level security")
def test_row_level_security_that_is_not_forced_is_found(env: dict[str, str], owner: psycopg.Connection[Any]) -> None:
    owner.execute("alter table public.upload_queue no force row level security")
    fix = "alter table public.upload_queue force row level security"
    assert_finds(examined(env, code=1), "row level security", "not forced for public.upload_queue", fix)


def test_a_standby_is_found(env: dict[str, str], reachable_folder: Path) -> None:
    server = EmbeddedPostgres(reachable_folder / "postgres", durable=False)
    with server:
        migrate(server.url)
    (server.data_dir / "standby.signal").touch()
    with server:
        findings = examined(env | {"REACTOR_DATABASE_URL": server.url}, code=1)
    assert_finds(findings, "primary", "standby", "target_session_attrs=read-write")
    assert findings["listen"]["verdict"] == "skipped"


def test_a_listener_that_does_not_read_is_found(env: dict[str, str], reachable_folder: Path) -> None:
    smallest = {"max_notify_queue_pages": "64"}
    with EmbeddedPostgres(reachable_folder / "postgres", durable=False, options=smallest) as server:
        migrate(server.url)
        with psycopg.connect(server.url) as stuck, psycopg.connect(server.url, autocommit=True) as conn:
            stuck.execute("listen anything")
            stuck.commit()
            stuck.execute("select")  # and goes on in its transaction: nothing is delivered to it any more
            conn.execute("select pg_notify('anything', repeat('x', 7000) || n) from generate_series(1, 8) as n")
            findings = examined(env | {"REACTOR_DATABASE_URL": server.url}, code=0)
            assert findings["notification queue"]["verdict"] == "warning"

            conn.execute("select pg_notify('anything', repeat('y', 7000) || n) from generate_series(1, 40) as n")
            findings = examined(env | {"REACTOR_DATABASE_URL": server.url}, code=1)
            assert_finds(findings, "notification queue", "the triggers say nothing", "pg_terminate_backend")


def test_a_clock_that_is_off_is_found(env: dict[str, str]) -> None:
    faketime = shutil.which("faketime")
    if faketime is None:
        pytest.skip("faketime isn't installed: apt-get install faketime")
    for offset, code in (("-8s", 1), ("+8s", 1), ("-2s", 0)):
        command = [faketime, "-f", offset, sys.executable, "-m", "reactor", "doctor", "--json"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=50, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        findings = {finding["check"]: finding for finding in json.loads(done.stdout)}
        if code:
            words = "ahead of" if offset == "-8s" else "behind"
            assert_finds(findings, "clock", words, "NTP")


# the spool and the store


def test_an_unusable_spool_is_found(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    # even root can't make a file in the first
    spools = f"proc=/proc,file={tmp_path / 'file'},missing={tmp_path / 'missing'}"
    findings = examined(env | {"REACTOR_SPOOLS": spools}, code=1)
    assert wrong(findings) == {"spool proc", "spool file", "spool missing"}
    assert "can't be written to" in findings["spool proc"]["seen"]
    assert "can't be opened (Not a directory)" in findings["spool file"]["seen"]
    assert "can't be opened (No such file or directory)" in findings["spool missing"]["seen"]
    assert all("REACTOR_SPOOLS" in findings[check]["fix"] for check in wrong(findings))


def test_an_unusable_store_folder_is_found_and_none_is_made(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    findings = examined(env | {"REACTOR_STORE_URL": (tmp_path / "file" / "store").as_uri()}, code=1)
    assert_finds(findings, "store", "Not a directory", "REACTOR_STORE_URL")

    findings = examined(env | {"REACTOR_STORE_URL": (tmp_path / "a" / "store").as_uri()}, code=0)
    assert findings["store"]["verdict"] == "warning"
    assert not (tmp_path / "a").exists()


def s3(env: dict[str, str], variables: dict[str, str]) -> dict[str, str]:
    return env | {"REACTOR_STORE_URL": "s3://"} | variables


@pytest.mark.s3
class TestBuckets:
    def test_one_that_a_row_names_is_probed_and_left_empty(
        self, env: dict[str, str], owner: psycopg.Connection[Any], bucketful: SeaweedServer
    ) -> None:
        queue_an_upload(owner, "documents")
        findings = examined(s3(env, bucketful.environment), code=0)
        assert findings["bucket documents"]["verdict"] == "ok"
        client = bucketful.client()
        assert client.list_objects_v2(Bucket="documents")["KeyCount"] == 0
        client.close()

    def test_none_known_is_said(self, env: dict[str, str], bucketful: SeaweedServer) -> None:
        findings = examined(s3(env, bucketful.environment), code=0)
        assert findings["store"]["verdict"] == "ok"
        assert findings["buckets"]["verdict"] == "warning"
        assert "--bucket" in findings["buckets"]["fix"]

    def test_a_wrong_one_is_found(self, env: dict[str, str], bucketful: SeaweedServer) -> None:
        buckets = ("--bucket", "documents", "--bucket", "dokuments")
        findings = examined(s3(env, bucketful.environment), *buckets, code=1)
        assert_finds(findings, "bucket dokuments", "NoSuchBucket", "make the bucket dokuments")
        assert findings["bucket documents"]["verdict"] == "ok"

    def test_bad_credentials_are_found(self, env: dict[str, str], bucketful: SeaweedServer) -> None:
        for variable, seen in (
            ("AWS_SECRET_ACCESS_KEY", "SignatureDoesNotMatch"),
            ("AWS_ACCESS_KEY_ID", "InvalidAccessKeyId"),
        ):
            variables = bucketful.environment | {variable: "wrong"}
            findings = examined(s3(env, variables), "--bucket", "documents", code=1)
            assert_finds(findings, "bucket documents", seen, "AWS_SECRET_ACCESS_KEY")


def queue_an_upload(owner: psycopg.Connection[Any], bucket: str) -> None:
    owner.execute(
        "with s as (insert into public.sources (user_id, content_hash, storage_status)"
        "           values (gen_random_uuid(), 'x', 'pending') returning id, user_id)"
        " insert into public.upload_queue (source_id, user_id, bucket, object_path, byte_size)"
        " select id, user_id, %s, 'a/b', 1 from s",
        (bucket,),
    )


def test_an_unreachable_store_is_found(env: dict[str, str]) -> None:
    variables = aws.environment(f"http://{CLOSED}", access_key="key", secret_key="secret")
    findings = examined(s3(env, variables), "--bucket", "documents", code=1)
    assert_finds(findings, "store", "can't be reached", "AWS_ENDPOINT_URL")
    assert findings["buckets"]["verdict"] == "skipped"


def test_missing_credentials_are_found(env: dict[str, str]) -> None:
    variables = aws.environment(f"http://{CLOSED}", access_key="", secret_key="")
    assert_finds(examined(s3(env, variables), code=1), "store", "AWS_ACCESS_KEY_ID", "AWS_")


def test_a_store_that_lets_nobody_delete_is_only_warned_of(env: dict[str, str], faulty: FaultServer) -> None:
    """The reactor itself needs PutObject alone."""

    def puts_only(request: Request) -> None:
        stores(request) if request.command == "PUT" else answers(403, "AccessDenied")(request)

    faulty.fault = puts_only
    variables = aws.environment(faulty.endpoint, access_key="key", secret_key="secret")
    findings = examined(s3(env, variables), "--bucket", "documents/in/", code=0)
    assert findings["bucket documents"]["verdict"] == "warning"
    assert "s3:DeleteObject" in findings["bucket documents"]["fix"]
    [left] = faulty.objects
    assert left.startswith("/documents/in/.reactor-doctor-")
    assert left.removeprefix("/documents/") in findings["bucket documents"]["seen"]


def test_a_store_that_loses_what_it_took_is_found(env: dict[str, str], faulty: FaultServer) -> None:
    def forgets(request: Request) -> None:
        stores(request) if request.command == "PUT" else answers(404, "NoSuchKey")(request)

    faulty.fault = forgets
    variables = aws.environment(faulty.endpoint, access_key="key", secret_key="secret")
    findings = examined(s3(env, variables), "--bucket", "documents", code=1)
    assert wrong(findings) == {"bucket documents"}
    assert "didn't give it back" in findings["bucket documents"]["seen"]


# the collector


def test_a_collector_that_takes_traces_is_fine(env: dict[str, str], faulty: FaultServer) -> None:
    faulty.fault = answers(200)
    findings = examined(env | {"OTEL_EXPORTER_OTLP_ENDPOINT": faulty.endpoint}, code=0)
    assert findings["traces"]["verdict"] == "ok"
    assert faulty.requests == ["POST /v1/traces"]

    findings = examined(env | {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{faulty.endpoint}/as/it/is"}, code=0)
    assert faulty.requests[-1] == "POST /as/it/is"


def test_a_collector_is_asked_with_the_headers_that_are_set(faulty: FaultServer) -> None:
    seen = []

    def remembers(request: Request) -> None:
        seen.append((request.headers["authorization"], request.headers["content-type"]))
        answers(200)(request)

    faulty.fault = remembers
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": faulty.endpoint}
    variables["OTEL_EXPORTER_OTLP_HEADERS"] = "authorization=Bearer%20x,other=1"
    assert traces_examined(**variables)["traces"]["verdict"] == "ok"
    assert seen == [("Bearer x", "application/x-protobuf")]


def test_a_dead_collector_is_found() -> None:
    findings = traces_examined(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://{CLOSED}")
    assert_finds(findings, "traces", "Connection refused", "OTEL_EXPORTER_OTLP_ENDPOINT")


def test_a_protocol_that_the_reactor_does_not_speak_is_found(faulty: FaultServer) -> None:
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": faulty.endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    assert_finds(traces_examined(**variables), "traces", "'grpc'", "http/protobuf")
    assert faulty.requests == []


@pytest.mark.parametrize(
    ("status", "fix"),
    [(404, "4318"), (302, "4318"), (401, "OTEL_EXPORTER_OTLP_HEADERS"), (503, "start the collector")],
)
def test_what_takes_no_traces_is_found(faulty: FaultServer, status: int, fix: str) -> None:
    faulty.fault = answers(status, location="/elsewhere")
    findings = traces_examined(OTEL_EXPORTER_OTLP_ENDPOINT=faulty.endpoint)
    assert_finds(findings, "traces", str(status), fix)
    assert faulty.requests == ["POST /v1/traces"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [("TRACES_ENDPOINT", "127.0.0.1:4318"), ("HEADERS", "x-key secret"), ("CERTIFICATE", "/none.pem")],
)
def test_a_variable_that_says_nothing_sensible_is_found(variable: str, value: str) -> None:
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{CLOSED}", f"OTEL_EXPORTER_OTLP_{variable}": value}
    findings = traces_examined(**variables)
    assert wrong(findings) == {"traces"}
    assert_finds(findings, "traces", f"OTEL_EXPORTER_OTLP_{variable} must", "correct the variable")


def test_otlps_other_port_is_recognized() -> None:
    """Whether nobody is there, or somebody who speaks gRPC."""
    findings = traces_examined(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:4317")
    assert_finds(findings, "traces", "127.0.0.1:4317", "HTTP's is 4318")


# whatever happens


@contextmanager
def silence() -> Iterator[str]:
    """Listen, let the kernel accept, and never say a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield "{}:{}".format(*server.getsockname())


def test_it_ends_in_time_when_everything_hangs(env: dict[str, str], tmp_path: Path) -> None:
    with ExitStack() as stack:
        database, listen, store, traces = (stack.enter_context(silence()) for _ in range(4))
        variables = {
            "REACTOR_DATABASE_URL": f"postgresql://x@{database}/x",
            "REACTOR_LISTEN_URL": f"postgresql://x@{listen}/x",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{traces}",
        }
        hanging = s3(env, aws.environment(f"http://{store}", access_key="key", secret_key="secret")) | variables
        began = time.monotonic()
        findings = examined(hanging, "--bucket", "documents", code=1)
        took_s = time.monotonic() - began
    assert wrong(findings) == {"database", "store", "traces"}
    assert findings["spool default"]["verdict"] != "problem"
    assert took_s < 20.0  # 8 s for the checks, the rest for starting Python on a busy machine


def test_a_connection_that_falls_silent_ends_its_group_only(
    env: dict[str, str], owner: psycopg.Connection[Any], migrated_url: str
) -> None:
    """A statement that waits for a lock hangs as a dead server does."""
    with psycopg.connect(migrated_url) as other:
        other.execute("lock table pg_catalog.pg_roles, pg_catalog.pg_authid in access exclusive mode")
        findings = examined(env, code=1)
    assert wrong(findings) <= {"database", "listen"}
    assert "clock" in findings
    assert findings["store"]["verdict"] != "problem"


def test_no_secret_is_told(env: dict[str, str], migrated_url: str, faulty: FaultServer) -> None:
    address = urlsplit(migrated_url).netloc.rpartition("@")[2]
    path = urlsplit(migrated_url).path
    faulty.fault = answers(403, "AccessDenied", f"not with http://x:{SECRET}@host/{SECRET}")
    secrets = {
        "REACTOR_HTTP_TOKEN": SECRET,
        "REACTOR_STORE_URL": "s3://",
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization={SECRET},{SECRET}",
        **aws.environment(faulty.endpoint, access_key=f"key-{SECRET}", secret_key=SECRET),
        "AWS_SESSION_TOKEN": SECRET,
    }
    hosts = (address, CLOSED, "no-such-host.invalid:5432")
    collectors = (faulty.endpoint, f"http://{CLOSED}", "http://[", "gopher://x", "http://x:y z")
    tried = [
        {
            "REACTOR_DATABASE_URL": f"postgresql://{WORKER}:{SECRET}@{host}{path}",
            "REACTOR_LISTEN_URL": f"postgresql://{WORKER}:{SECRET}@{host}{path}",
            "OTEL_EXPORTER_OTLP_ENDPOINT": with_user(endpoint),
        }
        for host, endpoint in zip((*hosts, address, address), collectors, strict=True)
    ]
    tried.append(
        {"OTEL_EXPORTER_OTLP_HEADERS": f"authorization=a%0Ab{SECRET}", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}
    )
    tried.append({"REACTOR_DATABASE_URL": f"postgresql://x:{SECRET}@h:{SECRET}/x"})
    tried.append({"REACTOR_STORE_URL": f"ftp://x:{SECRET}@host/x"})
    for variables in tried:
        # for people it prints all that a program gets, and a summary
        done = reactor("doctor", "--bucket", "documents", env=env | secrets | variables)
        assert done.returncode in {1, 2}
        assert SECRET not in done.stdout + done.stderr, done.stdout + done.stderr
    for variables in (tried[0], tried[-1]):  # what was examined, and what was refused
        done = reactor("doctor", "--json", "--bucket", "documents", env=env | secrets | variables)
        assert json.loads(done.stdout)
        assert SECRET not in done.stdout + done.stderr, done.stdout + done.stderr


def with_user(endpoint: str) -> str:
    """Put a secret into a URL where people put it."""
    scheme, _, rest = endpoint.partition("://")
    return f"{scheme}://user:{SECRET}@{rest}"
