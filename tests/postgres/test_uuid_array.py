"""Many UUIDs arrive as what they are, however many."""

from uuid import UUID, uuid4

import psycopg
import pytest

from reactor.postgres.uuid_array import Uuids

EXTREMES = [UUID(int=0), UUID(int=1), UUID(int=(1 << 128) - 1)]


@pytest.mark.parametrize("sent", [[], EXTREMES, [uuid4() for _ in range(500)]], ids=["none", "extremes", "many"])
def test_they_arrive_as_a_uuid_array(database_url: str, sent: list[UUID]) -> None:
    with psycopg.connect(database_url) as conn:
        asked = "select pg_typeof(given)::text, given from (select %b as given) as it"
        row = conn.execute(asked, [Uuids([one.int for one in sent])]).fetchone()
    assert row == ("uuid[]", sent)


def test_they_are_a_sequence() -> None:
    uuids = Uuids([one.int for one in EXTREMES])
    assert list(uuids) == EXTREMES
    assert (len(uuids), uuids[1], list(uuids[1:])) == (3, EXTREMES[1], EXTREMES[1:])
