"""Drivers that translate packets do the same with the same bindings: random ones, tried with real packets."""

import errno
import selectors
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.portals.conftest import Network, with_addresses
from tests.portals.examples import EVERYWHERE, NODE_IPS
from tests.portals.strategies import address, binding_lists, local_traffics
from tests.portals.test_traffic import FAMILIES, SOCKETS, Cluster, Listeners
from userproxy.model import IPFamily, LocalTraffic, PortalBinding, PortalKind, Protocol
from userproxy.portals.drivers import DRIVERS
from userproxy.portals.interface import DriverOptions

pytestmark = pytest.mark.slow

PATIENCE = 0.4
"""Seconds after which nobody is going to answer."""

TRANSLATING = [name for name, driver in DRIVERS.items() if driver.traits.translates]

Probe = tuple[str, Protocol, str, int]
"""A client of the cluster, and what it dials."""


@pytest.fixture
def listeners() -> Iterator[Listeners]:
    made = Listeners()
    yield made
    made.close()


@pytest.fixture(params=list(IPFamily))
def cluster(
    request: pytest.FixtureRequest, network: Network, outside: Network, pod: Network, listeners: Listeners
) -> Cluster:
    """With a listener on every port that a random binding may name, which answers with its port."""
    family: IPFamily = request.param
    for protocol in SOCKETS:
        for port in (40000 + 10 * number + more for number in range(6) for more in range(3)):
            network.run(partial(listeners.open, family, protocol, str(port), port))
    made = Cluster(with_addresses(network), outside, pod, family, listeners, DRIVERS["nftables"])
    length = 32 if family is IPFamily.IPV4 else 128
    for number in range(6):  # a node port that has an address has one of the node's
        ip = address(family, PortalKind.NODE_PORT, number)
        network.shell("ip", "address", "add", f"{ip}/{length}", "dev", "lo")
    return made


@settings(
    deadline=None,
    max_examples=8,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_the_same_bindings_have_the_same_effect(cluster: Cluster, data: st.DataObject) -> None:
    bindings = data.draw(binding_lists(cluster.family))
    traffic = data.draw(local_traffics())
    probes = list(probes_of(cluster.family, bindings))
    outcomes = {name: outcome(cluster, name, bindings, traffic, probes) for name in TRANSLATING}
    assert outcomes["nftables"] == outcomes["iptables"]


def probes_of(family: IPFamily, bindings: Sequence[PortalBinding]) -> Iterator[Probe]:
    """Every portal, from everywhere; and each local port beside them, by UDP."""
    for whence in ("outside", "pod", "node"):
        for binding in bindings:
            for portal in binding.portals:
                yield whence, binding.name.protocol, portal.ip or NODE_IPS[family], portal.port
            for target in (binding.internal, binding.external, binding.on_node):
                if target.local_port:
                    yield whence, Protocol.UDP, NODE_IPS[family], target.local_port


def outcome(
    cluster: Cluster, name: str, bindings: Sequence[PortalBinding], traffic: LocalTraffic, probes: Sequence[Probe]
) -> dict[Probe, str]:
    async def work(*, remove: bool) -> None:
        driver = DRIVERS[name](DriverOptions(cluster.family, EVERYWHERE[cluster.family]))
        driver.set_local_traffic(traffic)
        if remove:
            await driver.remove()
        else:
            await driver.sync(bindings)
        await driver.close()

    node = cluster._networks["node"]
    node.run_loop(partial(work, remove=False))
    try:
        found: dict[Probe, str] = {}
        for whence, network in cluster._networks.items():
            mine = [probe for probe in probes if probe[0] == whence]
            found |= network.run(partial(ask_all, cluster.family, mine))
        return found
    finally:
        node.run_loop(partial(work, remove=True))


def ask_all(family: IPFamily, probes: Sequence[Probe]) -> dict[Probe, str]:
    """Who answers each of the clients, all of which ask at the same time."""
    answers = dict.fromkeys(probes, "silence")
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        for probe in answers:
            _, protocol, ip, port = probe
            client = stack.enter_context(socket.socket(FAMILIES[family], SOCKETS[protocol]))
            client.setblocking(False)
            begun = client.connect_ex((ip, port))
            if begun not in (0, errno.EINPROGRESS):
                answers[probe] = errno.errorcode[begun]
                continue
            if protocol is Protocol.UDP:
                try:
                    client.send(b"?")
                except OSError as error:
                    answers[probe] = errno.errorcode[error.errno or 0]
            selector.register(client, selectors.EVENT_READ, probe)
        while selector.get_map() and (ready := selector.select(PATIENCE)):
            for key, _ in ready:
                assert isinstance(key.fileobj, socket.socket)
                selector.unregister(key.fileobj)
                try:
                    answers[key.data] = key.fileobj.recv(100).decode()
                except OSError as error:
                    answers[key.data] = errno.errorcode[error.errno or 0]
    return answers
