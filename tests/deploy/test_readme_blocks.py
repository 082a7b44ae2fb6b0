"""Every code block of every README runs, and every path, link, command and setting that a README names exists.

A comment on the line above a block changes how the block is tested: `not run: reason`, `run by: path of a test`, or
`test command` for a command that .ci/run runs. TypeScript blocks are checked by tests/deploy/test_readme_typescript.py.
"""

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import click
import psycopg
import pytest
from attrs import frozen
from support import aws
from support.deploy_files import variables
from support.markdown import READMES, ROOT, Block, anchors, blocks, blocks_of, prose
from support.process import Running, environment, running
from support.servers.fault_server import FaultServer

from reactor.cli import main
from reactor.client.interpretation import Interpretation
from reactor.core.errors import StoragePending

ALL = [block for path in READMES for block in blocks(path)]
LANGUAGES = {"sh", "sql", "python", "ts", "text"}
NOT_RUN_AT_MOST = 6
NOT_FILES = {"reactor.toml", "deploy/.env", "figures.json", "migration.sql", "NAME/PREFIX/"}
"""Names of files and folders that users choose, so the repository need not contain them."""

PLACEHOLDER = re.compile(r"/X/|_x\.|test_Y|^x\.|/x\.|NNNN")
EXAMPLE_DATABASE = re.compile(r"postgresql://\S+@db\.example\.org:5432/postgres")
EXAMPLE_SPOOL = "/var/spool/app"
EXAMPLE_ADDRESS = "http://127.0.0.1:8321"
BASH = "/bin/bash"


def name_of(value: Path | Block) -> str:
    """Return the id of a test's parameter."""
    return value.name if isinstance(value, Block) else str(value.relative_to(ROOT))


def section(path: str, heading: str) -> str:
    """Return the text from a heading of the second level to the next such heading."""
    return (ROOT / path).read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]


def inline_code(path: Path) -> list[str]:
    return [code.replace("\\|", "|") for code in re.findall(r"`([^`\n]+)`", prose(path))]


# links, files, commands and settings


@pytest.mark.parametrize("path", READMES, ids=name_of)
def test_every_link_leads_somewhere(path: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)]+)\)", prose(path)):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("path", READMES, ids=name_of)
def test_every_file_that_is_named_exists(path: Path) -> None:
    """Paths are relative to the root, to the README's folder, or to reactor/."""
    named = {
        word
        for code in [*inline_code(path), *(block.text for block in blocks(path) if block.language == "text")]
        for word in re.findall(
            r"(?<![\w/.*-])[\w.-]+(?:/[\w.-]+)*(?:\.(?:py|sql|toml|ya?ml|md|txt|svg|png)\b|/(?=\s|$))", code
        )
        if not PLACEHOLDER.search(word)
    }
    for block in blocks(path):
        if block.language == "sh":
            named.update(re.findall(r"(?<![\w/.*-])(?:deploy|reactor|schema|tests)/[\w./-]*\w", block.text))
    roots = (ROOT, path.parent, ROOT / "reactor")
    assert sorted(word for word in named - NOT_FILES if not any((root / word).exists() for root in roots)) == []


def command_lines(path: Path) -> Iterator[list[str]]:
    """Yield each `reactor …` command line of a README, as words."""
    for code in inline_code(path):
        if code.startswith("reactor "):
            yield re.sub(r"[\[\]]", "", code).split()
    for block in blocks(path):
        if block.language == "sh":
            for line in re.findall(r"^(?:.*&& )?(reactor [a-z][^>\n]*)", block.text, re.MULTILINE):
                yield line.split()


def unknown_words(words: list[str]) -> list[str]:
    """Return the words of a command line that name no command or option of the reactor."""
    unknown: list[str] = []
    command: click.Command = main
    value_follows = False
    for word in words[1:]:
        if value_follows:
            value_follows = False
        elif word.startswith("-"):
            found = [p for p in command.params if word in p.opts or word in ("--help", "--version")]
            unknown += [] if found else [word]
            value_follows = bool(found) and isinstance(found[0], click.Option) and not found[0].is_flag
        elif isinstance(command, click.Group) and word.isascii():
            context = click.Context(command)
            found_commands = {name: command.get_command(context, name) for name in word.split("|")}
            unknown += [name for name, found_command in found_commands.items() if found_command is None]
            command = next(filter(None, found_commands.values()), command)
    return unknown


@pytest.mark.parametrize("path", READMES, ids=name_of)
def test_every_command_and_option_that_is_named_exists(path: Path) -> None:
    assert {" ".join(words): unknown_words(words) for words in command_lines(path) if unknown_words(words)} == {}


@pytest.mark.parametrize(
    ("line", "unknown"),
    [
        ("reactor frobnicate", "frobnicate"),
        ("reactor status --frobnicate", "--frobnicate"),
        ("reactor uploads list|frobnicate", "frobnicate"),
    ],
)
def test_a_command_line_that_is_wrong_is_found(line: str, unknown: str) -> None:
    assert unknown_words(line.split()) == [unknown]


def test_the_settings_that_the_readmes_list_are_those_of_the_reactor() -> None:
    surface = (ROOT / "tests/system/surface.txt").read_text().split("== settings\n")[1].split("\n\n")[0]
    settings = variables(surface)
    assert settings
    assert variables(section("deploy/README.md", "Settings")) == settings
    assert variables(section("README.md", "Configure it")) <= settings


@pytest.mark.parametrize("path", READMES, ids=name_of)
def test_every_setting_that_is_named_exists(path: Path) -> None:
    known = variables(section("deploy/README.md", "Settings"))
    assert variables(path.read_text()) <= known


# kinds of blocks


def test_every_block_has_a_language_that_a_test_runs() -> None:
    assert {block.name: block.language for block in ALL if block.language not in LANGUAGES} == {}
    assert {block.language for block in ALL} == LANGUAGES


def test_few_blocks_are_not_run_and_each_says_why() -> None:
    not_run = [block for block in ALL if block.comment.startswith("not run: ")]
    assert all(len(block.comment) > len("not run: a reason") for block in not_run)
    assert len(not_run) <= NOT_RUN_AT_MOST


def test_the_tests_that_run_a_block_exist() -> None:
    named = {block.comment.removeprefix("run by: ") for block in ALL if block.comment.startswith("run by: ")}
    assert named
    assert {path for path in named if not (ROOT / path).is_file()} == set()


@pytest.mark.parametrize("block", [block for block in ALL if block.language == "sh"], ids=name_of)
def test_every_shell_block_is_valid_bash(block: Block) -> None:
    done = subprocess.run([BASH, "-n"], input=block.text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# shell


@frozen(kw_only=True)
class Place:
    """The place where a shell block runs: a migrated database, a spool, a store, an S3 server, a running reactor."""

    env: dict[str, str]
    folder: Path
    run: Running


def with_programs(env: dict[str, str]) -> dict[str, str]:
    """Return `env` with a PATH that finds `reactor`, `pytest` and `ruff` of this virtual environment first."""
    return env | {"PATH": f"{Path(sys.executable).parent}:{env['PATH']}"}


@pytest.fixture
def place(migrated_url: str, tmp_path: Path) -> Iterator[Place]:
    """A running reactor, with one dead upload in its database."""
    spool, store = tmp_path / "spool", tmp_path / "store"
    spool.mkdir()
    store.mkdir()
    user = uuid4()
    with FaultServer() as server:
        env = environment(
            DATABASE_URL=migrated_url,
            SPOOL_DIR=str(spool),
            STORE_URL=store.as_uri(),
            HTTP_PORT="0",
            HTTP_TOKEN="t" * 32,
        ) | aws.environment(server.endpoint, access_key="key", secret_key="secret")
        env = with_programs(env)
        with running(env, cwd=tmp_path) as run:
            run.wait_until_ready()
            with psycopg.connect(migrated_url) as conn:
                [[answer]] = conn.execute(
                    "select public.fail_upload((public.reserve_upload(%s, repeat('0', 64), 1) ->> 'source_id')::uuid,"
                    " 'documents', 'a/key', 'no/such/file')",
                    (user,),
                ).fetchall()
            run.wait_for_line("SPOOL_FILE_MISSING")
            yield Place(env=env | {"UPLOAD": answer["queue_id"], "USER_ID": str(user)}, folder=tmp_path, run=run)


def script_of(block: Block, place: Place) -> str:
    """Return a block's text, with the example database, spool and address replaced by those of `place`."""
    text = EXAMPLE_DATABASE.sub(place.env["REACTOR_DATABASE_URL"], block.text)
    return text.replace(EXAMPLE_SPOOL, place.env["REACTOR_SPOOL_DIR"]).replace(EXAMPLE_ADDRESS, place.run.url)


OPERATORS = [block for block in blocks_of("sh") if block.path.parent.name != "tests"]
CONTRIBUTORS = [block for block in blocks_of("sh") if block.path.parent.name == "tests"]


def run_script(script: str, *, env: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a shell script to its end or its first failed command."""
    command = [BASH, "-euo", "pipefail", "-c", script]
    return subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("block", OPERATORS, ids=name_of)
def test_shell(block: Block, place: Place) -> None:
    script = script_of(block, place)
    if script.endswith("\nreactor run\n"):
        script = script.removesuffix("reactor run\n") + "exec reactor run\n"
        with running(place.env, cwd=place.folder, command=[BASH, "-euo", "pipefail", "-c", script]) as run:
            run.wait_until_ready()
            run.terminate()
            assert run.ended() == 0
    else:
        done = run_script(script, env=place.env, folder=place.folder)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(180)
@pytest.mark.parametrize("block", CONTRIBUTORS, ids=name_of)
def test_shell_in_the_checkout(block: Block) -> None:
    done = run_script(block.text, env=with_programs(environment()), folder=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_upload_that_a_program_retries_is_retried(place: Place, migrated_url: str) -> None:
    """The README's example succeeds, and the audit log contains the program's name."""
    [block] = [block for block in blocks_of("sh") if "/do/retry" in block.text]
    assert run_script(script_of(block, place), env=place.env, folder=place.folder).returncode == 0
    with psycopg.connect(migrated_url) as conn:
        logged = conn.execute("select actor, action, changed from reactor.audit_log").fetchall()
    assert logged == [("nightly", "retry", 1)]


# SQL


def answers_of(cursor: psycopg.Cursor[Any]) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects that the statements of a script returned."""
    while True:
        for row in cursor.fetchall() if cursor.description else []:
            yield from (value for value in row if isinstance(value, dict))
        if not cursor.nextset():
            return


@pytest.mark.parametrize("path", sorted({block.path for block in blocks_of("sql")}), ids=name_of)
def test_sql(path: Path, migrated_url: str) -> None:
    """The blocks of one README run in order. A call must fail if a comment shows its error code, and only then."""
    with psycopg.connect(migrated_url) as conn:
        for block in (block for block in blocks_of("sql") if block.path == path):
            expected = re.findall(r'^-- \{"ok": false, "code": "([A-Z_]+)"', block.text, re.MULTILINE)
            answers = list(answers_of(conn.execute(block.text.encode())))
            assert [answer["code"] for answer in answers if answer.get("ok") is False] == expected, block.name
        conn.rollback()


def test_the_upload_of_the_readme_is_stored(migrated_url: str, tmp_path: Path) -> None:
    [block] = [
        block for block in blocks(ROOT / "README.md") if "reserve_upload" in block.text and block.language == "sql"
    ]
    spool, store = tmp_path / "spool", tmp_path / "store"
    spool.mkdir()
    store.mkdir()
    (spool / "hello-1").write_bytes(b"hello")
    env = environment(DATABASE_URL=migrated_url, SPOOL_DIR=str(spool), STORE_URL=store.as_uri(), HTTP_PORT="0")
    with running(env, cwd=tmp_path) as run, psycopg.connect(migrated_url) as conn:
        run.wait_until_ready()
        conn.execute(block.text.encode())
        conn.commit()
        run.wait_for_line("stored 5 bytes")
        assert conn.execute("select storage_status from public.sources").fetchall() == [("uploaded",)]
    assert (store / "documents/hello.txt").read_bytes() == b"hello"


# Python


class StoreError(Exception):
    """The app's store failed."""


@pytest.fixture
async def namespace(migrated_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Names that the README's examples expect the surrounding app to define."""
    content = b"a report"
    for name, value in environment(DATABASE_URL=migrated_url, SPOOL_DIR=str(tmp_path), HTTP_PORT="0").items():
        if name.startswith("REACTOR_"):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("REACTOR_STORE_URL", tmp_path.as_uri())

    async def put(_content: bytes) -> str:
        return "s3://documents/report.pdf"

    async def interpret(run: Interpretation) -> None:
        assert isinstance(run, Interpretation)

    async with await psycopg.AsyncConnection.connect(migrated_url, autocommit=True) as conn:
        await conn.execute("listen reactor_peers")

        async def serve() -> None:
            """Return when the reactor has joined."""
            async for _ in conn.notifies(timeout=30, stop_after=1):
                return
            pytest.fail("no reactor joined within 30 s")

        yield {
            "dsn": migrated_url,
            "user_id": uuid4(),
            "content": content,
            "sha256_hex": sha256(content).hexdigest(),
            "StoreError": StoreError,
            "put": put,
            "spool": lambda content, name: (tmp_path / name).write_bytes(content),
            "interpret": interpret,
            "serve": serve,
        }


async def execute(block: Block, namespace: dict[str, Any]) -> None:
    """Run a block that may await at its top level."""
    code = compile(block.text, block.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(code, namespace)  # noqa: S307  # the project's own READMEs
    if inspect.iscoroutine(result):
        await result


@pytest.mark.parametrize("block", blocks_of("python"), ids=name_of)
async def test_python(block: Block, namespace: dict[str, Any]) -> None:
    await execute(block, namespace)


CLIENT = next(block for block in blocks(ROOT / "README.md") if "ReactorClient(" in block.text)


async def test_the_client_s_example_stores_and_interprets(namespace: dict[str, Any], migrated_url: str) -> None:
    await execute(CLIENT, namespace)
    with psycopg.connect(migrated_url) as conn:
        statement = (
            "select s.storage_status, r.status from public.sources as s"
            " join public.interpretation_runs as r on r.source_id = s.id"
        )
        assert conn.execute(statement).fetchall() == [("uploaded", "completed")]


async def test_the_client_s_example_queues_an_upload_that_its_store_refused(
    namespace: dict[str, Any], migrated_url: str, tmp_path: Path
) -> None:
    async def fails(_content: bytes) -> str:
        raise StoreError("the store timed out")

    with pytest.raises(StoragePending):  # an upload that isn't stored can't be interpreted
        await execute(CLIENT, namespace | {"put": fails})
    with psycopg.connect(migrated_url) as conn:
        rows = conn.execute("select user_id, temp_file_path, error_message from public.upload_queue").fetchall()
    user_id: UUID = namespace["user_id"]
    assert rows == [(user_id, "report-17", "the store timed out")]
    assert (tmp_path / "report-17").read_bytes() == namespace["content"]
