"""A noun has no s after 1."""

import pytest

from reactor.core.counted import counted


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 users"), (1, "1 user"), (2, "2 users"), (1234, "1,234 users"), (1001, "1,001 users")]
)
def test_only_one_is_singular(count: int, text: str) -> None:
    assert counted(count, "user") == text
