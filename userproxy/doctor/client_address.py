"""Whether endpoints can see clients' own addresses on this node."""

from collections.abc import Iterator, Sequence
from typing import Final

from userproxy.addresses import IPFamily
from userproxy.config import PortalMode, Settings
from userproxy.doctor.findings import Outcome, ok, warn
from userproxy.doctor.network import families, named
from userproxy.model import ClientAddress, DirectNetwork
from userproxy.portals.host import HostAddress, may_write_rules
from userproxy.portals.return_path.surroundings import Surroundings, look
from userproxy.portals.return_path.trial import Refusals, refusals
from userproxy.routing.local_traffic import local_traffic

_SEEN: Final = "endpoints see the node's address instead of the client's"
_OTHERWISE: Final = "PROXY headers (userproxy.io/proxy-protocol) tell endpoints their clients meanwhile"


def client_address(settings: Settings) -> Iterator[Outcome]:
    """What the host can do for --client-address, tried in a network namespace of its own."""
    if settings.portals is PortalMode.NONE:
        yield ok("--portals none: every client is a process of this machine, so endpoints see the node's address")
        return
    if settings.client_address is ClientAddress.NODE:
        yield ok("--client-address node: endpoints see the node's address, unless their Service asks for the client's")
    if not may_write_rules():
        yield warn(f"{_SEEN}: that takes the capability CAP_NET_ADMIN", "run as root")
        return
    for family in families():
        around = _around(family, settings)
        yield judged(family, around, refusals(family, settings.transparent_mark))


def judged(family: IPFamily, around: Surroundings, refused: Refusals | None) -> Outcome:
    """What to say of a host with these surroundings, whose kernel refuses that; None is not tried. Pure."""
    pods = [network for network in around.networks if network.of_pods]
    bridged = _links(each for each in pods if each.is_bridge)
    if around.obstacle:
        return warn(f"{family}: {_SEEN}: {around.obstacle}", f"--client-address node says so at once; {_OTHERWISE}")
    if refused is None:
        return warn(f"{family}: not tried, since without CAP_SYS_ADMIN there is no place to", "run as root")
    if refused.all:
        return warn(
            f"{family}: {_SEEN}: {refused.all}",
            f"load nf_tables and nft_socket, or xt_socket for iptables; {_OTHERWISE}",
        )
    if refused.within_bridges and bridged:
        return warn(
            f"{family}: between Pods of {named(bridged)} {_SEEN}: {refused.within_bridges}",
            f"load nft_meta_bridge, or install ebtables; {_OTHERWISE}",
        )
    if not pods:
        return ok(f"{family}: endpoints see their clients' addresses; there is no link to a Pod of this node yet")
    return ok(f"{family}: endpoints see their clients' addresses; Pods of this node are behind {named(_links(pods))}")


def _around(family: IPFamily, settings: Settings) -> Surroundings:
    traffic = local_traffic(
        settings.detect_local_mode,
        settings.cluster_cidr,
        (),
        settings.bridge_interface,
        settings.interface_name_prefix,
        family,
    )
    return look(family, traffic, {HostAddress("", family).lookup()})


def _links(networks: Iterator[DirectNetwork] | Sequence[DirectNetwork]) -> list[str]:
    return sorted({network.interface for network in networks})
