"""The lab itself, and userproxy's main job seen through it."""

import os

import pytest

from tests.lab.cluster import Lab
from tests.lab.datagrams import ask, ask_over, echo
from tests.lab.rules import local_ports
from userproxy.demo.programs import ProgramEndedError
from userproxy.demo.traffic import fetch, fetch_many, http

pytestmark = pytest.mark.e2e

CLUSTER_IP = ("10.96.0.10", 80)


def test_pods_serve_http_and_any_program(lab: Lab) -> None:
    lab.serve_http()
    answers = [fetch(lab.client, (pod.address, 8080)) for pod in lab.pods]
    assert [answer.pod for answer in answers] == ["web-1", "web-2", "web-3"]
    assert {answer.client_ip for answer in answers} == {lab.client.address}
    lab.client.serve_python("import http.server as s; s.test(s.SimpleHTTPRequestHandler, port=9000)", port=9000)
    assert b"Directory listing" in http(lab.node, (lab.client.address, 9000))


def test_userproxy_serves_what_the_manifests_say(lab: Lab) -> None:
    lab.serve_http()
    lab.manifests.service("web", cluster_ip=CLUSTER_IP[0], node_port=30080)
    lab.manifests.slice("web", lab.pods)
    proxy = lab.node.start_userproxy()
    lab.node.wait_for_rules("default/web")
    tally = fetch_many(lab.client, CLUSTER_IP, 30)
    assert (tally.pods, tally.failures) == ({"web-1": 10, "web-2": 10, "web-3": 10}, ())
    assert fetch(lab.outside, (lab.node.address, 30080)).client_ip == lab.outside.address
    assert proxy.terminate() == 0
    lab.node.wait_for_no_rules()


def test_a_client_that_came_before_the_rules_asks_the_node_again(lab: Lab) -> None:
    """Without rules a node forwards to the LAN what came from there, and sends the client an ICMP redirect."""
    for _ in range(4):  # the first one has the client look for the other gateway
        with pytest.raises(TimeoutError):
            ask(lab.outside, ("198.51.100.7", 80), 0.2)
    redirects = lab.node.run(["nstat", "-asz", "IcmpOutRedirects"]).stdout.split()
    assert int(redirects[redirects.index("IcmpOutRedirects") + 1]) > 0
    route = lab.outside.run(["ip", "route", "get", "198.51.100.7"]).stdout
    assert f"via {lab.node.address} " in route


def test_a_running_proxy_can_be_looked_at(lab: Lab) -> None:
    proxy = lab.node.start_userproxy("-v", "2")
    record = proxy.wait_log("Portals: iptables")
    assert record["level"] == "info"
    assert proxy.records[0]["event"]
    assert 10_000_000 < proxy.rss() < 500_000_000
    assert 3 < proxy.descriptors() < 100
    assert 0 < proxy.cpu() < 30
    proxy.kill()
    assert not proxy.running


def test_a_proxy_that_ends_at_once_says_why(lab: Lab) -> None:
    proxy = lab.node.start_userproxy("--drain-timeout", "soon")
    with pytest.raises(ProgramEndedError, match="'soon' is not a duration"):
        proxy.wait_log("Portals: iptables")
    assert proxy.wait() == 2


def test_a_second_node_and_more_hosts_can_join(lab: Lab) -> None:
    second = lab.add_node("node-2")
    far = lab.add_pod("far", second)
    other = lab.add_outside("other")
    far.serve_http()
    assert fetch(lab.client, (far.address, 8080)).client_ip == lab.client.address
    assert fetch(lab.node, (far.address, 8080)).pod == "far"
    assert (second.address, other.address) == ("192.0.2.20", "192.0.2.101")


def test_pods_answer_datagrams_in_both_families(lab: Lab) -> None:
    lab.serve_http()
    pod = lab.pods[0]
    addresses = [(pod.address, lab.client.address), *([(pod.address6, lab.client.address6)] if pod.address6 else [])]
    for address, seen in addresses:
        answer = ask(lab.client, (address, 8080))
        assert (answer.pod, answer.client_ip) == ("web-1", seen)
        with lab.client.udp_socket((address, 8080)) as sock:
            assert echo(sock, b"") == b""
            assert echo(sock, b"x" * 65507) == b"x" * 65507
            sock.send(b"?another question")
            assert ask_over(sock).pod == "web-1"
            assert echo(sock, b"x") == b"x"  # both answers have come, and ours was the second
    with pytest.raises(ConnectionRefusedError):
        ask(lab.client, (pod.address, 9))


def test_a_second_node_in_another_zone(lab: Lab) -> None:
    second = lab.add_second_node()
    assert [pod.node.name for pod in lab.pods if pod.node] == ["node-1"] * 3 + ["node-2"] * 2
    assert sorted(path.name for path in lab.manifests.directory.iterdir()) == ["node-node-1.yaml", "node-node-2.yaml"]
    assert "node-2" in lab.manifests.node(second).read_text()


def test_what_redirect_leads_from_a_routed_pod_to_the_node_is_dropped(routed_lab: Lab) -> None:
    """It goes to the first address of the interface that it came in by, and there is none (nf_nat_redirect_ipv4)."""
    node = routed_lab.node
    to = ["-t", "nat", "-A", "PREROUTING", "-d", CLUSTER_IP[0], "-p", "tcp", "--dport", str(CLUSTER_IP[1]), "-j"]
    with node.listen(8080):
        node.run(["iptables", *to, "REDIRECT", "--to-ports", "8080"])
        with pytest.raises(TimeoutError):
            routed_lab.client.connect(CLUSTER_IP, timeout=0.5)
        node.run(["iptables", "-t", "nat", "-F"])
        node.run(["iptables", *to, "DNAT", "--to-destination", f"{node.address}:8080"])
        routed_lab.client.connect(CLUSTER_IP).close()


def test_redirect_takes_the_link_local_address_where_a_routed_pods_link_has_no_other(routed_lab: Lab) -> None:
    """Unlike IPv4 it has one as soon as the link is up, unless the node forbids it. Tried with Linux 6.18."""
    if not routed_lab.node.address6:
        pytest.skip("this kernel has no IPv6")
    node, portal = routed_lab.node, "fd00:10:96::10"
    node.run(
        [
            "ip6tables",
            "-t",
            "nat",
            "-A",
            "PREROUTING",
            "-d",
            portal,
            "-p",
            "tcp",
            "-j",
            "REDIRECT",
            "--to-ports",
            "8080",
        ]
    )
    with node.listen(8080, "::") as server:
        with routed_lab.client.connect((portal, 80)), server.accept()[0] as accepted:
            assert accepted.getsockname()[0] == "fe80::ecee:eeff:feee:eeee"
        node.run(["ip", "-6", "addr", "flush", "dev", "cali1024415"])
        with pytest.raises(TimeoutError):
            routed_lab.client.connect((portal, 80), timeout=0.5)


def test_settling_waits_for_everything_that_was_written_before(lab: Lab) -> None:
    lab.node.start_userproxy()
    for number in range(1, 6):
        lab.manifests.service("web", cluster_ip=f"10.96.0.{number}")
        lab.manifests.slice("web", lab.pods[:number])
        lab.settle()
        assert local_ports(lab.node, f"-d 10.96.0.{number}/32")


def test_two_labs_do_not_meet(lab: Lab) -> None:
    assert lab.node.inside(os.readlink, "/proc/thread-self/ns/net") != os.readlink("/proc/self/ns/net")
    assert lab.node.listening_ports() == set()
