"""A connection with nothing around it: what floors and peers are measured with."""

import psycopg


async def raw(url: str) -> psycopg.AsyncConnection:
    """Connect, in autocommit, with every statement prepared."""
    conn = await psycopg.AsyncConnection.connect(url, autocommit=True)
    conn.prepare_threshold = 0
    return conn
