"""Whose address endpoints see of UDP clients, on a node whose Pods have links of their own."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.forwarding.conftest import eventually
from tests.forwarding.udp.bench import Bench, exchange
from tests.lab.return_path import lead_answers_here, pod_networks
from userproxy.addresses import IPFamily
from userproxy.demo.network import Network, Node, Pod
from userproxy.forwarding.udp.plane import UdpOptions
from userproxy.forwarding.udp.sockets import DatagramSocket
from userproxy.model import OWN_PORTS, ClientAddress, Endpoint, ReturnPath, Snapshot

PORT = 5353
EVERYWHERE = {IPFamily.IPV4: "0.0.0.0", IPFamily.IPV6: "::"}


class Pods:
    """A node with two Pods: one to ask, one to answer."""

    def __init__(self, network: Network) -> None:
        self.node = network.add_node(Node("node"))
        self.client = network.add_pod(self.node, Pod("client"))
        self.server = network.add_pod(self.node, Pod("server"))

    def addresses(self, family: IPFamily) -> tuple[str, str, str]:
        """Of the node, of the client, and of the server."""
        hosts = (self.node, self.client, self.server)
        node, client, server = [each.address6 if family is IPFamily.IPV6 else each.address for each in hosts]
        return node, client, server

    def on_node(self, scenario: Callable[[Bench], Awaitable[None]]) -> None:
        """Run a scenario with a listener on the node."""

        async def run() -> None:
            with ExitStack() as stack:
                await scenario(Bench(stack, UdpOptions(), 10_000))

        self.node.inside(asyncio.run, run())


@pytest.fixture
def pods(root: None) -> Iterator[Pods]:
    with Network(pods="routed") as network:
        pods = Pods(network)
        lead_answers_here(pods.node)
        yield pods


def follow(bench: Bench, pods: Pods, family: IPFamily, wanted: ClientAddress = ClientAddress.AUTO) -> int:
    """Have datagrams led to the server; the port to write to."""
    bench.plane.client_addresses.follow(ReturnPath(family, networks=pod_networks(pods.node, family)))
    bench.listener = listener = bench.listen("far", DatagramSocket.open(EVERYWHERE[family], 0))
    endpoint = Endpoint(pods.addresses(family)[2], PORT)
    snapshot = Snapshot(listener.name, endpoints=(endpoint,), client_address=wanted, nodes=("",))
    listener.balancer.update(snapshot)
    listener.follow(snapshot)
    return listener.port


def unblocked(sock: socket.socket) -> socket.socket:
    sock.setblocking(False)
    return sock


@pytest.mark.parametrize("family", IPFamily)
@pytest.mark.parametrize("wanted", ClientAddress)
def test_the_endpoint_sees_whom_the_service_asks_for(pods: Pods, family: IPFamily, wanted: ClientAddress) -> None:
    node, client, server = pods.addresses(family)
    backend = unblocked(pods.server.udp_socket(source=(server, PORT)))
    asking = unblocked(pods.client.udp_socket(source=(client, 40_000)))

    async def scenario(bench: Bench) -> None:
        asking.connect((node, follow(bench, pods, family, wanted)))
        seen, port = (await exchange(asking, backend))[:2]
        if wanted is ClientAddress.NODE:
            assert seen == node
        else:
            assert (seen, OWN_PORTS[0] <= port <= OWN_PORTS[1]) == (client, True)
        assert (await exchange(asking, backend, b"again"))[:2] == (seen, port)

    with backend, asking:
        pods.on_node(scenario)


@pytest.mark.parametrize("family", IPFamily)
def test_an_endpoint_that_refuses_a_client_by_its_own_address_says_so(pods: Pods, family: IPFamily) -> None:
    """The ICMP message is addressed to the client, and reaches the flow all the same."""
    node, client, _ = pods.addresses(family)
    asking = unblocked(pods.client.udp_socket(source=(client, 40_000)))

    async def scenario(bench: Bench) -> None:
        asking.connect((node, follow(bench, pods, family)))
        asking.send(b"nobody listens")
        await eventually(lambda: bench.listener.statistics.dial_failures == 1)

    with asking:
        pods.on_node(scenario)


def test_where_no_port_is_left_the_node_itself_asks(pods: Pods, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("userproxy.forwarding.udp.sockets.OWN_PORTS", (61_000, 61_001))
    monkeypatch.setattr("userproxy.forwarding.udp.sockets._PORTS_TRIED", 2)
    node, client, server = pods.addresses(IPFamily.IPV4)

    async def scenario(bench: Bench) -> None:
        port = follow(bench, pods, IPFamily.IPV4)
        seen = []
        with ExitStack() as stack:
            for _ in range(4):
                asking = stack.enter_context(unblocked(pods.client.udp_socket((node, port))))
                seen.append((await exchange(asking, backend))[0])
        assert seen == [client, client, node, node]

    with unblocked(pods.server.udp_socket(source=(server, PORT))) as backend:
        pods.on_node(scenario)
