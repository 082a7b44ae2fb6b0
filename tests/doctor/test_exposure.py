"""The doctor reports a token that can be guessed, an address that others reach, and folders that others can read."""

from pathlib import Path
from typing import Any

import pytest

from reactor.core.settings import Settings
from reactor.doctor.examine import examine
from reactor.doctor.exposure import access_of_others, exposure_group

TOKEN = "0123456789abcdef0123"  # noqa: S105 - of no server


@pytest.fixture
def home(reachable_folder: Path) -> Path:
    for name in ("spool", "store"):
        (reachable_folder / name).mkdir()
        (reachable_folder / name).chmod(0o750)
    return reachable_folder


def verdicts(home: Path, **settings: Any) -> dict[str, str]:
    made = Settings(store_url=(home / "store").as_uri(), spools={"default": home / "spool"}, **settings)
    found = {finding.check: finding for finding in examine([exposure_group(made)])}
    for finding in found.values():
        assert TOKEN not in finding.seen
        assert (finding.fix is None) == (finding.verdict == "ok")
    return {check: str(finding.verdict) for check, finding in found.items()}


ALL_OK = {"http token": "ok", "http address": "ok", "folder modes": "ok"}


def test_a_private_server_and_folders_are_fine(home: Path) -> None:
    assert verdicts(home) == ALL_OK
    assert verdicts(home, http_token=TOKEN) == ALL_OK
    assert verdicts(home, http_token=TOKEN, http_host="0.0.0.0", http_hosts=["a.example.org"]) == ALL_OK  # noqa: S104


@pytest.mark.parametrize("token", ["a" * 16, "abababababababab", "aaaaaaaaaaaaaaaaaaaaaaab", "1234567" * 4])
def test_a_token_of_few_characters_is_reported(home: Path, token: str) -> None:
    assert verdicts(home, http_token=token) == ALL_OK | {"http token": "warning"}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "reactor.lan"])  # noqa: S104
def test_an_address_that_others_can_reach_without_a_listed_name_is_reported(home: Path, host: str) -> None:
    assert verdicts(home, http_token=TOKEN, http_host=host) == ALL_OK | {"http address": "warning"}


@pytest.mark.parametrize("name", ["spool", "store"])
@pytest.mark.parametrize(
    ("mode", "verdict"),
    [(0o755, "warning"), (0o777, "problem"), (0o773, "problem"), (0o1777, "warning"), (0o2770, "ok"), (0o711, "ok")],
)
def test_a_folder_that_others_can_read_or_change_is_reported(home: Path, name: str, mode: int, verdict: str) -> None:
    (home / name).chmod(mode)
    assert verdicts(home) == ALL_OK | {"folder modes": verdict}


def test_a_folder_below_a_closed_one_is_closed(home: Path) -> None:
    inner = home / "spool" / "inner"
    inner.mkdir()
    inner.chmod(0o777)
    assert access_of_others(inner) == ""
    assert access_of_others(home / "missing") == ""
    (home / "spool").chmod(0o711)
    assert access_of_others(inner) == "rw"
