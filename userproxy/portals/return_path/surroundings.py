"""What is around this host: the networks that it reaches without a gateway, and which of them are of its Pods."""

from collections.abc import Collection, Iterable, Sequence
from ipaddress import ip_network
from typing import Final

from msgspec import Struct

from userproxy.addresses import IPFamily
from userproxy.model import DirectNetwork, LocalTraffic
from userproxy.portals.netlink import rtnetlink
from userproxy.portals.netlink.rtnetlink import Link
from userproxy.portals.return_path.rules import PodBridge

_BRIDGE: Final = "bridge"
_ONE_POD: Final = frozenset({"veth", "netkit"})
"""Kinds of links with one Pod behind each. Of tunnels the other end is another node."""
_ETHERNET_BYTES: Final = 6


class Surroundings(Struct, frozen=True):
    """The direct networks of a family, and the bridges among them.

    `obstacle` is why packets of Pods cannot be marked; empty if they can.
    """

    networks: tuple[DirectNetwork, ...] = ()
    bridges: tuple[PodBridge, ...] = ()
    obstacle: str = ""


def look(family: IPFamily, local_traffic: LocalTraffic, node_addresses: Collection[str]) -> Surroundings:
    """The surroundings as they are now. Blocking. Raises OSError."""
    links = {link.number: link for link in rtnetlink.links()}
    direct = [(network, links[number]) for network, number in rtnetlink.direct_networks(family) if number in links]
    apart = {route.link for route in rtnetlink.default_routes(family)}
    apart |= {each.link for each in rtnetlink.addresses(family) if each.ip in node_addresses}
    return judged(direct, apart, local_traffic, links.values())


def judged(
    direct: Sequence[tuple[str, Link]], apart: Collection[int], local_traffic: LocalTraffic, links: Iterable[Link]
) -> Surroundings:
    """What is to be made of routes without a gateway, given the links by which other hosts are reached. Pure."""
    found = [
        (_network(network, link, apart, local_traffic), link)
        for network, link in direct
        if not ip_network(network).is_link_local
    ]
    bridges = {
        PodBridge(each.network, link.hardware_address)
        for each, link in found
        if each.of_pods and each.is_bridge and len(link.hardware_address) == _ETHERNET_BYTES
    }
    networks = tuple(sorted({each for each, _ in found}))
    return Surroundings(networks, tuple(sorted(bridges)), _obstacle([link.name for link in links], networks))


def _network(network: str, link: Link, apart: Collection[int], local_traffic: LocalTraffic) -> DirectNetwork:
    of_pods = _is_of_pods(network, link, apart, local_traffic)
    return DirectNetwork(network, link.name, of_pods, link.kind == _BRIDGE)


def _is_of_pods(network: str, link: Link, apart: Collection[int], local_traffic: LocalTraffic) -> bool:
    """By what ``--detect-local-mode`` says of links and networks, else by what the link is."""
    if local_traffic.interface:
        prefix = local_traffic.interface.removesuffix("+")
        return link.name.startswith(prefix) if prefix != local_traffic.interface else link.name == prefix
    if local_traffic.networks and not _overlaps(network, local_traffic.networks):
        return False
    if link.number in apart:
        return False
    parsed = ip_network(network)
    return link.kind == _BRIDGE or (link.kind in _ONE_POD and parsed.prefixlen == parsed.max_prefixlen)


def _overlaps(network: str, others: Iterable[str]) -> bool:
    parsed = ip_network(network)
    return any(other.version == parsed.version and other.overlaps(parsed) for other in map(ip_network, others))


def _obstacle(names: Sequence[str], networks: Iterable[DirectNetwork]) -> str:
    """eBPF programs that carry packets of Pods past netfilter and routing, by the links that they come with."""
    if "cilium_host" in names and not any(each.of_pods for each in networks):
        return "Cilium carries packets of Pods by eBPF, past netfilter (link cilium_host, and no routes to Pods)"
    if any(name.startswith("bpfin.cali") for name in names):
        return "Calico carries packets of Pods by eBPF, past netfilter (link bpfin.cali)"
    return ""
