"""What becomes of real packets, by each driver: from outside, from a Pod of the node, and from the node itself."""

import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

import pytest

from tests.portals.conftest import Network, tools_of, use, with_addresses
from tests.portals.examples import DROP, EVERYWHERE, NODE_IPS, REJECT, serve
from userproxy.model import (
    IPFamily,
    LocalTraffic,
    Portal,
    PortalBinding,
    PortalKind,
    Protocol,
    ServicePortName,
    Target,
)
from userproxy.portals.claims import PortClaims
from userproxy.portals.drivers import DRIVERS
from userproxy.portals.interface import DriverOptions, PortalDriver
from userproxy.portals.iptables.variant import Variant

pytestmark = pytest.mark.slow

IPS = {
    IPFamily.IPV4: {
        "cluster IP": "10.96.0.10",
        "external IP": "203.0.113.5",
        "load-balancer IP": "198.51.100.7",
        "outside": "192.0.2.1",
        "pod": "10.244.1.2",
        "bridge": "10.244.1.1",
    },
    IPFamily.IPV6: {
        "cluster IP": "fd00:96::10",
        "external IP": "2001:db8:113::5",
        "load-balancer IP": "2001:db8:100::7",
        "outside": "2001:db8::1",
        "pod": "fd00:244::2",
        "bridge": "fd00:244::1",
    },
}
LENGTHS = {IPFamily.IPV4: 24, IPFamily.IPV6: 64}
SOCKETS = {Protocol.TCP: socket.SOCK_STREAM, Protocol.UDP: socket.SOCK_DGRAM}
FAMILIES = {IPFamily.IPV4: socket.AF_INET, IPFamily.IPV6: socket.AF_INET6}
IP_PKTINFO = 8  # linux/in.h
PORT, NODE_PORT = 80, 30080
BY_NETWORK = {
    IPFamily.IPV4: LocalTraffic(networks=("10.244.1.0/24",)),
    IPFamily.IPV6: LocalTraffic(networks=("fd00:244::/64",)),
}
BY_INTERFACE = LocalTraffic(interface="pod+")


class Listeners:
    """Sockets that answer with their own names, served by one thread."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._stop, stopped = socket.socketpair()
        self._selector.register(stopped, selectors.EVENT_READ)
        self._stopped = stopped
        self._thread: threading.Thread | None = None

    def open(self, family: IPFamily, protocol: Protocol, name: str, port: int = 0) -> int:
        """Opens a listener in the caller's network; its port."""
        made = socket.socket(FAMILIES[family], SOCKETS[protocol])
        made.bind((EVERYWHERE[family], port))
        if protocol is Protocol.TCP:
            made.listen()
        elif family is IPFamily.IPV4:
            made.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        else:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        self._selector.register(made, selectors.EVENT_READ, name.encode())
        return int(made.getsockname()[1])

    def start(self) -> None:
        self._thread = threading.Thread(target=self._answer)
        self._thread.start()

    def close(self) -> None:
        self._stop.close()
        if self._thread is not None:
            self._thread.join()
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()

    def _answer(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._stopped:
                    return
                assert isinstance(key.fileobj, socket.socket)
                if key.fileobj.type is socket.SOCK_STREAM:
                    connection, _ = key.fileobj.accept()
                    connection.sendall(key.data)
                    connection.close()
                else:
                    _, [(level, kind, sent_to)], _, client = key.fileobj.recvmsg(100, 100)
                    key.fileobj.sendmsg([key.data], [(level, kind, as_source(level, sent_to))], 0, client)


def as_source(level: int, pktinfo: bytes) -> bytes:
    """Makes the address that a datagram was sent to the source of the answer (ip(7), ipv6(7))."""
    return bytes(4) + pktinfo[8:12] + bytes(4) if level == socket.IPPROTO_IP else pktinfo[:16] + bytes(4)


class Cluster:
    """A node with a Pod, a client outside, and listeners named after the traffic that they are for."""

    def __init__(
        self,
        node: Network,
        outside: Network,
        pod: Network,
        family: IPFamily,
        listeners: Listeners,
        driver: type[PortalDriver],
    ) -> None:
        self.family = family
        self._driver = driver
        self.ips = {**IPS[family], "node": NODE_IPS[family]}
        self.ports: dict[tuple[Protocol, str], int] = {}
        self._networks = {"node": node, "outside": outside, "pod": pod}
        node.shell("ip", "link", "set", "far0", "netns", str(outside.thread_id))
        node.shell("ip", "link", "add", "pod0", "type", "veth", "peer", "name", "eth0", "netns", str(pod.thread_id))
        for network, link, ip in ((node, "pod0", "bridge"), (outside, "far0", "outside"), (pod, "eth0", "pod")):
            flags = ["nodad"] if family is IPFamily.IPV6 else []
            network.shell("ip", "address", "add", f"{self.ips[ip]}/{LENGTHS[family]}", "dev", link, *flags)
            network.shell("ip", "link", "set", link, "up")
        outside.shell("ip", "route", "add", "default", "via", self.ips["node"])
        pod.shell("ip", "route", "add", "default", "via", self.ips["bridge"])
        # Refusals are counted per client, and each test has only a few clients.
        for setting in ("ipv4.ip_forward=1", "ipv6.conf.all.forwarding=1", "ipv4.icmp_ratelimit=0"):
            node.shell("sysctl", "-qw", f"net.{setting}")
        node.shell("sysctl", "-qw", "net.ipv6.icmp.ratelimit=0")
        for protocol in SOCKETS:
            for name in ("internal", "external"):
                self.ports[protocol, name] = node.run(partial(listeners.open, family, protocol, name))
        outside.run(partial(listeners.open, family, Protocol.UDP, "outside", self.ports[Protocol.UDP, "internal"]))
        listeners.start()

    def target(self, protocol: Protocol, name: str) -> Target:
        return serve(self.ports[protocol, name])

    def sync(
        self,
        targets: Callable[[Protocol], tuple[Target, Target, Target]],
        local_traffic: LocalTraffic | None = None,
        ranges: tuple[str, ...] = (),
    ) -> None:
        """Writes the rules of a Service with every kind of portal, for TCP and UDP."""
        portals = (
            Portal(PortalKind.CLUSTER_IP, self.ips["cluster IP"], PORT),
            Portal(PortalKind.EXTERNAL_IP, self.ips["external IP"], PORT),
            Portal(PortalKind.LOAD_BALANCER_IP, self.ips["load-balancer IP"], PORT),
            Portal(PortalKind.NODE_PORT, "", NODE_PORT),
        )
        bindings = [
            PortalBinding(ServicePortName("default", "web", "", protocol), portals, *targets(protocol), ranges)
            for protocol in SOCKETS
        ]

        async def work() -> None:
            driver = self._driver(DriverOptions(self.family, EVERYWHERE[self.family]))
            driver.set_local_traffic(local_traffic or BY_NETWORK[self.family])
            await driver.sync(bindings)
            await driver.close()

        self._networks["node"].run_loop(work)

    def ask(self, whence: str, protocol: Protocol, ip: str, port: int, *, patience: float = 10) -> str:
        """Who answers a client; ``refused``; or ``silence`` for `patience` seconds."""
        return self._networks[whence].run(partial(ask, self.family, protocol, ip, port, patience))

    def check(self, table: str) -> None:
        """Compares a table of portals by clients with what really happens, for TCP and UDP."""
        header, *lines = [line.split() for line in table.strip().splitlines()]
        for protocol in SOCKETS:
            for portal, *expected in lines:
                kind = portal.replace("-IP", " IP")
                ip, port = (self.ips["node"], NODE_PORT) if portal == "node-port" else (self.ips[kind], PORT)
                for whence, answer in zip(header[1:], expected, strict=True):
                    if answer != "-":
                        patience = 0.3 if answer == "silence" else 10
                        got = self.ask(whence, protocol, ip, port, patience=patience)
                        assert (protocol, portal, whence, got) == (protocol, portal, whence, answer)


def ask(family: IPFamily, protocol: Protocol, ip: str, port: int, patience: float) -> str:
    with socket.socket(FAMILIES[family], SOCKETS[protocol]) as client:
        client.settimeout(patience)
        try:
            client.connect((ip, port))
            if protocol is Protocol.UDP:
                # A host is told at once that OUTPUT took its datagram; what it was told on the way comes after that.
                with suppress(PermissionError):
                    client.send(b"?")
            return client.recv(100).decode()
        except ConnectionRefusedError:
            return "refused"
        except TimeoutError:
            return "silence"


@pytest.fixture
def listeners() -> Iterator[Listeners]:
    made = Listeners()
    yield made
    made.close()


@pytest.fixture(
    params=[(family, driver) for family in IPFamily for driver in (*Variant, "nftables")], ids=lambda p: "-".join(p)
)
def cluster(
    request: pytest.FixtureRequest, network: Network, outside: Network, pod: Network, listeners: Listeners
) -> Cluster:
    """One for each family and driver; the one for iptables with each variant of its tables."""
    family, driver = request.param
    if driver in list(Variant):
        use(network, tools_of(family, driver))
        driver = "iptables"
    return Cluster(with_addresses(network), outside, pod, family, listeners, DRIVERS[driver])


@pytest.mark.parametrize("recognised", ["networks", "interface"])
def test_external_local_with_an_endpoint_here(cluster: Cluster, recognised: str) -> None:
    cluster.sync(
        lambda p: (cluster.target(p, "internal"), cluster.target(p, "external"), cluster.target(p, "internal")),
        BY_INTERFACE if recognised == "interface" else None,
    )
    cluster.check("""
        from              outside   pod       node
        cluster-IP        internal  internal  internal
        external-IP       external  internal  internal
        load-balancer-IP  external  internal  internal
        node-port         external  internal  internal
    """)


@pytest.mark.parametrize("recognised", ["networks", "interface"])
def test_external_local_with_no_endpoint_here(cluster: Cluster, recognised: str) -> None:
    cluster.sync(
        lambda p: (cluster.target(p, "internal"), DROP, cluster.target(p, "internal")),
        BY_INTERFACE if recognised == "interface" else None,
    )
    cluster.check("""
        from              outside   pod       node
        cluster-IP        internal  internal  internal
        external-IP       silence   internal  internal
        load-balancer-IP  silence   internal  internal
        node-port         silence   internal  internal
    """)


def test_internal_local_with_no_endpoint_here(cluster: Cluster) -> None:
    cluster.sync(lambda p: (DROP, cluster.target(p, "external"), cluster.target(p, "external")))
    cluster.check("""
        from              outside   pod       node
        cluster-IP        silence   silence   silence
        external-IP       external  external  external
        load-balancer-IP  external  external  external
        node-port         external  external  external
    """)


def test_no_endpoint_at_all_and_then_one(cluster: Cluster) -> None:
    cluster.sync(lambda _: (REJECT, REJECT, REJECT))
    cluster.check("""
        from              outside   pod       node
        cluster-IP        refused   refused   refused
        external-IP       refused   refused   refused
        load-balancer-IP  refused   refused   refused
        node-port         refused   refused   refused
    """)
    cluster.sync(lambda p: (cluster.target(p, "internal"),) * 3)
    cluster.check("""
        from              outside   pod       node
        cluster-IP        internal  internal  internal
        external-IP       internal  internal  internal
        load-balancer-IP  internal  internal  internal
        node-port         internal  internal  internal
    """)


def test_this_nodes_pods_are_refused_and_others_are_not(cluster: Cluster) -> None:
    cluster.sync(lambda p: (cluster.target(p, "internal"), cluster.target(p, "external"), REJECT))
    cluster.check("""
        from              outside   pod       node
        cluster-IP        internal  internal  internal
        external-IP       external  refused   refused
        load-balancer-IP  external  refused   refused
        node-port         external  refused   refused
    """)


@pytest.mark.parametrize(
    ("allowed", "answers"),
    [
        (("outside",), "internal silence  silence"),
        (("pod",), "silence  internal silence"),
        (("node",), "silence  silence  internal"),
        (("outside", "pod"), "internal internal silence"),
    ],
)
def test_source_ranges_restrict_load_balancer_ips_alone(
    cluster: Cluster, allowed: tuple[str, ...], answers: str
) -> None:
    mask = {IPFamily.IPV4: 32, IPFamily.IPV6: 128}[cluster.family]
    ranges = tuple(f"{cluster.ips[name]}/{mask}" for name in allowed)
    cluster.sync(lambda p: (cluster.target(p, "internal"),) * 3, ranges=ranges)
    cluster.check(f"""
        from              outside   pod       node
        cluster-IP        internal  internal  internal
        external-IP       internal  internal  internal
        load-balancer-IP  {answers}
        node-port         internal  internal  internal
    """)


def test_a_node_with_the_load_balancer_ip_reaches_it_where_the_node_may(cluster: Cluster) -> None:
    """Its source is then the load-balancer IP itself."""
    mask = {IPFamily.IPV4: 32, IPFamily.IPV6: 128}[cluster.family]
    cluster._networks["node"].shell("ip", "address", "add", f"{cluster.ips['load-balancer IP']}/{mask}", "dev", "lo")
    cluster.sync(lambda p: (cluster.target(p, "internal"),) * 3, ranges=(f"{cluster.ips['node']}/{mask}",))
    cluster.check("""
        from              outside   pod       node
        load-balancer-IP  silence   silence   internal
    """)


def test_an_external_ip_of_the_node_itself(cluster: Cluster) -> None:
    mask = {IPFamily.IPV4: 32, IPFamily.IPV6: 128}[cluster.family]
    cluster._networks["node"].shell("ip", "address", "add", f"{cluster.ips['external IP']}/{mask}", "dev", "lo")
    cluster.sync(lambda p: (cluster.target(p, "internal"), DROP, cluster.target(p, "external")))
    cluster.check("""
        from              outside   pod       node
        external-IP       silence   external  external
    """)
    cluster.sync(lambda _: (REJECT, REJECT, REJECT))
    cluster.check("""
        from              outside   pod       node
        external-IP       refused   refused   refused
    """)


def test_datagrams_that_go_straight_to_a_listener_are_refused(cluster: Cluster) -> None:
    cluster.sync(
        lambda p: (cluster.target(p, "internal"), cluster.target(p, "external"), cluster.target(p, "internal"))
    )
    for whence, ip in (("outside", "node"), ("pod", "bridge"), ("pod", "node"), ("node", "node")):
        for name in ("internal", "external"):
            port = cluster.ports[Protocol.UDP, name]
            for _ in range(2):
                assert cluster.ask(whence, Protocol.UDP, cluster.ips[ip], port) == "refused"
    cluster.check("""
        from              outside   pod       node
        cluster-IP        internal  internal  internal
        node-port         external  internal  internal
    """)


def test_datagrams_to_the_same_port_of_another_host_pass(cluster: Cluster) -> None:
    cluster.sync(lambda p: (cluster.target(p, "internal"),) * 3)
    port = cluster.ports[Protocol.UDP, "internal"]
    for whence in ("pod", "node"):
        assert cluster.ask(whence, Protocol.UDP, cluster.ips["outside"], port) == "outside"


def test_without_rules_datagrams_do_reach_a_listener(cluster: Cluster) -> None:
    """So it is the rule that refuses them."""
    port = cluster.ports[Protocol.UDP, "internal"]
    assert cluster.ask("outside", Protocol.UDP, cluster.ips["node"], port) == "internal"


def test_claimed_ports_do_not_stand_in_the_way_of_their_traffic(cluster: Cluster) -> None:
    claims = PortClaims(cluster.family)
    for protocol in SOCKETS:
        cluster._networks["node"].run(partial(claims.claim, "", protocol, NODE_PORT))
    cluster.sync(
        lambda p: (cluster.target(p, "internal"), cluster.target(p, "external"), cluster.target(p, "internal"))
    )
    cluster.check("""
        from              outside   pod       node
        node-port         external  internal  internal
    """)
    claims.close()
