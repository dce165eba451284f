"""Programs that others wrote and that speak UDP: a DNS server and dig, QUIC, iperf3; both families, several portals."""

import json
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from tests.lab.cluster import Lab
from tests.lab.manifests import Port
from tests.lab.proxy import CONTROL
from userproxy.demo.hosts import Address, Host
from userproxy.demo.programs import Program
from userproxy.demo.waiting import eventually
from userproxy.model import IPFamily

pytestmark = pytest.mark.e2e

FAMILIES = (IPFamily.IPV4, IPFamily.IPV6)

DNS_PORTS = [Port(53, "dns", "UDP", 5353, 30053), Port(53, "dns-tcp", "TCP", 5353, 30053)]
QUIC_PORTS = [Port(443, "quic", "UDP", 4433, 30443)]
IPERF_PORTS = [Port(5201, "data", "UDP", 5201, 30521), Port(5201, "control", "TCP", 5201, 30521)]

DNS, QUIC, IPERF = (
    {IPFamily.IPV4: f"10.96.0.{number}", IPFamily.IPV6: f"fd00:10:96::{number}"} for number in (53, 44, 52)
)
NODE = {IPFamily.IPV4: "192.0.2.10", IPFamily.IPV6: "2001:db8::10"}

UNTIL_ALL = 2 * max(1, int(CONTROL)) + 1
"""So many clients have met three Pods: turns are each data process's own, and one of these has had three clients."""

TEXTS = [f"{number:03d}{'x' * 240}" for number in range(40)]
"""Of one name: 40 TXT records make an answer of more than 10,000 bytes."""


@pytest.fixture(scope="module")
def cluster(shared_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """DNS in all Pods, QUIC and iperf3 in the first: its data has to meet its control connection there."""
    lab = shared_lab
    first = lab.pods[0]
    for pod in lab.pods:
        records = [f"--txt-record=who.lab,{pod.name}", *(f"--txt-record=big.lab,{text}" for text in TEXTS)]
        pod.serve([*DNSMASQ, "--port=5353", *records], 5353)
    first.serve(["iperf3", "--server"], 5201)
    certificates = tmp_path_factory.mktemp("quic")
    quic = lab.enter(Program(first, [sys.executable, "-m", "tests.lab.quic", "serve", "4433", str(certificates)]))
    quic.wait_line("listening")
    for name, addresses, ports, pods in (
        ("dns", DNS, DNS_PORTS, lab.pods),
        ("quic", QUIC, QUIC_PORTS, [first]),
        ("iperf", IPERF, IPERF_PORTS, [first]),
    ):
        lab.manifests.service(name, ports=ports, cluster_ip=[*addresses.values()])
        lab.manifests.slices(name, pods, ports=ports)
    lab.node.start_userproxy()
    lab.settle(*FAMILIES)
    return lab


DNSMASQ = [
    *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--user=root"),
    *("--no-resolv", "--no-hosts", "--edns-packet-max=16384"),
]


def ways(
    lab: Lab, addresses: dict[IPFamily, str], ports: Sequence[Port], family: IPFamily
) -> list[tuple[Host, Address]]:
    """From a Pod, and from the node, to the cluster IP; from outside to the node port."""
    cluster_ip = (addresses[family], ports[0].port)
    return [(lab.client, cluster_ip), (lab.node, cluster_ip), (lab.outside, (NODE[family], ports[0].node_port))]


def dig(host: Host, address: Address, name: str, *options: str) -> list[str]:
    """The texts of a name. dig itself says so where an answer comes from another address than it asked."""
    command = ["dig", f"@{address[0]}", "-p", str(address[1]), "+short", "+tries=3", "+time=10", *options, name, "TXT"]
    answer = host.run(command, timeout=60).stdout.splitlines()
    assert not [line for line in answer if line.startswith(";")], answer
    return sorted(line.strip('"') for line in answer)


@pytest.mark.parametrize("family", FAMILIES)
def test_dns_over_udp_and_tcp_on_one_port(cluster: Lab, family: IPFamily) -> None:
    for host, address in ways(cluster, DNS, DNS_PORTS, family):
        for options in (["+notcp"], ["+tcp"]):
            pods = {name for _ in range(UNTIL_ALL) for name in dig(host, address, "who.lab", *options)}
            assert pods == {"web-1", "web-2", "web-3"}, (host.name, address, options)


@pytest.mark.parametrize("family", FAMILIES)
def test_dns_answers_of_ten_thousand_bytes_come_over_udp_alone(cluster: Lab, family: IPFamily) -> None:
    for host, address in ways(cluster, DNS, DNS_PORTS, family):
        # +ignore: an answer that was cut short is not asked for again over TCP.
        assert dig(host, address, "big.lab", "+notcp", "+ignore", "+bufsize=16384") == TEXTS, (host.name, address)
        assert dig(host, address, "big.lab", "+notcp", "+ignore", "+bufsize=1232") != TEXTS, "else that says nothing"


@pytest.mark.parametrize("family", FAMILIES)
def test_quic_shakes_hands_and_carries_a_megabyte_each_way(cluster: Lab, family: IPFamily) -> None:
    for host, (address, port) in ways(cluster, QUIC, QUIC_PORTS, family):
        host.run([sys.executable, "-m", "tests.lab.quic", "ask", address, str(port), "1000000"], timeout=90)


def report_of(host: Host, command: list[str]) -> dict[str, Any]:
    """What iperf3 reports; empty if its server, which takes one client at a time, has not ended with the last one."""
    report: dict[str, Any] = json.loads(host.run(command, timeout=60).stdout)
    error = report.get("error", "")
    assert not error or "busy" in error, error
    return {} if error else report


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [16, 1472, 8192, 65507])
def test_iperf3_sends_datagrams_of_this_size(cluster: Lab, family: IPFamily, size: int) -> None:
    """iperf3 has no smaller ones, and does not look at their contents; tests of echoed datagrams do."""
    client, _, outside = ways(cluster, IPERF, IPERF_PORTS, family)
    for (host, (address, port)), more in ((client, []), (client, ["--reverse"]), (outside, [])):
        # 50 datagrams at 200 a second.
        load = ["--udp", "--length", str(size), "--blockcount", "50", "--bitrate", str(size * 8 * 200)]
        command = ["iperf3", "--client", address, "--port", str(port), "--json", *load, *more]
        end = eventually(lambda: report_of(host, command), 30, "an iperf3 server that is free")["end"]["sum"]  # noqa: B023
        # Some may be lost where a receiver is slow, as anywhere.
        assert end["packets"] - end["lost_packets"] >= 25, end
        assert end["bytes"] >= 25 * size
