"""The unit for systemd grants what a hand-over needs, and no more."""

import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[2] / "examples" / "systemd" / "userproxy.service"
NEEDED = {"CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_NET_BIND_SERVICE"}


@pytest.fixture
def service() -> dict[str, str]:
    unit = ConfigParser(interpolation=None, strict=True)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(UNIT.read_text())
    return dict(unit["Service"])


def test_capabilities_are_those_of_rules_and_ports(service: dict[str, str]) -> None:
    for setting in ("AmbientCapabilities", "CapabilityBoundingSet"):
        assert set(service[setting].split()) == NEEDED
    assert service["NoNewPrivileges"] == "yes"


def test_it_may_go_before_and_after_others_in_a_hand_over(service: dict[str, str]) -> None:
    assert service["LimitNICE"] == "-20", "which takes no capability"


def test_systemd_has_nothing_to_say_against_it(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("it takes systemd-analyze, of Debian's package systemd")
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/usr/local/bin/userproxy", sys.executable))
    command = ["systemd-analyze", "verify", "--man=no", str(unit)]
    done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=60)
    assert [line for line in done.stderr.splitlines() if UNIT.name in line] == []
    assert done.returncode == 0, done.stderr


def test_a_reload_hands_over(service: dict[str, str]) -> None:
    assert "--takeover" in service["ExecStart"].split()
    assert service["ExecReload"].split()[1:] == ["-USR2", "$MAINPID"]
    assert (service["Type"], service["NotifyAccess"]) == ("notify", "all")
