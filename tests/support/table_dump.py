"""A dump of all rows of all tables, to assert that nothing changed."""

from psycopg import sql

from support.rows import Rows

Dump = dict[str, list[str]]


def tables(rows: Rows) -> list[tuple[str, str, str]]:
    """Return schema, name and kind of all tables and views in the schemas public and reactor."""
    found = rows.all(
        "select c.relnamespace::regnamespace::text as schema, c.relname as name, c.relkind::text as kind"
        "  from pg_class as c where c.relkind in ('r', 'p', 'v', 'm', 'f')"
        "   and c.relnamespace in ('public'::regnamespace, 'reactor'::regnamespace) order by 1, 2"
    )
    return [(row.schema, row.name, row.kind) for row in found]


def dump(rows: Rows) -> Dump:
    """Return every row of every table as text.

    The text includes xmin, so the dump also differs after an update that changed no value.
    """
    return {
        f"{schema}.{name}": [
            row.text
            for row in rows.all(
                sql.SQL("select xmin::text || t::text as text from {} as t order by 1").format(
                    sql.Identifier(schema, name)
                )
            )
        ]
        for schema, name, kind in tables(rows)
        if kind in "rp"
    }
