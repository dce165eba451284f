"""The listeners' own ports are no way around a Service's portals and their policies and ranges."""

import pytest

from tests.lab.cluster import QUICK, Lab
from tests.lab.datagrams import ask
from tests.lab.manifests import Port
from tests.lab.probes import SILENCE
from userproxy.demo.hosts import Host
from userproxy.demo.traffic import fetch
from userproxy.demo.waiting import eventually
from userproxy.model import IPFamily

pytestmark = [pytest.mark.e2e, pytest.mark.parametrize("lab", ["manifests", "api"], indirect=True)]

CLUSTER_IPS = ["10.96.0.10", "fd00:10:96::10"]
EXTERNAL_IPS = ["203.0.113.5", "2001:db8:e::5"]
LOAD_BALANCER_IPS = ["198.51.100.7", "2001:db8:e::7"]
NODE_PORT = 30080
PORTS = [Port(80, "tcp", node_port=NODE_PORT), Port(80, "udp", "UDP", node_port=NODE_PORT)]


def start(lab: Lab) -> None:
    """Load-balancer IPs that the host outside may use and others may not; a Service for each policy and protocol."""
    lab.serve_http()
    lab.node.own(*EXTERNAL_IPS)
    lab.manifests.slices("web", lab.pods, ports=PORTS)
    lab.manifests.service(
        "web",
        ports=PORTS,
        cluster_ip=CLUSTER_IPS,
        external_ips=EXTERNAL_IPS,
        load_balancer_ips=LOAD_BALANCER_IPS,
        external_policy="Local",
        source_ranges=[f"{lab.outside.address}/32", f"{lab.outside.address6}/128"],
    )
    lab.node.start_userproxy(*QUICK, "--cluster-cidr", "10.244.0.0/16,fd00:10:244::/48")
    for ip in LOAD_BALANCER_IPS:
        lab.node.wait_for_portal(ip, 80)
        eventually(lambda: fetch(lab.outside, (ip, 80), 1.0).pod, 30, f"{ip} is served")  # noqa: B023 -- used at once
        eventually(lambda: ask(lab.outside, (ip, 80), 1.0).pod, 30, f"{ip} is served")  # noqa: B023 -- used at once


def test_nobody_gets_past_the_portals(lab: Lab) -> None:
    start(lab)
    attackers: list[Host] = [lab.add_outside("attacker"), lab.client, lab.pods[0], lab.node]
    addresses = [lab.node.address, lab.node.address6, *lab.gateways().values()]
    tcp, udp = lab.node.local_ports("tcp"), lab.node.local_ports("udp")
    if lab.cell.driver.has_local_ports:
        assert min(len(tcp), len(udp)) >= len(IPFamily), "listeners are found"
    else:
        assert not tcp | udp, "nothing listens but at portals"
    for attacker in attackers:
        for address in (each for each in addresses if _has_route(attacker, each)):
            for port in tcp:
                with pytest.raises((ConnectionResetError, ConnectionRefusedError)):
                    fetch(attacker, (address, port), SILENCE)
            for port in udp:
                with pytest.raises((ConnectionRefusedError, TimeoutError)):
                    ask(attacker, (address, port), 0.3)
    for ip in LOAD_BALANCER_IPS:
        assert fetch(lab.outside, (ip, 80)).pod
        assert ask(lab.outside, (ip, 80)).pod
        with pytest.raises(TimeoutError):
            fetch(attackers[0], (ip, 80), 0.3)


def _has_route(host: Host, address: str) -> bool:
    return host.run(["ip", "route", "get", address], check=False).returncode == 0
