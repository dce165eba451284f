"""A restart with another portal driver: what the old one left is removed once the new one serves, unnoticed."""

import signal
import socket

import pytest

from tests.lab.cluster import QUICK, Lab
from tests.lab.datagrams import ask_over
from tests.lab.manifests import Port
from tests.lab.probes import KeptConnection
from tests.lab.proxy import RunningProxy
from tests.lab.steady import SteadyClient
from userproxy.demo.hosts import Host
from userproxy.demo.waiting import eventually

pytestmark = pytest.mark.e2e

WEB = ("10.96.0.10", 80)
FLAGS = (*QUICK, "--bind-address-hard-fail", "--drain-timeout", "20s")
EVERY_MS = 200.0
"""New connections a second."""

TRACES = {
    "iptables-legacy": (["iptables-legacy-save"], "KUBE-PORTALS-"),
    "iptables-nft": (["iptables-nft-save"], "KUBE-PORTALS-"),
    "nftables": (["nft", "list", "tables", "ip"], "table ip userproxy\n"),
    "local": (["ip", "route", "show", "table", "local", "proto", "117"], "local "),
}
"""How each driver's traces are listed, and what they have in common."""

SWITCHES = (
    ("iptables-legacy", "iptables-nft"),
    ("iptables-nft", "nftables"),
    ("iptables-legacy", "local"),
    ("nftables", "local"),
    ("nftables", "iptables-nft"),
    ("local", "iptables-legacy"),
    ("local", "nftables"),
)


def traces(host: Host) -> set[str]:
    return {name for name, (command, mark) in TRACES.items() if mark in host.run(command, check=False).stdout}


def start(lab: Lab, driver: str, at_stop: str) -> RunningProxy:
    """Start it with a driver; one of iptables takes the variant that kubelet's chain is in."""
    portals, _, variant = driver.partition("-")
    if variant:
        for each in ("nft", "legacy"):
            lab.node.run([f"iptables-{each}", "-t", "mangle", "-X", "KUBE-KUBELET-CANARY"], check=False)
        lab.node.run([f"iptables-{variant}", "-t", "mangle", "-N", "KUBE-KUBELET-CANARY"])
    return lab.node.start_userproxy(*FLAGS, "--portals", portals, "--at-stop", at_stop)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("at_stop", ["leave", "remove"])
@pytest.mark.parametrize(("before", "after"), SWITCHES, ids=[f"{before}-to-{after}" for before, after in SWITCHES])
def test_clients_notice_nothing_of_another_driver(lab: Lab, before: str, after: str, at_stop: str) -> None:
    lab.serve_http()
    lab.manifests.service("web", cluster_ip=WEB[0])
    lab.manifests.slice("web", lab.pods)
    old = start(lab, before, at_stop)
    eventually(lambda: traces(lab.node) == {before}, 20, "the first driver serves")
    with SteadyClient(lab.client, WEB, EVERY_MS) as client, KeptConnection(lab.client, WEB) as kept:
        client.go_on()
        kept.ask()
        successor = start(lab, after, at_stop)
        successor.wait_log("Another userproxy keeps the portals of this node")
        client.go_on()
        assert traces(lab.node) == {before}, "nothing is touched before it is time"
        old.signal(signal.SIGTERM)
        old.wait_log("A successor's rules stand", 10)
        assert after in traces(lab.node)
        client.go_on(200)
        kept.ask()
        assert old.running, "it carries the kept connection"
        kept.close()
        assert old.wait(20) == 0
        eventually(lambda: traces(lab.node) == {after}, 40, "nothing of the first driver is left")
        client.go_on(100)
    assert client.failures == []


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("before", "after"), [("local", "nftables"), ("local", "iptables-legacy"), ("nftables", "local")]
)
def test_clients_of_a_node_port_notice_nothing_either(lab: Lab, before: str, after: str) -> None:
    """The port is the old process's as long as it listens there itself, and its ended connections' for a minute."""
    lab.serve_http()
    lab.manifests.service("web", ports=[Port(80, "http", node_port=30080)], cluster_ip=WEB[0])
    lab.manifests.slice("web", lab.pods, ports=[Port(80, "http")])
    old = start(lab, before, "leave")
    eventually(lambda: traces(lab.node) == {before}, 20, "the first driver serves")
    with SteadyClient(lab.outside, (lab.node.address, 30080), EVERY_MS) as client:
        client.go_on()
        start(lab, after, "leave").wait_log("Another userproxy keeps the portals of this node")
        old.signal(signal.SIGTERM)
        old.wait_log("A successor's rules stand", 10)
        assert old.wait(20) == 0
        client.go_on(200)
    assert client.failures == []


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("before", "after"), [("nftables", "local"), ("local", "nftables"), ("nftables", "iptables")])
def test_a_udp_client_that_keeps_its_socket_moves_to_the_other_driver(lab: Lab, before: str, after: str) -> None:
    lab.serve_http()
    ports = [Port(53, "dns", "UDP")]
    lab.manifests.service("dns", ports=ports, cluster_ip="10.96.0.53")
    lab.manifests.slice("dns", lab.pods, ports=ports)
    old = start(lab, before, "leave")
    with lab.client.udp_socket(("10.96.0.53", 53), 1.0) as sock:
        eventually(lambda: answered(sock), 20, "the first driver serves")
        start(lab, after, "leave").wait_log("Another userproxy keeps the portals of this node")
        old.signal(signal.SIGTERM)
        lost = 0
        while old.running:
            lost += not answered(sock)
        assert [answered(sock) for _ in range(5)] == [True] * 5
    assert lost <= 2, "what was under way when the rules changed"


def answered(sock: socket.socket) -> bool:
    try:
        ask_over(sock)
    except OSError:
        return False
    return True
