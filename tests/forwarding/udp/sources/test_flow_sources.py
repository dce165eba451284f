"""Whose address endpoints see of UDP clients, on a node whose Pods have links of their own."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack

import pytest
from structlog.testing import capture_logs

from tests.forwarding.conftest import eventually
from tests.forwarding.udp.bench import Bench, exchange, received, received_from
from tests.lab.return_path import lead_answers_here, pod_networks
from userproxy.addresses import IPFamily
from userproxy.demo.network import Network, Node, Pod
from userproxy.forwarding.udp.plane import UdpOptions
from userproxy.forwarding.udp.sockets import DatagramSocket
from userproxy.model import PODS_PORTS, ClientAddress, Endpoint, Protocol, ReturnPath, Snapshot
from userproxy.model.reports import Source, SourceFallback

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
def pods_without_way_back(root: None) -> Iterator[Pods]:
    """Answers to a client's address go to the client itself, which knows nothing of them."""
    with Network(pods="routed") as network:
        yield Pods(network)


@pytest.fixture
def pods(pods_without_way_back: Pods) -> Pods:
    lead_answers_here(pods_without_way_back.node)
    return pods_without_way_back


def follow(bench: Bench, pods: Pods, family: IPFamily, wanted: ClientAddress = ClientAddress.AUTO) -> int:
    """Have datagrams led to the server; the port to write to."""
    bench.plane.client_addresses.follow(ReturnPath(family, networks=pod_networks(pods.node, family)))
    bench.listener = listener = bench.listen("far", DatagramSocket.open(EVERYWHERE[family], 0))
    endpoint = Endpoint(pods.addresses(family)[2], PORT)
    snapshot = Snapshot(listener.name, endpoints=(endpoint,), client_address=wanted, nodes=("",))
    listener.balancer.update(snapshot)
    listener.follow(snapshot)
    return listener.port


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that ask again do so without having to wait."""
    for module in ("sources.source_trial", "listening.clients"):
        monkeypatch.setattr(f"userproxy.forwarding.udp.{module}.AGAIN_SECONDS", 0.0)


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
            assert (seen, PODS_PORTS[0] <= port <= PODS_PORTS[1]) == (client, True)
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
    monkeypatch.setattr("userproxy.forwarding.udp.sockets.PODS_PORTS", (61_000, 61_001))
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


@pytest.mark.parametrize("family", IPFamily)
def test_where_answers_do_not_come_back_one_client_has_to_ask_again(
    pods_without_way_back: Pods, impatient: None, family: IPFamily
) -> None:
    pods = pods_without_way_back
    node, client, server = pods.addresses(family)

    async def scenario(bench: Bench) -> None:
        port = follow(bench, pods, family)
        descriptors = bench.plane.budget.free
        with ExitStack() as stack:
            first, second = [stack.enter_context(unblocked(pods.client.udp_socket((node, port)))) for _ in range(2)]
            first.send(b"lost")
            _, seen = await received_from(backend)
            backend.sendto(b"into the void", seen)
            assert seen[0] == client
            assert [(await exchange(first, backend))[0] for _ in range(2)] == [node, node]
            assert (await exchange(second, backend))[0] == node, "another client need not find out"
            assert [flow.source for flow in bench.listener.flows] == [Source.NODE] * 2
        addresses = bench.plane.client_addresses
        assert {reason: count for reason, count in addresses.fallbacks.items() if count} == {
            SourceFallback.NO_ANSWER: 1,
            SourceFallback.REMEMBERED: 1,
        }
        bench.listener.close()
        assert bench.plane.budget.free == descriptors + 1, "those of both flows, of the trial, and of the listener"

    with unblocked(pods.server.udp_socket(source=(server, PORT))) as backend, capture_logs() as logs:
        pods.on_node(scenario)
    warnings = [entry for entry in logs if entry["log_level"] == "warning"]
    assert [(entry["client"], entry["interface"]) for entry in warnings] == [(client, "cali0")]


def test_an_answer_that_comes_late_is_delivered_and_the_clients_address_stays(pods: Pods, impatient: None) -> None:
    node, client, server = pods.addresses(IPFamily.IPV4)
    backend = unblocked(pods.server.udp_socket(source=(server, PORT)))
    asking = unblocked(pods.client.udp_socket(source=(client, 40_000)))

    async def scenario(bench: Bench) -> None:
        asking.connect((node, follow(bench, pods, IPFamily.IPV4)))
        asking.send(b"slow")
        _, first = await received_from(backend)
        asking.send(b"again")
        _, second = await received_from(backend)
        assert (first[0], second[0]) == (client, node)
        backend.sendto(b"answer to slow", first)
        assert await received(asking) == b"answer to slow"
        backend.sendto(b"answer to again", second)
        assert await received(asking) == b"answer to again"
        assert await exchange(asking, backend, b"third") == first
        assert [flow.source for flow in bench.listener.flows] == [Source.CLIENT]
        assert [flow.bytes_down for flow in bench.listener.flows] == [
            len("answer to slowanswer to againanswer to third")
        ]

    with backend, asking:
        pods.on_node(scenario)


def test_what_connections_have_found_out_counts_for_flows(pods_without_way_back: Pods, impatient: None) -> None:
    pods = pods_without_way_back
    node, client, server = pods.addresses(IPFamily.IPV4)
    asking = unblocked(pods.client.udp_socket(source=(client, 40_000)))

    async def scenario(bench: Bench) -> None:
        asking.connect((node, follow(bench, pods, IPFamily.IPV4)))
        pairs = bench.plane.client_addresses.pairs[Protocol.TCP, IPFamily.IPV4]
        pair = pairs.of("cali0", "", "default")
        pair.lose(bench.listener.now(), client, Endpoint(server, 80), "default/web")
        assert (await exchange(asking, backend))[0] == node

    with unblocked(pods.server.udp_socket(source=(server, PORT))) as backend, asking:
        pods.on_node(scenario)


def test_where_no_connection_looks_again_a_flow_does(pods: Pods) -> None:
    """A Service has connections no more, or another one of its namespace had them."""
    node, client, server = pods.addresses(IPFamily.IPV4)

    async def scenario(bench: Bench) -> None:
        port = follow(bench, pods, IPFamily.IPV4)
        of_tcp = bench.plane.client_addresses.pairs[Protocol.TCP, IPFamily.IPV4]
        for namespace in ("default", "elsewhere"):
            of_tcp.of("cali0", "", namespace).lose(0.0, client, Endpoint(server, 80), f"{namespace}/web")
            with unblocked(pods.client.udp_socket((node, port))) as asking:
                assert (await exchange(asking, backend))[0] == client, "that was long ago"

    with unblocked(pods.server.udp_socket(source=(server, PORT))) as backend:
        pods.on_node(scenario)


def test_a_filter_of_the_node_that_lets_only_its_own_addresses_out_costs_nothing(pods: Pods) -> None:
    node, _, server = pods.addresses(IPFamily.IPV4)
    rules = "table ip own { chain out { type filter hook output priority 0; ip saddr 10.244.0.0/16 drop; }; }"
    pods.node.run(["nft", "-f", "-"], text=rules)

    async def scenario(bench: Bench) -> None:
        with unblocked(pods.client.udp_socket((node, follow(bench, pods, IPFamily.IPV4)))) as asking:
            assert (await exchange(asking, backend))[0] == node

    with unblocked(pods.server.udp_socket(source=(server, PORT))) as backend:
        pods.on_node(scenario)
