"""Datagrams through every portal, from everywhere, whole and to the right address; and flows that outlive changes."""

import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from tests.lab.cluster import QUICK, Lab
from tests.lab.datagrams import Answers, ask, ask_over, echo
from tests.lab.manifests import Port
from tests.lab.proxy import CONTROL
from userproxy.demo.hosts import Address, Host
from userproxy.demo.programs import Program
from userproxy.demo.traffic import fetch
from userproxy.demo.waiting import eventually
from userproxy.model import IPFamily

pytestmark = pytest.mark.e2e

FAMILIES = (IPFamily.IPV4, IPFamily.IPV6)
CLUSTER_IPS = {IPFamily.IPV4: "10.96.0.10", IPFamily.IPV6: "fd00:10:96::10"}
EXTERNAL_IPS = {IPFamily.IPV4: "203.0.113.5", IPFamily.IPV6: "2001:db8:e::5"}
LOAD_BALANCER_IPS = {IPFamily.IPV4: "198.51.100.7", IPFamily.IPV6: "2001:db8:e::7"}
NODE_PORT = 30053
PORTS = [Port(53, "dns", "UDP", node_port=NODE_PORT), Port(53, "dns-tcp", "TCP", node_port=NODE_PORT)]


def serve_dns(lab: Lab, *flags: str) -> dict[str, Program]:
    """UDP and TCP on one port number through every kind of portal; the node has two addresses on one interface.

    Returns the Pods' servers by name.
    """
    lab.node.own(*EXTERNAL_IPS.values())
    lab.node.ip_batch(["addr add 192.0.2.11/24 dev eth0", "addr add 2001:db8::11/64 dev eth0"])
    servers = lab.serve_http()
    write_service(lab)
    lab.manifests.slices("dns", lab.pods, ports=PORTS)
    lab.node.start_userproxy(*QUICK, *flags)
    lab.settle(*FAMILIES)
    return servers


def write_service(lab: Lab) -> None:
    lab.manifests.service(
        "dns",
        ports=PORTS,
        cluster_ip=[*CLUSTER_IPS.values()],
        external_ips=[*EXTERNAL_IPS.values()],
        load_balancer_ips=[*LOAD_BALANCER_IPS.values()],
    )


def every_way(lab: Lab) -> list[tuple[Host, Address]]:
    return [way for family in FAMILIES for way in ways(lab, family)]


def ways(lab: Lab, family: IPFamily) -> list[tuple[Host, Address]]:
    """Everybody's ways to the Service. The sockets are connected: they take a reply from that very address alone."""
    six = family is IPFamily.IPV6
    external = [(EXTERNAL_IPS[family], 53), (LOAD_BALANCER_IPS[family], 53)]
    external += [
        (node, NODE_PORT) for node in (("2001:db8::10", "2001:db8::11") if six else ("192.0.2.10", "192.0.2.11"))
    ]
    here = [(CLUSTER_IPS[family], 53), *external]
    if family in lab.gateways():
        here.append((lab.gateways()[family], NODE_PORT))
    return [
        *((lab.client, address) for address in here),
        *((lab.node, address) for address in here),
        *((lab.outside, address) for address in external),
    ]


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_every_way_is_answered_from_the_address_that_was_asked(lab: Lab, loop: str) -> None:
    serve_dns(lab, "--event-loop", loop)
    for host, address in every_way(lab):
        assert {ask(host, address).pod for _ in range(9)} == {"web-1", "web-2", "web-3"}, (host.name, address)
        assert fetch(host, address).pod, (host.name, address)
    assert ask(lab.node, ("127.0.0.1", NODE_PORT)).pod


def test_datagrams_of_every_size_come_and_go_whole(lab: Lab) -> None:
    serve_dns(lab)
    for host, address in every_way(lab):
        with host.udp_socket(address) as sock:
            for size in (0, 1, 1472, 4097, 65507):
                payload = (b"%d " % size * size)[:size]
                assert echo(sock, payload) == payload, (host.name, address, size)
            assert ask_over(sock).pod, "the flow still goes on"


def test_a_flow_stays_with_its_pod_and_clients_are_spread(lab: Lab) -> None:
    serve_dns(lab)
    address = (CLUSTER_IPS[IPFamily.IPV4], 53)
    sockets = [lab.client.udp_socket(address) for _ in range(9)]
    try:
        first = [ask_over(sock).pod for sock in sockets]
        counts = [first.count(name) for name in ("web-1", "web-2", "web-3")]
        assert sum(counts) == 9
        assert max(counts) - min(counts) <= int(CONTROL), "each process takes turns"
        for _ in range(5):
            assert [ask_over(sock).pod for sock in sockets] == first
    finally:
        for sock in sockets:
            sock.close()


def test_a_client_behind_another_interface_of_the_node(lab: Lab) -> None:
    serve_dns(lab)
    away = lab.add_outside("away")
    lab.node.ip_batch([f"link add eth1 type veth peer name eth1 netns {away.pid}", "link set eth1 up"])
    away.ip_batch(["link set eth1 up"])
    # Addresses of RFC 2544 and RFC 3849.
    for family, near, far, rest in (
        (IPFamily.IPV4, "198.18.0.1", "198.18.0.2", "/24 dev eth1"),
        (IPFamily.IPV6, "2001:db8:2::1", "2001:db8:2::2", "/64 dev eth1"),
    ):
        lab.node.ip_batch([f"addr add {near}{rest}"])
        portals = [LOAD_BALANCER_IPS[family], EXTERNAL_IPS[family]]
        away.ip_batch([f"addr add {far}{rest}", *(f"route replace {portal} via {near}" for portal in portals)])
        if not lab.cell.driver.has_local_ports:  # it listens at each address, and hears of this one
            eventually(lambda: ask(away, (near, NODE_PORT), 0.3, source=(far, 0)).pod, 5)  # noqa: B023 -- used at once
        for address in ((near, NODE_PORT), *((portal, 53) for portal in portals)):
            assert ask(away, address, source=(far, 0)).pod, address
            with away.udp_socket(address, source=(far, 0)) as sock:
                assert echo(sock, b"x" * 4097) == b"x" * 4097, address
        node = lab.node.address6 if family is IPFamily.IPV6 else lab.node.address
        assert ask(away, (node, NODE_PORT)).pod  # its other way, with its other address


@pytest.mark.parametrize("family", FAMILIES)
def test_a_deprecated_address_answers_for_itself(lab: Lab, family: IPFamily) -> None:
    """Addresses that the node would not choose for itself: temporary ones of IPv6 (RFC 8981) end up like this."""
    serve_dns(lab)
    six = family is IPFamily.IPV6
    addresses = ["2001:db8::10/64", "2001:db8::11/64"] if six else ["192.0.2.10/24", "192.0.2.11/24"]
    for deprecated in addresses:
        lifetimes = {address: "0" if address == deprecated else "forever" for address in addresses}
        lab.node.ip_batch(
            [f"addr change {each} dev eth0 valid_lft forever preferred_lft {left}" for each, left in lifetimes.items()]
        )
        for address in addresses:
            way = (address.partition("/")[0], NODE_PORT)
            assert ask(lab.outside, way).pod, (deprecated, way)
            with lab.outside.udp_socket(way) as sock:
                assert echo(sock, b"x" * 4097) == b"x" * 4097, (deprecated, way)


def test_while_a_pod_refuses_and_is_still_listed_one_datagram_is_lost_at_the_most(lab: Lab) -> None:
    servers = serve_dns(lab)
    for family in FAMILIES:
        with lab.client.udp_socket((CLUSTER_IPS[family], 53)) as sock:
            answers = Answers(sock)
            answers.exchange(20)
            (victim,) = {answer.pod for answer in answers.by_number.values()}
            servers[victim].close()
            assert answers.exchange(20) >= 19
            later = {answers.by_number[number].pod for number in sorted(answers.by_number)[-19:]}
            assert len(later) == 1
            assert later != {victim}
        # Once it is no longer listed, nobody is sent to it at all.
        rest = [pod for pod in lab.pods if pod.name in servers and pod.name != victim]
        del servers[victim]
        lab.manifests.slices("dns", rest, ports=PORTS)
        lab.settle(*FAMILIES)
        for _ in range(6):
            with lab.client.udp_socket((CLUSTER_IPS[family], 53)) as sock:
                assert Answers(sock).exchange(1) == 1


OPEN_FLOWS = """
import socket

for family, address in ((socket.AF_INET, "10.96.0.10"), (socket.AF_INET6, "fd00:10:96::10")):
    for batch in range(100):
        sockets = [socket.socket(family, socket.SOCK_DGRAM) for _ in range(50)]
        for sock in sockets:
            sock.settimeout(30)
            sock.connect((address, 53))
            sock.send(b"x")
        for sock in sockets:
            assert sock.recv(10) == b"x"
            sock.close()
"""
"""10,000 flows, each from a port of its own; so many at a time that no queue runs over."""


def test_ten_thousand_flows_leave_nothing_behind(lab: Lab) -> None:
    serve_dns(lab, "--udp-timeout", "4s")
    proxy = lab.node.proxies[0]
    at_rest = proxy.descriptors_at_rest()
    memory = []
    for _ in range(2):
        lab.client.run([sys.executable, "-c", OPEN_FLOWS], timeout=60)
        assert proxy.descriptors() > at_rest + 1000, "those of the last moment are open still"
        eventually(lambda: proxy.descriptors() <= at_rest, 30, "every flow has been closed")
        memory.append(proxy.rss())
    assert memory[-1] - memory[0] < 4_000_000, "the first ones leave room that the others use again"
    assert not [record for record in proxy.records if record["level"] != "info"]


def test_once_a_pod_is_gone_the_first_datagram_is_answered_by_another(lab: Lab) -> None:
    serve_dns(lab)
    for family in FAMILIES:
        for address in ((CLUSTER_IPS[family], 53), (LOAD_BALANCER_IPS[family], 53)):
            with lab.client.udp_socket(address) as sock:
                first = ask_over(sock).pod
                rest = [pod for pod in lab.pods if pod.name != first]
                lab.manifests.slices("dns", rest, ports=PORTS)
                lab.settle(*FAMILIES)
                second = ask_over(sock).pod
                assert second in {pod.name for pod in rest}
                assert ask_over(sock).pod == second
            lab.manifests.slices("dns", lab.pods, ports=PORTS)
            lab.settle(*FAMILIES)


def test_a_client_with_one_source_port_is_served_again_after_the_service_was_gone(lab: Lab) -> None:
    """What it sends in between leaves an entry in conntrack that would lead its datagrams astray for minutes."""
    serve_dns(lab)
    clients: list[tuple[Host, Address]] = []
    for family, node in zip(FAMILIES, (lab.node.address, lab.node.address6), strict=True):
        clients += [(lab.client, (CLUSTER_IPS[family], 53)), (lab.node, (CLUSTER_IPS[family], 53))]
        clients += [(lab.outside, (LOAD_BALANCER_IPS[family], 53)), (lab.outside, (node, NODE_PORT))]
    with ExitStack() as stack:
        sockets = [stack.enter_context(host.udp_socket(address)) for host, address in clients]
        for sock in sockets:
            assert ask_over(sock).pod
        lab.manifests.remove(lab.manifests.directory / "service-default-dns.yaml")
        for family in FAMILIES:
            lab.node.wait_for_no_portal(CLUSTER_IPS[family], seconds=10)
        for sock, client in zip(sockets, clients, strict=True):
            # Rules go first; the listener, and conntrack's entries of its flows, right after them.
            eventually(lambda: _unanswered(sock), 10, f"nobody answers {client[0].name} at {client[1]}")  # noqa: B023
        write_service(lab)
        lab.settle(*FAMILIES)
        for sock, client in zip(sockets, clients, strict=True):
            eventually(lambda: _asked_again(sock), 30, f"an answer for {client}")  # noqa: B023 -- used at once


@pytest.mark.parametrize("change", ["all endpoints", "the node port"])
def test_a_client_that_never_stops_sending_survives_changes(lab: Lab, change: str) -> None:
    serve_dns(lab)
    address = (lab.node.address, NODE_PORT)
    portless = [Port(53, "dns", "UDP"), Port(53, "dns-tcp", "TCP")]
    takes_away: dict[str, Callable[[], object]] = {
        "all endpoints": lambda: lab.manifests.slices("dns", [], ports=PORTS),
        "the node port": lambda: lab.manifests.service("dns", ports=portless, cluster_ip=[*CLUSTER_IPS.values()]),
    }
    with lab.outside.udp_socket(address) as sock:
        assert ask_over(sock).pod
        takes_away[change]()
        lab.settle(*FAMILIES)
        eventually(lambda: _unanswered(sock), 30, "nobody answers")
        lab.manifests.slices("dns", lab.pods, ports=PORTS)
        write_service(lab)
        lab.settle(*FAMILIES)
        eventually(lambda: _asked_again(sock), 30, "the same socket is answered")


def _unanswered(sock: socket.socket) -> bool:
    """Whether nobody answers, or not soon."""
    try:
        return not _asked_again(sock)
    except OSError:
        return True


def _asked_again(sock: socket.socket) -> str:
    """Who answers, if anybody does soon: a client that asks again and again keeps its entry in conntrack alive."""
    patience = sock.gettimeout()
    sock.settimeout(0.2)
    try:
        return ask_over(sock).pod
    finally:
        sock.settimeout(patience)
