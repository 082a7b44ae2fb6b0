"""Faults of credentials: at start, one line that names the variable; later, a refusal that no upload pays for."""

import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import aws
from support.servers.fault_server import Fault, FaultServer, Request, stalls, stores
from support.spooled import CONTENT, body_of

from reactor.core.errors import ConfigInvalid, StorageRefused, StorageUnavailable
from reactor.core.refusal import Guard, Scope
from reactor.storage.stores.s3 import S3Store

ROLE = "arn:aws:iam::123456789012:role/reactor"
Use = Callable[..., None]


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


@pytest.fixture
def use(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> Use:
    """Return a function that sets the AWS_* variables; without keys, unless they are given."""

    def set_variables(**variables: str) -> None:
        base = aws.environment(server.endpoint, access_key="", secret_key="")
        del base["AWS_ACCESS_KEY_ID"], base["AWS_SECRET_ACCESS_KEY"]
        aws.use(base | {"AWS_ENDPOINT_URL_STS": server.endpoint} | variables, monkeypatch)

    return set_variables


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], str]:
    """Return a function that writes a file and returns its path."""

    def write(name: str, content: str | bytes) -> str:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return str(tmp_path / name)

    return write


def put(store: S3Store, key: str = "key") -> None:
    with body_of(CONTENT) as body:
        store.put("bucket", key, body, mime_type=None)


def put_ten(store: S3Store, number: int) -> None:
    for key in range(10):
        put(store, f"{number}/{key}")


def keys_of(server: FaultServer) -> list[str]:
    """Return the access key of each put."""
    signed = [headers["Authorization"] for headers in server.headers]
    return [text.partition("Credential=")[2].partition("/")[0] for text in signed]


KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
WEB_IDENTITY = {"AWS_ROLE_ARN": ROLE, "AWS_WEB_IDENTITY_TOKEN_FILE": "/missing"}

FAULTS = [
    (WEB_IDENTITY, None, "AWS_WEB_IDENTITY_TOKEN_FILE"),
    ({**WEB_IDENTITY, "AWS_WEB_IDENTITY_TOKEN_FILE": "/"}, None, "AWS_WEB_IDENTITY_TOKEN_FILE"),
    ({"AWS_WEB_IDENTITY_TOKEN_FILE": "/missing"}, None, "AWS_WEB_IDENTITY_TOKEN_FILE"),
    ({}, "[default]\ncredential_process = /missing/program\n", "credential_process"),
    ({}, "[default]\ncredential_process = /etc/passwd\n", "credential_process"),
    ({}, "[default]\ncredential_process = /bin/echo hello\n", "credential_process"),
    ({}, "[default]\ncredential_process = /bin/echo []\n", "credential_process"),
    ({}, '[default]\ncredential_process = /bin/echo "\n', "credential_process"),
    ({}, "[default]\ncredential_process = /bin/false\n", "credential_process"),
    ({**KEYS, "AWS_ACCESS_KEY_ID": "key\n"}, None, "AWS_ACCESS_KEY_ID"),
    ({**KEYS, "AWS_SECRET_ACCESS_KEY": "secret\n"}, None, "AWS_SECRET_ACCESS_KEY"),
    ({**KEYS, "AWS_SESSION_TOKEN": "token\r\n"}, None, "AWS_SESSION_TOKEN"),
    ({**KEYS, "AWS_ACCESS_KEY_ID": "kéy"}, None, "AWS_ACCESS_KEY_ID"),
    ({"AWS_ACCESS_KEY_ID": "key"}, None, "AWS_SECRET_ACCESS_KEY"),
    ({}, "not a configuration\n", "AWS_CONFIG_FILE"),
    ({}, b"\xff\xfe[default]", "AWS_CONFIG_FILE"),
    ({}, "[default]\nrole_arn = x\nsource_profile = missing\n", "role_arn in AWS_CONFIG_FILE"),
    ({}, "[default]\nrole_arn = x\ncredential_source = Nothing\n", "role_arn in AWS_CONFIG_FILE"),
    ({}, "[default]\nsso_start_url=https://x\nsso_region=a\nsso_account_id=1\nsso_role_name=r\n", "sso_start_url"),
    ({"AWS_PROFILE": "missing"}, None, "AWS_PROFILE"),
    ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://example.org/x"}, None, "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
    ({"AWS_EC2_METADATA_DISABLED": "false", "AWS_EC2_METADATA_SERVICE_ENDPOINT": "::"}, None,
     "AWS_EC2_METADATA_SERVICE_ENDPOINT"),
    ({"AWS_EC2_METADATA_DISABLED": "false", "AWS_METADATA_SERVICE_TIMEOUT": "soon"}, None,
     "AWS_METADATA_SERVICE_TIMEOUT"),
    ({**KEYS, "AWS_DEFAULTS_MODE": "fast"}, None, "AWS_DEFAULTS_MODE"),
    ({**KEYS, "AWS_STS_REGIONAL_ENDPOINTS": "all"}, None, "AWS_STS_REGIONAL_ENDPOINTS"),
]  # fmt: skip


class TestAtStart:
    @pytest.mark.parametrize("fault", FAULTS, ids=str)
    def test_a_fault_is_one_line_that_names_the_variable(
        self, use: Use, write: Callable[[str, str | bytes], str], server: FaultServer,
        fault: tuple[dict[str, str], str | bytes | None, str],
    ) -> None:  # fmt: skip
        variables, config, named = fault
        use(**variables, **({} if config is None else {"AWS_CONFIG_FILE": write("config", config)}))
        with pytest.raises(ConfigInvalid) as caught:
            S3Store(concurrency=1).check()
        [line] = caught.value.problems
        assert named in line
        assert "\n" not in line
        assert "secret" not in line
        assert server.requests == []

    def test_a_malformed_credentials_file_is_named(self, use: Use, write: Callable[[str, str | bytes], str]) -> None:
        use(AWS_SHARED_CREDENTIALS_FILE=write("credentials", "no section\n"))
        with pytest.raises(ConfigInvalid, match="AWS_SHARED_CREDENTIALS_FILE"):
            S3Store(concurrency=1)

    def test_a_missing_file_of_certificates_is_named(self, use: Use, server: FaultServer) -> None:
        endpoint = server.endpoint.replace("http:", "https:")
        use(**KEYS, AWS_ENDPOINT_URL=endpoint, AWS_CA_BUNDLE="/missing")
        with pytest.raises(StorageRefused) as caught:
            S3Store(concurrency=1).check()
        assert "AWS_CA_BUNDLE" in caught.value.refusal.check

    def test_a_malformed_proxy_is_named(self, use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
        use(**KEYS, AWS_ENDPOINT_URL="http://store.test")
        monkeypatch.setenv("HTTP_PROXY", "http://[")
        with pytest.raises(StorageRefused) as caught:
            S3Store(concurrency=1).check()
        assert "HTTP_PROXY" in caught.value.refusal.check


def sts_answers(status: int, code: str) -> Fault:
    """Return a fault of STS. Puts are stored."""

    def fault(request: Request) -> None:
        if request.command == "POST":
            request.body()
            error = f"<ErrorResponse><Error><Code>{code}</Code><Message>no</Message></Error></ErrorResponse>"
            request.answer(status, error.encode())
        else:
            stores(request)

    return fault


class TestLater:
    @pytest.mark.parametrize(
        ("status", "code"),
        [(400, "IDPCommunicationError"), (400, "ExpiredTokenException"), (403, "IDPRejectedClaim"),
         (403, "AccessDenied"), (400, "InvalidIdentityToken"), (403, "RegionDisabledException"),
         (400, "Throttling"), (500, "InternalFailure"), (404, "ACodeThatNobodyHasListed"), (503, "")],
    )  # fmt: skip
    def test_an_answer_of_sts_is_a_refusal_of_the_reactor(
        self, use: Use, write: Callable[[str, str | bytes], str], server: FaultServer, status: int, code: str
    ) -> None:
        use(AWS_ROLE_ARN=ROLE, AWS_WEB_IDENTITY_TOKEN_FILE=write("token", "a-token"))
        server.fault = sts_answers(status, code)
        store = S3Store(concurrency=1)
        for call in (store.check, lambda: put(store)):
            with pytest.raises(StorageRefused) as caught:
                call()
            refusal = caught.value.refusal
            assert (refusal.scope, refusal.guard) == (Scope.SHARED, Guard.STORE)
            assert refusal.reason == (code or str(status))
            assert refusal.check
        assert server.requests == ["POST /", "POST /"]  # one for each call, without a retry
        store.close()

    def test_an_sts_that_cannot_be_reached_is_a_refusal_and_no_answer_to_an_upload(
        self, use: Use, write: Callable[[str, str | bytes], str], server: FaultServer
    ) -> None:
        use(
            AWS_ROLE_ARN=ROLE,
            AWS_WEB_IDENTITY_TOKEN_FILE=write("token", "a-token"),
            AWS_ENDPOINT_URL_STS="http://127.0.0.1:1",
        )
        store = S3Store(concurrency=1)
        with pytest.raises(StorageRefused, match="EndpointConnectionError") as caught:
            put(store)
        assert caught.value.refusal.check == "AWS_WEB_IDENTITY_TOKEN_FILE"
        assert server.requests == []
        store.close()

    def test_a_token_file_that_disappears_is_a_refusal(self, use: Use, server: FaultServer) -> None:
        use(AWS_ROLE_ARN=ROLE, AWS_WEB_IDENTITY_TOKEN_FILE="/missing")
        store = S3Store(concurrency=1)
        with pytest.raises(StorageRefused) as caught:
            put(store)
        assert (caught.value.refusal.reason, caught.value.refusal.check) == (
            "FileNotFoundError",
            "AWS_WEB_IDENTITY_TOKEN_FILE",
        )
        assert server.requests == []
        store.close()


class TestRenewing:
    def test_a_shared_credentials_file_is_read_again(
        self, use: Use, write: Callable[[str, str | bytes], str], server: FaultServer
    ) -> None:
        text = "[default]\naws_access_key_id = {}\naws_secret_access_key = secret\n"
        use(AWS_SHARED_CREDENTIALS_FILE=write("credentials", text.format("first")))
        store = S3Store(concurrency=1)
        put(store)
        write("credentials", text.format("second"))
        put(store)
        store.renew()
        put(store)
        assert keys_of(server) == ["first", "first", "second"]
        store.close()

    def test_a_file_that_cannot_be_read_leaves_the_earlier_credentials(
        self, use: Use, write: Callable[[str, str | bytes], str], server: FaultServer
    ) -> None:
        text = "[default]\naws_access_key_id = first\naws_secret_access_key = secret\n"
        use(AWS_SHARED_CREDENTIALS_FILE=write("credentials", text))
        store = S3Store(concurrency=1)
        for broken in ("no section\n", "", "[default]\naws_access_key_id = first\n"):
            write("credentials", broken)
            with pytest.raises(StorageRefused) as caught:
                store.renew()
            assert caught.value.refusal.check
        put(store)
        assert keys_of(server) == ["first"]
        store.close()

    def test_a_put_uses_credentials_that_botocore_refreshes(
        self, use: Use, write: Callable[[str, str | bytes], str], tmp_path: Path, server: FaultServer
    ) -> None:
        """Credentials of a process that expire in a minute are obtained anew for each put."""
        program = (
            "import datetime, json, pathlib, sys\n"
            "file = pathlib.Path(sys.argv[1])\n"
            "number = int(file.read_text()) + 1\n"
            "file.write_text(str(number))\n"
            "expires = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=1)\n"
            "print(json.dumps({'Version': 1, 'AccessKeyId': f'key{number}', 'SecretAccessKey': 'secret',\n"
            "                  'SessionToken': 't', 'Expiration': expires.isoformat()}))\n"
        )
        write("number", "0")
        command = json.dumps(f"{sys.executable} {write('program.py', program)} {tmp_path / 'number'}")[1:-1]
        use(AWS_CONFIG_FILE=write("config", f"[default]\ncredential_process = {command}\n"))
        store = S3Store(concurrency=1)
        put(store)
        put(store)
        first, second = keys_of(server)
        assert first != second
        store.close()

    def test_a_running_put_ends_with_the_client_that_it_began_with(self, use: Use, server: FaultServer) -> None:
        use(**KEYS)
        store = S3Store(concurrency=1)
        started, resume = threading.Event(), threading.Event()
        server.fault = stalls(started, resume)
        raised: list[BaseException] = []

        def run() -> None:
            try:
                put(store)
            except StorageUnavailable as exc:
                raised.append(exc)

        running = threading.Thread(target=run)
        running.start()
        started.wait()
        for _ in range(3):
            store.renew()
        resume.set()
        running.join()
        assert raised == []
        store.close()

    def test_threads_may_put_and_renew_at_the_same_time(self, use: Use, server: FaultServer) -> None:
        use(**KEYS)
        store = S3Store(concurrency=8)
        done = threading.Event()

        def renew() -> None:
            while not done.is_set():
                store.renew()

        renewing = threading.Thread(target=renew)
        renewing.start()
        threads = [threading.Thread(target=put_ten, args=(store, n)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        done.set()
        renewing.join()
        assert len(server.objects) == 40
        store.close()


def test_the_earlier_client_is_closed_once_its_puts_have_ended(use: Use, server: FaultServer) -> None:
    use(**KEYS)
    store = S3Store(concurrency=1)
    earlier = store._session
    closed: list[str] = []
    close = earlier.client.close
    earlier.client.close = lambda: (closed.append("closed"), close())  # type: ignore[method-assign,assignment,func-returns-value]
    seen: list[list[str]] = []

    def renews(request: Request) -> None:
        store.renew()
        seen.append(list(closed))
        stores(request)

    server.fault = renews
    put(store)
    assert seen == [[]]
    assert closed == ["closed"]
    store.close()
