"""The table of portal drivers."""

import pytest

from tests.portals.conftest import Network
from tests.portals.netlink.test_conntrack import drop_capabilities
from userproxy.config import PortalMode
from userproxy.model import IPFamily
from userproxy.portals.drivers import DRIVERS, first_usable
from userproxy.portals.interface import DriverOptions


def test_every_value_of_the_flag_names_a_driver() -> None:
    assert {mode.value for mode in PortalMode} - {PortalMode.AUTO} == DRIVERS.keys()


@pytest.mark.parametrize("name", DRIVERS)
async def test_a_driver_is_made_without_looking_at_anything(name: str) -> None:
    driver = DRIVERS[name](DriverOptions(IPFamily.IPV4, "127.0.0.1"))
    assert (driver.name, dict(driver.rule_counts)) == (name, {})
    await driver.close()


@pytest.mark.parametrize(
    ("name", "named"), [("iptables", "CAP_NET_ADMIN"), ("nftables", "CAP_NET_ADMIN"), ("none", "")]
)
def test_what_a_driver_lacks_is_named(network: Network, name: str, named: str) -> None:
    def unprivileged() -> str | None:
        drop_capabilities()
        return DRIVERS[name].unusable(IPFamily.IPV4)

    assert network.run(lambda: DRIVERS[name].unusable(IPFamily.IPV4)) is None
    refusal = network.run(unprivileged)
    assert named in refusal if refusal else not named


def test_auto_takes_the_first_that_works_and_knows_what_the_others_lack(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first() -> tuple[str | None, list[str]]:
        found, reasons = first_usable(IPFamily.IPV4)
        return found.name if found is not None else None, list(reasons)

    capturing = [name for name, driver in DRIVERS.items() if driver.traits.serves_portals]
    assert network.run(first) == (capturing[0], [])
    monkeypatch.setattr(DRIVERS[capturing[0]], "unusable", lambda family: "not today")
    assert network.run(first) == (next(iter(capturing[1:]), None), capturing[:1])
    network.run(drop_capabilities)
    assert network.run(first) == (None, capturing)
