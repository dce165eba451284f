"""What clients notice of a restart: with a successor that waits, without any, and after a kill."""

import os
import signal
import time
from pathlib import Path

import pytest
import yaml

from tests.lab.cluster import QUICK, Lab, LabNode
from tests.lab.datagrams import ask_over
from tests.lab.manifests import Port
from tests.lab.probes import KeptConnection, get
from tests.lab.proxy import WORKERS, RunningProxy
from tests.lab.steady import SteadyClient
from userproxy.demo.waiting import eventually

pytestmark = pytest.mark.e2e

WEB = ("10.96.0.10", 80)
HEALTHZ = ("127.0.0.1", 10256)
A_START = 8.0
"""Seconds that a start may take here, beside other tests; alone it is done in less than one."""


def serve(lab: Lab, *flags: str, node: bool = True) -> RunningProxy:
    lab.serve_http()
    if node:
        lab.manifests.node(lab.node)
    lab.manifests.service("web", cluster_ip=WEB[0], node_port=30080)
    lab.manifests.slice("web", lab.pods)
    proxy = lab.node.start_userproxy(*QUICK, *flags)
    lab.node.wait_for_rules("default/web")
    return proxy


def wait_until_served(lab: Lab, client: SteadyClient) -> float:
    """Start userproxy; seconds from its first line to the first request that succeeds."""
    proxy = lab.node.start_userproxy(*QUICK, "--at-stop", "leave")
    proxy.wait_log("userproxy starts")
    started = time.monotonic()
    client.go_on(50)
    return min(each.began for each in client.attempts if each.began > started and not each.failure) - started


def healthz(node: LabNode) -> int:
    return get(node, HEALTHZ, "/healthz").status


def listeners(node: LabNode, proxy: RunningProxy) -> list[str]:
    """The TCP sockets that a process listens with, as ss shows them."""
    shown = node.run(["ss", "-Hltnp"]).stdout
    return [line for line in shown.splitlines() if f"pid={proxy.pid}," in line]


def test_a_successor_that_waits_takes_over_and_nobody_is_refused(lab: Lab) -> None:
    flags = ("--bind-address-hard-fail", "--drain-timeout", "20s", "--at-stop", "leave")
    old = serve(lab, *flags)
    with SteadyClient(lab.client, WEB) as client, KeptConnection(lab.client, WEB) as kept:
        kept.ask()
        successor = lab.node.start_userproxy(*QUICK, *flags)
        successor.wait_log("Another userproxy keeps the portals of this node")
        client.go_on()
        asked = time.monotonic()
        old.signal(signal.SIGTERM)
        old.wait_log("A successor's rules stand", 10)
        took = time.monotonic() - asked
        client.go_on(100)
        kept.ask()
        assert old.running, "it carries the kept connection"
        eventually(lambda: healthz(lab.node) == 200, 5, "the successor answers for the node's health")
        kept.close()
        assert old.wait(20) == 0
        client.go_on()
    assert client.failures == []
    assert len(client.attempts) > 100
    assert took < 3
    assert successor.terminate() == 0
    assert lab.node.wait_for_rules("default/web"), "left as they are"


def test_a_successor_that_starts_during_the_drain_serves_at_once(lab: Lab) -> None:
    old = serve(lab, "--drain-timeout", "60s", "--drain-delay", "60s")
    with SteadyClient(lab.client, WEB) as client, KeptConnection(lab.client, WEB) as kept:
        kept.ask()
        old.signal(signal.SIGTERM)
        eventually(lambda: healthz(lab.node) == 503, 5, "load balancers are told")
        client.go_on(50)
        successor = lab.node.start_userproxy(*QUICK, "--bind-address-hard-fail")
        old.wait_log("A successor's rules stand", 20)
        eventually(lambda: healthz(lab.node) == 200, 5, "the successor answers for the node's health")
        client.go_on(50)
        kept.ask()
        kept.close()
        assert old.wait(20) == 0
        client.go_on(50)
        assert successor.running
    assert client.failures == []
    lab.node.wait_for_rules("default/web")


def test_health_checks_say_503_before_a_listener_closes_and_a_successor_takes_them_over(lab: Lab) -> None:
    old = serve(lab, "--drain-delay", "20s")
    lab.manifests.service(
        "balanced",
        cluster_ip="10.96.0.11",
        node_port=30081,
        load_balancer_ips=["198.51.100.7"],
        external_policy="Local",
        health_check_node_port=32000,
    )
    lab.manifests.slice("balanced", lab.pods)
    check, node_port = (lab.node.address, 32000), (lab.node.address, 30081)
    eventually(lambda: get(lab.outside, check).status == 200, 20, "load balancers are let in")
    old.signal(signal.SIGTERM)
    eventually(lambda: get(lab.outside, check).status == 503, 5, "load balancers are told")
    with SteadyClient(lab.outside, node_port) as client:
        client.go_on()
        lab.node.start_userproxy(*QUICK)
        eventually(lambda: get(lab.outside, check).status == 200, 20, "the successor lets them in")
        client.go_on()
        assert old.wait(20) == 0
        client.go_on()
    assert client.failures == []


def test_udp_clients_move_to_the_successor(lab: Lab) -> None:
    ports = [Port(53, "dns", "UDP")]
    lab.manifests.service("dns", ports=ports, cluster_ip="10.96.0.53")
    lab.manifests.slice("dns", lab.pods, ports=ports)
    old = serve(lab)
    lab.node.wait_for_rules("default/dns")
    with lab.client.udp_socket(("10.96.0.53", 53), 1.0) as sock:
        ask_over(sock)
        lab.node.start_userproxy(*QUICK).wait_log("Another userproxy keeps the portals of this node")
        ask_over(sock)
        old.signal(signal.SIGTERM)
        lost = 0
        while old.running:
            try:
                ask_over(sock)
            except OSError:
                lost += 1
        for _ in range(5):
            ask_over(sock)
    assert lost <= 2, "what was under way when the rules changed"


def test_without_a_successor_rules_that_are_left_refuse_until_the_next_start(lab: Lab) -> None:
    old = serve(lab, "--at-stop", "leave")
    with SteadyClient(lab.client, WEB, timeout=1) as client:
        client.go_on()
        assert old.terminate() == 0
        assert wait_until_served(lab, client) < A_START
    kinds = {each.failure.split(":")[0] for each in client.failures}
    assert kinds == {"ConnectionRefusedError"}, "nobody waits for a time limit"


def test_after_a_kill_the_next_start_serves(lab: Lab) -> None:
    old = serve(lab)
    with SteadyClient(lab.client, WEB, timeout=1) as client:
        client.go_on()
        old.kill()
        assert wait_until_served(lab, client) < A_START
    assert bool(client.failures) != bool(WORKERS), "data processes serve on"


def test_without_a_successor_clients_are_accepted_until_the_last_one_has_gone(lab: Lab) -> None:
    old = serve(lab)
    with KeptConnection(lab.client, WEB) as kept:
        kept.ask()
        old.signal(signal.SIGTERM)
        old.wait_log("Stopping")
        with SteadyClient(lab.client, WEB) as client:
            client.go_on()
            kept.ask()
        assert client.failures == []
        kept.close()
        assert old.wait() == 0
    lab.node.wait_for_no_rules()


def test_who_waits_may_be_stopped(lab: Lab) -> None:
    old = serve(lab)
    successor = lab.node.start_userproxy(*QUICK)
    successor.wait_log("Another userproxy keeps the portals of this node")
    assert successor.terminate(5) == 0
    assert old.running
    lab.node.wait_for_rules("default/web")
    assert old.terminate() == 0
    lab.node.wait_for_no_rules()


def label(lab: Lab, labels: dict[str, str]) -> None:
    """Our Node with these labels, as `kubectl label node` leaves it."""
    text = (lab.manifests.directory / "node-node-1.yaml").read_text()
    node = yaml.safe_load(text)
    node["metadata"]["labels"] = labels
    lab.manifests.write("node-node-1.yaml", node)


def test_when_the_node_loses_its_label_the_other_proxy_has_time_to_come(lab: Lab) -> None:
    lab.manifests.node(lab.node)
    label(lab, {"userproxy.io/node": "true"})
    proxy = serve(lab, "--at-stop", "leave", "--linger", "3s", "-v", "2", node=False)
    direct = {pod.name: f"{pod.address}:8080" for pod in lab.pods}
    with SteadyClient(lab.client, WEB) as client, KeptConnection(lab.client, WEB) as kept:
        client.go_on()
        kept.ask()
        label(lab, {})
        lab.settle()
        proxy.signal(signal.SIGTERM)
        proxy.wait_log("Our Node has lost its label")
        for chain in ("PREROUTING", "OUTPUT"):  # another proxy's rule, behind ours
            jump = ["-p", "tcp", "-d", WEB[0], "--dport", "80", "-j", "DNAT", "--to", direct["web-1"]]
            lab.node.run(["iptables", "-t", "nat", "-A", chain, *jump])
        lab.node.wait_for_no_rules()
        client.go_on(100)
        kept.ask()
        kept.close()
        assert proxy.wait() == 0
        client.go_on()
    assert client.failures == []


def test_endpoints_that_change_during_a_drain_cost_no_connection(lab: Lab) -> None:
    old = serve(lab, "--drain-timeout", "60s")
    with KeptConnection(lab.client, WEB) as kept:
        kept.ask()
        lab.node.start_userproxy(*QUICK)
        old.signal(signal.SIGTERM)
        old.wait_log("A successor's rules stand", 20)
        eventually(lambda: not listeners(lab.node, old), 10, "the listeners of the old one are closed")
        lab.manifests.slice("web", lab.pods[:2])
        lab.settle()
        kept.ask()
        kept.close()
        assert old.wait(20) == 0


def test_cleanup_waits_for_the_end_of_a_stop(lab: Lab) -> None:
    old = serve(lab, "--drain-timeout", "60s", "--at-stop", "leave")
    with KeptConnection(lab.client, WEB) as kept:
        kept.ask()
        old.signal(signal.SIGTERM)
        old.wait_log("Stopping")
        refused = lab.node.userproxy("cleanup", check=False)
        assert refused.returncode == 1
        assert "being stopped still serves clients" in refused.stderr
        kept.ask()
        kept.close()
        assert old.wait(20) == 0
    assert lab.node.userproxy("cleanup").returncode == 0
    lab.node.wait_for_no_rules()


def test_a_successor_that_is_killed_while_it_writes_leaves_clients_to_the_old_process(lab: Lab, tmp_path: Path) -> None:
    old = serve(lab, "--drain-timeout", "60s")
    with SteadyClient(lab.client, WEB) as client, KeptConnection(lab.client, WEB) as kept:
        kept.ask()
        hung = lab.node.start_userproxy(*QUICK, env=hanging(tmp_path))
        old.signal(signal.SIGTERM)
        eventually((tmp_path / "hung").exists, 20, "the successor writes its rules")
        hung.kill()
        client.go_on(50)
        kept.ask()
        lab.node.start_userproxy(*QUICK)
        old.wait_log("A successor's rules stand", 20)
        kept.close()
        assert old.wait(20) == 0
        client.go_on(50)
    assert client.failures == []


def hanging(directory: Path) -> dict[str, str]:
    """The environment of a process none of whose writes ends; `hung` is in the directory once one has begun."""
    for name in (f"{stem}{kind}-restore" for stem in ("iptables", "ip6tables") for kind in ("", "-nft", "-legacy")):
        (directory / name).write_text(f"#!/bin/sh\ntouch {directory}/hung\nexec sleep 60\n")
        (directory / name).chmod(0o755)
    return {"PATH": f"{directory}:{os.environ['PATH']}"}
