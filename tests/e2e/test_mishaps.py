"""What others do to the node, and what somebody writes into a slice, costs no more than it must."""

import os
import shutil
import signal
import stat
from pathlib import Path

import pytest

from tests.lab.cluster import QUICK, Lab
from tests.lab.datagrams import ask, ask_over
from tests.lab.manifests import Port
from userproxy.demo.traffic import fetch
from userproxy.demo.waiting import eventually
from userproxy.model import IPFamily

pytestmark = pytest.mark.e2e

BOTH = [Port(80, "tcp"), Port(80, "udp", "UDP")]


def test_endpoints_that_are_portals_lead_nobody_in_a_circle(lab: Lab) -> None:
    lab.serve_http()
    lab.manifests.service("web", ports=BOTH, cluster_ip="10.96.0.10")
    lab.manifests.slice("web", lab.pods, ports=BOTH)
    lab.manifests.service("chained", ports=BOTH, cluster_ip="10.96.0.11")
    lab.manifests.slice("chained", ["10.96.0.10"], ports=[Port(80, port.name, port.protocol, 80) for port in BOTH])
    for name, own, other in (("self", "10.96.0.20", "10.96.0.20"), ("a", "10.96.0.21", "10.96.0.22")):
        lab.manifests.service(name, ports=BOTH, cluster_ip=own)
        lab.manifests.slice(name, [other], ports=[Port(80, port.name, port.protocol, 80) for port in BOTH])
    lab.manifests.service("b", ports=BOTH, cluster_ip="10.96.0.22")
    lab.manifests.slice("b", ["10.96.0.21"], ports=[Port(80, port.name, port.protocol, 80) for port in BOTH])
    proxy = lab.node.start_userproxy(*QUICK, most_files=1024)
    lab.settle(IPFamily.IPV4)
    at_rest = proxy.descriptors_at_rest()
    for looping in ("10.96.0.20", "10.96.0.21", "10.96.0.22"):
        with pytest.raises(OSError, match="reset"):
            fetch(lab.client, (looping, 80))
        with pytest.raises(TimeoutError):
            ask(lab.client, (looping, 80), 0.5)
    for served in ("10.96.0.10", "10.96.0.11"):
        assert fetch(lab.client, (served, 80)).pod
        assert ask(lab.client, (served, 80)).pod
    assert proxy.wait_log("default/self:tcp: not used as an endpoint: 10.96.0.20:80")["level"] == "warning"
    eventually(lambda: proxy.descriptors() <= at_rest + 6, 30, "no connection goes round")


def test_a_client_that_wrote_while_the_rules_were_gone_is_served_once_they_are_repaired(lab: Lab) -> None:
    lab.serve_http()
    lab.manifests.service("web", ports=BOTH, cluster_ip="10.96.0.10")
    lab.manifests.slice("web", lab.pods, ports=BOTH)
    proxy = lab.node.start_userproxy(*QUICK, "--iptables-sync-period", "1s")
    lab.settle(IPFamily.IPV4)
    proxy.signal(signal.SIGSTOP)
    for variant in ("nft", "legacy"):
        lab.node.run([f"iptables-{variant}", "-t", "nat", "-F"], check=False)
    with lab.client.udp_socket(("10.96.0.10", 80), 1.0) as sock:
        with pytest.raises(OSError, match=r"timed out|refused|unreachable"):
            ask_over(sock)
        proxy.signal(signal.SIGCONT)

        def answered() -> bool:
            try:
                return bool(ask_over(sock).pod)
            except OSError:
                return False

        eventually(answered, 20, "the client's next datagrams are led to a Pod")


def test_where_one_family_cannot_be_taken_away_the_other_is(lab: Lab, tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("iptables-save", "iptables-nft-save", "iptables-legacy-save"):
        script = programs / name
        script.write_text(f'#!/bin/sh\ntest -e {programs}/broken && exit 4\nexec {shutil.which(name)} "$@"\n')
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    lab.serve_http()
    lab.manifests.service("web", cluster_ip=["10.96.0.10", "fd00:10:96::10"])
    lab.manifests.slices("web", lab.pods)
    proxy = lab.node.start_userproxy(env={"PATH": f"{programs}:{os.environ['PATH']}"})
    lab.settle(*IPFamily)
    (programs / "broken").touch()
    assert proxy.terminate() == 1
    lab.node.wait_for_no_rules(families=[IPFamily.IPV6])
    lab.node.wait_for_rules("default/web")
    assert proxy.wait_log("Portals stay until `userproxy cleanup`")["family"] == "IPv4"
    lab.node.userproxy("cleanup")
    lab.node.wait_for_no_rules()
