"""The mutations in tests/mutation/*.toml apply to the code as it is now."""

from pathlib import Path

import pytest
from mutation.mutants import ROOT, Mutation, main, mutations

MUTATIONS = mutations()


def test_each_mutation_matches_its_file_once_and_its_tests_exist() -> None:
    stale = {mutation.name: mutation.file for mutation in MUTATIONS if mutation.matches(ROOT) != 1}
    assert stale == {}
    assert [mutation.name for mutation in MUTATIONS if mutation.new == mutation.old] == []
    assert {test for mutation in MUTATIONS for test in mutation.tests if not (ROOT / test).is_file()} == set()


def test_names_are_unique_and_every_kind_of_guard_has_mutations() -> None:
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS) >= 40
    mutated = {mutation.file for mutation in MUTATIONS}
    for part in ("claim", "settle", "extend", "rescue", "expire", "requeue", "cancel", "track_usage", "count_runs",
                 "reserve", "complete", "fail_", "begin", "heartbeat", "caller", "repair_usage", "notify", "send_hints",
                 "separate_tenants", "engine/worker", "storage/spool"):  # fmt: skip
        assert any(part in file for file in mutated), part


def test_a_mutation_that_is_out_of_date_is_reported_and_not_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stale = Mutation(name="is stale", file="reactor/app.py", old="no such words", new="", tests=("tests/core",))
    monkeypatch.setattr("mutation.mutants.mutations", lambda: [stale])

    assert main([]) == 1

    assert capsys.readouterr().out == "out of date: 'is stale' matches 0 times in reactor/app.py\n"
