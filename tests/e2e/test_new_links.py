"""A Pod on a link of its own comes to a node that had none: it is served at once, and nobody else is disturbed."""

import socket
import struct
from contextlib import ExitStack, closing

import pytest

from tests.lab.cluster import QUICK, Lab
from tests.lab.datagrams import ask
from tests.lab.manifests import Port
from tests.lab.probes import KeptConnection
from tests.lab.steady import SteadyClient
from userproxy.addresses import socket_family
from userproxy.demo.hosts import Address, Host
from userproxy.demo.traffic import fetch
from userproxy.model import IPFamily

pytestmark = pytest.mark.e2e

FAMILIES = (IPFamily.IPV4, IPFamily.IPV6)
CLUSTER_IPS = ("10.96.0.10", "fd00:10:96::10")
NODE_PORT = 30080
PORTS = [Port(80, "tcp", node_port=NODE_PORT), Port(80, "udp", "UDP", node_port=NODE_PORT)]


def start(lab: Lab) -> None:
    lab.serve_http()
    lab.manifests.slices("web", lab.pods, ports=PORTS)
    lab.manifests.service("web", ports=PORTS, cluster_ip=CLUSTER_IPS)
    lab.node.start_userproxy(*QUICK, "--iptables-sync-period", "1h")
    lab.settle(*FAMILIES)


def syns_sent_again(host: Host, address: Address) -> int:
    """How often a client has to send its SYN again until it is connected: once a second, then after two, four."""
    with closing(host.socket(socket_family(address[0]))) as sock:
        sock.settimeout(20)
        sock.connect(address)
        information = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int(struct.unpack_from("I", information, 100)[0])  # linux/tcp.h: tcpi_total_retrans


def test_the_first_packet_of_its_first_pod_is_not_lost_for_more_than_a_second(lab: Lab) -> None:
    start(lab)
    with ExitStack() as stack:
        kept = [stack.enter_context(KeptConnection(lab.client, (ip, 80))) for ip in CLUSTER_IPS]
        answers = [each.ask().pod for each in kept]
        steady = stack.enter_context(SteadyClient(lab.client, (CLUSTER_IPS[0], 80)))
        steady.go_on()
        for number in (1, 2):
            pod = lab.add_pod(f"routed-{number}", wiring="routed")
            for ip in CLUSTER_IPS:
                assert syns_sent_again(pod, (ip, 80)) <= 1, ip
        for address in [
            *((ip, 80) for ip in CLUSTER_IPS),
            (lab.node.address, NODE_PORT),
            (lab.node.address6, NODE_PORT),
        ]:
            assert fetch(pod, address).pod
            assert ask(pod, address).pod
        steady.go_on()
        assert not steady.failures
        assert [each.ask().pod for each in kept] == answers
