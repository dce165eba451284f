"""The table that keeps connections translated, beside tests/portals/netlink/test_ruleset.py, which has its life."""

import asyncio

import pytest

from tests.portals.conftest import Network, shell
from tests.portals.examples import WEB
from userproxy.model import IPFamily
from userproxy.portals.interface import DriverOptions
from userproxy.portals.nftables.driver import NftablesDriver


@pytest.mark.parametrize(("wanted", "standing"), [(True, 1), (False, 0)])
def test_it_stands_unless_it_is_not_wanted(network: Network, wanted: bool, standing: int) -> None:
    network.shell("ip", "link", "set", "lo", "up")
    network.shell("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
    network.shell("ip", "address", "add", "192.0.2.10/24", "dev", "eth0")
    network.shell("ip", "link", "set", "eth0", "up")

    async def scenario() -> str:
        driver = NftablesDriver(DriverOptions(IPFamily.IPV4, "0.0.0.0", guard=wanted))
        try:
            await driver.sync([WEB])
            return await asyncio.to_thread(shell, "nft", "list", "tables")
        finally:
            await driver.close()

    tables = network.run_loop(scenario)
    assert tables.count("userproxy-guard-") == standing
    assert "table ip userproxy\n" in tables
