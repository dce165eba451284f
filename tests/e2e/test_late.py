"""What is missing at the start and comes later: our Node, the tools of a family, the right to write rules."""

import os
import shutil
import stat
import sys
from pathlib import Path

import pytest

from tests.lab.cluster import QUICK, Lab
from tests.lab.probes import ACCEPTED, REFUSED, get, try_to_connect
from tests.lab.proxy import installed_command
from userproxy.demo.programs import Program, wait_for_port
from userproxy.demo.traffic import fetch
from userproxy.demo.waiting import eventually
from userproxy.model import IPFamily

pytestmark = pytest.mark.e2e

FIRST, SECOND = "192.0.2.10", "192.0.2.11"
NODE_PORT, HEALTH_CHECK_PORT = 30080, 32000
HEALTHZ = ("127.0.0.1", 10256)


@pytest.mark.parametrize("lab", ["api"], indirect=True)
def test_without_our_node_nothing_is_open_that_should_not_be(lab: Lab) -> None:
    lab.serve_http()
    lab.node.ip_batch([f"addr add {SECOND}/24 dev eth0"])
    lab.manifests.service(
        "web",
        cluster_ip="10.96.0.10",
        node_port=NODE_PORT,
        load_balancer_ips=["198.51.100.7"],
        external_policy="Local",
        health_check_node_port=HEALTH_CHECK_PORT,
    )
    lab.manifests.slice("web", lab.pods)
    proxy = lab.node.start_userproxy(*QUICK, "--nodeport-addresses", "primary", "--hostname-override", lab.node.name)
    proxy.wait_log("Services and EndpointSlices are listed")
    assert proxy.wait_log("Our Node is not in the API; serving without")["level"] == "warning"
    lab.node.wait_for_rules("10.96.0.10")
    assert fetch(lab.client, ("10.96.0.10", 80)).pod, "what cannot be wrong is served"
    for address in (FIRST, SECOND):
        assert try_to_connect(lab.outside, (address, NODE_PORT)) == REFUSED, address
        assert try_to_connect(lab.outside, (address, HEALTH_CHECK_PORT)) == REFUSED, address
    lab.manifests.node(lab.node)
    eventually(lambda: try_to_connect(lab.outside, (FIRST, NODE_PORT)) == ACCEPTED, 20, "the node port is served")
    eventually(lambda: get(lab.outside, (FIRST, HEALTH_CHECK_PORT)).status == 200, 20, "so is its health check")
    assert try_to_connect(lab.outside, (SECOND, NODE_PORT)) == REFUSED
    assert try_to_connect(lab.outside, (SECOND, HEALTH_CHECK_PORT)) == REFUSED


def test_manifests_without_our_node_have_no_primary_addresses_which_is_said(lab: Lab) -> None:
    lab.manifests.service("web", cluster_ip="10.96.0.10", node_port=NODE_PORT)
    lab.manifests.slice("web", lab.pods)
    proxy = lab.node.start_userproxy("--nodeport-addresses", "primary")
    assert proxy.wait_log("No node ports are served")["level"] == "warning"
    lab.node.wait_for_rules("10.96.0.10")
    assert try_to_connect(lab.outside, (FIRST, NODE_PORT)) == REFUSED


def failing(directory: Path, names: tuple[str, ...]) -> Path:
    """Programs in the place of these that fail until the returned file is gone."""
    broken = directory / "broken"
    broken.touch()
    for name in names:
        script = directory / name
        script.write_text(
            f'#!/bin/sh\ntest -e {broken} && echo "not now" >&2 && exit 4\nexec {shutil.which(name)} "$@"\n'
        )
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return broken


@pytest.mark.parametrize("program", ["ip6tables", "iptables"])
def test_a_family_whose_tools_fail_at_the_start_joins_later(lab: Lab, tmp_path: Path, program: str) -> None:
    late, other = (IPFamily.IPV6, IPFamily.IPV4) if program == "ip6tables" else (IPFamily.IPV4, IPFamily.IPV6)
    addresses = {IPFamily.IPV4: ("10.96.0.10", 80), IPFamily.IPV6: ("fd00:10:96::10", 80)}
    names = (f"{program}-save", f"{program}-nft-save", f"{program}-legacy-save")
    lab.node.run([f"{program}-nft", "-t", "mangle", "-N", "KUBE-IPTABLES-HINT"])
    broken = failing(tmp_path, names)
    lab.serve_http()
    lab.manifests.node(lab.node)
    lab.manifests.service("web", cluster_ip=[address for address, _ in addresses.values()])
    lab.manifests.slices("web", lab.pods)
    path = f"{tmp_path}:{os.environ['PATH']}"
    proxy = lab.node.start_userproxy(*QUICK, "--portals", "iptables", env={"PATH": path})
    said = proxy.wait_log(f"{late} is not served yet")
    assert said["level"] == "warning"
    assert "not now" in said["reason"]
    lab.node.wait_for_rules("default/web", families=[other])
    assert fetch(lab.client, addresses[other]).pod
    broken.unlink()
    lab.node.wait_for_rules("default/web", families=[late])
    assert fetch(lab.client, addresses[late]).pod
    proxy.wait_log(f"{late}: the rules can be read now")
    found = [record["variant"] for record in proxy.records if record["event"] == "Found iptables"]
    assert found == ["nft", "nft"], "the one in use, whatever worked first"
    assert get(lab.node, HEALTHZ, "/healthz").status == 200


@pytest.mark.parametrize("lab", ["api"], indirect=True)
@pytest.mark.parametrize("portals", ["auto", "iptables"])
def test_without_the_right_to_write_rules_a_cluster_is_not_served_in_silence(lab: Lab, portals: str) -> None:
    flags = (*lab.manifests.flags, "--portals", portals)
    bare = lab.node.run(
        ["setpriv", "--bounding-set=-net_admin", installed_command(), "run", *flags], check=False, timeout=20
    )
    assert bare.returncode == 1
    (sentence,) = [line for line in (bare.stdout + bare.stderr).splitlines() if line.startswith("Error: ")]
    assert "CAP_NET_ADMIN" in sentence
    assert "user 0" in sentence


def test_manifests_alone_are_served_without_rules_where_nobody_may_write_any(lab: Lab) -> None:
    flags = (*lab.manifests.flags, "--portals", "auto")
    command = ["setpriv", "--bounding-set=-net_admin", installed_command(), "run", *flags]
    lab.manifests.service("web", cluster_ip="10.96.0.10")
    with Program(lab.node, command) as proxy:
        assert "CAP_NET_ADMIN" in proxy.wait_line("Portals: none")
        assert proxy.terminate() == 0


def test_a_port_that_another_program_has_is_told_of_though_one_family_never_joins(lab: Lab, tmp_path: Path) -> None:
    failing(tmp_path, ("ip6tables-save", "ip6tables-nft-save", "ip6tables-legacy-save"))
    holding = [sys.executable, "-m", "http.server", str(HEALTHZ[1]), "--bind", HEALTHZ[0]]
    lab.manifests.node(lab.node)
    lab.manifests.service("web", cluster_ip="10.96.0.10")
    with Program(lab.node, holding):
        wait_for_port(lab.node, HEALTHZ[1])
        flags = ("--healthz-bind-address", f"{HEALTHZ[0]}:{HEALTHZ[1]}", "--bind-address-hard-fail")
        proxy = lab.node.start_userproxy(*QUICK, *flags, env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
        proxy.wait_log("IPv6 is not served yet")
        assert proxy.wait(20) == 1
    assert any("healthz: cannot listen on 127.0.0.1:10256" in line for line in proxy.lines)
