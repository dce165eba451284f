"""Endpoints that are portals, here or on another node: one client must not keep two nodes busy with each other."""

import time

import pytest

from tests.lab.cluster import QUICK, Lab, LabNode
from tests.lab.datagrams import ask
from tests.lab.manifests import Port
from tests.lab.proxy import RunningProxy
from userproxy.demo.hosts import Address
from userproxy.demo.traffic import fetch
from userproxy.demo.waiting import eventually
from userproxy.model import IPFamily

pytestmark = pytest.mark.e2e

BOTH_SOURCES = pytest.mark.parametrize("lab", ["manifests", "api"], indirect=True)
FROM_API = pytest.mark.parametrize("lab", ["api"], indirect=True)
FAMILIES = tuple(IPFamily)
LOOP, MENDED = 30040, 30041
AT_ONCE = ("--iptables-min-sync-period", "0s")


def ports(node_port: int, *, target: int | None = None) -> list[Port]:
    """TCP and UDP of one number, on the node and at the endpoints."""
    kinds = {"tcp": "TCP", "udp": "UDP"}
    return [Port(80, name, kind, target or node_port, node_port) for name, kind in kinds.items()]


def datagrams_sent(node: LabNode) -> int:
    """By everybody on the node, so far, over IPv4 and IPv6 (proc(5), /proc/net/snmp and snmp6)."""
    names, values = (
        line.split() for line in node.run(["cat", "/proc/net/snmp"]).stdout.splitlines() if line.startswith("Udp:")
    )
    four = int(dict(zip(names, values, strict=True))["OutDatagrams"])
    six = [line.split()[1] for line in node.run(["cat", "/proc/net/snmp6"]).stdout.splitlines() if "Udp6OutD" in line]
    return four + sum(map(int, six))


def start_both(lab: Lab, second: LabNode, *flags: str) -> list[RunningProxy]:
    proxies = [node.start_userproxy(*QUICK, *flags, most_files=512) for node in (lab.node, second)]
    for node in (lab.node, second):
        for name in ("loop", "mended"):
            for port in ("tcp", "udp"):
                node.wait_for_rules(f"default/{name}:{port}", families=FAMILIES)
    return proxies


@BOTH_SOURCES
def test_node_ports_of_each_other_lead_nobody_in_a_circle(lab: Lab) -> None:
    lab.serve_http()
    second = lab.add_second_node(pods=0)
    hosts = [lab.node, second]
    for name, number, last in (("loop", LOOP, 20), ("mended", MENDED, 21)):
        ips = (f"10.96.0.{last}", f"fd00:10:96::{last}")
        lab.manifests.service(name, ports=ports(number), cluster_ip=ips)
        for family in FAMILIES:
            lab.manifests.slice(name, hosts, ports=ports(number), family=family)
    for family in FAMILIES:
        good = ports(MENDED, target=8080)
        lab.manifests.slice("mended", lab.pods, ports=good, family=family, suffix=f"good-{family.lower()}")
    proxies = start_both(lab, second)
    at_rest = [proxy.descriptors_at_rest() for proxy in proxies]
    sent = [datagrams_sent(host) for host in hosts]
    for address in ips_of(lab.node):
        with pytest.raises(OSError, match="reset"):
            fetch(lab.outside, (address, LOOP))
        with pytest.raises(TimeoutError):
            ask(lab.outside, (address, LOOP), 0.5)
    for host, proxy, descriptors, before in zip(hosts, proxies, at_rest, sent, strict=True):
        assert datagrams_sent(host) - before < 20
        eventually(lambda: proxy.descriptors() <= descriptors + 8, 10, "no connection goes round")  # noqa: B023
        said = proxy.wait_log("default/loop:tcp: not used as an endpoint")
        assert f"{lab.node.address}:{LOOP}, {second.address}:{LOOP}" in said["event"]
    for host in hosts:
        for address in ips_of(host):
            assert fetch(lab.outside, (address, MENDED)).pod
            assert ask(lab.outside, (address, MENDED)).pod


def ips_of(node: LabNode) -> tuple[str, str]:
    return node.address, node.address6


def test_a_node_that_joins_is_one_from_then_on(lab: Lab) -> None:
    lab.serve_http()
    second = lab.add_node("node-2")
    lab.manifests.node(lab.node)
    lab.manifests.service("loop", ports=ports(LOOP), cluster_ip="10.96.0.20")
    lab.manifests.slice("loop", [second, *lab.pods], ports=ports(LOOP))
    proxy = lab.node.start_userproxy(*AT_ONCE, "-v", "3")
    lab.settle()
    assert not any("not used as an endpoint" in line for line in proxy.lines)
    lab.manifests.node(second)
    said = proxy.wait_log("default/loop:tcp: not used as an endpoint")
    assert f": {second.address}:{LOOP}; a portal" in said["event"]


@FROM_API
def test_a_pod_that_listens_on_the_number_of_a_node_port_is_a_pod(lab: Lab) -> None:
    """Anybody may be given that node port; it must not cost somebody else an endpoint."""
    pod = lab.pods[0]
    pod.serve_http(LOOP)
    lab.manifests.node(lab.node)
    lab.manifests.service("other", ports=80, cluster_ip="10.96.0.30", node_port=LOOP)
    lab.manifests.slice("other", [lab.node], ports=LOOP)  # a portal, so nobody is to lead to it
    lab.manifests.service("web", ports=80, cluster_ip="10.96.0.10")
    lab.manifests.slice("web", [pod], ports=LOOP)
    proxy = lab.node.start_userproxy(*AT_ONCE)
    lab.node.wait_for_rules("default/web")
    eventually(lambda: answers(lab, ("10.96.0.10", 80)), 15, "it is looked up")
    listed = [each for each in lab.api.requests if each.path.endswith("/nodes") and not each.query.get("fieldSelector")]
    assert len(listed) == 1
    said = [record["event"] for record in proxy.records if "default/web: not used" in record["event"]]
    assert all("may be one until Nodes are looked up" in event for event in said)
    second = lab.pods[1]
    second.serve_http(LOOP)
    lab.manifests.slice("web", [second], ports=LOOP)
    eventually(lambda: fetch(lab.client, ("10.96.0.10", 80)).pod == second.name, 15, "the new Pod is used")
    assert sum("default/web: not used" in line for line in proxy.lines) == len(said), "nobody waits for another list"


@FROM_API
def test_where_nodes_cannot_be_listed_endpoints_are_used_and_it_is_said(lab: Lab) -> None:
    pod = lab.pods[0]
    pod.serve_http(LOOP)
    lab.api.forbid("nodes")
    lab.manifests.service("web", ports=80, cluster_ip="10.96.0.10", node_port=LOOP)
    lab.manifests.slice("web", [pod], ports=LOOP)
    proxy = lab.node.start_userproxy(*AT_ONCE)
    said = proxy.wait_log("Nodes cannot be looked up")
    assert 'resources: ["nodes"], verbs: ["list", "watch"]' in said["reason"]
    eventually(lambda: answers(lab, ("10.96.0.10", 80)), 15, "the endpoint is used")


def answers(lab: Lab, address: Address) -> bool:
    try:
        return bool(fetch(lab.client, address, 1.0).pod)
    except OSError:
        time.sleep(0.05)
        return False
