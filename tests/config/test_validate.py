"""Each rule of kube-proxy's, with the nearest value that still passes."""

from typing import Any

import pytest
from hypothesis import given, settings

from tests.config.strategies import configurations
from userproxy.config.kubeproxy import KubeProxyConfiguration, replaced
from userproxy.config.validate import check


def problems(values: dict[str, Any]) -> list[str]:
    return [f"{problem.path}: {problem.text}" for problem in check(replaced(KubeProxyConfiguration(), values))]


@pytest.mark.parametrize(
    ("path", "wrong", "sentence", "right"),
    [
        ("bindAddress", "node1", "'node1' is not an IP address", "10.0.0.1"),
        ("bindAddress", "fe80::1%eth0", "'fe80::1%eth0' has a zone or an IPv4 address in it", "fe80::1"),
        ("bindAddress", "::ffff:10.0.0.1", "'::ffff:10.0.0.1' has a zone or an IPv4 address in it", "::"),
        ("healthzBindAddress", "0.0.0.0:0", "'0.0.0.0:0' has no port from 1 to 65535", ""),
        ("healthzBindAddress", "host:1", "'host:1' is not an IP address, alone or with a port", "[::]:1"),
        (
            "healthzBindAddress",
            "[10.0.0.1]:1",
            "'[10.0.0.1]:1' is not an IP address, alone or with a port",
            "10.0.0.1:1",
        ),
        ("metricsBindAddress", "", "'' is not an IP address, alone or with a port", "::1"),
        ("metricsBindAddress", "::1:99999x", "'::1:99999x' is not an IP address", "[::1]:65535"),
        ("metricsBindAddress", "127.0.0.1:65536", "'127.0.0.1:65536' has no port", "127.0.0.1:65535"),
        ("showHiddenMetricsForVersion", "1", "'1' is not a version such as 1.35", "1.35"),
        ("hostnameOverride", " ", "' ' is nothing but blanks", "Node"),
        ("clientConnection.burst", -1, "-1 is negative", 0),
        ("mode", "kernelspace", "'kernelspace' is not one of userspace, iptables, nftables, ipvs", "userspace"),
        ("iptables.syncPeriod", "0s", "0s is not greater than 0", "1s"),
        ("iptables.syncPeriod", "999ms", "999ms is shorter than the least time between two syncs (1s)", "1s"),
        ("iptables.minSyncPeriod", "-1s", "-1s is negative", "0s"),
        ("iptables.masqueradeBit", 32, "32 is not from 0 to 31", 31),
        ("nftables.masqueradeBit", -1, "-1 is not from 0 to 31", 0),
        ("detectLocalMode", "Guess", "'Guess' is not one of ClusterCIDR, NodeCIDR,", "NodeCIDR"),
        ("clusterCIDR", "10.0.0.0", "'10.0.0.0' is not a network such as 10.0.0.0/8", "10.0.0.0/8"),
        (
            "clusterCIDR",
            "10.0.0.0/8,11.0.0.0/8",
            "10.0.0.0/8,11.0.0.0/8 has two networks of one IP",
            "10.0.0.0/8,fd00::/8",
        ),
        ("clusterCIDR", "10.0.0.0/8,fd00::/8,fd00::/9", "10.0.0.0/8,fd00::/8,fd00::/9 has more than two", "fd00::/8"),
        ("nodePortAddresses", ("primary", "10.0.0.0/8"), "'primary' is not a network", ("primary",)),
        ("nodePortAddresses", ("10.0.0.0/33",), "'10.0.0.0/33' is not a network", ("10.0.0.1/32", "::/0")),
        ("oomScoreAdj", 1001, "1001 is not from -1000 to 1000", 1000),
        ("oomScoreAdj", -1001, "-1001 is not from -1000 to 1000", -1000),
        ("conntrack.maxPerCore", -1, "-1 is negative", 0),
        ("conntrack.min", -1, "-1 is negative", 0),
        ("conntrack.tcpEstablishedTimeout", "-1s", "-1s is negative", "0s"),
        ("conntrack.tcpCloseWaitTimeout", "-1ns", "-1ns is negative", "0s"),
        ("conntrack.udpTimeout", "-1s", "-1s is negative", "1s"),
        ("conntrack.udpStreamTimeout", "-1s", "-1s is negative", "1s"),
        ("configSyncPeriod", "-1m", "-1m is not greater than 0", "1ns"),
        ("udpIdleTimeout", "-1ms", "-1ms is negative", "0s"),
        ("logging.verbosity", -1, "-1 is negative", 9),
        ("logging.format", "xml", "'xml' is not one of text, json", "json"),
        ("showHiddenMetricsForVersion", "1.３", "'1.３' is not a version such as 1.35", "1.3"),
        ("nodePortAddresses", ("10.0.0.0/255.0.0.0",), "'10.0.0.0/255.0.0.0' is not a network", ("10.0.0.0/8",)),
        ("clusterCIDR", "fe80::%eth0/64", "'fe80::%eth0/64' is not a network", "fe80::/64"),
        ("healthzBindAddress", "[fe80::1%eth0]:80", "'[fe80::1%eth0]:80' is not an IP address", "[fe80::1]:80"),
        ("portRange", "9-1", "'9-1' ends before it begins", "1-9"),
        ("portRange", "1-99999", "'1-99999' goes beyond port 65535", "65535"),
    ],
)
def test_rules(path: str, wrong: object, sentence: str, right: object) -> None:
    (problem,) = problems({path: wrong})
    assert problem.startswith(f"{path}: {sentence}")
    assert problems({path: right}) == []


@pytest.mark.parametrize(
    ("mode", "path"),
    [("BridgeInterface", "detectLocal.bridgeInterface"), ("InterfaceNamePrefix", "detectLocal.interfaceNamePrefix")],
)
def test_a_local_mode_needs_its_interface(mode: str, path: str) -> None:
    assert problems({"detectLocalMode": mode}) == [f"{path}: '' is empty, and the local mode {mode} needs it"]
    assert problems({"detectLocalMode": mode, path: "cbr0"}) == []


@pytest.mark.parametrize(
    ("mode", "path", "longest"),
    [
        ("BridgeInterface", "detectLocal.bridgeInterface", 15),
        ("InterfaceNamePrefix", "detectLocal.interfaceNamePrefix", 14),
    ],
)
def test_an_interface_is_one_that_iptables_takes(mode: str, path: str, longest: int) -> None:
    def named(name: str) -> list[str]:
        return problems({"detectLocalMode": mode, path: name})

    for right in ("x" * longest, "eth0.10", "a@b_c-d"):
        assert named(right) == []
    long = "x" * (longest + 1)
    assert named(long) == [f"{path}: {long!r} has more than {longest} characters"]
    for wrong in ("a b", "-x", "!x", "veth+", "a/b", "é", "x\n", '"'):
        assert named(wrong) == [f"{path}: {wrong!r} is not the name of an interface, as iptables takes it"]
    assert problems({path: "a b"}) == []


@pytest.mark.parametrize("mode", ["nftables", "ipvs"])
def test_periods_are_checked_where_they_count(mode: str) -> None:
    wrong = {f"{mode}.syncPeriod": "0s"}
    assert problems(wrong) == []
    assert problems(wrong | {"mode": mode}) == [f"{mode}.syncPeriod: 0s is not greater than 0"]
    assert problems({"iptables.syncPeriod": "0s", "mode": mode}) == []


def test_all_mistakes_at_once() -> None:
    assert len(problems({"mode": "x", "oomScoreAdj": 5000, "portRange": "x", "iptables.minSyncPeriod": "-1s"})) == 4


@given(configurations())
@settings(deadline=None)
def test_valid_ones_pass(configuration: KubeProxyConfiguration) -> None:
    assert list(check(configuration)) == []
