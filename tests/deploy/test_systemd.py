"""The systemd units are valid, sandboxed, and consistent with the reactor's settings."""

import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest
from support.deploy_files import DEPLOY, tool

from reactor.configuration import load

FOLDER = DEPLOY / "systemd"
UNITS = sorted(path.name for path in FOLDER.iterdir())
SERVICES = [name for name in UNITS if name.endswith(".service")]
MOST_EXPOSED = 2.0
"""Maximum exposure on the scale of `systemd-analyze security`, where 10 is unconfined."""


def section(name: str, which: str = "Service") -> dict[str, list[str]]:
    """Return the settings of a unit's section; a key may have several values."""
    found: dict[str, list[str]] = {}
    body = (FOLDER / name).read_text().split(f"[{which}]\n")[1].split("\n[")[0]
    for line in body.splitlines():
        if line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


@pytest.fixture
def units(tmp_path: Path) -> list[Path]:
    """Return copies of the units. They start /bin/true, because `systemd-analyze` rejects a missing program."""
    for name in UNITS:
        text = (FOLDER / name).read_text()
        (tmp_path / name).write_text(text.replace("/opt/reactor/bin/reactor", "/bin/true"))
    return [tmp_path / name for name in UNITS]


def test_systemd_accepts_the_units(units: list[Path]) -> None:
    done = subprocess.run(
        [tool("systemd-analyze", "systemd"), "verify", *units], capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_is_sandboxed(units: list[Path], name: str) -> None:
    [unit] = [path for path in units if path.name == name]
    command = [tool("systemd-analyze", "systemd"), "security", "--offline=true", f"--threshold={MOST_EXPOSED * 10:.0f}"]
    done = subprocess.run([*command, unit], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_may_write_only_into_the_spool(name: str) -> None:
    service = section(name)
    [spool] = [value.split("=")[1] for value in service["Environment"] if value.startswith("REACTOR_SPOOL_DIR=")]
    assert service["ProtectSystem"] == ["strict"]
    assert service["ReadWritePaths"] == [spool]


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_has_enough_descriptors_and_writes_no_core_file(name: str) -> None:
    assert section(name)["LimitNOFILE"] == ["65536"]
    assert section(name)["LimitCORE"] == ["0"]


def test_both_services_have_the_same_sandbox() -> None:
    one, other = (section(name) for name in SERVICES)
    differ = {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}
    restarts = {"Restart", "RestartSec", "RestartPreventExitStatus"}
    assert differ == restarts | {"Type", "ExecStart", "KillMode", "TimeoutStartSec"}


def test_the_stop_timeout_exceeds_the_grace_period() -> None:
    [stop] = section("reactor.service")["TimeoutStopSec"]
    assert float(stop.removesuffix("s")) > load({}, None).shutdown_grace_s + 3


def test_the_timer_starts_a_reconciliation_every_ten_minutes() -> None:
    timer = ConfigParser()
    timer.read(FOLDER / "reactor-reconcile.timer")
    assert timer["Timer"]["OnCalendar"] == "*:0/10"
    assert section("reactor-reconcile.service")["ExecStart"] == ["/opt/reactor/bin/reactor reconcile --json"]
