"""The demo's network: who reaches whom, and how long it takes to build."""

import os
import threading
from pathlib import Path

import pytest

from tests.demo.programs_started import programs_started
from userproxy.demo.hosts import CommandFailedError, Host
from userproxy.demo.network import Network, Node, Pod

pytestmark = pytest.mark.usefixtures("root")

needs_ipv6 = pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this kernel has no IPv6")


def _pass_byte(source: Host, target: Host, *, ipv6: bool = False) -> str:
    """Send a byte over TCP; returns the source address that the target saw."""
    address = target.address6 if ipv6 else target.address
    everywhere = "::" if ipv6 else "0.0.0.0"
    with target.listen(8080, everywhere) as server, source.connect((address, 8080), timeout=2.0) as client:
        accepted, address = server.accept()
        with accepted:
            client.sendall(b"x")
            assert accepted.recv(1) == b"x"
    return str(address[0])


def test_addresses_follow_the_plan() -> None:
    with Network() as network:
        nodes = [network.add_node(Node(f"node-{number}")) for number in (1, 2)]
        pods = [network.add_pod(node, Pod(f"pod-{count}")) for node in nodes for count in (1, 2)]
        outsiders = [network.add_outside(Host(f"outside-{number}")) for number in (1, 2)]
        assert [node.address for node in nodes] == ["192.0.2.10", "192.0.2.20"]
        assert [pod.address for pod in pods] == ["10.244.1.2", "10.244.1.3", "10.244.2.2", "10.244.2.3"]
        assert [host.address for host in outsiders] == ["192.0.2.100", "192.0.2.101"]
        assert [pod.node for pod in pods] == [nodes[0], nodes[0], nodes[1], nodes[1]]


@needs_ipv6
def test_addresses_of_ipv6_follow_the_same_plan() -> None:
    with Network() as network:
        nodes = [network.add_node(Node(f"node-{number}")) for number in (1, 2)]
        pods = [network.add_pod(node, Pod(f"pod-{count}")) for node in nodes for count in (1, 2)]
        outsiders = [network.add_outside(Host(f"outside-{number}")) for number in (1, 2)]
        assert [node.address6 for node in nodes] == ["2001:db8::10", "2001:db8::20"]
        assert [pod.address6.replace("fd00:10:244:", "") for pod in pods] == ["1::2", "1::3", "2::2", "2::3"]
        assert [host.address6 for host in outsiders] == ["2001:db8::100", "2001:db8::101"]


@needs_ipv6
def test_hosts_reach_each_other_over_ipv6_from_the_first_moment() -> None:
    with Network() as network:
        first, second = (network.add_node(Node(f"node-{number}")) for number in (1, 2))
        near, beside = network.add_pod(first, Pod("near")), network.add_pod(first, Pod("beside"))
        far = network.add_pod(second, Pod("far"))
        outside = network.add_outside(Host("outside"))
        assert _pass_byte(near, beside, ipv6=True) == near.address6
        assert _pass_byte(near, far, ipv6=True) == near.address6
        assert _pass_byte(far, first, ipv6=True) == far.address6
        assert _pass_byte(first, near, ipv6=True) == "fd00:10:244:1::1"
        assert _pass_byte(outside, second, ipv6=True) == outside.address6
        assert "tentative" not in near.run(["ip", "-6", "addr"]).stdout


@needs_ipv6
def test_a_node_without_ipv6_and_its_pods_are_wired_for_ipv4_alone() -> None:
    with Network() as network:
        first = network.add_node(Node("node-1"))
        old = Node("node-2")
        old.sysctl("net.ipv6.conf.all.disable_ipv6", 1)
        network.add_node(old)
        pod = network.add_pod(old, Pod("pod"))
        assert (old.address6, pod.address6) == ("", "")
        assert "inet6" not in old.run(["ip", "addr", "show", "eth0"]).stdout
        assert _pass_byte(pod, network.add_pod(first, Pod("far"))) == pod.address


def test_where_the_kernel_has_no_ipv6_the_network_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Host, "has_ipv6", False)
    with Network() as network:
        first, second = (network.add_node(Node(f"node-{number}")) for number in (1, 2))
        pod, far = network.add_pod(first, Pod("pod")), network.add_pod(second, Pod("far"))
        outside = network.add_outside(Host("outside"))
        assert {host.address6 for host in (first, second, pod, far, outside)} == {""}
        assert _pass_byte(pod, far) == pod.address
        assert _pass_byte(outside, second) == outside.address


def test_hosts_reach_each_other_without_translation() -> None:
    with Network() as network:
        first, second = (network.add_node(Node(f"node-{number}")) for number in (1, 2))
        near, beside = network.add_pod(first, Pod("near")), network.add_pod(first, Pod("beside"))
        far = network.add_pod(second, Pod("far"))
        outside = network.add_outside(Host("outside"))
        assert _pass_byte(near, beside) == near.address
        assert _pass_byte(near, far) == near.address
        assert _pass_byte(far, first) == far.address
        assert _pass_byte(first, near) == "10.244.1.1"
        assert _pass_byte(outside, first) == outside.address
        assert _pass_byte(outside, second) == outside.address


@pytest.mark.parametrize("ipv6", [False, pytest.param(True, marks=needs_ipv6)], ids=["IPv4", "IPv6"])
def test_routed_pods_reach_everybody_without_translation_and_a_bridge(ipv6: bool) -> None:
    with Network(pods="routed") as network:
        first, second = (network.add_node(Node(f"node-{number}")) for number in (1, 2))
        near, beside = network.add_pod(first, Pod("near")), network.add_pod(first, Pod("beside"))
        far = network.add_pod(second, Pod("far"))
        outside = network.add_outside(Host("outside"))
        for source, target in ((near, beside), (near, far), (far, first), (near, first), (outside, first)):
            assert _pass_byte(source, target, ipv6=ipv6) == (source.address6 if ipv6 else source.address)
        assert _pass_byte(first, near, ipv6=ipv6) == (first.address6 if ipv6 else first.address)
        assert "bridge" not in first.run(["ip", "-d", "link"]).stdout
        assert first.run(["ip", "addr", "show", "dev", "cali1024412", "scope", "global"]).stdout == ""


def test_a_routed_pod_can_join_a_node_of_bridged_ones() -> None:
    with Network() as network:
        node = network.add_node(Node("node-1"))
        bridged, routed = network.add_pod(node, Pod("bridged")), network.add_pod(node, Pod("routed"), "routed")
        for pod in (bridged, routed):
            assert _pass_byte(pod, node) == pod.address
        assert _pass_byte(node, routed) == "192.0.2.10"


def test_outside_hosts_send_external_addresses_to_the_first_node_and_know_no_others() -> None:
    with Network() as network:
        network.add_node(Node("node-1"))
        outside = network.add_outside(Host("outside"))
        for address in ("203.0.113.5", "198.51.100.7"):
            assert "via 192.0.2.10" in outside.run(["ip", "route", "get", address]).stdout
        if outside.address6:
            assert "via 2001:db8::10" in outside.run(["ip", "route", "get", "2001:db8:e::5"]).stdout
        for address in ("10.96.0.10", "10.244.1.2"):
            with pytest.raises(CommandFailedError, match="unreachable"):
                outside.run(["ip", "route", "get", address])


def test_seven_hosts_take_twenty_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """One for each host, one for each bridge, and two for each link; a program takes 3 ms of CPU."""
    with programs_started(monkeypatch) as started, Network() as network:
        node = network.add_node(Node("node-1"))
        for number in range(4):
            network.add_pod(node, Pod(f"pod-{number}"))
        network.add_outside(Host("outside"))
        assert started == ["ip"] * (7 + 2 + 6 * 2)


def test_a_host_that_cannot_be_wired_is_closed_with_the_network() -> None:
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    with Network() as network:
        node, pod = network.add_node(Node("node-1")), Pod("occupied")
        pod.ip_batch(["link add eth0 type bridge"])
        with pytest.raises(CommandFailedError, match="File exists"):
            network.add_pod(node, pod)
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == descriptors
