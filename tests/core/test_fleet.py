"""The page of every reactor describes all reactors: which of them are silent or poll, each under a name of its own."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor.core.fleet import fleet_troubles, reactor_names, running


def reactor(number: int, mode: str = "listening", seen_s_ago: float = 1.0, **columns: Any) -> dict[str, Any]:
    instance = f"{number:08x}-0000-4000-8000-000000000000"
    return {"id": instance, "host": "h", "mode": mode, "seen_s_ago": seen_s_ago} | columns


OWN = reactor(1)


def found(*others: dict[str, Any], is_polling_explained: bool = False) -> list[str]:
    return fleet_troubles([OWN, *others], own_id=OWN["id"], is_polling_explained=is_polling_explained)


def test_a_silent_reactor_is_named_with_the_time_of_its_silence() -> None:
    silent = reactor(2, "silent", 17.0, host="worker-2", port=8321, pid=41)
    assert found(silent) == [
        "No report from worker-2:8321 (process 41) for 17s: stopped, crashed, or cut off from the database."
    ]


def test_a_reactor_that_polls_is_named() -> None:
    polls = reactor(2, "polling", host="worker-2")
    assert found(polls) == ["worker-2 polls the database: notifications do not arrive there."]
    assert found(polls, reactor(3, "polling", host="worker-3")) == [
        "worker-2 and worker-3 poll the database: notifications do not arrive there."
    ]
    assert found(polls, is_polling_explained=True) == []


@pytest.mark.parametrize(("seen_s_ago", "is_reported"), [(599.0, True), (601.0, False)])
def test_a_reactor_that_has_been_silent_for_ten_minutes_has_gone(seen_s_ago: float, is_reported: bool) -> None:
    assert bool(found(reactor(2, "silent", seen_s_ago))) is is_reported


def test_a_restarted_reactor_does_not_count_as_silent() -> None:
    crashed = reactor(2, "silent", 30.0, port=8321, pid=41)
    assert found(crashed, reactor(3, port=8321, pid=42)) == []
    assert found(crashed, reactor(3, port=8322, pid=42)) != []
    assert found(reactor(2, "silent", 30.0), reactor(3)) != []  # without a port, nothing shows a restart
    assert found(crashed, reactor(3, "silent", 30.0, port=8321)) != []


def test_the_reactor_does_not_report_its_own_state_twice() -> None:
    for mode in ("silent", "polling"):
        own = reactor(1, mode, 20.0)
        assert fleet_troubles([own], own_id=own["id"], is_polling_explained=False) == []


def test_a_long_list_is_cut() -> None:
    [sentence] = found(*(reactor(number, "polling", host=f"w{number}") for number in range(2, 10)))
    assert sentence.startswith("w2, w3, w4, w5, w6 and 3 more poll ")


def test_without_a_reactor_to_ask_a_running_one_is_enough() -> None:
    silent = reactor(2, "silent", 100.0)
    assert len(fleet_troubles([OWN, silent], own_id=None, is_polling_explained=False)) == 1
    assert fleet_troubles([silent], own_id=None, is_polling_explained=False) == ["No reactor has reported for 1m40s."]
    assert running([OWN, silent]) == [OWN]


REACTORS = st.lists(
    st.fixed_dictionaries(
        {"host": st.sampled_from(["h", "g"]), "port": st.sampled_from([None, 8321]), "pid": st.sampled_from([None, 7])}
    ),
    max_size=6,
)


@given(REACTORS)
def test_names_differ(listed: list[dict[str, Any]]) -> None:
    names = reactor_names([reactor(number) | columns for number, columns in enumerate(listed)])
    assert len(set(names)) == len(listed)
