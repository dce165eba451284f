"""Every driver works with exactly the capabilities that docs/drivers.md names."""

import re
from pathlib import Path

import pytest

from tests.lab.cluster import QUICK, Lab
from tests.lab.datagrams import ask
from tests.lab.manifests import Port
from tests.lab.probes import ACCEPTED, try_to_connect
from tests.lab.proxy import installed_command
from userproxy.demo.programs import Program
from userproxy.demo.traffic import fetch
from userproxy.model import IPFamily

pytestmark = pytest.mark.e2e

FAMILIES = (IPFamily.IPV4, IPFamily.IPV6)
CLUSTER_IPS = ("10.96.0.10", "fd00:10:96::10")
LATER_IPS = ("10.96.0.11", "fd00:10:96::11")
NODE_PORT = 30080
PORTS = [Port(80, "tcp", node_port=NODE_PORT), Port(80, "udp", "UDP", node_port=NODE_PORT)]
DRIVERS_PAGE = Path(__file__).parents[2] / "docs" / "drivers.md"


def start(lab: Lab, capabilities: frozenset[str]) -> Program:
    """userproxy as root with no more than these: containers have them like this."""
    bounds = ",".join(["-all", *(f"+{each.removeprefix('CAP_').lower()}" for each in sorted(capabilities))])
    limited = ["setpriv", f"--bounding-set={bounds}", "--no-new-privs", installed_command(), "run", *QUICK]
    return lab.enter(Program(lab.node, [*limited, *lab.manifests.flags, "--portals", lab.cell.driver.portals]))


def test_they_are_enough(lab: Lab) -> None:
    lab.serve_http()
    for name, ips, ports in (("web", CLUSTER_IPS, PORTS), ("gone", ("10.96.0.99", "fd00:10:96::99"), [Port(80)])):
        lab.manifests.service(name, cluster_ip=ips, ports=ports)
        lab.manifests.slices(name, lab.pods, ports=ports)
    proxy = start(lab, lab.cell.driver.capabilities)
    for ip in CLUSTER_IPS:
        lab.node.wait_for_portal(ip, 80, "tcp")
        lab.node.wait_for_portal(ip, 80, "udp")
    nodes = [(ip, NODE_PORT) for ip in (lab.node.address, lab.node.address6)]
    for host, address in (
        *((host, (ip, 80)) for host in (lab.client, lab.node) for ip in CLUSTER_IPS),
        *((lab.outside, node) for node in nodes),
    ):
        assert fetch(host, address).pod, (host.name, address)
        assert ask(host, address).pod, (host.name, address)
    # A small change goes another way than the first one, with legacy tables through python-iptables.
    lab.manifests.slices("more", lab.pods)
    lab.manifests.service("more", cluster_ip=LATER_IPS)
    lab.manifests.remove(lab.manifests.directory / "service-default-gone.yaml")
    for ip in LATER_IPS:
        lab.node.wait_for_portal(ip, 80)
        assert fetch(lab.client, (ip, 80)).pod
    lab.node.wait_for_no_portal("10.96.0.99")
    assert proxy.terminate() == 0
    assert not lab.node.standing(CLUSTER_IPS[0]) | lab.node.standing(CLUSTER_IPS[1])
    assert not [line for line in proxy.lines if '"level": "error"' in line or '"level": "warning"' in line]


def test_each_is_needed_and_named_where_it_is_missing(lab: Lab) -> None:
    lab.serve_http()
    lab.manifests.service("web", cluster_ip=CLUSTER_IPS)
    lab.manifests.slices("web", lab.pods)
    for missing in lab.cell.driver.capabilities:
        with start(lab, lab.cell.driver.capabilities - {missing}) as proxy:
            proxy.wait_line(missing)
            assert try_to_connect(lab.client, (CLUSTER_IPS[0], 80)) != ACCEPTED


def test_they_are_those_of_the_page(lab: Lab) -> None:
    driver = lab.cell.driver
    (row,) = (line for line in DRIVERS_PAGE.read_text().splitlines() if line.startswith(f"| `{driver.name}` | CAP_"))
    assert set(re.findall(r"CAP_[A-Z_]+", row)) == driver.capabilities
