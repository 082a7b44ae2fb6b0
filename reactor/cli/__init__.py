"""The command `reactor`. Each of its commands has a module in this package.

Data goes to stdout, messages to stderr. Exit codes: 0 done, 1 something failed, 2 wrong use or configuration,
130 ended by Ctrl-C (unless the command handles Ctrl-C).
"""

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from reactor import __version__
from reactor.cli.terminal import say
from reactor.core.errors import ConfigInvalid, InvalidArgument, ReactorError
from reactor.core.printable import printable

_COMMANDS = ("run", "migrate", "reconcile", "status", "uploads", "runs", "quota", "doctor", "demo")
"""Names of commands. The module of the same name defines the command."""


class _Group(click.Group):
    """Imports a command when it is used. Prints a ReactorError without a traceback and sets the exit code."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        gc.disable()  # scanning imported objects, which are never garbage, takes 25 % of the start-up time
        try:
            command: click.Command = getattr(import_module(f"{__name__}.{name}"), name)
        finally:
            gc.freeze()  # excludes the imported objects from later collections
            gc.enable()
        return command

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with _printable_usage_errors():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return self._invoke(ctx)
        except ConfigInvalid as error:
            for problem in error.problems:
                say(f"reactor: {problem}", err=True)
            ctx.exit(2)
        except ReactorError as error:
            say(f"reactor: {error.code}: {error}", err=True)
            ctx.exit(2 if isinstance(error, InvalidArgument) else 1)
        except KeyboardInterrupt:
            ctx.exit(130)
        except BrokenPipeError:  # the reader closed the pipe: `reactor uploads list | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)

    def _invoke(self, ctx: click.Context) -> Any:
        """Invoke the command. Raises the first ReactorError of an exception group instead of the group."""
        try:
            with _printable_usage_errors():
                return super().invoke(ctx)
        except BaseExceptionGroup as group:
            reactor_errors, _ = group.split(ReactorError)
            error: BaseException | None = reactor_errors
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            raise error or group from None


@contextmanager
def _printable_usage_errors() -> Iterator[None]:
    """Replace unprintable characters in click's messages, which quote arguments and file names."""
    try:
        yield
    except click.ClickException as error:
        error.message = printable(error.message)  # type: ignore[misc]  # click prints this attribute
        raise


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="reactor")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="TOML file with settings (default: reactor.toml, if it exists). Environment variables take precedence.",
)
@click.pass_context
def main(ctx: click.Context, config: Path | None) -> None:
    """Retry failed uploads at once and fail stale runs on time, driven by PostgreSQL's LISTEN/NOTIFY.

    Settings come from REACTOR_* environment variables and a TOML file. Without a configured database, `reactor run`
    starts an embedded one.
    """
    ctx.obj = config
