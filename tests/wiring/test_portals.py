"""Which driver serves, and the removal of portals at a stop."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.portals.conftest import Network, network
from tests.portals.netlink.test_conntrack import drop_capabilities
from userproxy.config import load
from userproxy.errors import KernelToolError
from userproxy.model import IPFamily
from userproxy.portals.drivers import DRIVERS
from userproxy.portals.interface import DriverOptions
from userproxy.portals.none import NoPortals
from userproxy.wiring.portals import choose_portals, remove_portals

__all__ = ["network"]  # a fixture


class Removable(NoPortals):
    """A driver whose rules are gone once `remove` has returned."""

    def __init__(self, family: IPFamily) -> None:
        super().__init__(DriverOptions(family, "::1" if family is IPFamily.IPV6 else "127.0.0.1"))
        self.removed = False

    async def remove(self) -> list[str]:
        self.removed = True
        return ["a rule"]


class Broken(Removable):
    async def remove(self) -> list[str]:
        raise KernelToolError("iptables-save ended with 4")


class Hung(Removable):
    async def remove(self) -> list[str]:
        await asyncio.Event().wait()
        return []


async def removal(driver: Removable) -> tuple[bool, Removable, Sequence[str]]:
    """What became of IPv6 beside an IPv4 driver, and the reasons that were logged as errors."""
    other = Removable(IPFamily.IPV6)
    with capture_logs() as logs:
        done = await remove_portals([(IPFamily.IPV4, driver), (IPFamily.IPV6, other)], seconds=0.01)
    return done, other, [f"{entry['family']}: {entry['reason']}" for entry in logs if entry["log_level"] == "error"]


async def test_all_families_are_removed() -> None:
    driver = Removable(IPFamily.IPV4)
    done, other, errors = await removal(driver)
    assert (done, driver.removed, other.removed, errors) == (True, True, True, [])


async def test_a_family_that_cannot_be_removed_keeps_no_other_one() -> None:
    done, other, errors = await removal(Broken(IPFamily.IPV4))
    assert (done, other.removed, errors) == (False, True, ["IPv4: iptables-save ended with 4"])


async def test_a_hung_program_delays_a_stop_only_so_long() -> None:
    done, other, errors = await removal(Hung(IPFamily.IPV4))
    assert (done, other.removed, errors) == (False, True, ["IPv4: not done within 0.01 s"])


def chosen(**given: str | Sequence[str]) -> tuple[list[str], str]:
    """The driver of each family, and where listeners of IPv4 are bound."""
    drivers, addresses = choose_portals(load(given).settings)
    return [driver.name for driver in drivers.values()], addresses[IPFamily.IPV4]


def test_auto_takes_iptables_where_rules_can_be_written(network: Network) -> None:
    assert network.run(lambda: chosen(portals="auto")) == (["iptables", "iptables"], "0.0.0.0")
    assert network.run(lambda: chosen(portals="none")) == (["none", "none"], "127.0.0.1")
    bound = {"portals": "none", "bind-address": "192.0.2.10"}
    assert network.run(lambda: chosen(**bound)) == (["none", "none"], "192.0.2.10")
    network.shell("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
    assert network.run(lambda: chosen(portals="iptables")) == (["iptables"], "0.0.0.0")


@pytest.mark.parametrize("portals", ["auto", "iptables"])
def test_without_the_capability_a_cluster_is_not_served_at_all(network: Network, portals: str) -> None:
    network.run(drop_capabilities)
    with pytest.raises(KernelToolError, match=rf"^--portals {portals}: .* CAP_NET_ADMIN"):
        network.run(lambda: chosen(portals=portals))


def test_without_the_capability_manifests_are_served_on_local_ports(network: Network, tmp_path: Path) -> None:
    network.run(drop_capabilities)
    with capture_logs() as logs:
        given: dict[str, str | Sequence[str]] = {"portals": "auto", "manifests": [str(tmp_path)]}
        assert network.run(lambda: chosen(**given)) == (["none", "none"], "127.0.0.1")
    (warning,) = [entry["event"] for entry in logs if entry["log_level"] == "warning"]
    assert warning.startswith("Portals: none, because")


def test_programs_that_are_missing_may_come(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    for driver in DRIVERS.values():
        monkeypatch.setattr(driver, "unusable", lambda family: "nothing is installed")
    assert network.run(lambda: chosen(portals="auto")) == (["iptables", "iptables"], "0.0.0.0")
