"""`reactor migrate`: create or update the schema."""

import click

from reactor.cli.context import database_url, load_settings
from reactor.cli.output import as_json, print_json, print_table
from reactor.cli.terminal import print_text, say
from reactor.core.counted import counted
from reactor.postgres.migrate import migrate as apply
from reactor.postgres.migrate import plan, schema_files


@click.command()
@click.option("--status", is_flag=True, help="Show which schema files are applied; change nothing.")
@click.option("--print", "print_sql", is_flag=True, help="Print the SQL on stdout; do not connect.")
@as_json
def migrate(*, status: bool, print_sql: bool, as_json: bool) -> None:
    """Create or update the schema in the database.

    Safe to repeat, and safe while the app runs. Connect directly, as the tables' owner with CREATEROLE (on Supabase:
    postgres). With --status, exits 1 if a schema file is not applied.
    """
    if print_sql:
        for file in schema_files():
            print_text(f"-- {file.name}\n{file.text}")
        return
    url = database_url(load_settings())
    if status:
        steps = plan(url)
        if as_json:
            print_json([{"name": step.file.name, "state": step.state} for step in steps])
        else:
            print_table(("state", "file"), [(step.state, step.file.name) for step in steps], empty="no schema files")
        raise SystemExit(0 if all(step.state == "applied" for step in steps) else 1)
    applied = apply(
        url,
        on_file=lambda name: say(f"applying {name}", err=True),
        on_warning=lambda sentence: say(f"reactor: warning: {sentence}", err=True),
    )
    if as_json:
        print_json({"applied": applied})
    else:
        say(
            f"{counted(len(applied), 'file')} applied" if applied else "nothing to do: the schema is up to date",
            err=True,
        )
