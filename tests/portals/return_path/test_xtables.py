"""The way back by iptables and ebtables: with each variant, in a real kernel."""

from functools import partial
from pathlib import Path

import pytest

from tests.portals.conftest import use
from tests.portals.return_path.conftest import CLIENT, Pods, ip
from userproxy.addresses import IPFamily
from userproxy.demo.tools import require_tool
from userproxy.model import LocalTraffic, Protocol, ReturnPath
from userproxy.portals.iptables.variant import Tools
from userproxy.portals.return_path import xtables
from userproxy.portals.return_path.marks import DEFAULT, Mark
from userproxy.portals.return_path.rules import PodBridge
from userproxy.portals.return_path.standing import Standing
from userproxy.portals.return_path.xtables import CHAIN, XtablesRules, bridge_rules, marking_text, removal_text

PROTOCOLS = pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP])
MARKING = f"-A {CHAIN} -m socket --transparent -j MARK --set-xmark 0x1000/0x1000"
JUMP = f"-A PREROUTING -j {CHAIN}"
MAC = bytes(6)


class Made:
    """The way back of a node without nf_tables."""

    def __init__(self, pods: Pods, tools: Tools) -> None:
        use(pods.node, tools)
        self._pods = pods
        self.standing = Standing(tools.family, DEFAULT)
        self.standing.ways = (XtablesRules(tools.family),)

    def path(self) -> ReturnPath:
        path = self._pods.node.run(partial(self.standing.make, LocalTraffic(), ()))
        assert path.problem == ""
        return path


@PROTOCOLS
def test_routed_pods_answer_to_the_client(routed: Pods, tools: Tools, protocol: Protocol) -> None:
    Made(routed, tools).path()
    assert routed.seen(tools.family, protocol) == CLIENT[tools.family]
    assert routed.seen(tools.family, protocol, 5000) == CLIENT[tools.family]


@PROTOCOLS
@pytest.mark.parametrize("bridge_netfilter", [0, 1])
def test_pods_of_a_bridge_answer_to_the_client(
    bridged: Pods, tools: Tools, protocol: Protocol, bridge_netfilter: int
) -> None:
    require_tool("ebtables")
    for name in ("iptables", "ip6tables"):
        setting = Path("/proc/sys/net/bridge", f"bridge-nf-call-{name}")
        bridged.node.run(partial(setting.write_text, str(bridge_netfilter)))
    (network,) = Made(bridged, tools).path().networks
    assert network.answers_rise
    assert bridged.seen(tools.family, protocol) == CLIENT[tools.family]


@pytest.mark.parametrize(
    "damage",
    [
        "{stem} -t mangle -F",
        "{stem} -t mangle -F PREROUTING",
        "{stem} -t mangle -F {chain}",
        "ebtables -t nat -F",
        "ebtables -t nat -D PREROUTING -j {bridge}",
        "ebtables -t nat -F {bridge}",
    ],
)
def test_what_others_flush_is_made_again(bridged: Pods, tools: Tools, damage: str) -> None:
    made = Made(bridged, tools)
    made.path()
    bridge = xtables.bridge_chain(tools.family)
    command = damage.format(stem=tools.label, chain=CHAIN, bridge=bridge)
    assert bridged.node.run(made.standing.missing) == []
    bridged.node.shell(*command.split())
    assert bridged.node.run(made.standing.missing) == ["iptables: rules for packets to transparent sockets"]
    made.path()
    assert bridged.seen(tools.family, Protocol.TCP) == CLIENT[tools.family]
    assert bridged.node.shell(tools.save, "-t", "mangle").count(JUMP) == 1
    assert bridged.node.shell("ebtables", "-t", "nat", "-L", "PREROUTING").count(f"-j {bridge}") == 1


def test_all_of_it_is_removed(bridged: Pods, tools: Tools) -> None:
    Made(bridged, tools).path()
    said = bridged.node.run(partial(xtables.remove, tools.family))
    assert said == [
        f"{tools.label}: removed the chain {CHAIN} of mangle",
        f"ebtables: removed the chain {xtables.bridge_chain(tools.family)} of nat",
    ]
    assert CHAIN not in bridged.node.shell(tools.save)
    assert "USERPROXY" not in bridged.node.shell("ebtables-save")
    assert bridged.node.run(partial(xtables.remove, tools.family)) == []


def test_without_ebtables_answers_within_a_bridge_do_not_rise(
    bridged: Pods, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(xtables, "ebtables", lambda: None)
    standing = Standing(IPFamily.IPV4, DEFAULT)
    standing.ways = (XtablesRules(IPFamily.IPV4),)
    path = bridged.node.run(partial(standing.make, LocalTraffic(), ()))
    assert path.problem == ""
    assert not path.networks[0].answers_rise
    assert "the program is not installed (package ebtables" in capsys.readouterr().out


def test_a_bridge_that_goes_takes_its_rules(bridged: Pods) -> None:
    standing = Standing(IPFamily.IPV4, DEFAULT)
    standing.ways = (XtablesRules(IPFamily.IPV4),)
    bridged.node.run(partial(standing.make, LocalTraffic(), ()))
    assert "USERPROXY" in bridged.node.shell("ebtables-save")
    ip(bridged.node, "link del cbr0")
    bridged.node.run(partial(standing.make, LocalTraffic(), ()))
    assert "USERPROXY" not in bridged.node.shell("ebtables-save")


def test_only_what_differs_is_written() -> None:
    chain = f":{CHAIN} - [0:0]"
    assert marking_text(DEFAULT, [chain, JUMP, MARKING]) == ""
    assert marking_text(DEFAULT, [chain, MARKING]).splitlines() == ["*mangle", chain, MARKING, JUMP, "COMMIT"]
    assert JUMP not in marking_text(DEFAULT, [chain, JUMP])
    assert "--set-xmark 0x500/0xf00" in marking_text(Mark(0x500, 0xF00), [chain, JUMP, MARKING])


def test_a_removal_deletes_each_jump() -> None:
    assert removal_text(["-A PREROUTING -j ACCEPT"]) == ""
    listed = [f":{CHAIN} - [0:0]", JUMP, JUMP, MARKING]
    assert removal_text(listed).count("-D PREROUTING") == 2


def test_bridges_have_a_rule_for_each_protocol() -> None:
    bridges = [PodBridge("10.1.0.0/24", MAC), PodBridge("10.1.0.0/24", MAC[:5] + b"\1")]
    assert list(bridge_rules(IPFamily.IPV4, bridges)) == [
        f"-p IPv4 --ip-src 10.1.0.0/24 --ip-dst 10.1.0.0/24 --ip-proto {protocol} --ip-dport 61000:65535 -j redirect"
        for protocol in ("tcp", "udp")
    ]
    (first, _) = bridge_rules(IPFamily.IPV6, [PodBridge("fd01::/64", MAC)])
    assert first.startswith("-p IPv6 --ip6-src fd01::/64 --ip6-dst fd01::/64 --ip6-proto tcp")
