"""The unit for systemd grants what a hand-over needs, and no more."""

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


def test_a_reload_hands_over(service: dict[str, str]) -> None:
    assert "--takeover" in service["ExecStart"].split()
    assert service["ExecReload"].split()[1:] == ["-USR2", "$MAINPID"]
    assert (service["Type"], service["NotifyAccess"]) == ("notify", "all")
