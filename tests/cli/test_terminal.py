"""No value of a row, a server or a file name reaches a terminal with control characters, and JSON keeps every value."""

import ast
import io
import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from support.app import App
from support.process import reactor, settings_of

import reactor as package
from reactor.cli import main, output
from reactor.cli.terminal import say

CLI = Path(package.__file__).parent / "cli"

HOSTILE = [
    "\x1b]52;c;cm0gLXJmIC8=\x07",  # writes the clipboard
    "\x1b[2J\x1b[1;1H",
    "\x9b31m",
    "two\nlines\rover",
    "\u202egnp.exe\u2066\u200f",
    "\u2028\u2029\x85",
    "a\tb\x7f\u200b\ufeff",
]
HOSTILE_TEXT = " ".join(HOSTILE)


def is_safe(printed: str) -> bool:
    """Return whether only line ends and the tabs between cells are unprintable."""
    return printed.replace("\n", "").replace("\t", "").isprintable()


def run(*arguments: str, env: dict[str, str] | None = None) -> Any:
    return CliRunner().invoke(main, arguments, env=env)


ANY_TEXT = st.text(st.characters(exclude_categories=[]), max_size=40)


@given(st.recursive(ANY_TEXT, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3)))
def test_json_keeps_every_value_and_prints_no_control_character(value: Any) -> None:
    @click.command()
    def command() -> None:
        output.print_json(value)

    printed = CliRunner().invoke(command).output
    assert json.loads(printed) == value
    assert is_safe(printed)


@given(ANY_TEXT)
def test_a_line_a_field_and_a_cell_print_no_control_character(text: str) -> None:
    @click.command()
    def command() -> None:
        say(text, label=text, colour="red")
        output.print_fields({"name": text, "list": [text], "dict": {text: text}}, width=5)
        output.print_table(("a", "b"), [[text, 1]], empty="nothing")

    printed = CliRunner().invoke(command).output
    assert is_safe(printed)
    assert len(printed.splitlines()) == 6


@given(ANY_TEXT)
def test_a_table_on_a_terminal_contains_no_control_character_of_a_value(text: str) -> None:
    table = output.PrintableTable("a", box=None)
    table.add_row(text, style="red")
    terminal = Console(file=io.StringIO(), force_terminal=True, color_system=None, markup=False)
    terminal.print(table)
    assert isinstance(terminal.file, io.StringIO)
    assert is_safe(terminal.file.getvalue())


def test_commands_print_rows_without_control_characters(app: App) -> None:
    [upload] = app.queue_uploads(
        next_retry_at="2100-01-01",
        object_path=HOSTILE_TEXT,
        bucket=HOSTILE[1],
        error_code=HOSTILE[0],
        error_message=HOSTILE_TEXT,
        errors=json.dumps([{"attempt": 1, "at": HOSTILE[2], "code": HOSTILE[0], "message": HOSTILE_TEXT}]),
        metadata=json.dumps({HOSTILE[0]: HOSTILE_TEXT}),
    )
    run_id = app.begin_run(timeout_at="2100-01-01", error_message=HOSTILE_TEXT)
    env = settings_of(app)
    commands = [["uploads", "list"], ["uploads", "show", str(upload.id)], ["runs", "show", str(run_id)], ["status"],
                ["uploads", "purge", str(upload.id)], ["doctor"]]  # fmt: skip
    for command in commands:
        done = reactor(*command, env=env, cwd=app.spool)
        assert done.stdout + done.stderr
        assert is_safe(done.stdout + done.stderr), command
    shown = reactor("uploads", "show", str(upload.id), "--json", env=env, cwd=app.spool)
    assert is_safe(shown.stdout)
    assert json.loads(shown.stdout)["object_path"] == HOSTILE_TEXT


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize(
    "command",
    [["{}"], ["--{}"], ["uploads", "show", "{}"], ["uploads", "list", "--status", "{}"], ["uploads", "list", "--{}"],
     ["--config", "{}", "status"], ["quota", "show", "{}"], ["uploads", "list", "--limit", "{}"],
     ["runs", "{}"], ["status", "{}"], ["run", "{}"]],
)  # fmt: skip
def test_a_message_about_an_argument_has_no_control_character(command: list[str], text: str) -> None:
    done = run(*(part.format(text) for part in command), env={"REACTOR_DATABASE_URL": "nonsense"})
    assert done.exit_code == 2
    assert is_safe(done.output)


def test_an_error_of_the_server_has_no_control_character(app: App) -> None:
    """The message of an error names what the server did, here with a role's name in it."""
    url = app.url.replace("//reactor:", "//%1B%5D52%3Bx%07%0A:")
    done = reactor("status", env=settings_of(app, DATABASE_URL=url), cwd=app.spool)
    assert done.returncode == 1
    assert is_safe(done.stderr)


def calls_in(path: Path) -> set[str]:
    """Return the dotted names of the functions that a file calls, and the names that it imports from rich.table."""
    tree = ast.parse(path.read_text())
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return called & {
        "print",
        "click.echo",
        "click.secho",
        "sys.stdout.write",
        "sys.stderr.write",
        "Table",
        "Table.grid",
    }


def test_commands_print_only_through_two_files() -> None:
    assert {path.name: calls_in(path) for path in CLI.glob("*.py") if calls_in(path)} == {"terminal.py": {"click.echo"}}
