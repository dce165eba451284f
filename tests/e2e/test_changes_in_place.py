"""Edits of a Service that is in use: its listener stays where it is, and no connection is cut."""

from http.client import HTTPException
from typing import Any

import pytest

from tests.lab.cluster import QUICK, Lab
from tests.lab.manifests import Backend, Ingress, Port
from tests.lab.probes import ACCEPTED, DROPPED, KeptConnection, try_to_connect
from tests.lab.rules import local_ports, rules
from userproxy.demo.traffic import fetch
from userproxy.demo.waiting import eventually
from userproxy.model import IPFamily

pytestmark = pytest.mark.e2e

FAMILIES = (IPFamily.IPV4, IPFamily.IPV6)
FOUR, SIX = ("10.96.0.10", 80), ("fd00:10:96::10", 80)
CLOSE = {"userproxy.io/on-endpoint-removal": "close"}

SERVICE: dict[str, Any] = {
    "cluster_ip": [FOUR[0], SIX[0]],
    "node_port": 30080,
    "external_ips": ["203.0.113.5", "2001:db8:e::5"],
    "load_balancer_ips": ["198.51.100.7", "2001:db8:e::7"],
    "ports": [Port(80, "http")],
}

EDITS: dict[str, dict[str, Any]] = {
    "affinity": {"affinity": 600},
    "its timeout": {"affinity": 60},
    "no affinity again": {},
    "internal policy Local": {"internal_policy": "Local"},
    "both policies Local": {"internal_policy": "Local", "external_policy": "Local"},
    "external policy Local": {"external_policy": "Local", "health_check_node_port": 32000},
    "its health check elsewhere": {"external_policy": "Local", "health_check_node_port": 32001},
    "source ranges": {"source_ranges": ["192.0.2.200/32", "2001:db8::200/128"]},
    "other source ranges": {"source_ranges": ["192.0.2.0/24"]},
    "another node port": {"node_port": 30081},
    "other external IPs": {"external_ips": ["203.0.113.6", "2001:db8:e::6"]},
    "no external IPs": {"external_ips": []},
    "another LB IP": {"load_balancer_ips": ["198.51.100.8"]},
    "an LB IP of mode Proxy": {"load_balancer_ips": [Ingress("198.51.100.7", "Proxy")]},
    "a ClusterIP Service": {"load_balancer_ips": [], "external_ips": [], "node_port": 0},
    "annotations": {"annotations": {**CLOSE, "userproxy.io/note": "x"}},
    "as it was": {},
}


def test_no_edit_moves_the_listener_or_cuts_a_connection(lab: Lab) -> None:
    lab.serve_http()
    lab.node.own("203.0.113.5", "203.0.113.6")
    lab.manifests.service("web", **SERVICE)
    lab.manifests.slices("web", lab.pods, ports=[Port(80, "http")])
    lab.node.start_userproxy(*QUICK, "--cluster-cidr", "10.244.0.0/16,fd00:10:244::/48")
    lab.settle(*FAMILIES)

    def listeners() -> tuple[set[int], set[int]]:
        four = local_ports(lab.node, f"-d {FOUR[0]}/32", IPFamily.IPV4)
        return four, local_ports(lab.node, f"-d {SIX[0]}/128", IPFamily.IPV6)

    before = listeners()
    assert [len(ports) for ports in before] == [1, 1]
    with (
        KeptConnection(lab.client, FOUR) as inside,
        KeptConnection(lab.client, SIX) as inside_six,
        KeptConnection(lab.node, FOUR) as host,
        KeptConnection(lab.outside, ("198.51.100.7", 80)) as balanced,
        KeptConnection(lab.outside, ("203.0.113.5", 80)) as external,
        KeptConnection(lab.outside, (lab.node.address, 30080)) as node_port,
        KeptConnection(lab.outside, (lab.node.address6, 30080)) as node_port_six,
    ):
        kept = [inside, inside_six, host, balanced, external, node_port, node_port_six]
        pods = [connection.ask().pod for connection in kept]
        for name, edit in EDITS.items():
            lab.manifests.service("web", **{**SERVICE, **edit})
            lab.settle(*FAMILIES)
            assert listeners() == before, name
            assert [connection.ask().pod for connection in kept] == pods, name
            assert fetch(lab.client, FOUR).pod, name
            assert fetch(lab.client, SIX).pod, name
    for address in ((lab.node.address, 30080), ("198.51.100.7", 80)):
        assert try_to_connect(lab.outside, address) == ACCEPTED


def test_edits_take_effect(lab: Lab) -> None:
    """What the edits above leave alone is one half; that they do something is the other."""
    lab.serve_http()
    lab.manifests.service("web", **SERVICE)
    lab.manifests.slices("web", lab.pods, ports=[Port(80, "http")])
    lab.node.start_userproxy(*QUICK, "--cluster-cidr", "10.244.0.0/16,fd00:10:244::/48")

    def edit(**change: Any) -> None:
        lab.manifests.service("web", **{**SERVICE, **change})
        lab.settle(*FAMILIES)

    edit(node_port=30081)
    assert try_to_connect(lab.outside, (lab.node.address, 30080)) != ACCEPTED
    assert fetch(lab.outside, (lab.node.address, 30081)).pod
    edit(source_ranges=["192.0.2.200/32"])
    assert try_to_connect(lab.outside, ("198.51.100.7", 80)) == DROPPED
    edit(load_balancer_ips=["198.51.100.8"])
    assert fetch(lab.outside, ("198.51.100.8", 80)).pod
    assert not [rule for rule in rules(lab.node) if "198.51.100.7" in rule]
    edit(affinity=600)
    assert len({fetch(lab.client, FOUR).pod for _ in range(9)}) == 1
    edit()
    assert len({fetch(lab.client, FOUR).pod for _ in range(9)}) == 3


@pytest.mark.parametrize(
    ("annotations", "loop"),
    [({}, "uvloop"), (CLOSE, "uvloop"), (CLOSE, "asyncio")],
    ids=["left alone", "closed", "closed on asyncio"],
)
def test_connections_of_an_endpoint_that_is_removed(lab: Lab, annotations: dict[str, str], loop: str) -> None:
    lab.serve_http()
    lab.manifests.service("web", cluster_ip=[FOUR[0], SIX[0]], annotations=annotations)
    lab.manifests.slices("web", lab.pods)
    lab.node.start_userproxy(*QUICK, "--event-loop", loop)
    lab.settle(*FAMILIES)
    for address in (FOUR, SIX):
        connections = [KeptConnection(lab.client, address) for _ in range(6)]
        by_pod: dict[str, list[KeptConnection]] = {}
        for connection in connections:
            by_pod.setdefault(connection.ask().pod, []).append(connection)
        assert sorted(by_pod) == ["web-1", "web-2", "web-3"]
        family = IPFamily.IPV6 if ":" in address[0] else IPFamily.IPV4
        lab.manifests.slice("web", lab.pods[1:], family=family)
        lab.settle(*FAMILIES)
        for connection in by_pod["web-1"]:
            if annotations:
                _ends(connection)
            else:
                assert connection.ask().pod == "web-1"
        for pod in ("web-2", "web-3"):
            assert {connection.ask().pod for connection in by_pod[pod]} == {pod}
        assert "web-1" not in {fetch(lab.client, address).pod for _ in range(6)}
        for connection in connections:
            connection.close()


def test_an_endpoint_that_terminates_keeps_its_connections_until_it_is_gone(lab: Lab) -> None:
    lab.serve_http()
    lab.manifests.service("web", cluster_ip=FOUR[0], annotations=CLOSE)
    lab.manifests.slice("web", lab.pods[:1])
    lab.node.start_userproxy(*QUICK)
    lab.settle()
    with KeptConnection(lab.client, FOUR) as connection:
        assert connection.ask().pod == "web-1"
        for serving in (True, False):
            leaving = Backend(lab.pods[0], ready=False, serving=serving, terminating=True)
            lab.manifests.slice("web", [leaving, lab.pods[1]])
            lab.settle()
            assert connection.ask().pod == "web-1"
        lab.manifests.slice("web", lab.pods[1:])
        _ends(connection)
        assert fetch(lab.client, FOUR).pod in ("web-2", "web-3")


def _ends(connection: KeptConnection) -> None:
    """Return once the connection has ended."""

    def ended() -> bool:
        try:
            connection.ask()
        except (OSError, HTTPException):
            return True
        return False

    eventually(ended, 30, "the connection ends")
