"""Builds what serves one address family."""

from collections.abc import Awaitable, Callable
from functools import partial

from userproxy.addresses import IPFamily
from userproxy.cluster.nodes import NodeAddresses
from userproxy.cluster.store import Store
from userproxy.config import Settings
from userproxy.forwarding.balancers.installed import InstalledNames
from userproxy.model import Node, ReturnPath
from userproxy.portals.claims import NoClaims, PortClaims
from userproxy.portals.interface import PortalDriver, Traits
from userproxy.portals.netlink.conntrack import Conntrack
from userproxy.portals.return_path.keeper import ReturnPathKeeper
from userproxy.proxier.drains.table import DrainTable
from userproxy.proxier.family.options import FamilyOptions, OthersCleaned
from userproxy.proxier.family.proxy import FamilyProxy
from userproxy.proxier.health_checks import HealthCheckServers
from userproxy.proxier.local_addresses import NodePortAddresses
from userproxy.routing.reserved_ports import ReservedPorts
from userproxy.sockets import NamedSockets
from userproxy.wiring.forwarding import AnyForwarder
from userproxy.wiring.leftovers import Leftovers
from userproxy.wiring.monitor import Monitor
from userproxy.wiring.portals import serves_external_ips, until_usable


async def _at_once() -> None:
    """There is no predecessor."""


def build_family(
    family: IPFamily,
    driver: PortalDriver,
    settings: Settings,
    node_name: str,
    store: Store,
    nodes: NodeAddresses,
    forwarder: AnyForwarder,
    monitor: Monitor,
    report: Callable[[], None],
    sockets: NamedSockets | None = None,
    until_turn: Callable[[], Awaitable[None]] = _at_once,
    settled: Callable[[IPFamily], None] = lambda _: None,
    drains: DrainTable | None = None,
) -> FamilyProxy:
    """What serves one family with `driver`. `report` is called when its problems may have changed.

    `sockets` may have sockets of a predecessor, and `until_turn` returns when it serves no more. `settled` is called
    when the portals stand. `drains` keep clients from endpoints.
    """
    driver.listen_with(forwarder)
    changes = store.subscribe(family)
    return_path = _return_path(family, settings, driver.traits, forwarder)
    leftovers = Leftovers(family, return_path)

    async def clean_up(driver: PortalDriver, may_wait: bool) -> OthersCleaned:  # noqa: FBT001 -- as a FamilyProxy calls it
        settled(family)
        return OthersCleaned(all_gone=False) if may_wait else await leftovers.clean_up(driver)

    monitor.count_pending(family, lambda: changes.pending)
    return FamilyProxy(
        family,
        family_options(settings, driver.traits),
        Node(node_name),
        changes=changes,
        forwarding=forwarder,
        driver=driver,
        until_usable=partial(until_usable, family, driver),
        claims=NoClaims() if driver.traits.binds_portals else PortClaims(family, forwarder),
        conntrack=Conntrack(family) if driver.traits.translates else None,
        nodes=nodes,
        health_checks=HealthCheckServers(family, monitor.healthy, monitor.health_check_budget, sockets),
        observer=monitor.reporter(family),
        report=report,
        clean_up_after_others=clean_up,
        return_path=return_path,
        until_turn=until_turn,
        drains=drains,
    )


def _return_path(
    family: IPFamily, settings: Settings, traits: Traits, forwarder: AnyForwarder
) -> ReturnPathKeeper | None:
    """None where backends cannot see clients' addresses.

    What is written for that is the node's, so only the process that has the node's portals may write it.
    """
    if not traits.serves_portals:
        problem = "with --portals none any number of processes may serve, and none may change the node's routing"
        forwarder.follow_return_path(ReturnPath(family, problem))
        return None
    tell, guard = forwarder.follow_return_path, settings.conntrack_guard
    return ReturnPathKeeper(family, settings.transparent_mark, tell, guard=guard)


def family_options(settings: Settings, traits: Traits) -> FamilyOptions:
    """The part of the settings that the proxier of a family with such a driver needs."""
    return FamilyOptions(
        min_sync_period=settings.min_sync_period,
        sync_period=settings.sync_period,
        node_ports=NodePortAddresses(settings.node_port_addresses, settings.localhost_node_ports, _reserved(settings)),
        proxy_name=settings.proxy_name,
        external_ips_allowed=serves_external_ips(settings, traits),
        client_address=settings.client_address,
        trusts_proxies=bool(settings.trusted_proxies),
        balancers=InstalledNames(),
        local_mode=settings.detect_local_mode,
        cluster_cidr=settings.cluster_cidr,
        bridge_interface=settings.bridge_interface,
        interface_name_prefix=settings.interface_name_prefix,
    )


def _reserved(settings: Settings) -> ReservedPorts:
    """The ports of the node's own services: those of ``--reserved-node-ports``, and those of our HTTP servers."""
    own = {settings.metrics_bind_address.port}
    if settings.healthz_bind_address is not None:
        own.add(settings.healthz_bind_address.port)
    return ReservedPorts((*settings.reserved_node_ports.ranges, *((port, port) for port in sorted(own))))
