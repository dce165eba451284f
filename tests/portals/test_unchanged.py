"""Whoever reads from a Service that nobody changes sees nothing of syncs that change others, by each driver."""

import asyncio
import random
import socket
import threading
import time
from collections.abc import Sequence

import pytest
from msgspec import structs

from tests.portals.conftest import Network, tools_of, use, with_addresses
from tests.portals.examples import EVERYWHERE, REJECT, cluster_ip_binding
from userproxy.addresses import SOCKET_FAMILIES, family_of
from userproxy.model import Admission, IPFamily, PortalAddress, PortalBinding, ServicePortName
from userproxy.portals.drivers import DRIVERS
from userproxy.portals.interface import DriverOptions
from userproxy.portals.iptables.variant import Variant
from userproxy.sockets import share

pytestmark = [pytest.mark.slow, pytest.mark.sampled(2)]

SYNCS = 1_000
OTHERS = 20
VERIFIED = 50
"""Every so many syncs one reads back what stands."""

OUTSIDE = {IPFamily.IPV4: ("192.0.2.1/24", "192.0.2.10"), IPFamily.IPV6: ("2001:db8::1/64", "2001:db8::10")}


class Echoes:
    """Sockets that send back what they get, on the running loop: for one port of all addresses, or at portals."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._sockets: dict[PortalAddress, socket.socket] = {}

    def listen(self, ip: str, port: int) -> socket.socket:
        made = socket.socket(SOCKET_FAMILIES[family_of(ip)])
        share(made)
        made.bind((ip, port))
        made.listen(128)
        self._loop.add_reader(made, self._accept, made)
        return made

    def serve_portal(self, address: PortalAddress, admission: Admission) -> None:
        if address not in self._sockets:
            self._sockets[address] = self.listen(address.ip, address.port)

    def leave_portal(self, address: PortalAddress) -> None:
        if (made := self._sockets.pop(address, None)) is not None:
            self._loop.remove_reader(made)
            made.close()

    def _accept(self, listening: socket.socket) -> None:
        client, _ = listening.accept()
        self._loop.add_reader(client, self._echo, client)

    def _echo(self, client: socket.socket) -> None:
        data = client.recv(100)
        if data:
            client.send(data)
        else:
            self._loop.remove_reader(client)
            client.close()


class Reader:
    """Asks by way of one portal, on new connections and on one that lasts, until it is stopped."""

    def __init__(self, portal: tuple[str, int]) -> None:
        self._portal = portal
        self._stopped = threading.Event()
        self.served = 0
        self.failures: list[str] = []

    def read(self) -> None:
        with socket.create_connection(self._portal, timeout=5) as lasting:
            while not self._stopped.wait(0.001):
                try:
                    self._ask(lasting)
                    with socket.create_connection(self._portal, timeout=5) as new:
                        self._ask(new)
                except OSError as error:
                    self.failures.append(f"after {self.served}: {error!r}")
                    return
                self.served += 1

    def stop(self) -> None:
        self._stopped.set()

    @staticmethod
    def _ask(client: socket.socket) -> None:
        client.send(b"?")
        if client.recv(100) != b"?":
            raise ConnectionError("not what was sent")


class Churn:
    """Other Services that come, go, lose their endpoints and get other local ports, by a seed."""

    def __init__(self, family: IPFamily, seed: int) -> None:
        self._family = family
        self._random = random.Random(seed)
        self._there: dict[int, PortalBinding] = {}

    def step(self) -> tuple[Sequence[PortalBinding], Sequence[ServicePortName]]:
        """What a sync is told. It is always something new."""
        number = self._random.randint(1, OTHERS)
        before = self._there.pop(number, None)
        if before is not None and self._random.random() < 0.5:
            return [], [before.name]
        made = cluster_ip_binding(number, self._random.randint(30_000, 40_000), self._family)
        if self._random.random() < 0.3:
            made = structs.replace(made, internal=REJECT, external=REJECT, on_node=REJECT)
        self._there[number] = made
        return [made], []


@pytest.mark.parametrize(
    ("driver", "family"),
    [
        *((variant, IPFamily.IPV4) for variant in Variant),
        *((driver, family) for driver in ("nftables", "local") for family in IPFamily),
    ],
)
def test_a_thousand_syncs_are_not_felt_by_clients_of_others(
    network: Network, outside: Network, driver: str, family: IPFamily
) -> None:
    name = "iptables" if driver in list(Variant) else driver
    if name == "iptables":
        use(network, tools_of(family, Variant(driver)))
    with_addresses(network)
    connect(network, outside, family)
    kept = cluster_ip_binding(0, 20_000, family)
    portal = (kept.portals[0].ip, kept.portals[0].port)
    readers, seed = [Reader(portal), Reader(portal)], time.time_ns()

    async def scenario() -> None:
        echoes, made = Echoes(), DRIVERS[name](DriverOptions(family, EVERYWHERE[family]))
        made.listen_with(echoes)
        if made.traits.translates:
            echoes.listen(EVERYWHERE[family], 20_000)
        await made.sync([kept])
        churn = Churn(family, seed)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.to_thread(readers[0].read), name="a client of the node")
                group.create_task(asyncio.to_thread(outside.run, readers[1].read), name="a client outside")
                for number in range(SYNCS):
                    await made.sync(*churn.step(), verify=number % VERIFIED == 0)
                for reader in readers:
                    reader.stop()
        finally:
            for reader in readers:
                reader.stop()
            await made.close()

    network.run_loop(scenario)
    for reader in readers:
        assert reader.failures == [], f"with the seed {seed}"
        assert reader.served > 10


def connect(node: Network, outside: Network, family: IPFamily) -> None:
    """A host outside whose packets for every address go to the node."""
    address, gateway = OUTSIDE[family]
    node.shell("ip", "link", "set", "far0", "netns", str(outside.thread_id))
    outside.shell("ip", "address", "add", address, "dev", "far0", *(["nodad"] if family is IPFamily.IPV6 else []))
    outside.shell("ip", "link", "set", "far0", "up")
    outside.shell("ip", "route", "add", "default", "via", gateway)
