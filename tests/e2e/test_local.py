"""What only the local driver does: no netfilter, programs in the way, its own routes, sockets that processes share."""

import json
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from msgspec import Struct

from tests.lab.cluster import QUICK, Cell, Lab
from tests.lab.datagrams import ask, ask_over
from tests.lab.drivers import DRIVERS
from tests.lab.manifests import Port
from tests.lab.probes import KeptConnection
from tests.lab.proxy import RunningProxy, installed_command
from tests.lab.steady import SteadyClient
from userproxy.demo.hosts import Address
from userproxy.demo.programs import Program
from userproxy.demo.traffic import fetch
from userproxy.demo.waiting import eventually
from userproxy.model import IPFamily

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.parametrize(
        "cell", [Cell(DRIVERS["local"], "bridged"), Cell(DRIVERS["local"], "routed")], indirect=True, ids=str
    ),
]

FAMILIES = (IPFamily.IPV4, IPFamily.IPV6)
CLUSTER_IPS = ("10.96.0.10", "fd00:10:96::10")
EXTERNAL_IPS = ("203.0.113.5", "2001:db8:e::5")
NODE_PORT = 30080
PORTS = [Port(80, "tcp", node_port=NODE_PORT), Port(80, "udp", "UDP", node_port=NODE_PORT)]
WEB = (CLUSTER_IPS[0], 80)
NOTICED_ONLY = ("--iptables-sync-period", "1h")
REPAIRED_WITHIN = 2.0
ROUTES = ("table", "local", "proto", "117")


def serve(lab: Lab, *flags: str) -> RunningProxy:
    lab.serve_http()
    lab.manifests.slices("web", lab.pods, ports=PORTS)
    lab.manifests.service("web", ports=PORTS, cluster_ip=CLUSTER_IPS, external_ips=EXTERNAL_IPS)
    proxy = lab.node.start_userproxy(*QUICK, *flags)
    for ip in CLUSTER_IPS:
        lab.node.wait_for_portal(ip, 80, "udp")
    return proxy


def connections_tracked(lab: Lab) -> int:
    return int(lab.node.run(["cat", "/proc/sys/net/netfilter/nf_conntrack_count"]).stdout)


def test_it_serves_where_there_is_no_netfilter_and_nothing_is_tracked(lab: Lab) -> None:
    without = [sys.executable, "-m", "tests.lab.no_netfilter"]
    for tool in ("iptables-legacy", "iptables-nft", "ip6tables-legacy"):
        assert lab.node.run([*without, tool, "-t", "nat", "-N", "X"], check=False).returncode != 0
    lab.serve_http()
    lab.manifests.slices("web", lab.pods, ports=PORTS)
    lab.manifests.service(
        "web", ports=PORTS, cluster_ip=CLUSTER_IPS, external_ips=EXTERNAL_IPS, source_ranges=["192.0.2.0/24"]
    )
    command = [*without, installed_command(), "run", *lab.manifests.flags, "--portals", "local"]
    command += ["--feature-gates", "AllowServiceExternalIPs=true"]
    proxy = lab.enter(Program(lab.node, command))
    for ip in CLUSTER_IPS:
        lab.node.wait_for_portal(ip, 80, "udp")
    for host in (lab.client, lab.node, lab.outside):
        addresses = [
            *((ip, 80) for ip in EXTERNAL_IPS),
            *((ip, 80) for ip in CLUSTER_IPS if host is not lab.outside),
            *((ip, NODE_PORT) for ip in (lab.node.address, lab.node.address6)),
        ]
        for address in addresses:
            assert fetch(host, address).pod, (host.name, address)
            assert ask(host, address).pod, (host.name, address)
    assert connections_tracked(lab) == 0
    assert lab.node.run(["conntrack", "-L"]).stdout == ""
    assert proxy.terminate() == 0
    assert not lab.node.run(["ip", "route", "show", *ROUTES]).stdout


def test_nothing_listens_but_at_portals(lab: Lab) -> None:
    serve(lab)
    for protocol in ("tcp", "udp"):
        option = "-Hlntp" if protocol == "tcp" else "-Hlnup"
        lines = [line.split() for line in lab.node.run(["ss", option]).stdout.splitlines() if '"userproxy"' in line]
        ports = {(line[3].rpartition(":")[2]) for line in lines}
        assert ports == {"80", str(NODE_PORT)} | ({"10249", "10256"} if protocol == "tcp" else set())
        everywhere = {line[3] for line in lines if line[3].startswith(("0.0.0.0:", "*:", "[::]:"))}
        assert {at.rpartition(":")[2] for at in everywhere} <= {"10256"}


LISTENS = (
    "import socket,time; s=socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1);"
    "s.bind(('0.0.0.0', 22)); s.listen(); print('listens', flush=True); time.sleep(600)"
)


def test_a_program_in_the_way_is_named_and_its_port_served_once_it_has_gone(lab: Lab) -> None:
    in_the_way = lab.enter(Program(lab.node, [sys.executable, "-c", LISTENS]))
    in_the_way.wait_line("listens", 10)
    name = Path(sys.executable).name[:15]
    lab.serve_http()
    ports = [Port(80, "http"), Port(22, "ssh", target=8080)]
    lab.manifests.slice("web", lab.pods, ports=ports)
    lab.manifests.service("web", ports=ports, cluster_ip=WEB[0])
    proxy = lab.node.start_userproxy(*QUICK, *NOTICED_ONLY)
    told = proxy.wait_log("default/web:ssh")["event"]
    assert "10.96.0.10:22/TCP" in told
    assert f"{name} (process " in told
    assert f"TCP 22 of {name}" in proxy.wait_log("Programs that listen on every address")["listeners"]
    assert fetch(lab.client, WEB).pod
    in_the_way.kill()
    eventually(lambda: fetch(lab.client, (WEB[0], 22)).pod, 10, "its port is served")


SABOTAGE = {
    "a route is deleted": ["ip", "route", "del", "local", WEB[0], "dev", "lo", "table", "local"],
    "a route of IPv6 is deleted": ["ip", "-6", "route", "del", "local", CLUSTER_IPS[1], "dev", "lo", "table", "local"],
    "all are flushed": ["ip", "route", "flush", *ROUTES],
    "one is replaced": ["ip", "route", "replace", "unreachable", WEB[0], "table", "local"],
}


def routes(lab: Lab) -> set[str]:
    shown = [lab.node.run(["ip", family, "route", "show", *ROUTES]).stdout for family in ("-4", "-6")]
    return {line.split()[1] for text in shown for line in text.splitlines()}


def test_routes_that_others_delete_are_repaired_while_clients_go_on(lab: Lab) -> None:
    proxy = serve(lab, *NOTICED_ONLY)
    before = routes(lab)
    assert before == {*CLUSTER_IPS, *EXTERNAL_IPS}
    with SteadyClient(lab.client, WEB) as client, KeptConnection(lab.client, WEB) as kept:
        client.go_on()
        for what, command in SABOTAGE.items():
            lab.node.run(command)
            eventually(lambda: routes(lab) == before, REPAIRED_WITHIN, f"repaired: {what}")
            client.go_on(5)
            kept.ask()
    assert proxy.wait_log("Portals repaired")["event"].endswith("something else had changed their routes")


def test_node_ports_follow_addresses_that_come_and_go(lab: Lab) -> None:
    serve(lab, *NOTICED_ONLY)
    before = lab.node.run(["ss", "-Hlntu"]).stdout.count(f":{NODE_PORT} ")
    lab.node.own("198.51.100.77/32")
    eventually(lambda: fetch(lab.node, ("198.51.100.77", NODE_PORT)).pod, REPAIRED_WITHIN, "a new address is served")
    lab.node.ip_batch(["addr del 198.51.100.77/32 dev lo"])
    eventually(lambda: lab.node.run(["ss", "-Hlntu"]).stdout.count(f":{NODE_PORT} ") == before, REPAIRED_WITHIN, "gone")
    assert fetch(lab.outside, (lab.node.address, NODE_PORT)).pod


def test_a_successor_takes_over_and_nobody_is_refused(lab: Lab) -> None:
    flags = ("--bind-address-hard-fail", "--drain-timeout", "20s")
    old = serve(lab, *flags)
    with (
        SteadyClient(lab.client, WEB, 200) as client,
        SteadyClient(lab.outside, (lab.node.address, NODE_PORT), 200) as other,
    ):
        for _ in range(3):
            with KeptConnection(lab.client, WEB) as kept:
                kept.ask()
                successor = lab.node.start_userproxy(*QUICK, *flags)
                successor.wait_log("Another userproxy keeps the portals of this node")
                client.go_on()
                old.signal(signal.SIGTERM)
                old.wait_log("A successor's rules stand", 10)
                client.go_on(300)
                other.go_on(300)
                kept.ask()
            assert old.wait(20) == 0
            old = successor
        client.go_on()
    assert (client.failures, other.failures) == ([], [])


def test_both_data_processes_read_a_udp_portal_and_so_do_those_of_successors(lab: Lab) -> None:
    """Successors with a take-over, of which no flow moves, and without, who are members of no group of the older."""
    flags = ("--workers", "2", "--drain-timeout", "20s")
    old = serve(lab, *flags)
    lab.settle()
    portals = [*((ip, 80) for ip in CLUSTER_IPS), (lab.node.address, NODE_PORT)]
    with ExitStack() as stack:
        several = {each: [stack.enter_context(lab.client.udp_socket(each)) for _ in range(32)] for each in portals}
        before = read_by(lab, several)
        assert {each.pod for each in before.values()} == {pod.name for pod in lab.pods}
        for flag in ("--takeover", "", "--takeover"):
            successor = lab.node.start_userproxy(*QUICK, *flags, *filter(None, [flag]))
            if not flag:
                successor.wait_log("Another userproxy keeps the portals of this node")
                old.signal(signal.SIGTERM)
                old.wait_log("A successor's rules stand", 20)
            else:
                successor.wait_log("Taken over", 60)
            assert old.wait(30) == 0
            after = read_by(lab, several)
            if flag:
                assert after == before, "no flow has moved"
            before, old = after, successor
        os.kill(old.pid, signal.SIGKILL)
        assert read(several) == {port: each.pod for port, each in before.items()}, "data processes serve on"
        successor = lab.node.start_userproxy(*QUICK, *flags)
        while not any("are adopted" in each["event"] for each in successor.records):
            read(several)
        lab.settle()
        assert read_by(lab, several) == before
    assert successor.terminate() == 0


class Seen(Struct, frozen=True):
    """By which Pod a client is answered, and the id of its flow."""

    pod: str
    flow: int


def read(several: Mapping[Address, Sequence[socket.socket]]) -> dict[int, str]:
    """By which Pods clients are answered, by their ports."""
    return {sock.getsockname()[1]: ask_over(sock).pod for each in several.values() for sock in each}


def read_by(lab: Lab, several: Mapping[Address, Sequence[socket.socket]]) -> dict[int, Seen]:
    """What clients see, by their ports; each portal's are read by both data processes, and each has one flow."""
    pods = read(several)
    assert read(several) == pods, "each keeps to its flow"
    listed = json.loads(lab.node.userproxy("get", "connections", "-o", "json").stdout)["items"]
    flows = {int(each["client"].rpartition(":")[2]): each["id"] for each in listed if each["protocol"] == "UDP"}
    for each in several.values():
        assert len({flows[sock.getsockname()[1]] // 10**12 for sock in each}) == 2, "one process has all its clients"
    return {port: Seen(pod, flows[port]) for port, pod in pods.items()}


def test_after_a_kill_the_next_start_serves_and_routes_are_taken_over(lab: Lab) -> None:
    old = serve(lab)
    old.kill()
    assert WEB[0] in routes(lab), "a kill leaves them"
    lab.manifests.remove(lab.manifests.directory / "service-default-web.yaml")
    lab.manifests.service("web", ports=PORTS, cluster_ip="10.96.0.11")
    lab.node.start_userproxy(*QUICK)
    eventually(lambda: fetch(lab.client, ("10.96.0.11", 80)).pod, 20, "it is served")
    assert ask(lab.client, ("10.96.0.11", 80)).pod
    eventually(lambda: "10.96.0.11" in routes(lab) and WEB[0] not in routes(lab), 5, "what is not wanted has gone")


def test_a_stop_serves_until_the_last_client_has_gone_and_removes_routes(lab: Lab) -> None:
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
    assert routes(lab) == set()


def test_external_ips_are_served_only_where_that_is_asked_for(lab: Lab) -> None:
    """A claim takes all ports of an address from its owner, who may be the API server."""
    stranger = lab.outside.address
    with lab.outside.listen(8443) as owner:
        lab.serve_http()
        lab.manifests.slices("web", lab.pods)
        lab.manifests.service("web", cluster_ip="10.96.0.10", external_ips=[stranger])
        command = [installed_command(), "run", *lab.manifests.flags, "--portals", "local"]
        proxy = RunningProxy(lab.node, *command[2:])
        lab.enter(proxy)
        assert "AllowServiceExternalIPs=true" in proxy.wait_log("External IPs are not served")["event"]
        lab.node.wait_for_portal("10.96.0.10", 80)
        assert fetch(lab.client, ("10.96.0.10", 80)).pod
        lab.node.connect((stranger, 8443), timeout=5).close()
        owner.close()
