"""Connections to PostgreSQL: what each waits for."""

import asyncio

import pytest

from reactor.postgres.connection import ConnectionPool, DedicatedConnection

_IS_DURABLE = "select current_setting('synchronous_commit') <> 'off'"


@pytest.mark.parametrize("waits", [True, False])
def test_a_line_waits_for_the_disk_unless_told_otherwise(migrated_url: str, waits: bool) -> None:
    async def ask() -> list[tuple[bool]]:
        line = DedicatedConnection(migrated_url, waits_for_disk=waits)
        try:
            return await line.call(_IS_DURABLE)
        finally:
            await line.close()

    assert asyncio.run(ask()) == [(waits,)]


def test_whatever_the_server_says_the_pool_waits_for_the_disk(migrated_url: str) -> None:
    async def ask() -> list[tuple[bool]]:
        database = ConnectionPool(f"{migrated_url}?options=-csynchronous_commit%3Doff", size=1)
        await database.open()
        try:
            return await database.call(_IS_DURABLE)
        finally:
            await database.close()

    assert asyncio.run(ask()) == [(True,)]
