"""What the configuration and the node say that concerns one address family."""

from collections.abc import Container

from msgspec import Struct

from userproxy.addresses import IPFamily, of_family
from userproxy.model import ClientAddress, LocalTraffic, Node
from userproxy.portals.interface import PortalDriver
from userproxy.proxier.local_addresses import NodePortAddresses
from userproxy.routing.local_traffic import local_traffic
from userproxy.routing.selection import Locality
from userproxy.routing.services import Scope


class FamilyOptions(Struct, frozen=True, kw_only=True):
    """What the configuration says, as far as it concerns one family. Periods are seconds.

    `local_mode` is kube-proxy's ``detectLocalMode``; the three fields after it are what its modes need.
    `balancers` are the names of those of other packages that are installed.
    """

    min_sync_period: float = 1.0
    sync_period: float = 30.0
    node_ports: NodePortAddresses = NodePortAddresses()
    proxy_name: str | None = None
    external_ips_allowed: bool = True
    client_address: ClientAddress = ClientAddress.NODE
    trusts_proxies: bool = False
    balancers: Container[str] = frozenset()
    local_mode: str = "ClusterCIDR"
    cluster_cidr: tuple[str, ...] = ()
    bridge_interface: str = ""
    interface_name_prefix: str = ""


def node_view(family: IPFamily, options: FamilyOptions, node: Node) -> tuple[Scope, LocalTraffic]:
    """How a family's proxier looks at Services from `node`, and what tells packets of the node's Pods from others."""
    scope = Scope(
        family=family,
        locality=Locality(node.name, node.zone),
        proxy_name=options.proxy_name,
        external_ips_allowed=options.external_ips_allowed,
        client_address=options.client_address,
        trusts_proxies=options.trusts_proxies,
        balancers=options.balancers,
        node_ips=tuple(of_family(node.addresses, family)),
        node_known=bool(node.addresses),
    )
    traffic = local_traffic(
        options.local_mode,
        options.cluster_cidr,
        node.pod_cidrs,
        options.bridge_interface,
        options.interface_name_prefix,
        family,
    )
    return scope, traffic


async def at_once() -> None:
    """Nobody is to be waited for before the first sync."""


class OthersCleaned(Struct, frozen=True):
    """Of what other drivers had left: whether any was removed just now, and whether all of it is gone."""

    removed: bool = False
    all_gone: bool = True


async def nothing_left(_driver: PortalDriver, _may_wait: bool) -> OthersCleaned:  # noqa: FBT001 -- as a FamilyProxy calls it
    """No other driver has left anything."""
    return OthersCleaned()
