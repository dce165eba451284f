"""kube-proxy's configuration file, as a DaemonSet mounts it."""

import pytest

from tests.config.test_load import KUBEADM
from tests.lab.cluster import Lab
from tests.lab.manifests import Port
from userproxy.demo.traffic import fetch

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
