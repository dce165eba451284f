"""What of the settings reaches the proxier of a family."""

import pytest

from userproxy.addresses import SocketAddress
from userproxy.config import Settings
from userproxy.config.kubeproxy import KubeProxyConfiguration, LocalMode
from userproxy.config.settings import OwnSettings, settings_from
from userproxy.model import ClientAddress
from userproxy.portals.interface import Traits
from userproxy.routing.reserved_ports import ReservedPorts
from userproxy.wiring.families import family_options
from userproxy.wiring.portals import serves_external_ips


def test_settings_become_the_options_of_a_family() -> None:
    options = family_options(
        Settings(
            min_sync_period=2.0,
            sync_period=20.0,
            proxy_name="mine",
            external_ips_allowed=False,
            client_address=ClientAddress.KEEP,
            node_port_addresses=("10.0.0.0/8",),
            localhost_node_ports=False,
            detect_local_mode=LocalMode.BRIDGE_INTERFACE,
            bridge_interface="cni0",
            cluster_cidr=("10.244.0.0/16",),
        ),
        Traits(translates=True),
    )
    assert (options.min_sync_period, options.sync_period) == (2.0, 20.0)
    assert (options.proxy_name, options.external_ips_allowed) == ("mine", False)
    assert (options.node_ports.cidrs, options.node_ports.localhost) == (("10.0.0.0/8",), False)
    assert (options.local_mode, options.bridge_interface) == ("BridgeInterface", "cni0")
    assert options.cluster_cidr == ("10.244.0.0/16",)
    assert options.client_address is ClientAddress.KEEP


def test_our_own_servers_are_among_the_reserved_ports() -> None:
    settings = Settings(
        reserved_node_ports=ReservedPorts(((6443, 6445),)), metrics_bind_address=SocketAddress("127.0.0.1", 9)
    )
    reserved = family_options(settings, Traits()).node_ports.reserved
    assert all(port in reserved for port in (6443, 6445, 10256, 9))
    assert 10249 not in reserved


@pytest.mark.parametrize(
    ("gates", "translated", "bound"),
    [
        ({}, True, False),
        ({"AllowServiceExternalIPs": True}, True, True),
        ({"AllowServiceExternalIPs": False}, False, False),
    ],
)
def test_a_driver_that_binds_portals_serves_external_ips_only_where_they_are_asked_for(
    gates: dict[str, bool], translated: bool, bound: bool
) -> None:
    settings = settings_from(KubeProxyConfiguration(feature_gates=gates), OwnSettings())
    assert serves_external_ips(settings, Traits(translates=True)) is translated
    assert serves_external_ips(settings, Traits(binds_portals=True)) is bound
