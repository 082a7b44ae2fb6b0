"""`waits_for_disk` decides whether commits wait for the server's disk (synchronous_commit). The pool always waits."""

import asyncio

import pytest

from reactor.postgres.connection import ConnectionPool, DedicatedConnection

_IS_DURABLE = "select current_setting('synchronous_commit') <> 'off'"


@pytest.mark.parametrize("waits", [True, False])
def test_waits_for_disk_determines_whether_a_dedicated_connection_waits_for_the_disk(
    migrated_url: str, waits: bool
) -> None:
    async def ask() -> list[tuple[bool]]:
        connection = DedicatedConnection(migrated_url, waits_for_disk=waits)
        try:
            return await connection.call(_IS_DURABLE)
        finally:
            await connection.close()

    assert asyncio.run(ask()) == [(waits,)]


def test_the_pool_waits_for_the_disk_whatever_the_url_sets(migrated_url: str) -> None:
    async def ask() -> list[tuple[bool]]:
        pool = ConnectionPool(f"{migrated_url}?options=-csynchronous_commit%3Doff", size=1)
        await pool.open()
        try:
            return await pool.call(_IS_DURABLE)
        finally:
            await pool.close()

    assert asyncio.run(ask()) == [(True,)]
