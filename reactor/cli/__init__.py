"""The command `reactor`: one module per command, and the only place that exits.

Data goes to stdout, words to stderr. Exit codes: 0 done, 1 something failed, 2 wrong use or configuration.
"""

import gc
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from reactor import __version__
from reactor.core.errors import ConfigInvalid, InvalidArgument, ReactorError

_COMMANDS = ("run", "migrate", "reconcile", "status", "uploads", "runs", "quota", "doctor", "demo")
"""Each is the command of that name in the module of that name."""


class _Group(click.Group):
    """Turns our errors into one clear line each and an exit code; a traceback is never an answer.

    Imports a command when it is asked for: `status` needn't wait for all that `run` is made of.
    """

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        gc.disable()  # what is imported stays: to look through it for garbage is a quarter of a start
        try:
            command: click.Command = getattr(import_module(f"{__name__}.{name}"), name)
        finally:
            gc.freeze()  # nor is it looked through from now on, or at the end
            gc.enable()
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return self._invoke(ctx)
        except ConfigInvalid as error:
            for problem in error.problems:
                click.echo(f"reactor: {problem}", err=True)
            ctx.exit(2)
        except ReactorError as error:
            click.echo(f"reactor: {error.code}: {error}", err=True)
            ctx.exit(2 if isinstance(error, InvalidArgument) else 1)
        except KeyboardInterrupt:
            ctx.exit(130)
        except BrokenPipeError:  # `reactor uploads list | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)

    def _invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BaseExceptionGroup as group:  # from a task group: the first of our errors in it is the answer
            ours, _ = group.split(ReactorError)
            error: BaseException | None = ours
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            raise error or group from None


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="reactor")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="TOML file with settings (default: reactor.toml, if there is one). The environment comes first.",
)
@click.pass_context
def main(ctx: click.Context, config: Path | None) -> None:
    """Retry failed uploads at once, fail stale runs on time: an event-driven Postgres LISTEN/NOTIFY reactor.

    Settings come from REACTOR_* variables or the TOML file. Without a database configured, `reactor run` starts
    one of its own.
    """
    ctx.obj = config
