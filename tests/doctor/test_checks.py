"""All checks together: no trace is left, and one that cannot look stops no other."""

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.doctor.conftest import drop, set_sysctl, settle
from tests.lab.lacking import without_netfilter
from tests.portals.conftest import Network, tools_of, with_addresses
from userproxy.config import Settings
from userproxy.doctor.checks import CHECKS, examine
from userproxy.doctor.findings import Outcome, Result, ok
from userproxy.errors import KernelToolError
from userproxy.model import IPFamily
from userproxy.portals.host import CAP_NET_ADMIN, CAP_SYS_ADMIN
from userproxy.portals.iptables.variant import Variant

STATE = """
for stem in iptables ip6tables; do for variant in nft legacy; do
  test -s /proc/thread-self/net/${stem%tables}_tables_names || test $variant = nft || continue
  $stem-$variant-save | grep -v '^#'
done; done
nft list ruleset
cat /proc/thread-self/net/ip_tables_names /proc/thread-self/net/ip6_tables_names
for family in 4 6; do ip -$family address; ip -$family route show table all; ip -$family rule; done
ip link
ss -antux
sysctl -a 2>/dev/null | grep ^net | grep -v 'nf_conntrack_count\\|dev_weight\\|random'
find /run /tmp -maxdepth 2 2>/dev/null | grep -v pytest | sort
"""


def state(node: Network) -> str:
    return node.shell("sh", "-c", STATE)


@pytest.fixture
def node(network: Network) -> Network:
    set_sysctl(network, "ipv6/conf/default/addr_gen_mode", 1)  # else link-local addresses come in their own time
    with_addresses(network)
    settle(network)
    network.shell("mount", "-t", "tmpfs", "none", "/tmp")
    return network


@pytest.mark.parametrize("kubelet", Variant)
@pytest.mark.parametrize("lacks", [None, CAP_SYS_ADMIN, CAP_NET_ADMIN])
def test_no_trace_is_left(node: Network, kubelet: Variant, lacks: int | None) -> None:
    hint = "*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n"
    node.shell(tools_of(IPFamily.IPV4, kubelet).restore, "--noflush", text=hint)
    before = state(node)
    bounding = [f"--bounding-set=-{name}" for name in _NAMES.get(lacks or 0, ())]
    done = node.run(
        lambda: subprocess.run(
            ["setpriv", *bounding, sys.executable, "-B", "-m", "userproxy", "doctor", "-o", "json"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    )
    assert done.stderr == ""
    assert {each["name"] for each in json.loads(done.stdout)["items"]} == CHECKS.keys()
    assert done.returncode == (lacks == CAP_NET_ADMIN)
    assert state(node) == before


_NAMES = {CAP_SYS_ADMIN: ("sys_admin",), CAP_NET_ADMIN: ("net_admin",)}


def test_a_check_that_cannot_look_is_a_warning() -> None:
    def broken(_settings: Settings) -> Iterator[Outcome]:
        yield ok("this far")
        raise KernelToolError("no further")

    def refused(_settings: Settings) -> list[Outcome]:
        raise PermissionError(1, "Operation not permitted")

    found = list(examine(Settings(), {"first": broken, "second": refused, "third": lambda _: [ok("well")]}))
    assert [(each.name, each.result) for each in found] == [
        ("first", Result.OK),
        ("first", Result.WARN),
        ("second", Result.WARN),
        ("third", Result.OK),
    ]
    assert found[1].text == "cannot be looked at: no further"


@pytest.mark.parametrize("lack", [lambda: drop(CAP_NET_ADMIN), without_netfilter], ids=["capability", "netfilter"])
def test_whatever_is_lacking_every_check_says_something(network: Network, lack: object) -> None:
    assert callable(lack)
    network.run(lack)
    found = network.run(lambda: list(examine(Settings())))
    assert {each.name for each in found} == CHECKS.keys()
    for each in found:
        assert each.text
        assert not each.text.endswith(".")
        assert bool(each.advice) == (each.result is not Result.OK)
