"""Which fields have an effect in userproxy, and which are only accepted."""

from typing import Any

import pytest

from userproxy.config.ignored import PERIODS, has_effect, without_effect
from userproxy.config.kubeproxy import KubeProxyConfiguration, leaves, replaced

DEFAULT = KubeProxyConfiguration()


def ignored(values: dict[str, Any]) -> set[str]:
    return set(without_effect(replaced(DEFAULT, values)))


def test_a_default_is_never_named() -> None:
    assert ignored({}) == set()
    assert ignored({"clientConnection.qps": 5.0, "ipvs.syncPeriod": "30s"}) == set()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("configSyncPeriod", "1m"),
        ("clientConnection.qps", 50.0),
        ("enableProfiling", True),
        ("windowsRunAsService", True),
        ("logging.flushFrequency", "1s"),
        ("logging.options.json.splitStream", True),
        ("iptables.masqueradeAll", True),
        ("nftables.masqueradeBit", 3),
        ("ipvs.scheduler", "rr"),
        ("winkernel.networkName", "n"),
    ],
)
def test_what_means_nothing_here_is_named(path: str, value: Any) -> None:
    assert ignored({path: value}) == {path}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("bindAddress", "10.0.0.1"),
        ("logging.verbosity", 2),
        ("iptables.localhostNodePorts", False),
        ("conntrack.min", 1),
        ("clientConnection.kubeconfig", "/k"),
        ("featureGates", {"AllowServiceExternalIPs": False}),
    ],
)
def test_what_counts_is_not(path: str, value: Any) -> None:
    assert ignored({path: value}) == set()


def test_other_feature_gates_are_named_one_by_one() -> None:
    gates = {"AllowServiceExternalIPs": False, "SidecarContainers": True, "A": False}
    assert ignored({"featureGates": gates}) == {"featureGates.SidecarContainers", "featureGates.A"}


@pytest.mark.parametrize("mode", ["", "userspace", "iptables", "nftables", "ipvs"])
def test_sync_periods_count_in_the_section_of_the_mode_alone(mode: str) -> None:
    configuration = replaced(DEFAULT, {"mode": mode})
    section = mode if mode in {"nftables", "ipvs"} else "iptables"
    expected = {f"{section}.syncPeriod", f"{section}.minSyncPeriod"}
    assert {path for path in PERIODS if has_effect(path, configuration)} == expected


@pytest.mark.parametrize(
    ("mode", "used"),
    [
        ("", "clusterCIDR"),
        ("ClusterCIDR", "clusterCIDR"),
        ("BridgeInterface", "detectLocal.bridgeInterface"),
        ("InterfaceNamePrefix", "detectLocal.interfaceNamePrefix"),
        ("NodeCIDR", None),
    ],
)
def test_only_what_the_local_mode_looks_at_counts(mode: str, used: str | None) -> None:
    values = {"clusterCIDR": "10.0.0.0/8", "detectLocal.bridgeInterface": "b", "detectLocal.interfaceNamePrefix": "v"}
    assert ignored({"detectLocalMode": mode, **values}) == values.keys() - {used}


def test_every_path_that_is_named_exists() -> None:
    known = dict(leaves(DEFAULT))
    named = [path for path in known if not has_effect(path, DEFAULT)]
    assert set(named) > {"configSyncPeriod", "enableProfiling", "ipvs.scheduler"}
    assert known.keys() > PERIODS
