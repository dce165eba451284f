"""Rules that the node's iptables refuses cost the Services that they are of, and a kernel without a part that part."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_api import HEALTH, status
from tests.lab.apiserver import node
from tests.lab.cluster import QUICK, Lab
from tests.lab.manifests import Port
from tests.lab.proxy import RunningProxy
from tests.portals.iptables.test_refusals import PROGRAM
from userproxy.demo.traffic import fetch
from userproxy.demo.waiting import eventually

pytestmark = pytest.mark.e2e

WEB = [Port(80, "http")]


def start(lab: Lab, directory: Path, refused: str, *flags: str) -> RunningProxy:
    """userproxy, with an iptables-restore that refuses what contains `refused` while the file ``refuse`` is there."""
    directory.mkdir()
    (directory / "refuse").touch()
    for family in ("iptables", "ip6tables"):
        restore = f"{family}-nft-restore"
        real = shutil.which(restore)
        line = "$(grep -c '' $input)"
        (directory / restore).write_text(PROGRAM.format(directory=directory, text=refused, line=line, restore=real))
        (directory / restore).chmod(0o755)
    return lab.node.start_userproxy(*QUICK, *flags, env={"PATH": f"{directory}:{os.environ['PATH']}"})


def serve(lab: Lab, name: str, ip: str, **more: Any) -> None:
    lab.manifests.slice(name, lab.pods, ports=WEB)  # first: without any, rules refuse
    lab.manifests.service(name, ports=WEB, cluster_ip=ip, **more)


def health(lab: Lab) -> int:
    """The status of /healthz, 0 before it is there."""
    try:
        return status(lab.node, HEALTH, "/healthz")
    except ValueError:
        return 0


@pytest.mark.parametrize("lab", ["api"], indirect=True)
def test_a_service_whose_rules_are_refused_is_named_and_the_others_are_served(lab: Lab, tmp_path: Path) -> None:
    lab.serve_http()
    lab.api.put(node("node-1", address=lab.node.address))
    serve(lab, "web", "10.96.0.10")
    serve(lab, "cursed", "10.96.0.66")
    proxy = start(lab, tmp_path / "programs", "default/cursed", "--iptables-sync-period", "2s")
    lab.node.wait_for_rules("default/web:http")
    assert fetch(lab.client, ("10.96.0.10", 80)).pod
    warning = proxy.wait_log("default/cursed:http: its portals are not served over IPv4")
    assert warning["level"] == "warning"
    serve(lab, "late", "10.96.0.11")
    lab.node.wait_for_rules("default/late:http")
    assert fetch(lab.client, ("10.96.0.11", 80)).pod
    eventually(lambda: health(lab) == 200, 10, "one Service's rules are no fault of the node")

    def events() -> list[dict[str, Any]]:
        found = [body for (kind, _, _), body in lab.api.objects.items() if kind == "Event"]
        return [event for event in found if event["reason"] == "PortalsRefused"]

    eventually(lambda: len(events()) == 1, 10, "an Event")
    assert events()[0]["regarding"]["name"] == "cursed"
    assert sum("cursed" in line and "warning" in line for line in proxy.lines) == 1, "once"
    (tmp_path / "programs" / "refuse").unlink()
    serve(lab, "cursed", "10.96.0.67")
    lab.node.wait_for_rules("default/cursed:http")
    proxy.wait_log("No longer so")
    assert fetch(lab.client, ("10.96.0.67", 80)).pod


@pytest.mark.parametrize("lab", ["api"], indirect=True)
def test_a_table_that_refuses_everything_is_not_healthy(lab: Lab, tmp_path: Path) -> None:
    lab.serve_http()
    lab.api.put(node("node-1", address=lab.node.address))
    serve(lab, "web", "10.96.0.10")
    start(lab, tmp_path / "programs", "COMMIT", "--iptables-sync-period", "2s")
    eventually(lambda: health(lab) == 503, 20, "nothing can be served")
    (tmp_path / "programs" / "refuse").unlink()
    lab.node.wait_for_rules("default/web:http")
    eventually(lambda: health(lab) == 200, 20, "it is served")


@pytest.mark.parametrize("lacking", ["[-]m addrtype", "[-]j REJECT", "[-]m addrtype\\|[-]j REJECT"])
def test_a_kernel_without_a_part_serves_what_works(lab: Lab, tmp_path: Path, lacking: str) -> None:
    lab.serve_http()
    serve(lab, "web", "10.96.0.10", node_port=30080)
    lab.manifests.service("empty", ports=WEB, cluster_ip="10.96.0.20")
    proxy = start(lab, tmp_path / "programs", lacking)
    lab.node.wait_for_rules("default/web:http")
    assert fetch(lab.client, ("10.96.0.10", 80)).pod
    modules = {
        record["modules"] for record in proxy.records if record["event"].startswith("This kernel refuses rules with")
    }
    assert modules == {
        module
        for module, part in (("xt_addrtype", "addrtype"), ("ipt_REJECT, ip6t_REJECT", "REJECT"))
        if part in lacking
    }
    if "addrtype" not in lacking:
        assert fetch(lab.outside, ("192.0.2.10", 30080)).pod
