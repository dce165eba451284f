"""Which address a backend sees as its client's: every row of the table in docs/differences.md, in both families.

There are two nodes, and userproxy runs on the first. Each Service has one endpoint, so that it is known where a
connection goes.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import product
from typing import NamedTuple

import pytest

from tests.lab.cluster import QUICK, Lab
from tests.lab.datagrams import ask_over
from tests.lab.manifests import Policy, Port
from tests.lab.probes import DROPPED, KeptConnection, try_to_connect
from userproxy.admin.client import AdminClient
from userproxy.admin.paths import ROOTS_SOCKET
from userproxy.demo.hosts import Address, Host
from userproxy.demo.traffic import Answer, fetch
from userproxy.demo.waiting import eventually
from userproxy.model import IPFamily

pytestmark = pytest.mark.e2e

FAMILIES = (IPFamily.IPV4, IPFamily.IPV6)
POLICIES: tuple[Policy, ...] = ("Cluster", "Local")
PORTALS = ("cluster IP", "external IP", "load-balancer IP", "node port")
ENDPOINTS = ("here", "elsewhere", "itself", "the node", "another node")
"""A Pod of this node or of the other one, the client Pod itself, and hostNetwork Pods of this node or of the other."""

SERVICES = {key: number for number, key in enumerate(product(ENDPOINTS, POLICIES), 1)}
"""A Service for each endpoint under each policy, and the number in its name, addresses and node port."""

PORTS = (Port(80, "http", target=8080), Port(80, "dns", "UDP", target=8080))

CLIENT, NODE = "the client's", "the node's"

WHO_IS_SEEN: list[tuple[str, Policy, str, str]] = [
    # client        policy      endpoint            seen with auto
    ("Pod",         "Cluster",  "here",             CLIENT),
    ("Pod",         "Cluster",  "elsewhere",        CLIENT),
    ("Pod",         "Cluster",  "itself",           NODE),
    ("Pod",         "Cluster",  "the node",         NODE),
    ("Pod",         "Cluster",  "another node",     CLIENT),
    ("Pod",         "Local",    "here",             CLIENT),
    ("Pod",         "Local",    "elsewhere",        CLIENT),
    ("Pod",         "Local",    "itself",           NODE),
    ("Pod",         "Local",    "the node",         NODE),
    ("Pod",         "Local",    "another node",     CLIENT),
    ("node",        "Cluster",  "here",             NODE),
    ("node",        "Cluster",  "elsewhere",        NODE),
    ("node",        "Cluster",  "the node",         NODE),
    ("node",        "Cluster",  "another node",     NODE),
    ("node",        "Local",    "here",             NODE),
    ("node",        "Local",    "elsewhere",        NODE),
    ("node",        "Local",    "the node",         NODE),
    ("node",        "Local",    "another node",     NODE),
    ("outside",     "Cluster",  "here",             CLIENT),
    ("outside",     "Cluster",  "elsewhere",        NODE),
    ("outside",     "Cluster",  "the node",         NODE),
    ("outside",     "Cluster",  "another node",     NODE),
    ("outside",     "Local",    "here",             CLIENT),
    ("outside",     "Local",    "elsewhere",        DROPPED),
    ("outside",     "Local",    "the node",         NODE),
    ("outside",     "Local",    "another node",     DROPPED),
    ("far Pod",     "Cluster",  "here",             CLIENT),
    ("far Pod",     "Cluster",  "elsewhere",        NODE),
    ("far Pod",     "Local",    "here",             CLIENT),
    ("far Pod",     "Local",    "elsewhere",        DROPPED),
]  # fmt: skip
"""A client that is a hostNetwork Pod is the node itself. A far Pod is one of the other node, and is led to this one by
a node port alone. A policy is that of external traffic; what goes to a cluster IP meets none."""

CLUSTER_RANGES = {IPFamily.IPV4: "10.96.0.0/16", IPFamily.IPV6: "fd00:10:96::/112"}


class Row(NamedTuple):
    """A connection: whose, to which portal of which Service."""

    client: str
    portal: str
    policy: Policy
    endpoint: str


def rows(client: str, policy: Policy, endpoint: str) -> list[Row]:
    portals = ("node port",) if client == "far Pod" else PORTALS
    return [Row(client, portal, policy, endpoint) for portal in portals]


EXPECTED = {
    row: CLIENT if row.portal == "cluster IP" and endpoint == "here" and client != "node" else seen
    for client, policy, endpoint, seen in WHO_IS_SEEN
    for row in rows(client, policy, endpoint)
    if not (row.portal == "cluster IP" and policy == "Local")
}


def address_of(row: Row, family: IPFamily) -> Address:
    number = SERVICES[row.endpoint, row.policy]
    four, six = {
        "cluster IP": (("10.96.0.{}", 80), ("fd00:10:96::{}", 80)),
        "external IP": (("203.0.113.{}", 80), ("2001:db8:e::a:{}", 80)),
        "load-balancer IP": (("198.51.100.{}", 80), ("2001:db8:e::b:{}", 80)),
        "node port": (("192.0.2.10", 30000 + number), ("2001:db8::10", 30000 + number)),
    }[row.portal]
    text, port = four if family is IPFamily.IPV4 else six
    return text.format(number), port


class Cluster:
    """Two nodes with all Services; userproxy runs on the first."""

    def __init__(self, lab: Lab, *flags: str) -> None:
        self.lab = lab
        self.far = lab.add_second_node(pods=1)
        far_client = lab.add_pod("far-client", self.far)
        lab.serve_http()
        for host in (lab.client, lab.node, self.far):
            lab.serve_http_in(host)
        for family, hop in zip(FAMILIES, (lab.node.address, lab.node.address6), strict=True):
            lab.outside.ip_batch([f"route add {CLUSTER_RANGES[family]} via {hop}"])
        self.clients: dict[str, Host] = {
            "Pod": lab.client,
            "node": lab.node,
            "outside": lab.outside,
            "far Pod": far_client,
        }
        for endpoint, policy in SERVICES:
            self.serve(endpoint, policy)
        lab.node.start_userproxy(*QUICK, "--detect-local-mode", "NodeCIDR", *flags)
        lab.settle(*FAMILIES)

    def serve(self, endpoint: str, policy: Policy, annotations: Mapping[str, str] | None = None) -> None:
        """The Service of an endpoint under a policy."""
        number = SERVICES[endpoint, policy]
        name = f"web-{number}"
        portals = {
            portal: [address_of(Row("", portal, policy, endpoint), family)[0] for family in FAMILIES]
            for portal in PORTALS
        }
        pods = {pod.name: pod for pod in self.lab.pods}
        backends: dict[str, Host] = {
            "here": pods["web-1"],
            "elsewhere": pods["far-1"],
            "itself": self.lab.client,
            "the node": self.lab.node,
            "another node": self.far,
        }
        self.lab.manifests.service(
            name,
            ports=[Port(80, "http", node_port=30000 + number), Port(80, "dns", "UDP", node_port=30000 + number)],
            cluster_ip=portals["cluster IP"],
            external_ips=portals["external IP"],
            load_balancer_ips=portals["load-balancer IP"],
            external_policy=policy,
            annotations=annotations,
        )
        self.lab.manifests.slices(name, [backends[endpoint]], ports=PORTS)

    def seen(self, row: Row, family: IPFamily, protocol: str) -> str:
        """Whose address the backend sees: an address itself where that is neither the client's nor the node's."""
        client, address = self.clients[row.client], address_of(row, family)
        if EXPECTED[row] == DROPPED and protocol == "TCP":
            return try_to_connect(client, address)
        try:
            answer = ask_again(client, address) if protocol == "UDP" else fetch(client, address)
        except TimeoutError:
            return DROPPED
        return self.whose(answer.client_ip, client, family)

    def whose(self, ip: str, client: Host, family: IPFamily) -> str:
        ipv6 = family is IPFamily.IPV6
        if client is not self.lab.node and ip == (client.address6 if ipv6 else client.address):
            return CLIENT
        node = self.lab.node.address6 if ipv6 else self.lab.node.address
        return NODE if ip in (node, self.lab.seen_by_pods(family)) else ip

    def table(self, asked: Sequence[Row], family: IPFamily, protocol: str) -> dict[Row, str]:
        with ThreadPoolExecutor(16) as threads:
            found = threads.map(lambda row: self.seen(row, family, protocol), asked)
            return dict(zip(asked, found, strict=True))


def ask_again(host: Host, address: Address) -> Answer:
    """Ask over UDP until there is an answer, as resolvers do: silence alone tells nobody that one is lost."""
    with host.udp_socket(address, 0.5) as sock:
        for _ in range(3):
            with suppress(TimeoutError):
                return ask_over(sock)
        return ask_over(sock)


@pytest.fixture(scope="module")
def cluster(shared_lab: Lab) -> Cluster:
    return Cluster(shared_lab)


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_table(cluster: Cluster, family: IPFamily, protocol: str) -> None:
    found = cluster.table(list(EXPECTED), family, protocol)
    assert {row: seen for row, seen in found.items() if seen != EXPECTED[row]} == {}


@pytest.mark.parametrize("br_netfilter", [0, 1])
def test_between_pods_of_one_node_whether_or_not_bridged_frames_meet_rules(cluster: Cluster, br_netfilter: int) -> None:
    """Bridged Pods alone are concerned; over routed ones it is the same twice."""
    for name in ("call-iptables", "call-ip6tables"):
        cluster.lab.node.sysctl(f"net.bridge.bridge-nf-{name}", br_netfilter)
    asked = [row for row in EXPECTED if row.client == "Pod"]
    for family, protocol in product(FAMILIES, ("TCP", "UDP")):
        found = cluster.table(asked, family, protocol)
        assert {row: seen for row, seen in found.items() if seen != EXPECTED[row]} == {}, (family, protocol)


Decisions = list[Mapping[str, str]]


def served(api: AdminClient, asked: Mapping[str, str]) -> Decisions:
    """The decisions about TCP clients that were served to the end."""
    found = api.get("decisions", **asked)["items"]
    return [each for each in found if (each["protocol"], each["verdict"]) == ("TCP", "served")]


def decided(api: AdminClient, client: str, asked: Mapping[str, str], before: Decisions) -> Decisions:
    """Those about a client that were not there `before`. An earlier one may have had its port, as may a UDP flow."""
    return [each for each in served(api, asked) if each["client"] == client and each not in before]


def test_connections_and_decisions_say_what_was_seen(cluster: Cluster) -> None:
    api = AdminClient(cluster.lab.node.path(str(ROOTS_SOCKET)))
    for client, endpoint in (("Pod", "elsewhere"), ("Pod", "the node"), ("outside", "here"), ("outside", "elsewhere")):
        row = Row(client, "node port", "Cluster", endpoint)
        asked = {"service": f"web-{SERVICES[endpoint, 'Cluster']}", "client": cluster.clients[client].address}
        before = served(api, asked)
        with KeptConnection(cluster.clients[client], address_of(row, IPFamily.IPV4)) as connection:
            answer = connection.ask()
            (item,) = (each for each in api.get("connections", **asked)["items"] if each["protocol"] == "TCP")
            said = "client" if EXPECTED[row] == CLIENT else "node"
            assert (item["source"], item["source_address"]) == (said, answer.client)
        ended = partial(decided, api, item["client"], asked, before)
        assert [each["source"] for each in eventually(ended, 10, "it is decided upon")] == [said]


def test_a_service_says_otherwise_than_the_proxy_and_takes_it_back(cluster: Cluster) -> None:
    row, family = Row("Pod", "cluster IP", "Cluster", "here"), IPFamily.IPV4
    portal, _ = address_of(row, family)
    standing = cluster.lab.node.standing(portal)
    for asked, expected in (("node", NODE), ("keep", CLIENT), ("auto", CLIENT), ("never", CLIENT), ("node", NODE)):
        cluster.serve("here", "Cluster", annotations={"userproxy.io/client-address": asked})
        cluster.lab.settle(family)
        for protocol in ("TCP", "UDP"):
            assert cluster.seen(row, family, protocol) == expected, (asked, protocol)
    assert cluster.lab.node.standing(portal) == standing


@pytest.mark.parametrize("comes_back", [True, False])
def test_keep_is_for_networks_that_bring_answers_back_where_auto_cannot_know(lab: Lab, *, comes_back: bool) -> None:
    """The other node sends answers to a client outside by this node, or past it, as its routes say."""
    cluster = Cluster(lab, "--client-address", "keep")
    outside = lab.outside.address, lab.outside.address6
    hops = lab.node.address, lab.node.address6
    if comes_back:
        cluster.far.ip_batch([f"route add {ip} via {hop}" for ip, hop in zip(outside, hops, strict=True)])
    row = Row("outside", "node port", "Cluster", "elsewhere")
    for family, protocol in product(FAMILIES, ("TCP", "UDP")):
        assert cluster.seen(row, family, protocol) == (CLIENT if comes_back else NODE), (family, protocol)


def test_node_is_for_all_services_that_do_not_say_otherwise(lab: Lab) -> None:
    cluster = Cluster(lab, "--client-address", "node")
    asked = [row for row in EXPECTED if EXPECTED[row] != DROPPED]
    assert set(cluster.table(asked, IPFamily.IPV4, "TCP").values()) == {NODE}
    cluster.serve("here", "Local", annotations={"userproxy.io/client-address": "auto"})
    lab.settle()
    for client in cluster.clients:
        row = Row(client, "node port", "Local", "here")
        assert cluster.seen(row, IPFamily.IPV4, "TCP") == EXPECTED[row]


def test_the_table_with_data_processes(lab: Lab) -> None:
    cluster = Cluster(lab, "--workers", "2")
    for family, protocol in ((IPFamily.IPV4, "UDP"), (IPFamily.IPV6, "TCP")):
        found = cluster.table(list(EXPECTED), family, protocol)
        assert {row: seen for row, seen in found.items() if seen != EXPECTED[row]} == {}
