"""The fields of a KubeProxyConfiguration, by their paths."""

import json
from typing import Any

import pytest
from hypothesis import given

from tests.config.strategies import configurations
from userproxy.config.kubeproxy import KubeProxyConfiguration, leaves, plain, replaced

DEFAULT = KubeProxyConfiguration()


def test_leaves_have_the_names_of_the_file() -> None:
    found = dict(leaves(DEFAULT))
    assert len(found) == len(list(leaves(DEFAULT)))
    assert (found["apiVersion"], found["kind"]) == ("kubeproxy.config.k8s.io/v1alpha1", "KubeProxyConfiguration")
    assert {"clusterCIDR", "ipvs.excludeCIDRs", "ipvs.strictARP", "winkernel.enableDSR"} <= found.keys()
    assert found["iptables.syncPeriod"] == "30s"
    assert found["logging.options.json.infoBufferSize"] == "0"


@given(configurations())
def test_a_configuration_is_its_leaves(configuration: KubeProxyConfiguration) -> None:
    assert replaced(DEFAULT, dict(leaves(configuration))) == configuration


def test_replaced_changes_nothing_else() -> None:
    changed = replaced(DEFAULT, {"iptables.syncPeriod": "1m", "mode": "ipvs"})
    before, after = dict(leaves(DEFAULT)), dict(leaves(changed))
    assert {path for path in before if before[path] != after[path]} == {"iptables.syncPeriod", "mode"}


def test_plain_is_what_json_knows() -> None:
    text = json.dumps(plain(DEFAULT))
    assert json.loads(text)["clientConnection"]["burst"] == 10
    assert json.loads(text)["nodePortAddresses"] == []


@pytest.mark.parametrize(
    ("mode", "section"), [("", "iptables"), ("userspace", "iptables"), ("nftables", "nftables"), ("ipvs", "ipvs")]
)
def test_the_mode_says_whose_periods_are_used(mode: str, section: str) -> None:
    configuration = replaced(DEFAULT, {"mode": mode, f"{section}.syncPeriod": "7s"})
    assert configuration.periods_section == section
    assert configuration.periods.sync_period == "7s"


@pytest.mark.parametrize(
    ("values", "mode", "external_ips"),
    [
        ({}, "ClusterCIDR", True),
        ({"detectLocalMode": "NodeCIDR"}, "NodeCIDR", True),
        ({"featureGates": {"AllowServiceExternalIPs": False}}, "ClusterCIDR", False),
        ({"featureGates": {"Other": False}}, "ClusterCIDR", True),
    ],
)
def test_defaults_that_depend_on_other_fields(values: dict[str, Any], mode: str, external_ips: bool) -> None:
    configuration = replaced(DEFAULT, values)
    assert (configuration.local_mode, configuration.external_ips_allowed) == (mode, external_ips)
