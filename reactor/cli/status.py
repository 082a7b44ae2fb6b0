"""`reactor status`: uploads, runs and reactors, once or continuously."""

import click

from reactor.cli.context import database_url, load_settings
from reactor.cli.live_view import LiveView
from reactor.cli.output import as_json, print_json
from reactor.cli.status_table import status_table
from reactor.cli.watch import console, follow, readings
from reactor.postgres.admin import Inspector, inspecting


@click.command()
@as_json
@click.option("--watch", is_flag=True, help="Repeat every two seconds until Ctrl-C.")
def status(*, as_json: bool, watch: bool) -> None:
    """Show uploads, runs and reactors.

    With --watch, shows what the live page shows: redrawn on a terminal, one table after another in a pipe. With --watch
    and --json, prints the object of --json once per line. Tables also show figures that only a running reactor knows,
    such as its timer wheel: they come from the reactor at REACTOR_HTTP_HOST and REACTOR_HTTP_PORT, if it uses this
    database. Continues through database outages. Ctrl-C and SIGTERM exit 0.
    """
    settings = load_settings()
    heartbeat_timeout_s = settings.heartbeat_timeout_s
    if watch:
        read = Inspector.status if as_json else Inspector.live_summary
        follow(
            readings(lambda: database_url(settings), lambda inspector: read(inspector, heartbeat_timeout_s)),
            None if as_json else LiveView(settings).draw,
        )
        return
    with inspecting(database_url(settings)) as inspector:
        answer = inspector.status(heartbeat_timeout_s)
        if as_json:
            print_json(answer | {"users": inspector.fullest_users()})
        else:
            console().print(status_table(answer))
