"""kube-proxy's configuration file, as a DaemonSet mounts it."""

from pathlib import Path

import pytest

from tests.config.test_load import KUBEADM
from tests.lab.cluster import Lab, LabNode
from tests.lab.manifests import Port
from userproxy.demo.traffic import fetch
from userproxy.demo.waiting import eventually

pytestmark = pytest.mark.e2e

FILE = """\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
logging: {{verbosity: {verbosity}}}
iptables: {{syncPeriod: 30s, minSyncPeriod: 0s}}
bindAddress: {bind_address}
"""


def serve_web(lab: Lab, *flags: str) -> None:
    lab.serve_http()
    lab.manifests.service("web", ports=[Port(80, "http")], cluster_ip="10.96.0.10")
    lab.manifests.slice("web", lab.pods, ports=[Port(80, "http")])
    lab.node.start_userproxy(*flags)
    lab.node.wait_for_rules("default/web:http")


def test_the_file_that_kubeadm_writes_starts_it(lab: Lab) -> None:
    serve_web(lab, "--config", str(KUBEADM), "--hostname-override", "node-1")
    assert fetch(lab.client, ("10.96.0.10", 80)).pod
    assert {record["level"] for record in lab.node.proxies[0].records} == {"info"}


def test_a_changed_file_takes_effect_where_it_can(lab: Lab) -> None:
    file = lab.manifests.directory.parent / "config.conf"
    file.write_text(FILE.format(verbosity=0, bind_address="0.0.0.0"))
    serve_web(lab, "--config", str(file))
    proxy = lab.node.proxies[0]
    file.write_text(FILE.format(verbosity=3, bind_address="192.0.2.10"))
    assert proxy.wait_log("Only a restart changes these")["fields"] == ["bindAddress"]
    lab.manifests.service("more", ports=[Port(80, "http")], cluster_ip="10.96.0.11")
    proxy.wait_log("Listener opened")  # which verbosity 0 does not tell
    file.write_text("kind: [")
    assert "stays in force" in proxy.wait_log("The configuration file is wrong")["event"]
    assert fetch(lab.client, ("10.96.0.10", 80)).pod


def test_a_wrong_file_stops_the_start(lab: Lab) -> None:
    file = lab.manifests.directory.parent / "config.conf"
    file.write_text(FILE.format(verbosity=0, bind_address="nowhere"))
    done = lab.node.userproxy("run", "--config", str(file), "--manifests", str(lab.manifests.directory), check=False)
    assert done.returncode == 2
    assert f"{file}: bindAddress" in done.stderr
    assert "nowhere" in done.stderr


def conntrack_of(node: LabNode) -> dict[str, str]:
    """The node's own settings of conntrack that kube-proxy writes by default."""
    names = ("tcp_timeout_close_wait", "tcp_timeout_established")
    text = node.run(["sysctl", *(f"net.netfilter.nf_conntrack_{name}" for name in names)]).stdout
    return {name: text.split(f"{name} = ")[1].split()[0] for name in names}


def test_conntrack_is_set_as_kube_proxy_sets_it_and_follows_the_file(lab: Lab) -> None:
    machine = Path("/proc/sys/net/netfilter/nf_conntrack_max").read_text()
    file = lab.manifests.directory.parent / "config.conf"
    configuration = FILE.format(verbosity=0, bind_address="0.0.0.0")
    entries = f"maxPerCore: 1, min: {int(machine) + 1}"
    file.write_text(configuration + f"conntrack: {{{entries}}}\n")
    assert conntrack_of(lab.node)["tcp_timeout_close_wait"] == "60"
    serve_web(lab, "--config", str(file))
    eventually(
        lambda: conntrack_of(lab.node) == {"tcp_timeout_close_wait": "3600", "tcp_timeout_established": "86400"},
        10,
        "kube-proxy's defaults",
    )
    line = lab.node.proxies[0].wait_log("Settings of conntrack stay as they are")
    (refused,) = line["refused"].values()
    assert (line["level"], refused) == ("warning", [f"nf_conntrack_max={int(machine) + 1}"])
    file.write_text(configuration + f"conntrack: {{{entries}, tcpCloseWaitTimeout: 2m}}\n")
    eventually(lambda: conntrack_of(lab.node)["tcp_timeout_close_wait"] == "120", 30, "what the file says now")
    assert Path("/proc/sys/net/netfilter/nf_conntrack_max").read_text() == machine


def test_conntrack_is_set_once_and_for_all_by_init_only(lab: Lab) -> None:
    before = conntrack_of(lab.node)
    lab.node.userproxy("run", "--init-only", "--portals", "none")
    assert conntrack_of(lab.node) == before
    lab.node.userproxy("run", "--init-only", "--conntrack-tcp-timeout-close-wait", "5m")
    assert conntrack_of(lab.node) == {"tcp_timeout_close_wait": "300", "tcp_timeout_established": "86400"}
