"""Connections that come from their clients' addresses, and what is learned where answers do not come back."""

import asyncio
import socket
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, suppress
from random import Random

import pytest
import uvloop
from structlog.testing import capture_logs

from tests.forwarding.conftest import NAME, eventually
from tests.lab.return_path import lead_answers_here, pod_networks
from userproxy.addresses import IPFamily
from userproxy.demo.hosts import Host
from userproxy.demo.network import Network, Node, Pod
from userproxy.forwarding import return_pairs
from userproxy.forwarding.assembly.options import ForwardingOptions
from userproxy.forwarding.forwarder import Forwarder
from userproxy.forwarding.ports.ranges import PortRange
from userproxy.forwarding.tcp.sources import client_sockets
from userproxy.model import OWN_PORTS, ClientAddress, DirectNetwork, Endpoint, ListenerName, ReturnPath, Snapshot
from userproxy.model.reports import Decision, Outcome, Source, SourceFallback

PORT = 8080
EVERYWHERE = {IPFamily.IPV4: "0.0.0.0", IPFamily.IPV6: "::"}


class Cluster:
    """A node with routed Pods, each behind a link of its own."""

    def __init__(self, network: Network, family: IPFamily = IPFamily.IPV4) -> None:
        self.network = network
        self.node = network.add_node(Node("node"))
        self.pods = [network.add_pod(self.node, Pod(f"pod{number}")) for number in range(4)]
        self.family = family
        self.name = ListenerName(NAME.service_port, family)

    def address(self, host: Host) -> str:
        return host.address6 if self.family is IPFamily.IPV6 else host.address

    @property
    def path(self) -> ReturnPath:
        return ReturnPath(self.family, networks=pod_networks(self.node, self.family))

    def on_node(
        self, scenario: Callable[["Proxy"], Awaitable[None]], loops: Callable[[], asyncio.AbstractEventLoop]
    ) -> None:
        """Run a scenario with a proxy on the node."""

        async def run() -> None:
            async with proxy_on(self) as proxy:
                await scenario(proxy)

        with asyncio.Runner(loop_factory=loops) as runner:
            self.node.inside(runner.run, run())


class Proxy:
    """A forwarder with one listener, and backends in Pods that say who has connected."""

    def __init__(self, cluster: Cluster, forwarder: Forwarder, port: int) -> None:
        self.cluster = cluster
        self.forwarder = forwarder
        self.port = port
        self._servers: list[asyncio.Server] = []

    def route_to(self, *hosts: Host, wanted: ClientAddress = ClientAddress.AUTO) -> None:
        endpoints = tuple(Endpoint(self.cluster.address(host), PORT) for host in hosts)
        nodes = ("node",) * len(endpoints)
        self.forwarder.update(Snapshot(self.cluster.name, endpoints=endpoints, client_address=wanted, nodes=nodes))

    async def serve(self, sock: socket.socket) -> None:
        """Say to everybody who connects which address that is, and wait for the other side to hang up."""

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            ip, port = writer.get_extra_info("peername")[:2]
            writer.write(f"{ip} {port}\n".encode())
            with suppress(ConnectionError):
                await reader.read()
            writer.close()

        server = await asyncio.start_server(answer, sock=sock)
        self._servers.append(server)

    def close(self) -> None:
        for server in self._servers:
            server.close()

    async def ask(self, sock: socket.socket) -> tuple[str, int]:
        """Whom the backend sees; `sock` is a client's, which is closed."""
        with closing(sock):
            return await self.seen(sock)

    async def seen(self, sock: socket.socket) -> tuple[str, int]:
        loop = asyncio.get_running_loop()
        await asyncio.wait_for(loop.sock_connect(sock, (self.cluster.address(self.cluster.node), self.port)), 10)
        told = await asyncio.wait_for(loop.sock_recv(sock, 100), 10)
        assert told, "the connection was closed"
        ip, port = told.decode().split()
        return ip, int(port)


@asynccontextmanager
async def proxy_on(cluster: Cluster) -> AsyncIterator[Proxy]:
    options = ForwardingOptions(EVERYWHERE, PortRange(), False, 60.0, 10_000, node_name="node")
    forwarder = Forwarder(asyncio.get_running_loop(), options, Random(1))
    proxy = Proxy(cluster, forwarder, forwarder.open(cluster.name))
    forwarder.follow_return_path(cluster.path)
    try:
        yield proxy
    finally:
        proxy.close()
        forwarder.shut_down()


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def loops(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    factory: Callable[[], asyncio.AbstractEventLoop] = request.param
    return factory


@pytest.fixture(params=[IPFamily.IPV4])
def cluster(root: None, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with Network(pods="routed") as network:
        yield Cluster(network, request.param)


def sockets(host: Host, count: int, family: IPFamily = IPFamily.IPV4) -> list[socket.socket]:
    """So many sockets of a host, for a loop."""
    made = [host.socket(socket.AF_INET6 if family is IPFamily.IPV6 else socket.AF_INET) for _ in range(count)]
    for each in made:
        each.setblocking(False)
    return made


def listening(cluster: Cluster, host: Host) -> socket.socket:
    sock = host.listen(PORT, EVERYWHERE[cluster.family])
    sock.setblocking(False)
    return sock


@pytest.mark.parametrize("cluster", IPFamily, indirect=True)
def test_endpoints_see_every_client_from_the_first_connection_on(
    cluster: Cluster, loops: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    lead_answers_here(cluster.node)
    server, *clients = cluster.pods
    backend = listening(cluster, server)
    asking = [(cluster.address(pod), each) for pod in clients for each in sockets(pod, 30, cluster.family)]

    async def scenario(proxy: Proxy) -> None:
        await proxy.serve(backend)
        proxy.route_to(server)
        seen = await asyncio.gather(*(proxy.ask(each) for _, each in asking))
        assert [ip for ip, _ in seen] == [ip for ip, _ in asking]
        assert all(OWN_PORTS[0] <= port <= OWN_PORTS[1] for _, port in seen)
        await eventually(lambda: proxy.forwarder.active == 0)
        decisions = await proxy.forwarder.data_plane.decisions()
        assert {(each.source, each.verdict) for each in decisions} == {(Source.CLIENT, Outcome.SERVED)}
        (process,) = await proxy.forwarder.data_plane.processes()
        assert not any(process.source_fallbacks.values())

    cluster.on_node(scenario, loops)


def test_who_waits_for_what_another_finds_out_keeps_its_turn(
    cluster: Cluster, loops: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    lead_answers_here(cluster.node)
    *servers, client = cluster.pods
    backends = [listening(cluster, server) for server in servers]
    asking = sockets(client, 30)

    async def scenario(proxy: Proxy) -> None:
        for backend in backends:
            await proxy.serve(backend)
        proxy.route_to(*servers)
        await asyncio.gather(*(proxy.ask(each) for each in asking))
        (figures,) = await proxy.forwarder.data_plane.listeners()
        assert [each.total for each in figures.endpoints] == [10, 10, 10]

    cluster.on_node(scenario, loops)


@pytest.mark.parametrize("family", IPFamily)
@pytest.mark.parametrize("rises", [True, False])
def test_pods_of_one_bridge_see_each_other_where_answers_rise(
    root: None, family: IPFamily, rises: bool, loops: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    with Network(pods="bridged") as network:
        cluster = Cluster(network, family)
        lead_answers_here(cluster.node)
        if rises:
            for kind, prefix in (("ipv4", "ip"), ("ipv6", "ip6")):
                match = f"-p {kind} --{prefix}-proto tcp --{prefix}-dport {OWN_PORTS[0]}:{OWN_PORTS[1]}"
                cluster.node.run(f"ebtables -t nat -A PREROUTING {match} -j redirect".split())
        server, *clients = cluster.pods
        backend = listening(cluster, server)
        asking = [(cluster.address(pod), each) for pod in clients for each in sockets(pod, 5, family)]
        pods = "fd00:10:244:1::/64" if family is IPFamily.IPV6 else "10.244.1.0/24"
        bridge = DirectNetwork(pods, "cni0", of_pods=True, is_bridge=True, answers_rise=rises)

        async def scenario(proxy: Proxy) -> None:
            proxy.forwarder.follow_return_path(ReturnPath(family, networks=(bridge,)))
            await proxy.serve(backend)
            proxy.route_to(server)
            seen = [ip for ip, _ in await asyncio.gather(*(proxy.ask(each) for _, each in asking))]
            if rises:
                assert seen == [ip for ip, _ in asking]
            else:
                assert len(set(seen)) == 1
                assert seen[0] not in map(cluster.address, clients)
            (process,) = await proxy.forwarder.data_plane.processes()
            assert not any(process.source_fallbacks.values()), "it is known beforehand"

        cluster.on_node(scenario, loops)


def test_a_client_of_which_the_node_s_address_is_wanted(
    cluster: Cluster, loops: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    lead_answers_here(cluster.node)
    server, client, *_ = cluster.pods
    backend, (asking,) = listening(cluster, server), sockets(client, 1)

    async def scenario(proxy: Proxy) -> None:
        await proxy.serve(backend)
        proxy.route_to(server, wanted=ClientAddress.NODE)
        assert (await proxy.ask(asking))[0] == cluster.node.address
        (decision,) = await decided(proxy)
        assert decision.source is Source.NODE

    cluster.on_node(scenario, loops)


async def decided(proxy: Proxy) -> tuple[Decision, ...]:
    await eventually(lambda: proxy.forwarder.active == 0)
    return await proxy.forwarder.data_plane.decisions()


def test_where_no_answers_come_back_only_the_first_client_is_slow(
    cluster: Cluster, loops: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    server, client, *_ = cluster.pods
    backend, asking = listening(cluster, server), sockets(client, 41)

    async def scenario(proxy: Proxy) -> None:
        await proxy.serve(backend)
        proxy.route_to(server)
        seen = await asyncio.gather(*(proxy.ask(each) for each in asking[:40]))
        await eventually(lambda: not proxy.forwarder._tcp.dialer.looks.current)
        seen.append(await proxy.ask(asking[40]))
        assert {ip for ip, _ in seen} == {cluster.node.address}
        (process,) = await proxy.forwarder.data_plane.processes()
        assert process.source_fallbacks == {
            **dict.fromkeys(SourceFallback, 0),
            SourceFallback.NO_ANSWER: 1,
            SourceFallback.NOT_YET_KNOWN: 39,
            SourceFallback.REMEMBERED: 1,
        }
        (lost,) = await proxy.forwarder.data_plane.lost_answers()
        assert (lost.interface, lost.node, lost.client) == ("cali1", "node", client.address)
        assert {each.tried for each in await decided(proxy)} == {()}, "that is no fault of the endpoint's"

    with capture_logs() as logs:
        cluster.on_node(scenario, loops)
    (line,) = [line for line in logs if line["log_level"] == "warning"]
    assert (line["interface"], line["node"], line["client"]) == ("cali1", "node", client.address)


def test_one_answer_that_is_lost_is_no_reason_to_doubt_the_network(
    cluster: Cluster, loops: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    lead_answers_here(cluster.node)
    server, client, *_ = cluster.pods
    backend, asking = listening(cluster, server), sockets(client, 2)
    rule = f"ip saddr {server.address} ip daddr {client.address} quota 60 bytes drop"  # the first SYN-ACK has 60
    cluster.node.run(
        ["nft", f"add table inet lost {{ chain p {{ type filter hook prerouting priority -300; {rule}; }}; }}"]
    )

    async def scenario(proxy: Proxy) -> None:
        await proxy.serve(backend)
        proxy.route_to(server)
        assert (await proxy.ask(asking[0]))[0] == cluster.node.address
        await eventually(lambda: not proxy.forwarder._tcp.dialer.looks.current)
        assert (await proxy.ask(asking[1]))[0] == client.address
        assert await proxy.forwarder.data_plane.lost_answers() == ()

    with capture_logs() as logs:
        cluster.on_node(scenario, loops)
    assert [line for line in logs if line["log_level"] == "warning"] == []


def test_an_endpoint_that_answers_nobody_tells_nothing_of_the_network(
    cluster: Cluster, loops: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    lead_answers_here(cluster.node)
    dead, server, client, *_ = cluster.pods
    dead.run(
        ["nft", "add table inet dead { chain input { type filter hook input priority 0; tcp dport 8080 drop; }; }"]
    )
    backend, asking = listening(cluster, server), sockets(client, 4)

    async def scenario(proxy: Proxy) -> None:
        await proxy.serve(backend)
        proxy.route_to(dead)
        await is_refused(proxy, asking[0])
        proxy.route_to(server)
        assert (await proxy.ask(asking[1]))[0] == client.address
        proxy.forwarder.follow_return_path(ReturnPath(cluster.family, "unknown"))
        proxy.forwarder.follow_return_path(cluster.path)
        proxy.route_to(dead, server)
        assert [(await proxy.ask(each))[0] for each in asking[2:]] == [client.address] * 2
        assert proxy.forwarder.statistics(cluster.name).retried == 1, "one of them was led to the dead one first"
        assert await proxy.forwarder.data_plane.lost_answers() == ()

    cluster.on_node(scenario, loops)


def test_a_refusal_is_an_answer(cluster: Cluster, loops: Callable[[], asyncio.AbstractEventLoop]) -> None:
    lead_answers_here(cluster.node)
    refusing, server, client, *_ = cluster.pods
    backend, asking = listening(cluster, server), sockets(client, 2)

    async def scenario(proxy: Proxy) -> None:
        await proxy.serve(backend)
        proxy.route_to(refusing)
        with pytest.raises(ConnectionResetError):
            await proxy.ask(asking[0])
        # Nobody answers now. What has come back once is trusted to do so, and a filter is not gone around.
        await filtered(proxy, server, client)
        proxy.route_to(server)
        with pytest.raises(ConnectionResetError):
            await proxy.ask(asking[1])
        (process,) = await proxy.forwarder.data_plane.processes()
        assert not any(process.source_fallbacks.values())

    cluster.on_node(scenario, loops)


def test_a_client_whom_a_filter_refuses_does_not_keep_others_from_finding_out(
    cluster: Cluster, loops: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    lead_answers_here(cluster.node)
    server, refused, admitted, *_ = cluster.pods
    rules = f"ip saddr {admitted.address} accept; tcp dport {PORT} drop;"
    server.run(["nft", f"add table inet admission {{ chain i {{ type filter hook input priority 0; {rules} }}; }}"])
    backend, asking, others = listening(cluster, server), sockets(admitted, 1), sockets(refused, 12)

    async def scenario(proxy: Proxy) -> None:
        # Both are behind one interface, so it is one pair that they find out about.
        whole = DirectNetwork("10.244.1.0/24", "pods0", of_pods=True)
        proxy.forwarder.follow_return_path(ReturnPath(IPFamily.IPV4, networks=(whole,)))
        await proxy.serve(backend)
        proxy.route_to(server)
        async with asyncio.TaskGroup() as group:
            for each in others:
                group.create_task(is_refused(proxy, each), name="refused")
            await eventually(lambda: proxy.forwarder.active == len(others))
            assert (await proxy.ask(asking[0]))[0] == admitted.address
        assert await proxy.forwarder.data_plane.lost_answers() == ()

    cluster.on_node(scenario, loops)


async def is_refused(proxy: Proxy, sock: socket.socket) -> None:
    with pytest.raises(ConnectionResetError):
        await proxy.ask(sock)


async def filtered(proxy: Proxy, server: Host, client: Host) -> None:
    """Have the server admit everybody but one client, as a NetworkPolicy does."""
    rule = f"ip saddr {client.address} drop"
    table = f"add table inet admission {{ chain input {{ type filter hook input priority 0; {rule}; }}; }}"
    await asyncio.to_thread(server.run, ["nft", table])


def test_it_is_found_out_when_answers_come_back_again(
    cluster: Cluster, loops: Callable[[], asyncio.AbstractEventLoop], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(return_pairs, "_FIRST_PAUSE", 0.0)
    lead_answers_here(cluster.node)
    server, client, *_ = cluster.pods
    rule = f"ip saddr {server.address} ip daddr {client.address} drop"
    cluster.node.run(
        ["nft", f"add table inet lost {{ chain p {{ type filter hook prerouting priority -300; {rule}; }}; }}"]
    )
    backend, asking = listening(cluster, server), sockets(client, 40)

    async def scenario(proxy: Proxy) -> None:
        await proxy.serve(backend)
        proxy.route_to(server)
        assert (await proxy.ask(asking.pop()))[0] == cluster.node.address
        await asyncio.to_thread(subprocess.run, ["nft", "delete", "table", "inet", "lost"], check=True)
        assert (await proxy.ask(asking.pop()))[0] == cluster.node.address, "no client waits for a look"

        async def seen_by_now() -> bool:
            return (await proxy.ask(asking.pop()))[0] == client.address

        while not await seen_by_now():
            await asyncio.sleep(0.01)
        assert await proxy.forwarder.data_plane.lost_answers() == ()

    with capture_logs() as logs:
        cluster.on_node(scenario, loops)
    assert [line["log_level"] for line in logs if "nswers to clients" in line["event"]] == ["warning", "info"]


def test_ports_that_are_used_up_cost_no_connection(
    cluster: Cluster, loops: Callable[[], asyncio.AbstractEventLoop], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_sockets, "PODS_PORTS", (61_000, 61_004))
    lead_answers_here(cluster.node)
    server, client, other, *_ = cluster.pods
    backend = listening(cluster, server)
    asking, others = sockets(client, 7), sockets(other, 2)

    async def scenario(proxy: Proxy) -> None:
        await proxy.serve(backend)
        proxy.route_to(server)
        seen = [await proxy.seen(each) for each in asking]
        assert Counter(ip for ip, _ in seen) == {client.address: 5, cluster.node.address: 2}
        assert [(await proxy.seen(each))[0] for each in others] == [other.address] * 2, "they have ports of their own"
        (process,) = await proxy.forwarder.data_plane.processes()
        assert process.source_fallbacks[SourceFallback.NO_PORT] == 2
        for each in (*asking, *others):
            each.close()
        await eventually(lambda: proxy.forwarder.active == 0)

    cluster.on_node(scenario, loops)


def test_a_client_s_own_connections_to_an_endpoint_are_left_alone(
    cluster: Cluster, loops: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """The kernel would choose a port that the client has, too; then its connection would be reset."""
    lead_answers_here(cluster.node)
    server = cluster.pods[0]
    client = cluster.network.add_outside(Host("client"))
    client.ip_batch([f"route add {server.address}/32 via {cluster.node.address}"])
    cluster.node.sysctl("net.ipv4.ip_local_port_range", "50000 50003")
    backend, asking, direct = listening(cluster, server), sockets(client, 4), sockets(client, 4)
    for port, sock in enumerate(direct, 50_000):
        sock.bind(("", port))

    async def scenario(proxy: Proxy) -> None:
        loop = asyncio.get_running_loop()
        await proxy.serve(backend)
        proxy.route_to(server)
        for each in direct:
            await loop.sock_connect(each, (server.address, PORT))
            assert await loop.sock_recv(each, 100)
        assert {(await proxy.ask(each))[0] for each in asking} == {client.address}
        for each in direct:
            await loop.sock_sendall(each, b"still there?")
            each.shutdown(socket.SHUT_WR)
            assert await loop.sock_recv(each, 100) == b"", "ended in order"
            each.close()

    cluster.on_node(scenario, loops)


def test_ports_in_time_wait_are_used_again_at_once(
    cluster: Cluster, loops: Callable[[], asyncio.AbstractEventLoop], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_sockets, "PODS_PORTS", (61_000, 61_001))
    lead_answers_here(cluster.node)
    server, client, *_ = cluster.pods
    backend, asking = listening(cluster, server), sockets(client, 12)

    async def scenario(proxy: Proxy) -> None:
        await proxy.serve(backend)
        proxy.route_to(server)
        for each in asking:
            assert (await proxy.ask(each))[0] == client.address
            await eventually(lambda: proxy.forwarder.active == 0)

    cluster.on_node(scenario, loops)


def test_what_the_kernel_does_not_allow_costs_no_connection(
    cluster: Cluster, loops: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    lead_answers_here(cluster.node)
    server, client, *_ = cluster.pods
    backend, asking = listening(cluster, server), sockets(client, 2)
    cluster.node.ip_batch([f"rule add from {client.address} iif lo prohibit"])  # connect(2) says EACCES

    async def scenario(proxy: Proxy) -> None:
        await proxy.serve(backend)
        proxy.route_to(server)
        assert {(await proxy.ask(each))[0] for each in asking} == {cluster.node.address}
        (process,) = await proxy.forwarder.data_plane.processes()
        assert process.source_fallbacks[SourceFallback.NOT_POSSIBLE] == 2
        assert await proxy.forwarder.data_plane.lost_answers() == ()

    cluster.on_node(scenario, loops)
