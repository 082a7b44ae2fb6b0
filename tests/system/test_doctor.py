"""`reactor doctor` finds each problem, names its fix, leaves nothing behind, and prints no secret."""

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
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
from support.servers.fault_server import Fault, FaultServer, Request, answers, stores
from support.servers.pgbouncer import running_pgbouncer
from support.servers.seaweedfs import SeaweedServer

from reactor.doctor.examine import examine
from reactor.doctor.traces import traces_group
from reactor.embedded.server import EmbeddedPostgres
from reactor.postgres.migrate import migrate, schema_files

WORKER = "reactor_worker"
PASSWORD = "worker"  # noqa: S105 - the password of a throw-away server
SECRET = "s3cr3t-0f-th3-t3sts"  # noqa: S105 - a marker to search for in the output
CLOSED = "127.0.0.1:1"
"""An address without a listener."""

pytestmark = pytest.mark.timeout(180)  # a test runs several commands, each in a process of its own

FORCES = [file.name for file in schema_files() if "force" in file.name and not file.is_function]

Findings = dict[str, dict[str, Any]]


@pytest.fixture
def owner(migrated_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection as the tables' owner. The reactor's role can log in during the test."""
    with psycopg.connect(migrated_url, autocommit=True) as conn:
        conn.execute(sql.SQL("alter role {} password {}").format(sql.Identifier(WORKER), PASSWORD))
        yield conn
        conn.execute(sql.SQL("alter role {} password null").format(sql.Identifier(WORKER)))


@pytest.fixture
def env(owner: psycopg.Connection[Any], migrated_url: str, tmp_path: Path) -> dict[str, str]:
    """Return an environment in which the doctor finds no problem."""
    for folder in ("spool", "store"):
        (tmp_path / folder).mkdir()
    return environment(
        DATABASE_URL=as_worker(migrated_url),
        SPOOL_DIR=str(tmp_path / "spool"),
        STORE_URL=(tmp_path / "store").as_uri(),
    )


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    """An S3 server with the bucket `documents`."""
    with SeaweedServer(tmp_path_factory.mktemp("seaweed")) as server:
        server.create_bucket("documents")
        yield server


@pytest.fixture
def fault_server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


def as_worker(url: str) -> str:
    return at(url, urlsplit(url).netloc.rpartition("@")[2])


def at(url: str, address: str) -> str:
    return urlsplit(url)._replace(netloc=f"{WORKER}:{PASSWORD}@{address}").geturl()


def examine_all(env: dict[str, str], *arguments: str, code: int) -> Findings:
    """Run the doctor, assert its exit code, and return its findings by check. No check may have two findings."""
    done = reactor("doctor", "--json", *arguments, env=env)
    assert done.returncode == code, done.stdout + done.stderr
    findings = json.loads(done.stdout)
    by_check = {finding["check"]: finding for finding in findings}
    assert len(by_check) == len(findings), findings
    for finding in findings:
        assert set(finding) == {"check", "verdict", "seen", "fix"}
        assert bool(finding["fix"]) is (finding["verdict"] in {"problem", "warning"})
    return by_check


def examine_traces(**variables: str) -> Findings:
    """Run only the check of the traces, in this process."""
    return {finding.check: asdict(finding) for finding in examine([traces_group(variables)])}


def problems(findings: Findings) -> set[str]:
    """Return the names of the checks that found a problem."""
    return {check for check, finding in findings.items() if finding["verdict"] == "problem"}


def assert_finds(findings: Findings, check: str, seen: str, fix: str) -> None:
    """Assert that only this check found a problem, and that `seen` and `fix` are in its text."""
    assert problems(findings) == {check}, findings
    assert seen in findings[check]["seen"]
    assert fix in findings[check]["fix"]


# no problem


def test_a_working_installation_has_no_problem(env: dict[str, str], tmp_path: Path) -> None:
    findings = examine_all(env, code=0)
    assert list(findings) == [
        "settings",
        "database",
        "server version",
        "primary",
        "migrations",
        "role",
        "row level security",
        "refused rows",
        "listen",
        "notification queue",
        "clock",
        "spool default",
        "store",
        "traces",
    ]
    may_warn = {"spool default", "store"}
    assert {check for check, finding in findings.items() if finding["verdict"] != "ok"} <= may_warn
    assert "direct connection" in findings["listen"]["seen"]
    assert list((tmp_path / "spool").iterdir()) == list((tmp_path / "store").iterdir()) == []


def test_as_text_it_prints_a_line_for_each_finding_and_its_fix(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "spool").rmdir()
    done = reactor("doctor", env=env)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    [index] = [number for number, line in enumerate(lines) if line.startswith("problem  spool default")]
    assert "No such file or directory" in lines[index]
    assert "fix: " in lines[index + 1]
    assert "REACTOR_SPOOL_DIR" in lines[index + 1]
    assert done.stderr.startswith("1 problem, ")
    assert "\x1b" not in done.stdout


def test_invalid_settings_are_findings_and_exit_2(env: dict[str, str]) -> None:
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
    with running_pgbouncer(as_worker(migrated_url), reachable_folder, mode=mode) as pooled:
        findings = examine_all(env | {"REACTOR_DATABASE_URL": pooled}, code=1)
        assert_finds(findings, "listen", "transaction pooler", "REACTOR_LISTEN_URL")

        listening_directly = {"REACTOR_DATABASE_URL": pooled, "REACTOR_LISTEN_URL": as_worker(migrated_url)}
        findings = examine_all(env | listening_directly, code=0)
        assert "direct connection" in findings["listen"]["seen"]

        findings = examine_all(env | {"REACTOR_LISTEN_URL": pooled}, code=1)
        assert_finds(findings, "listen", "REACTOR_LISTEN_URL leads through", "direct connection")


def test_a_session_pooler_is_a_warning(env: dict[str, str], migrated_url: str, reachable_folder: Path) -> None:
    with running_pgbouncer(as_worker(migrated_url), reachable_folder, mode="session") as pooled:
        findings = examine_all(env | {"REACTOR_DATABASE_URL": pooled}, code=0)
    assert findings["listen"]["verdict"] == "warning"
    assert "session mode" in findings["listen"]["seen"]
    assert "REACTOR_LISTEN_URL" in findings["listen"]["fix"]


def test_listening_to_another_database_is_found(env: dict[str, str], server_url: str) -> None:
    findings = examine_all(env | {"REACTOR_LISTEN_URL": server_url}, code=1)
    assert_finds(findings, "listen", "another database", "same database")


def test_a_database_that_is_not_migrated_is_found(env: dict[str, str], database_url: str) -> None:
    findings = examine_all(env | {"REACTOR_DATABASE_URL": database_url}, code=1)
    assert_finds(findings, "migrations", "are not applied", "reactor migrate")
    assert findings["role"]["verdict"] == findings["row level security"]["verdict"] == "skipped"
    assert findings["listen"]["verdict"] == "ok"


def test_a_missing_migration_is_found(env: dict[str, str], owner: psycopg.Connection[Any]) -> None:
    owner.execute("delete from reactor.migration where name = 'migrations/0007_index_sources_and_runs.sql'")
    assert_finds(examine_all(env, code=1), "migrations", "0007_index_sources_and_runs", "reactor migrate")


def test_an_edited_migration_is_found(env: dict[str, str], owner: psycopg.Connection[Any]) -> None:
    owner.execute("update reactor.migration set checksum = '' where name like 'migrations/0003%'")
    assert_finds(examine_all(env, code=1), "migrations", "0003_create_plans_and_usage.sql edited", "restore")


def test_a_missing_grant_is_found(env: dict[str, str], owner: psycopg.Connection[Any]) -> None:
    owner.execute("revoke execute on function reactor.claim_uploads from reactor_worker")
    assert_finds(examine_all(env, code=1), "role", "may not execute reactor.claim_uploads", "grant execute on function")


def test_a_schema_that_the_role_may_not_use_is_found(env: dict[str, str], owner: psycopg.Connection[Any]) -> None:
    owner.execute("revoke usage on schema reactor from reactor_worker")
    findings = examine_all(env, code=1)
    assert "permission denied" in findings["migrations"]["seen"]
    assert "reactor_worker" in findings["migrations"]["fix"]


def test_hidden_rows_are_found(env: dict[str, str], owner: psycopg.Connection[Any]) -> None:
    owner.execute("drop policy reactor_worker_reads on public.upload_queue")
    assert_finds(examine_all(env, code=1), "role", "hides rows of public.upload_queue", "policy")


def test_a_superuser_is_a_warning(env: dict[str, str], migrated_url: str) -> None:
    findings = examine_all(env | {"REACTOR_DATABASE_URL": migrated_url}, code=0)
    assert findings["role"]["verdict"] == "warning"
    assert "superuser" in findings["role"]["seen"]
    assert "reactor_worker" in findings["role"]["fix"]


def test_row_level_security_that_is_off_is_found(env: dict[str, str], owner: psycopg.Connection[Any]) -> None:
    tables = ("public.quota_plans", "public.sources", "reactor.instance")
    for table in tables:
        owner.execute(f"alter table {table} disable row level security".encode())
    fix = "alter table public.quota_plans enable row level security`, for each of them"
    assert_finds(examine_all(env, code=1), "row level security", f"off for {', '.join(tables)}: ", fix)


@pytest.mark.skipif(not FORCES, reason="no migration of this version forces row level security")
def test_row_level_security_that_is_not_forced_is_found(env: dict[str, str], owner: psycopg.Connection[Any]) -> None:
    owner.execute("alter table public.upload_queue no force row level security")
    fix = "alter table public.upload_queue force row level security"
    assert_finds(examine_all(env, code=1), "row level security", "not forced for public.upload_queue", fix)


def test_a_standby_is_found(env: dict[str, str], reachable_folder: Path) -> None:
    server = EmbeddedPostgres(reachable_folder / "postgres", durable=False)
    with server:
        migrate(server.url)
    (server.data_dir / "standby.signal").touch()
    with server:
        findings = examine_all(env | {"REACTOR_DATABASE_URL": server.url}, code=1)
    assert_finds(findings, "primary", "standby", "target_session_attrs=read-write")
    assert findings["listen"]["verdict"] == "skipped"


def test_a_listener_that_does_not_read_is_found(env: dict[str, str], reachable_folder: Path) -> None:
    smallest = {"max_notify_queue_pages": "64"}
    with EmbeddedPostgres(reachable_folder / "postgres", durable=False, options=smallest) as server:
        migrate(server.url)
        with psycopg.connect(server.url) as stuck, psycopg.connect(server.url, autocommit=True) as conn:
            stuck.execute("listen anything")
            stuck.commit()
            stuck.execute("select")  # opens a transaction, during which the session receives no notification
            conn.execute("select pg_notify('anything', repeat('x', 7000) || n) from generate_series(1, 8) as n")
            findings = examine_all(env | {"REACTOR_DATABASE_URL": server.url}, code=0)
            assert findings["notification queue"]["verdict"] == "warning"

            conn.execute("select pg_notify('anything', repeat('y', 7000) || n) from generate_series(1, 40) as n")
            findings = examine_all(env | {"REACTOR_DATABASE_URL": server.url}, code=1)
            assert_finds(findings, "notification queue", "the triggers do not notify", "pg_terminate_backend")


def test_clock_skew_is_found(env: dict[str, str]) -> None:
    faketime = shutil.which("faketime")
    if faketime is None:
        pytest.skip("faketime is not installed: apt-get install faketime")
    for offset, code in (("-8s", 1), ("+8s", 1), ("-2s", 0)):
        command = [faketime, "-f", offset, sys.executable, "-m", "reactor", "doctor", "--json"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=50, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        findings = {finding["check"]: finding for finding in json.loads(done.stdout)}
        if code:
            direction = "ahead of" if offset == "-8s" else "behind"
            assert_finds(findings, "clock", direction, "NTP")


# the spool and the store


def test_an_unusable_spool_is_found(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    # not even root can create a file in /proc
    spools = f"proc=/proc,file={tmp_path / 'file'},missing={tmp_path / 'missing'}"
    findings = examine_all(env | {"REACTOR_SPOOLS": spools}, code=1)
    assert problems(findings) == {"spool proc", "spool file", "spool missing"}
    assert "can't be written to" in findings["spool proc"]["seen"]
    assert "can't be opened (Not a directory)" in findings["spool file"]["seen"]
    assert "can't be opened (No such file or directory)" in findings["spool missing"]["seen"]
    assert all("REACTOR_SPOOLS" in findings[check]["fix"] for check in problems(findings))


def test_an_unusable_store_folder_is_found_and_not_created(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    findings = examine_all(env | {"REACTOR_STORE_URL": (tmp_path / "file" / "store").as_uri()}, code=1)
    assert_finds(findings, "store", "Not a directory", "REACTOR_STORE_URL")

    findings = examine_all(env | {"REACTOR_STORE_URL": (tmp_path / "a" / "store").as_uri()}, code=0)
    assert findings["store"]["verdict"] == "warning"
    assert not (tmp_path / "a").exists()


def s3(env: dict[str, str], variables: dict[str, str]) -> dict[str, str]:
    return env | {"REACTOR_STORE_URL": "s3://"} | variables


@pytest.mark.s3
class TestBuckets:
    def test_the_bucket_of_a_queued_upload_is_probed_and_left_empty(
        self, env: dict[str, str], owner: psycopg.Connection[Any], s3_server: SeaweedServer
    ) -> None:
        queue_an_upload(owner, "documents")
        findings = examine_all(s3(env, s3_server.environment), code=0)
        assert findings["bucket documents"]["verdict"] == "ok"
        client = s3_server.client()
        assert client.list_objects_v2(Bucket="documents")["KeyCount"] == 0
        client.close()

    def test_no_known_bucket_is_a_warning(self, env: dict[str, str], s3_server: SeaweedServer) -> None:
        findings = examine_all(s3(env, s3_server.environment), code=0)
        assert findings["store"]["verdict"] == "ok"
        assert findings["buckets"]["verdict"] == "warning"
        assert "--bucket" in findings["buckets"]["fix"]

    def test_a_missing_bucket_is_found(self, env: dict[str, str], s3_server: SeaweedServer) -> None:
        buckets = ("--bucket", "documents", "--bucket", "dokuments")
        findings = examine_all(s3(env, s3_server.environment), *buckets, code=1)
        assert_finds(findings, "bucket dokuments", "NoSuchBucket", "create the bucket dokuments")
        assert findings["bucket documents"]["verdict"] == "ok"

    def test_bad_credentials_are_found(self, env: dict[str, str], s3_server: SeaweedServer) -> None:
        for variable, error in (
            ("AWS_SECRET_ACCESS_KEY", "SignatureDoesNotMatch"),
            ("AWS_ACCESS_KEY_ID", "InvalidAccessKeyId"),
        ):
            variables = s3_server.environment | {variable: "wrong"}
            findings = examine_all(s3(env, variables), "--bucket", "documents", code=1)
            assert_finds(findings, "bucket documents", error, "AWS_SECRET_ACCESS_KEY")


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
    findings = examine_all(s3(env, variables), "--bucket", "documents", code=1)
    assert_finds(findings, "store", "can't be reached", "AWS_ENDPOINT_URL")
    assert findings["buckets"]["verdict"] == "skipped"


def test_missing_credentials_are_found(env: dict[str, str]) -> None:
    variables = aws.environment(f"http://{CLOSED}", access_key="", secret_key="")
    assert_finds(examine_all(s3(env, variables), code=1), "store", "AWS_ACCESS_KEY_ID", "AWS_")


def puts_only(otherwise: Fault) -> Fault:
    """Return a fault for FaultServer: each PUT is stored, and `otherwise` handles every other request."""

    def answer(request: Request) -> None:
        (stores if request.command == "PUT" else otherwise)(request)

    return answer


def credentials_for(server: FaultServer) -> dict[str, str]:
    return aws.environment(server.endpoint, access_key="key", secret_key="secret")


def test_a_store_that_refuses_deletes_is_a_warning(env: dict[str, str], fault_server: FaultServer) -> None:
    """The reactor itself needs only PutObject."""
    fault_server.fault = puts_only(answers(403, "AccessDenied"))
    findings = examine_all(s3(env, credentials_for(fault_server)), "--bucket", "documents/in/", code=0)
    assert findings["bucket documents"]["verdict"] == "warning"
    assert "s3:DeleteObject" in findings["bucket documents"]["fix"]
    [probe] = fault_server.objects
    assert probe.startswith("/documents/in/.reactor-doctor-")
    assert probe.removeprefix("/documents/") in findings["bucket documents"]["seen"]


def accepts_if(accepted: Callable[[Request], bool], status: int, code: str) -> Fault:
    """Return a fault of a store that refuses puts, except those that `accepted` is true for."""
    refuses = answers(status, code)

    def answer(request: Request) -> None:
        faults = request.server.faults
        if request.command == "PUT" and accepted(request):
            stores(request)
            faults.objects["content"] = faults.objects[request.path]
        elif request.command == "PUT":
            refuses(request)
        else:
            is_object = request.command == "GET" and "reactor-doctor" in request.path
            request.answer(200, faults.objects["content"] if is_object else b"")

    return answer


def has_no_checksum(request: Request) -> bool:
    return "x-amz-checksum-sha256" not in request.headers


def has_the_bucket_in_its_host(request: Request) -> bool:
    return request.headers["Host"].startswith("documents.")


def has_encryption(value: str) -> Callable[[Request], bool]:
    return lambda request: request.headers.get("x-amz-server-side-encryption") == value


@pytest.mark.parametrize(
    ("accepted", "answer", "setting"),
    [
        (has_no_checksum, (400, "InvalidArgument"), "CHECKSUM=off"),
        (has_no_checksum, (501, "NotImplemented"), "CHECKSUM=off"),
        (has_the_bucket_in_its_host, (403, "SecondLevelDomainForbidden"), "ADDRESSING=virtual"),
        (has_the_bucket_in_its_host, (404, ""), "ADDRESSING=virtual"),
        (has_encryption("AES256"), (403, "AccessDenied"), "SSE=AES256"),
        (has_encryption("aws:kms"), (400, "InvalidRequest"), "SSE=aws:kms"),
    ],
)
def test_the_setting_that_a_store_needs_is_named(
    env: dict[str, str],
    fault_server: FaultServer,
    accepted: Callable[[Request], bool],
    answer: tuple[int, str],
    setting: str,
) -> None:
    """The server is a proxy for the endpoint, so that a bucket in the host's name leads to it too."""
    status, code = answer
    fault_server.fault = accepts_if(accepted, status, code)
    through = {"AWS_ENDPOINT_URL": "http://store.test", "HTTP_PROXY": fault_server.endpoint}
    variables = s3(env, credentials_for(fault_server)) | through
    findings = examine_all(variables, "--bucket", "documents", code=1)
    assert_finds(findings, "bucket documents", str(status), f"set REACTOR_S3_{setting}:")

    name, _, value = setting.partition("=")
    findings = examine_all(variables | {f"REACTOR_S3_{name}": value}, "--bucket", "documents", code=0)
    assert findings["bucket documents"]["verdict"] == "ok"


def test_a_store_that_refuses_the_reactor_is_found_without_a_bucket(
    env: dict[str, str], fault_server: FaultServer
) -> None:
    fault_server.fault = answers(400, "ExpiredToken")
    findings = examine_all(s3(env, credentials_for(fault_server)), code=1)
    assert "ExpiredToken" in findings["buckets"]["seen"]
    assert "AWS_SESSION_TOKEN" in findings["buckets"]["fix"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [("AWS_ACCESS_KEY_ID", "key\n"), ("AWS_WEB_IDENTITY_TOKEN_FILE", "/missing"), ("AWS_PROFILE", "missing")],
)
def test_a_variable_of_the_credentials_is_named(
    env: dict[str, str], fault_server: FaultServer, variable: str, value: str
) -> None:
    variables = credentials_for(fault_server)
    if variable == "AWS_WEB_IDENTITY_TOKEN_FILE":
        del variables["AWS_ACCESS_KEY_ID"], variables["AWS_SECRET_ACCESS_KEY"]
    findings = examine_all(s3(env, variables) | {variable: value}, code=1)
    assert_finds(findings, "store", variable, "AWS_")


def test_a_store_that_loses_an_accepted_object_is_found(env: dict[str, str], fault_server: FaultServer) -> None:
    fault_server.fault = puts_only(answers(404, "NoSuchKey"))
    findings = examine_all(s3(env, credentials_for(fault_server)), "--bucket", "documents", code=1)
    assert problems(findings) == {"bucket documents"}
    assert "did not return it" in findings["bucket documents"]["seen"]


# the collector


def test_a_collector_that_accepts_traces_is_ok(env: dict[str, str], fault_server: FaultServer) -> None:
    fault_server.fault = answers(200)
    findings = examine_all(env | {"OTEL_EXPORTER_OTLP_ENDPOINT": fault_server.endpoint}, code=0)
    assert findings["traces"]["verdict"] == "ok"
    assert fault_server.requests == ["POST /v1/traces"]

    findings = examine_all(env | {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{fault_server.endpoint}/as/it/is"}, code=0)
    assert fault_server.requests[-1] == "POST /as/it/is"


def test_the_configured_headers_are_sent_to_the_collector(fault_server: FaultServer) -> None:
    received = []

    def records_headers(request: Request) -> None:
        received.append((request.headers["authorization"], request.headers["content-type"]))
        answers(200)(request)

    fault_server.fault = records_headers
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": fault_server.endpoint}
    variables["OTEL_EXPORTER_OTLP_HEADERS"] = "authorization=Bearer%20x,other=1"
    assert examine_traces(**variables)["traces"]["verdict"] == "ok"
    assert received == [("Bearer x", "application/x-protobuf")]


def test_a_dead_collector_is_found() -> None:
    findings = examine_traces(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://{CLOSED}")
    assert_finds(findings, "traces", "Connection refused", "OTEL_EXPORTER_OTLP_ENDPOINT")


def test_an_unsupported_protocol_is_found(fault_server: FaultServer) -> None:
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": fault_server.endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}
    assert_finds(examine_traces(**variables), "traces", "'http/json'", "http/protobuf")
    assert fault_server.requests == []


@pytest.mark.parametrize(
    ("status", "fix"),
    [(404, "4318"), (302, "4318"), (401, "OTEL_EXPORTER_OTLP_HEADERS"), (503, "start the collector")],
)
def test_an_endpoint_that_refuses_traces_is_found(fault_server: FaultServer, status: int, fix: str) -> None:
    fault_server.fault = answers(status, location="/elsewhere")
    findings = examine_traces(OTEL_EXPORTER_OTLP_ENDPOINT=fault_server.endpoint)
    assert_finds(findings, "traces", str(status), fix)
    assert fault_server.requests == ["POST /v1/traces"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [("TRACES_ENDPOINT", "127.0.0.1:4318"), ("HEADERS", "x-key secret"), ("CERTIFICATE", "/none.pem")],
)
def test_an_invalid_variable_is_found(variable: str, value: str) -> None:
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{CLOSED}", f"OTEL_EXPORTER_OTLP_{variable}": value}
    findings = examine_traces(**variables)
    assert problems(findings) == {"traces"}
    assert_finds(findings, "traces", f"OTEL_EXPORTER_OTLP_{variable} must", "correct the variable")


def test_the_port_of_otlp_over_grpc_is_recognised() -> None:
    """The finding is the same whether or not a gRPC server listens on port 4317 of this machine."""
    findings = examine_traces(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:4317")
    assert_finds(findings, "traces", "127.0.0.1:4317", "HTTP's is 4318")


# time limits and secrets


@contextmanager
def silent_server() -> Iterator[str]:
    """Yield the address of a socket that never accepts: the kernel completes connections, but no server answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield "{}:{}".format(*server.getsockname())


def test_it_ends_in_time_when_everything_hangs(env: dict[str, str], tmp_path: Path) -> None:
    with ExitStack() as stack:
        database, listen, store, traces = (stack.enter_context(silent_server()) for _ in range(4))
        variables = {
            "REACTOR_DATABASE_URL": f"postgresql://x@{database}/x",
            "REACTOR_LISTEN_URL": f"postgresql://x@{listen}/x",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{traces}",
        }
        hanging = s3(env, aws.environment(f"http://{store}", access_key="key", secret_key="secret")) | variables
        started_at = time.monotonic()
        findings = examine_all(hanging, "--bucket", "documents", code=1)
        elapsed_s = time.monotonic() - started_at
    assert problems(findings) == {"database", "store", "traces"}
    assert findings["spool default"]["verdict"] != "problem"
    assert elapsed_s < 20.0  # 8 s for the checks; the rest is the start of Python on a busy machine


def test_a_hanging_connection_stops_only_the_checks_of_its_group(
    env: dict[str, str], owner: psycopg.Connection[Any], migrated_url: str
) -> None:
    """A statement that waits for a lock hangs like a dead server."""
    with psycopg.connect(migrated_url) as other:
        other.execute("lock table pg_catalog.pg_roles, pg_catalog.pg_authid in access exclusive mode")
        findings = examine_all(env, code=1)
    assert problems(findings) <= {"database", "listen"}
    assert "clock" in findings
    assert findings["store"]["verdict"] != "problem"


def test_no_secret_is_printed(env: dict[str, str], migrated_url: str, fault_server: FaultServer) -> None:
    address = urlsplit(migrated_url).netloc.rpartition("@")[2]
    path = urlsplit(migrated_url).path
    fault_server.fault = answers(403, "AccessDenied", f"not with http://x:{SECRET}@host/{SECRET}")
    secrets = {
        "REACTOR_HTTP_TOKEN": SECRET,
        "REACTOR_STORE_URL": "s3://",
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization={SECRET},{SECRET}",
        **aws.environment(fault_server.endpoint, access_key=f"key-{SECRET}", secret_key=SECRET),
        "AWS_SESSION_TOKEN": SECRET,
    }
    hosts = (address, CLOSED, "no-such-host.invalid:5432")
    collectors = (fault_server.endpoint, f"http://{CLOSED}", "http://[", "gopher://x", "http://x:y z")
    cases = [
        {
            "REACTOR_DATABASE_URL": f"postgresql://{WORKER}:{SECRET}@{host}{path}",
            "REACTOR_LISTEN_URL": f"postgresql://{WORKER}:{SECRET}@{host}{path}",
            "OTEL_EXPORTER_OTLP_ENDPOINT": with_user(endpoint),
        }
        for host, endpoint in zip((*hosts, address, address), collectors, strict=True)
    ]
    cases.append(
        {"OTEL_EXPORTER_OTLP_HEADERS": f"authorization=a%0Ab{SECRET}", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}
    )
    cases.append({"REACTOR_DATABASE_URL": f"postgresql://x:{SECRET}@h:{SECRET}/x"})
    cases.append({"REACTOR_STORE_URL": f"ftp://x:{SECRET}@host/x"})
    for variables in cases:
        # the text output has all facts of the JSON, and a summary
        done = reactor("doctor", "--bucket", "documents", env=env | secrets | variables)
        assert done.returncode in {1, 2}
        assert SECRET not in done.stdout + done.stderr, done.stdout + done.stderr
    for variables in (cases[0], cases[-1]):  # one with valid settings, one with invalid ones
        done = reactor("doctor", "--json", "--bucket", "documents", env=env | secrets | variables)
        assert json.loads(done.stdout)
        assert SECRET not in done.stdout + done.stderr, done.stdout + done.stderr


def with_user(endpoint: str) -> str:
    """Return the URL with a secret as its password."""
    scheme, _, rest = endpoint.partition("://")
    return f"{scheme}://user:{SECRET}@{rest}"
