"""What carries the traffic."""

import pytest

from userproxy.addresses import IPFamily, SocketAddress
from userproxy.config import PortalMode, Settings
from userproxy.forwarding.ports.ranges import PortRange
from userproxy.portals.drivers import DRIVERS
from userproxy.wiring.forwarding import forwarding_options, kept_ports, workers_for
from userproxy.wiring.portals import make_driver


@pytest.mark.parametrize(("processors", "workers"), [(1, 1), (2, 1), (3, 2), (4, 3), (5, 4), (64, 4)])
def test_auto_leaves_a_processor_to_others_and_has_four_data_processes_at_most(processors: int, workers: int) -> None:
    assert workers_for(processors) == workers


def test_listeners_leave_node_ports_and_our_own_servers_alone() -> None:
    node_ports, *own = kept_ports(Settings(metrics_bind_address=SocketAddress("127.0.0.1", 9)))
    assert (node_ports.first, node_ports.last) == (30000, 32767)
    assert own == [PortRange(10256, 10256), PortRange(9, 9)]
    assert len(kept_ports(Settings(healthz_bind_address=None))) == 2


@pytest.mark.parametrize(
    ("mode", "portals_only", "bind_portals"),
    [(PortalMode.IPTABLES, True, False), (PortalMode.LOCAL, False, True), (PortalMode.NONE, False, False)],
)
def test_where_clients_come_from_goes_by_the_drivers(mode: PortalMode, portals_only: bool, bind_portals: bool) -> None:
    settings = Settings(udp_timeout=7.0, trusted_proxies=("10.0.0.0/8",))
    drivers = {IPFamily.IPV4: make_driver(settings, IPFamily.IPV4, DRIVERS[mode])}
    options = forwarding_options(settings, "node-1", drivers, {IPFamily.IPV4: "0.0.0.0"}, 1024, kept_descriptors=9)
    assert (options.portals_only, options.bind_portals) == (portals_only, bind_portals)
    assert (options.udp_timeout, options.trusted_proxies, options.node_name) == (7.0, ("10.0.0.0/8",), "node-1")
    assert (options.descriptor_limit, options.kept_descriptors) == (1024, 9)
    assert options.kept_ports == kept_ports(settings)
