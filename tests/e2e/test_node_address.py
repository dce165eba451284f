"""The node's address becomes another one, as a lease of DHCP does: new clients are served at once."""

from contextlib import ExitStack

import pytest

from tests.lab.cluster import QUICK, Lab
from tests.lab.datagrams import ask
from tests.lab.manifests import Port
from tests.lab.probes import KeptConnection
from userproxy.demo.hosts import Host
from userproxy.demo.traffic import fetch
from userproxy.demo.waiting import eventually
from userproxy.model import IPFamily

pytestmark = pytest.mark.e2e

FAMILIES = (IPFamily.IPV4, IPFamily.IPV6)
CLUSTER_IPS = ("10.96.0.10", "fd00:10:96::10")
LATER = ("192.0.2.77", "2001:db8::77")
NODE_PORT = 30080
PORTS = [Port(80, "tcp", node_port=NODE_PORT), Port(80, "udp", "UDP", node_port=NODE_PORT)]


def start(lab: Lab) -> None:
    lab.serve_http()
    lab.manifests.slices("web", lab.pods, ports=PORTS)
    lab.manifests.service("web", ports=PORTS, cluster_ip=CLUSTER_IPS)
    lab.node.start_userproxy(*QUICK, "--iptables-sync-period", "1h")
    lab.settle(*FAMILIES)


def move(lab: Lab) -> None:
    """Give the node other addresses in place of those it has."""
    four, six = LATER
    lab.node.ip_batch(
        [
            f"addr del {lab.node.address}/24 dev eth0",
            f"addr del {lab.node.address6}/64 dev eth0",
            f"addr add {four}/24 dev eth0",
            f"addr add {six}/64 dev eth0",
            "route replace default via 192.0.2.1",
            "route replace default via 2001:db8::1",
        ]
    )


def test_new_clients_are_served_by_every_portal(lab: Lab) -> None:
    start(lab)
    move(lab)
    everybody: list[Host] = [lab.outside, lab.client, lab.node]
    for ip in CLUSTER_IPS:
        for host in everybody[1:]:
            eventually(lambda: fetch(host, (ip, 80), 1.0).pod, 10, f"{host.name} reaches {ip}")  # noqa: B023 -- used at once
            eventually(lambda: ask(host, (ip, 80), 1.0).pod, 10, f"{host.name} reaches {ip}")  # noqa: B023 -- used at once
    for address in LATER:
        for host in everybody:
            eventually(lambda: fetch(host, (address, NODE_PORT), 1.0).pod, 10, f"{host.name}: {address}")  # noqa: B023
            eventually(lambda: ask(host, (address, NODE_PORT), 1.0).pod, 10, f"{host.name}: {address}")  # noqa: B023


def test_connections_by_the_bridges_address_go_on(lab: Lab) -> None:
    """Clients are redirected to it, and Pods are reached from it; it has not changed."""
    start(lab)
    with ExitStack() as stack:
        kept = [stack.enter_context(KeptConnection(lab.client, (ip, 80))) for ip in CLUSTER_IPS]
        before = [each.ask().pod for each in kept]
        move(lab)
        assert [each.ask().pod for each in kept] == before
