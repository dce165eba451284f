"""`--portals auto`: what is taken where netfilter is missing, and the move to a better driver once that works."""

import os
import sys
from pathlib import Path

import pytest

from tests.lab.cluster import QUICK, Lab
from tests.lab.probes import KeptConnection
from tests.lab.proxy import installed_command
from tests.lab.steady import SteadyClient
from userproxy.demo.programs import Program
from userproxy.demo.traffic import fetch
from userproxy.demo.waiting import eventually

pytestmark = pytest.mark.e2e

WEB = ("10.96.0.10", 80)


def serve(lab: Lab) -> None:
    lab.serve_http()
    lab.manifests.service("web", cluster_ip=WEB[0])
    lab.manifests.slice("web", lab.pods)


def failing_until(directory: Path) -> dict[str, str]:
    """An environment whose iptables works only once `loaded` is in the directory, as with a module of the kernel."""
    for name in (f"{stem}-{kind}-restore" for stem in ("iptables", "ip6tables") for kind in ("nft", "legacy")):
        lacking = f"[ -e {directory}/loaded ] || {{ echo 'nat: Table does not exist' >&2; exit 3; }}"
        (directory / name).write_text(f'#!/bin/sh\n{lacking}\nexec /usr/sbin/{name} "$@"\n')
        (directory / name).chmod(0o755)
    return {"PATH": f"{directory}:{os.environ['PATH']}"}


def test_once_the_better_driver_works_it_is_moved_to_and_nobody_notices(lab: Lab, tmp_path: Path) -> None:
    serve(lab)
    period = ("--iptables-sync-period", "1s")
    proxy = lab.node.start_userproxy(*QUICK, *period, "--portals", "auto", env=failing_until(tmp_path))
    refused = proxy.wait_log("Portals: not iptables")
    assert "nat: Table does not exist" in refused["reason"]
    proxy.wait_log("Portals: nftables")
    eventually(lambda: fetch(lab.client, WEB).pod, 30, "the portal is served: it is chosen before any rule is written")
    with SteadyClient(lab.client, WEB, 200) as client, KeptConnection(lab.client, WEB) as kept:
        client.go_on()
        kept.ask()
        (tmp_path / "loaded").touch()
        proxy.wait_log("Portals: iptables from now on")
        client.go_on(200)
        kept.ask()
        lab.node.wait_for_rules("default/web")
        assert "table ip userproxy\n" not in lab.node.run(["nft", "list", "tables", "ip"]).stdout
        lab.manifests.service("api", cluster_ip="10.96.0.11")
        lab.manifests.slice("api", lab.pods[:1])
        eventually(lambda: fetch(lab.client, ("10.96.0.11", 80)).pod == "web-1", 20, "the new driver gets changes")
        kept.ask()
    assert client.failures == []
    lab.node.run(["iptables", "-t", "nat", "-F", "KUBE-PORTALS-CONTAINER"])
    proxy.wait_log("Rules repaired", 10)
    assert proxy.terminate() == 0
    lab.node.wait_for_no_rules()


def test_without_netfilter_services_are_served_without_a_single_tracked_connection(lab: Lab) -> None:
    serve(lab)
    command = [sys.executable, "-m", "tests.lab.lacking", installed_command(), "run", *lab.manifests.flags]
    proxy = lab.enter(Program(lab.node, [*command, *QUICK, "--hostname-override", lab.node.name]))
    proxy.wait_line("Portals: not iptables")
    proxy.wait_line("Portals: not nftables")
    proxy.wait_line("Portals: local")
    eventually(lambda: fetch(lab.client, WEB).pod.startswith("web-"), 20, "it serves")
    assert lab.node.run(["nft", "list", "ruleset"]).stdout == ""
    assert int(lab.node.run(["cat", "/proc/sys/net/netfilter/nf_conntrack_count"]).stdout) == 0
