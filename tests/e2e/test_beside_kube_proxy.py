"""A node on which a kube-proxy was before, and one that userproxy shares with it."""

import pytest

from tests.e2e.test_rules import use, variants
from tests.lab.cluster import QUICK, Lab
from tests.lab.manifests import Port
from tests.portals.iptables.test_other_proxies import KUBE_PROXY
from userproxy.demo.traffic import fetch
from userproxy.demo.waiting import eventually

pytestmark = pytest.mark.e2e

WEB = [Port(80, "http")]


def left_behind(lab: Lab, variant: str) -> None:
    """What kube-proxy had written for a node port whose endpoint is gone."""
    use(lab.node, variant)
    lab.node.run([f"iptables-{variant}-restore", "--noflush"], text=KUBE_PROXY)


def targets(lab: Lab, variant: str) -> list[str]:
    text = lab.node.run([f"iptables-{variant}-save", "-t", "nat"]).stdout
    return [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith("-A PREROUTING")]


@variants
def test_node_ports_are_ours_though_kube_proxys_rules_are_still_there(lab: Lab, variant: str) -> None:
    left_behind(lab, variant)
    lab.serve_http()
    lab.manifests.service("web", ports=WEB, cluster_ip="10.96.0.10", node_port=30080)
    lab.manifests.slice("web", lab.pods, ports=WEB)
    proxy = lab.node.start_userproxy(*QUICK, "--iptables-sync-period", "1s")
    told = proxy.wait_log("There are rules of kube-proxy")
    assert (told["level"], told["found"][0]) == ("warning", f"iptables-{variant}: chain KUBE-SERVICES")
    assert targets(lab, variant) == ["KUBE-PORTALS-CONTAINER", "KUBE-NODEPORT-CONTAINER", "KUBE-SERVICES"]
    for asking in (lab.outside, lab.client, lab.node):
        assert fetch(asking, ("192.0.2.10", 30080)).pod
    again = "*nat\n-D PREROUTING 3\n-I PREROUTING -j KUBE-SERVICES\nCOMMIT\n"
    lab.node.run([f"iptables-{variant}-restore", "--noflush"], text=again)
    eventually(lambda: targets(lab, variant)[-1] == "KUBE-SERVICES", 10, "ours come first again")
    assert fetch(lab.outside, ("192.0.2.10", 30080)).pod
    assert sum("There are rules of kube-proxy" in line for line in proxy.lines) == 1
    assert proxy.terminate() == 0
    assert targets(lab, variant) == ["KUBE-SERVICES"]


@variants
def test_beside_a_kube_proxy_that_serves_the_others_its_jump_keeps_its_place(lab: Lab, variant: str) -> None:
    left_behind(lab, variant)
    lab.serve_http()
    name = {"service.kubernetes.io/service-proxy-name": "userproxy"}
    lab.manifests.service("web", ports=WEB, cluster_ip="10.96.0.10", node_port=30081, labels=name)
    lab.manifests.slice("web", lab.pods, ports=WEB)
    proxy = lab.node.start_userproxy(*QUICK, "--service-proxy-name", "userproxy")
    eventually(lambda: "KUBE-NODEPORT-CONTAINER" in targets(lab, variant), 30, "our jumps")
    assert targets(lab, variant) == ["KUBE-PORTALS-CONTAINER", "KUBE-SERVICES", "KUBE-NODEPORT-CONTAINER"]
    eventually(lambda: fetch(lab.outside, ("192.0.2.10", 30081)).pod, 10, "our node port")
    assert not any("There are rules of kube-proxy" in line for line in proxy.lines)
