"""Links, addresses, and the kernel's settings of the network."""

from collections.abc import Iterator, Sequence
from typing import Final

from userproxy.addresses import IPFamily, family_of
from userproxy.config import PortalMode, Settings
from userproxy.doctor.drivers import taken_driver
from userproxy.doctor.findings import Outcome, fail, ok, warn
from userproxy.doctor.sysctls import by_link, sysctl
from userproxy.errors import KernelToolError
from userproxy.portals.host import HostAddress, ipv6_usable
from userproxy.portals.local.driver import LocalDriver
from userproxy.portals.netlink import rtnetlink
from userproxy.portals.netlink.rtnetlink import Link

_STRICT: Final = 1
_MOST_NAMED: Final = 5


def node_address(settings: Settings) -> Iterator[Outcome]:
    """The address to which the node's own processes are led."""
    if settings.portals is PortalMode.NONE:
        yield ok("--portals none: nobody is led to an address of the node")
        return
    for family in families():
        try:
            yield ok(f"{family}: {_host(settings, family).lookup()} is the node's address")
        except KernelToolError as error:
            yield fail(f"{family}: {error}", "give a link a global address, or name one by --bind-address")


def links_without_address(settings: Settings) -> Iterator[Outcome]:
    """Links such as those of Pods without a bridge, where the kernel drops what is to be redirected."""
    for family in families():
        names = _host(settings, family).links_without_address()
        if names:
            yield ok(
                f"{family}: {named(names)} have no address: REDIRECT would drop what comes in there, so the iptables"
                " driver writes DNAT to the node's address"
            )
        else:
            yield ok(f"{family}: every link by which packets come in has an address")


def forwarding(_settings: Settings) -> Iterator[Outcome]:
    """Whether the node forwards packets."""
    settings = {IPFamily.IPV4: "ipv4/ip_forward", IPFamily.IPV6: "ipv6/conf/all/forwarding"}
    for family in families():
        name = settings[family]
        if sysctl(name):
            yield ok(f"{family}: packets are forwarded")
        else:
            yield warn(
                f"{family}: this node forwards no packets, so its Pods and everybody elsewhere do not reach each other",
                f"sysctl -w net.{name.replace('/', '.')}=1, unless the node has no Pods of its own",
            )


def reverse_path(_settings: Settings) -> Iterator[Outcome]:
    """Strict filters of sources, which drop what comes in by another link than answers would leave by."""
    links = {link.number: link.name for link in _receiving()}
    strict = [name for name, value in by_link("rp_filter", links.values()).items() if value == _STRICT]
    ways = {route.link for route in rtnetlink.default_routes(IPFamily.IPV4)}
    if strict and len(ways) > 1:
        yield warn(
            f"rp_filter is strict on {named(strict)}, and there are {len(ways)} default routes: clients that come in"
            " by one link and are answered by another get no connection",
            "sysctl -w net.ipv4.conf.LINK.rp_filter=2 for these links",
        )
    else:
        yield ok(
            f"rp_filter is strict on {named(strict)}, and there is one way out" if strict else "rp_filter is not strict"
        )


def localnet(_settings: Settings) -> Iterator[Outcome]:
    """Whether neighbours may reach 127.0.0.1, which kube-proxy's iptables mode allows for node ports."""
    open_ = [name for name, value in by_link("route_localnet", [each.name for each in _receiving()]).items() if value]
    if open_:
        yield warn(
            f"route_localnet is on for {named(open_)}: neighbours can reach what listens on 127.0.0.1 alone"
            " (CVE-2020-8558); userproxy serves node ports there without it",
            "sysctl -w net.ipv4.conf.all.route_localnet=0, unless another program needs it",
        )
    else:
        yield ok("route_localnet is off, and not needed")


def bridges(settings: Settings) -> Iterator[Outcome]:
    """Whether what a bridge carries between its ports passes iptables (br_netfilter)."""
    has_bridge = any(link.kind == "bridge" and link.is_up for link in rtnetlink.links())
    on = sysctl("bridge/bridge-nf-call-iptables")
    if not has_bridge:
        yield ok("there is no bridge")
    elif on:
        yield ok("br_netfilter is on: what a bridge carries passes iptables")
    elif settings.proxy_name is not None:
        yield warn(
            "br_netfilter is off: userproxy serves bridged Pods without it, kube-proxy beside it does not serve those"
            " that are on one bridge with their endpoint",
            "modprobe br_netfilter; sysctl -w net.bridge.bridge-nf-call-iptables=1",
        )
    else:
        yield ok("br_netfilter is off, and not needed")


def arp(settings: Settings) -> Iterator[Outcome]:
    """Whether the node answers ARP requests for the addresses that the local driver makes its own."""
    if taken_driver(settings) is not LocalDriver:
        yield ok("arp_ignore matters for --portals local alone")
        return
    answering = [
        name for name, value in by_link("arp_ignore", [each.name for each in _receiving()]).items() if not value
    ]
    if answering:
        yield warn(
            f"the node answers ARP requests for external and load-balancer IPs on {named(answering)}, as every node"
            " with --portals local does, and may take them from their owner",
            "sysctl -w net.ipv4.conf.all.arp_ignore=1, if such addresses are of the LAN",
        )
    else:
        yield ok("arp_ignore keeps the node from answering for Services' addresses")


def families() -> Sequence[IPFamily]:
    """IPv4, and IPv6 where a link has a global address of it: many a node has it switched on and does not use it."""
    if ipv6_usable() and any(address.is_global for address in rtnetlink.addresses(IPFamily.IPV6)):
        return list(IPFamily)
    return [IPFamily.IPV4]


def _host(settings: Settings, family: IPFamily) -> HostAddress:
    address = settings.bind_address
    return HostAddress(address if family_of(address) is family else "", family)


def _receiving() -> list[Link]:
    return [link for link in rtnetlink.links() if link.is_up and not link.is_loopback and not link.is_port]


def named(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
