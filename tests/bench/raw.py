"""A plain connection for floors and peers."""

import psycopg


async def raw(url: str) -> psycopg.AsyncConnection:
    """Connect in autocommit; every statement is prepared at its first execution."""
    conn = await psycopg.AsyncConnection.connect(url, autocommit=True)
    conn.prepare_threshold = 0
    return conn
