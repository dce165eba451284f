"""A valid configuration becomes Settings: texts become numbers, addresses and paths."""

from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from userproxy.addresses import SocketAddress
from userproxy.config.kubeproxy import KubeProxyConfiguration, replaced
from userproxy.config.settings import OwnSettings, Settings, configz, settings_from
from userproxy.forwarding.ports.ranges import PortRange
from userproxy.model import ConntrackSettings


def made(values: dict[str, Any], own: OwnSettings | None = None) -> Settings:
    return settings_from(replaced(KubeProxyConfiguration(), values), own or OwnSettings())


def test_settings_made_without_arguments_are_the_default_configuration_s() -> None:
    found = made({})
    assert found == Settings()
    assert found.conntrack == ConntrackSettings(
        max_per_core=32768, min=131072, tcp_established_timeout=86400.0, tcp_close_wait_timeout=3600.0
    )


@pytest.mark.parametrize(
    ("values", "field", "expected"),
    [
        ({"bindAddress": "FD00:0::1"}, "bind_address", "fd00::1"),
        ({"portRange": "10000-10010"}, "port_range", PortRange(10000, 10010)),
        ({"iptables.syncPeriod": "1m30s"}, "sync_period", 90.0),
        ({"iptables.minSyncPeriod": "250ms"}, "min_sync_period", 0.25),
        ({"mode": "ipvs", "iptables.syncPeriod": "1s", "ipvs.syncPeriod": "2s"}, "sync_period", 2.0),
        ({"udpIdleTimeout": "0s"}, "udp_timeout", None),
        ({"udpIdleTimeout": "10s"}, "udp_timeout", 10.0),
        ({"clientConnection.kubeconfig": "/etc/k"}, "kubeconfig", Path("/etc/k")),
        ({"hostnameOverride": " Node-1 "}, "hostname_override", "node-1"),
        ({"healthzBindAddress": ""}, "healthz_bind_address", None),
        ({"healthzBindAddress": "127.0.0.1"}, "healthz_bind_address", SocketAddress("127.0.0.1", 10256)),
        ({"metricsBindAddress": "[::1]:9"}, "metrics_bind_address", SocketAddress("::1", 9)),
        ({"nodePortAddresses": ("primary",)}, "node_port_addresses", ("primary",)),
        ({"nodePortAddresses": ("10.1.2.3/8",)}, "node_port_addresses", ("10.0.0.0/8",)),
        ({"clusterCIDR": "10.1.0.1/16,fd00::1/64"}, "cluster_cidr", ("10.1.0.0/16", "fd00::/64")),
        ({"featureGates": {"AllowServiceExternalIPs": False}}, "external_ips_allowed", False),
        ({"logging.format": ""}, "log_format", None),
        ({"logging.format": "json"}, "log_format", "json"),
    ],
)
def test_a_field_of_the_file_becomes_a_setting(values: dict[str, Any], field: str, expected: object) -> None:
    assert getattr(made(values), field) == expected


def test_what_only_flags_set_is_taken_over() -> None:
    own = OwnSettings(manifests=(Path("/m"),), drain_timeout=3.0, proxy_name="userproxy")
    settings = made({}, own)
    assert {name: getattr(settings, name) for name in structs.asdict(own)} == structs.asdict(own)


def test_configz_is_the_configuration_as_its_file_has_it() -> None:
    shown = configz(made({"iptables.syncPeriod": "1m"}))
    assert (shown["kind"], shown["iptables"]["syncPeriod"]) == ("KubeProxyConfiguration", "1m")
