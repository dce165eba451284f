"""Drivers in a network of their own."""

import asyncio
import re
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

import pytest

from tests.portals.conftest import Network, with_addresses
from tests.portals.examples import EVERYWHERE
from userproxy.model import IPFamily, LocalTraffic, PortalBinding, PortalSync, ServicePortName
from userproxy.portals.interface import DriverOptions
from userproxy.portals.nftables.driver import NftablesDriver

T = TypeVar("T")

TABLES = {IPFamily.IPV4: ("ip", "userproxy"), IPFamily.IPV6: ("ip6", "userproxy")}


class Driven:
    """A driver that works in a network, on a loop of the network's own thread."""

    def __init__(self, network: Network, family: IPFamily, bind_address: str = "") -> None:
        self.network = network
        self.family = family
        self._loop = network.run(asyncio.new_event_loop)
        self.driver = NftablesDriver(DriverOptions(family, bind_address or EVERYWHERE[family]))

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return self.network.run(lambda: self._loop.run_until_complete(work()))

    def sync(self, *bindings: PortalBinding, gone: Collection[ServicePortName] = (), verify: bool = True) -> PortalSync:
        return self.run(lambda: self.driver.sync(bindings, gone, verify=verify))

    def recognise(self, local_traffic: LocalTraffic) -> None:
        self.driver.set_local_traffic(local_traffic)

    def nft(self, *command: str) -> str:
        return self.network.shell("nft", *command)

    def listing(self) -> str:
        """Our table, as nft prints it."""
        return self.nft("list", "table", *TABLES[self.family])

    def tables(self) -> list[str]:
        """All that are there, but for those that keep connections translated."""
        return [line for line in self.nft("list", "tables").splitlines() if "-guard-" not in line]

    def key_of_element(self, number: int) -> str:
        """One element of the portals, as nft names it."""
        return f"{{ {self.elements('portals')[number].partition(' comment')[0]} }}"

    def elements(self, name: str) -> Sequence[str]:
        """The elements of a set in nft's words, sorted."""
        kind = "set" if name in ("restricted", "allowed", "udp-listeners") else "map"
        text = self.nft("list", kind, *TABLES[self.family], name)
        _, braces, rest = text.partition("elements = {")
        found = re.findall(r"(?:[^,\"]|\"[^\"]*\")+", rest.partition("}")[0])
        return sorted(" ".join(each.split()) for each in found) if braces else []

    def close(self) -> None:
        self.run(self.driver.close)
        self.network.run(self._loop.close)


@pytest.fixture(params=list(IPFamily))
def family(request: pytest.FixtureRequest) -> IPFamily:
    found: IPFamily = request.param
    return found


@pytest.fixture
def driven(network: Network, family: IPFamily) -> Iterator[Driven]:
    made = Driven(with_addresses(network), family)
    yield made
    made.close()
