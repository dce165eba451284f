"""Hostile tenants: what one Service, one endpoint or one client can do to the others, which must be nothing.

Each test lets somebody misbehave on a node that userproxy serves, and then asks for an ordinary Service. The tests are
in the order of what a tenant needs for it: write access to Services and slices, a port that he can reach, a process on
the node. All loads are bounded.
"""

import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.lab.cluster import QUICK, Lab, LabNode
from tests.lab.datagrams import ask
from tests.lab.manifests import Ingress, Port
from tests.lab.probes import ACCEPTED, REFUSED, try_to_connect
from tests.lab.proxy import RunningProxy
from userproxy.demo.hosts import Address, Host
from userproxy.demo.traffic import fetch, fetch_many, http
from userproxy.demo.waiting import DeadlineError, eventually

pytestmark = pytest.mark.e2e

GOOD = ("10.96.0.10", 80)
"""The portal of the Service that nobody may harm."""

HEALTH = 10256
NODE_PORTS = range(30_000, 32_768)
BOTH = [Port(80, "tcp"), Port(80, "udp", "UDP")]

sources = pytest.mark.parametrize("lab", ["manifests", "api"], indirect=True)


def serve_good(lab: Lab, *flags: str, most_files: int | None = None) -> RunningProxy:
    """The ordinary Service on the first node, over TCP and UDP."""
    lab.serve_http()
    lab.manifests.service("good", ports=BOTH, cluster_ip=GOOD[0])
    lab.manifests.slice("good", lab.pods, ports=BOTH)
    proxy = lab.node.start_userproxy(*QUICK, *flags, most_files=most_files)
    lab.node.wait_for_rules("default/good:udp")
    return proxy


def assert_good_is_served(lab: Lab, count: int = 30) -> None:
    tally = fetch_many(lab.client, GOOD, count, timeout=5.0)
    assert not tally.failures
    assert ask(lab.client, GOOD, 5.0).pod


@contextmanager
def idle_connections(host: Host, address: Address, count: int) -> Iterator[list[socket.socket]]:
    """Up to `count` connections over which nothing is ever said; those that are refused or unanswered are missing."""
    with ExitStack() as stack:
        made = []
        for _ in range(count):
            sock = stack.enter_context(host.socket())
            sock.setblocking(False)
            sock.connect_ex(address)
            made.append(sock)
        yield made


def datagrams_in(host: Host) -> int:
    """Datagrams that the host has received so far (proc(5), /proc/net/snmp)."""
    lines = host.inside(Path("/proc/thread-self/net/snmp").read_text).splitlines()
    names, values = (line.split()[1:] for line in lines if line.startswith("Udp:"))
    return int(dict(zip(names, values, strict=True))["InDatagrams"])


# Somebody may write Services and slices.


@sources
@pytest.mark.parametrize("node_object", ["known", "other-node-unserved"])
def test_node_ports_of_several_nodes_as_endpoints_lead_nobody_round(lab: Lab, node_object: str) -> None:
    second = lab.add_second_node()
    ports = [Port(80, "tcp", "TCP", 30040, 30040), Port(80, "udp", "UDP", 30040, 30040)]
    lab.manifests.service("round", ports=ports, cluster_ip="10.96.0.20")
    lab.manifests.slice("round", [lab.node.address, second.address], ports=ports)
    proxies = [serve_good(lab, most_files=512)]
    if node_object == "known":
        proxies.append(second.start_userproxy(*QUICK, most_files=512))
    for node in [lab.node, second][: len(proxies)]:
        node.wait_for_rules("default/round:udp")
    at_rest = [proxy.descriptors_at_rest() for proxy in proxies]
    before = datagrams_in(lab.node)
    with (
        idle_connections(lab.outside, (lab.node.address, 30040), 1),
        lab.outside.udp_socket((lab.node.address, 30040)) as asking,
    ):
        asking.send(b"round?")
        assert_good_is_served(lab)
        for proxy, rest in zip(proxies, at_rest, strict=True):
            assert proxy.descriptors() <= rest + 20
        assert datagrams_in(lab.node) - before < 200
    for proxy, rest in zip(proxies, at_rest, strict=True):
        eventually(lambda: proxy.descriptors() <= rest + 6, 30, "all connections have ended")  # noqa: B023


@sources
def test_external_addresses_as_endpoints_lead_nobody_round(lab: Lab) -> None:
    lab.manifests.service(
        "a", ports=BOTH, cluster_ip="10.96.0.21", external_ips=["203.0.113.21"], load_balancer_ips=["198.51.100.21"]
    )
    lab.manifests.slice("a", ["203.0.113.22"], ports=[Port(80, p.name, p.protocol, 80) for p in BOTH])
    lab.manifests.service(
        "b",
        ports=BOTH,
        cluster_ip="10.96.0.22",
        external_ips=["203.0.113.22"],
        load_balancer_ips=[Ingress("198.51.100.22", "Proxy")],
    )
    lab.manifests.slice("b", ["198.51.100.21"], ports=[Port(80, p.name, p.protocol, 80) for p in BOTH])
    proxy = serve_good(lab, most_files=512)
    lab.node.wait_for_rules("default/b:udp")
    at_rest, before = proxy.descriptors_at_rest(), datagrams_in(lab.node)
    with idle_connections(lab.client, ("10.96.0.21", 80), 1), lab.client.udp_socket(("10.96.0.22", 80)) as asking:
        asking.send(b"round?")
        assert_good_is_served(lab)
        assert proxy.descriptors() <= at_rest + 20
        assert datagrams_in(lab.node) - before < 200


def test_more_service_ports_than_descriptors_cost_those_beyond_the_limit_alone(lab: Lab) -> None:
    proxy = serve_good(lab, most_files=512)
    ports = [Port(number, f"p{number}") for number in range(1, 101)]
    for number in range(8):
        lab.manifests.service(
            f"greedy-{number}", ports=ports, cluster_ip=f"10.96.7.{number}", created="2026-06-01T00:00:00Z"
        )
        lab.manifests.slice(f"greedy-{number}", lab.pods, ports=ports)
    assert proxy.wait_log("the limit of open files, 512, leaves")["level"] == "warning"
    lab.node.wait_for_rules("default/greedy-0:p1")
    assert_good_is_served(lab)
    assert "out of descriptors" in http(lab.node, ("127.0.0.1", 10249), "/metrics").decode()
    assert b"warnings" in http(lab.node, ("127.0.0.1", HEALTH), "/livez")
    with idle_connections(lab.client, GOOD, 60):
        assert_good_is_served(lab)
    verdicts = Counter(try_to_connect(lab.client, (f"10.96.7.{number}", 1), 5.0) for number in range(8))
    assert verdicts.keys() == {ACCEPTED, REFUSED}, "some are served, and the others say so at once"
    flood = [each for each in proxy.records if "greedy" in str(each)]
    assert len(flood) < 100, "refused service ports are told of in few lines"


def test_an_address_with_foreign_digits_costs_its_service_alone(lab: Lab) -> None:
    lab.serve_http()
    lab.manifests.service("foreign", ports=BOTH, cluster_ip="10.96.0.1\u0662")
    lab.manifests.slice("foreign", lab.pods, ports=BOTH)
    proxy = serve_good(lab)
    assert "spec.clusterIP" in proxy.wait_log("default/foreign")["event"]
    assert_good_is_served(lab)


@pytest.mark.parametrize("lab", ["api"], indirect=True)
@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "0.0.0.0", "224.0.0.1"])
def test_a_service_is_no_way_to_what_only_the_node_may_reach(lab: Lab, address: str) -> None:
    proxy = serve_good(lab)
    metrics = [Port(80, "", "TCP", 10249)]
    lab.node.own("169.254.169.254/32")
    lab.manifests.service("inside", ports=metrics, cluster_ip="10.96.0.30")
    lab.manifests.slice("inside", [address, lab.pods[0].address], ports=metrics)
    assert address in proxy.wait_log("default/inside")["event"]
    lab.node.wait_for_rules("default/inside")
    for _ in range(4):
        with pytest.raises(OSError, match=r"reset|refused"):
            http(lab.client, ("10.96.0.30", 80), "/metrics", 5.0)
    assert_good_is_served(lab)


@sources
def test_an_external_ip_on_a_nodes_address_takes_no_port_of_the_nodes_services(lab: Lab) -> None:
    lab.manifests.service("thief", ports=[Port(10250)], cluster_ip="10.96.0.40", external_ips=[lab.node.address])
    lab.manifests.slice("thief", lab.pods, ports=[Port(10250)])
    proxy = serve_good(lab)
    assert "10250" in proxy.wait_log("default/thief")["event"]
    kubelet = lab.node.listen(10250)  # it was away when the proxy started, and comes back
    with closing(kubelet), closing(lab.outside.connect((lab.node.address, 10250), 5.0)):
        kubelet.settimeout(5.0)
        kubelet.accept()[0].close()
    assert fetch(lab.client, ("10.96.0.40", 10250)).pod, "its other portals are served"
    assert_good_is_served(lab)


def test_listeners_keep_off_node_ports_and_off_the_proxys_own(lab: Lab) -> None:
    lab.node.sysctl("net.ipv4.ip_local_port_range", "29900 33200")
    ports = [Port(number, f"p{number}") for number in range(1, 101)]
    for number in range(4):
        lab.manifests.service(f"many-{number}", ports=ports, cluster_ip=f"10.96.8.{number}")
        lab.manifests.slice(f"many-{number}", lab.pods, ports=ports)
    serve_good(lab)
    for number in range(4):
        lab.node.wait_for_rules(f"default/many-{number}:p100")
    taken = lab.node.listening_ports("tcp") | lab.node.listening_ports("udp")
    assert len(taken) > 400
    assert not taken & set(NODE_PORTS)
    assert_good_is_served(lab)


# Somebody can reach a port.


@sources
def test_idle_clients_of_one_service_leave_room_for_those_of_others(lab: Lab) -> None:
    proxy = serve_good(lab, most_files=1024)
    lab.manifests.service("hog", cluster_ip="10.96.0.50")
    lab.manifests.slice("hog", lab.pods)
    lab.node.wait_for_rules("default/hog")
    with idle_connections(lab.client, ("10.96.0.50", 80), 900):
        eventually(lambda: proxy.descriptors() > 500, 30, "the hog has what it gets")
        assert_good_is_served(lab)  # for the very client, too: it has too many connections of the other Service
        assert not fetch_many(lab.pods[0], GOOD, 20, timeout=5.0).failures
    eventually(lambda: fetch(lab.client, ("10.96.0.50", 80)).pod, 30, "its own clients are served again")


def test_one_address_with_many_idle_connections_leaves_room_for_others_of_the_same_service(lab: Lab) -> None:
    proxy = serve_good(lab, most_files=1024)
    with idle_connections(lab.client, GOOD, 900):
        eventually(lambda: proxy.descriptors() > 500, 30, "the hog has what it gets")
        tally = fetch_many(lab.pods[0], GOOD, 20, timeout=5.0)
        assert not tally.failures


def test_a_flood_of_udp_clients_leaves_room_for_connections(lab: Lab) -> None:
    serve_good(lab, most_files=512)
    with ExitStack() as stack:
        for _ in range(600):
            stack.enter_context(lab.client.udp_socket(GOOD)).send(b"?")
        assert not fetch_many(lab.pods[0], GOOD, 20, timeout=5.0).failures


@pytest.mark.parametrize("event_loop", ["uvloop", "asyncio"])
def test_idle_connections_to_the_health_port_cost_no_client_anything(lab: Lab, event_loop: str) -> None:
    proxy = serve_good(lab, "--event-loop", event_loop, most_files=512)
    at_rest = proxy.descriptors_at_rest()
    with idle_connections(lab.outside, (lab.node.address, HEALTH), 700):
        assert_good_is_served(lab)
        assert proxy.descriptors() < at_rest + 150
        assert b"healthy" in http(lab.outside, (lab.node.address, HEALTH), "/livez", 10.0)


def test_junk_on_the_health_port_costs_little_memory(lab: Lab) -> None:
    proxy = serve_good(lab)
    assert http(lab.outside, (lab.node.address, HEALTH), "/livez")
    proxy.wait_at_rest()
    before = proxy.rss()
    for _ in range(10):
        with ExitStack() as stack:
            for _ in range(50):
                sock = stack.enter_context(lab.outside.connect((lab.node.address, HEALTH)))
                sock.setblocking(False)
                try:
                    sock.send(b"GET /" + b"x" * 60_000)
                except OSError:
                    continue
    assert b"healthy" in http(lab.outside, (lab.node.address, HEALTH), "/livez", 10.0)
    assert proxy.rss() - before < 12 * 1024 * 1024
    assert_good_is_served(lab)


def test_more_short_connections_than_ports_towards_one_endpoint(lab: Lab) -> None:
    proxy = serve_good(lab)
    lab.manifests.service("busy", cluster_ip="10.96.0.60")
    lab.manifests.slice("busy", lab.pods[:1])
    lab.node.wait_for_rules("default/busy")
    lab.node.sysctl("net.ipv4.ip_local_port_range", "40000 40099")
    failures = 0
    for _ in range(300):  # the client closes first, so our side of the connection to the Pod does, too
        with closing(HTTPConnection("10.96.0.60", 80)) as connection:
            connection.sock = lab.client.connect(("10.96.0.60", 80), 5.0)
            connection.request("GET", "/")
            try:
                failures += connection.getresponse().status != 200
            except OSError:
                failures += 1
    assert not failures
    assert not [record for record in proxy.records if record["level"] == "error"]
    assert_good_is_served(lab)


# Somebody is on the node, or on the API server.


def holders(node: LabNode, count: int) -> Iterator[socket.socket]:
    for _ in range(count):
        sock = node.socket(socket.AF_UNIX)
        sock.setblocking(False)
        sock.connect_ex("\0userproxy-portals-IPv4")
        yield sock


def test_many_contenders_do_not_take_the_chains_from_their_owner(lab: Lab) -> None:
    serve_good(lab)
    with ExitStack() as stack:
        for sock in holders(lab.node, 400):
            stack.enter_context(sock)
        second = lab.node.start_userproxy("--metrics-bind-address", "127.0.0.1:11249", "--healthz-port", "0")
        assert second.wait_log("Another userproxy keeps")
        second.kill()
    assert_good_is_served(lab)


def test_cleanup_leaves_a_live_proxys_rules_alone_unless_forced(lab: Lab) -> None:
    serve_good(lab)
    refused = lab.node.userproxy("cleanup", check=False)
    assert refused.returncode == 1
    assert "--force" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert_good_is_served(lab)
    forced = lab.node.userproxy("cleanup", "--force")
    assert "KUBE-PORTALS-CONTAINER" in forced.stdout


def test_a_broken_kubeconfig_is_not_quoted(lab: Lab) -> None:
    secret = "eyJhbGciOiJSUzI1NiJ9.canary"
    broken = lab.manifests.directory / "kubeconfig"
    for text in (f"users:\n- user: {{token: {secret}\n", f"token: [{secret}", f"{secret}: :\n  - {secret}\n\t{secret}"):
        broken.write_text(text)
        done = lab.node.userproxy("run", "--kubeconfig", str(broken), check=False)
        assert done.returncode == 2
        assert "line" in done.stderr
        assert secret not in done.stderr + done.stdout


@pytest.mark.parametrize("lab", ["api"], indirect=True)
def test_hundreds_of_bad_annotations_are_told_slowly(lab: Lab) -> None:
    for number in range(200):
        lab.manifests.service(
            f"bad-{number}", cluster_ip=f"10.96.9.{number}", annotations={"userproxy.io/udp-timeout": "soon"}
        )
    began = time.monotonic()
    serve_good(lab)
    eventually(lambda: [each for each in events(lab) if each["reason"] == "BadAnnotation"], 60, "the first Event")

    def too_many() -> bool:
        """Whether there are more than ten at once and five a second, as of the earliest time that there may be any."""
        return len(events(lab)) > 10 + 5 * (time.monotonic() - began) + 1

    with pytest.raises(DeadlineError):
        eventually(too_many, 5, "too many Events for so short a time")
    assert_good_is_served(lab)


def events(lab: Lab) -> list[dict[str, object]]:
    return [body for (kind, _, _), body in lab.api.objects.items() if kind == "Event"]
