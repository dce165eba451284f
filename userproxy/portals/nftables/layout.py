"""The table of one address family without its elements: sets, maps, chains and rules.

Pure. There are as many rules as there are classes of traffic, whatever the number of Services: what a packet's
destination means is looked up in maps. Nearly all portals treat everybody alike and are found by the first look-up. The
others stand in a map for processes and Pods of this node, and in one for everybody else. The order is that of the
``iptables`` driver: portals before node ports, and what was translated is never refused.

Packets are led to an address of the node, not redirected: the kernel drops what it is to redirect where the packet's
interface has no address of the family (nf_nat_redirect), as on nodes whose Pods have a link each.
"""

from collections.abc import Iterable, Sequence
from ipaddress import ip_address, ip_network
from typing import Final

from msgspec import Struct

from userproxy.addresses import of_family
from userproxy.model import IPFamily, LocalTraffic
from userproxy.portals.nftables import expressions as ex

TABLE: Final = "userproxy"
TABLE_NAMES: Final = {IPFamily.IPV4: f"ip {TABLE}", IPFamily.IPV6: f"ip6 {TABLE}"}
"""As nft has them."""

EVERYBODY: Final = ""
ON_NODE: Final = "-from-node"
ELSEWHERE: Final = "-from-elsewhere"
AUDIENCES: Final = (EVERYBODY, ON_NODE, ELSEWHERE)
"""Whose traffic a map is for, as the end of its name."""

PORTALS: Final = "portals"
NODE_PORTS: Final = "node-ports"
REFUSED_PORTALS: Final = "refused-portals"
REFUSED_NODE_PORTS: Final = "refused-node-ports"
RESTRICTED: Final = "restricted"
ALLOWED: Final = "allowed"
UDP_LISTENERS: Final = "udp-listeners"
REFUSE: Final = "refuse"
"""The chain that refuses: by a reset, or by an ICMP error."""

_PREROUTING: Final = 0  # enum nf_inet_hooks, linux/netfilter.h
_INPUT: Final = 1
_FORWARD: Final = 2
_OUTPUT: Final = 3

_BEFORE_NAT: Final = -110
_NAT: Final = -105
"""Before NF_IP_PRI_NAT_DST (-100), where the rules of others are: the first that translates a connection has it."""
_BEFORE_FILTER: Final = -10

_UNSPECIFIED: Final = frozenset({"", "0.0.0.0", "::"})


class Field(Struct, frozen=True):
    """A part of a key: the number that nft has for its type (nftables' datatype.h), and its bytes."""

    type: int
    size: int


_ADDRESSES: Final = {IPFamily.IPV4: Field(7, 4), IPFamily.IPV6: Field(8, 16)}
_PROTOCOL: Final = Field(12, 1)
_PORT: Final = Field(13, 2)

PORT_DATA: Final = _PORT.type
VERDICT_DATA: Final = 0xFFFFFF00  # NFT_DATA_VERDICT


class Set(Struct, frozen=True):
    """A set, or a map whose elements have data of type `data`. One with an `interval` holds ranges of keys."""

    name: str
    key: tuple[Field, ...]
    data: int = 0
    interval: bool = False


class Hook(Struct, frozen=True):
    """Where the kernel enters a chain."""

    type: str
    number: int
    priority: int


class Chain(Struct, frozen=True):
    """A chain with its rules, each in the bytes of its expressions."""

    name: str
    rules: tuple[bytes, ...]
    hook: Hook | None = None


class Layout(Struct, frozen=True):
    """What a table consists of."""

    family: IPFamily
    sets: tuple[Set, ...]
    chains: tuple[Chain, ...]


def layout(family: IPFamily, bind_address: str, host_ip: str, local_traffic: LocalTraffic) -> Layout:
    """The table of a node whose listeners are reached at `host_ip`; without one nothing is translated.

    `bind_address` is where listeners are bound, and `local_traffic` how this node's Pods are recognised.
    """
    view = _View(family, bind_address, host_ip, local_traffic)
    return Layout(family, _sets(family), (*view.plain_chains(), *view.hooked_chains()))


def translating_maps() -> Iterable[str]:
    """The names of the maps whose data are local ports."""
    return (name + audience for name in (PORTALS, NODE_PORTS) for audience in AUDIENCES)


def portal_key(ip: str, protocol: int, port: int) -> bytes:
    """The key of a portal; each field of more than one begins at a word."""
    return _packed(ip) + node_port_key(protocol, port)


def _packed(ip: str) -> bytes:
    return ip_address(ip).packed if ":" in ip else bytes(map(int, ip.split(".")))  # a third of a portal's cost else


def node_port_key(protocol: int, port: int) -> bytes:
    """The key of a port that every address of this node has."""
    return bytes([protocol, 0, 0, 0]) + port_value(port) + bytes(2)


def port_value(port: int) -> bytes:
    """A port as a key or as data."""
    return port.to_bytes(2, "big")


def protocol_of(key: bytes) -> int:
    """The transport protocol of a portal or a node port."""
    return key[-8]


def _sets(family: IPFamily) -> tuple[Set, ...]:
    portal = (_ADDRESSES[family], _PROTOCOL, _PORT)
    node_port = (_PROTOCOL, _PORT)
    maps = [
        Set(name + audience, key, data)
        for name, key, data in (
            (PORTALS, portal, PORT_DATA),
            (NODE_PORTS, node_port, PORT_DATA),
            (REFUSED_PORTALS, portal, VERDICT_DATA),
            (REFUSED_NODE_PORTS, node_port, VERDICT_DATA),
        )
        for audience in AUDIENCES
    ]
    return (
        *maps,
        Set(RESTRICTED, portal),
        Set(ALLOWED, (*portal, _ADDRESSES[family]), interval=True),
        Set(UDP_LISTENERS, (_PORT,)),
    )


class _View(Struct, frozen=True):
    """Writes the chains of one node."""

    family: IPFamily
    bind_address: str
    host_ip: str
    local_traffic: LocalTraffic

    @property
    def ipv6(self) -> bool:
        return self.family is IPFamily.IPV6

    def plain_chains(self) -> Iterable[Chain]:
        """The chains that others lead to, each after those that it leads to itself."""
        yield Chain(REFUSE, (ex.is_protocol(ex.TCP) + ex.reset(), ex.unreachable(ipv6=self.ipv6)))
        yield Chain("sources", (self._outsiders() + ex.verdict(ex.DROP),))
        for audience in (ON_NODE, ELSEWHERE):
            node_ports = f"nat-node-ports{audience}"
            yield Chain(
                node_ports,
                (*self._translations(NODE_PORTS), *self._translations(NODE_PORTS + audience)),
            )
            local = ex.is_to_this_node() + ex.verdict(ex.GOTO, node_ports)
            yield Chain(f"nat{audience}", (*self._translations(PORTALS + audience), local))
            refused = f"refuse-node-ports{audience}"
            yield Chain(refused, tuple(map(_refused_node_port, ("", audience))))
            local = ex.is_to_this_node() + ex.verdict(ex.GOTO, refused)
            yield Chain(f"refuse{audience}", (self._refused_portal(audience), local))

    def hooked_chains(self) -> Iterable[Chain]:
        """The chains that the kernel enters."""
        new = ex.is_new()
        sources = (new + ex.verdict(ex.GOTO, "sources"),)
        yield Chain("sources-prerouting", sources, Hook("filter", _PREROUTING, _BEFORE_NAT))
        yield Chain("sources-output", sources, Hook("filter", _OUTPUT, _BEFORE_NAT))
        everybody = self._translations(PORTALS)
        by_source = tuple(self._by_source("nat"))
        yield Chain("nat-prerouting", (*everybody, *by_source), Hook("nat", _PREROUTING, _NAT))
        on_node = ex.verdict(ex.GOTO, f"nat{ON_NODE}")
        yield Chain("nat-output", (*everybody, on_node), Hook("nat", _OUTPUT, _NAT))
        refused = new + self._refused_portal(EVERYBODY)
        by_source = tuple(self._by_source("refuse", new))
        yield Chain("refuse-input", (self._guard(), refused, *by_source), Hook("filter", _INPUT, _BEFORE_FILTER))
        yield Chain("refuse-forward", (refused, *by_source), Hook("filter", _FORWARD, _BEFORE_FILTER))
        on_node = new + ex.verdict(ex.GOTO, f"refuse{ON_NODE}")
        yield Chain("refuse-output", (refused, on_node), Hook("filter", _OUTPUT, _BEFORE_FILTER))

    def _by_source(self, chain: str, condition: bytes = b"") -> Iterable[bytes]:
        """Rules that go on with the chain for this node's Pods, or with that for everybody else."""
        on_node = ex.verdict(ex.GOTO, f"{chain}{ON_NODE}")
        for match in self._of_pods():
            yield condition + match + on_node
        yield condition + ex.verdict(ex.GOTO, f"{chain}{ELSEWHERE}")

    def _of_pods(self) -> Iterable[bytes]:
        traffic = self.local_traffic
        for text in of_family(traffic.networks, self.family):
            network = ip_network(text)
            everything = network.prefixlen == 0
            yield (
                b"" if everything else ex.in_network(network.network_address.packed, network.prefixlen, ipv6=self.ipv6)
            )
        if traffic.interface:
            yield b"" if traffic.interface == "+" else ex.arrives_at(traffic.interface)

    def _translations(self, name: str) -> Sequence[bytes]:
        """Rules for TCP and UDP that lead to the listener whose port a map has.

        nft prints them in a form that it can read again only where a rule names its protocol.
        """
        if not self.host_ip:
            return ()
        load, address = self._key_of(name), ip_address(self.host_ip).packed
        lead = ex.load_value(0, address) + load + ex.lookup(name, 4, into=4) + ex.dnat(0, 4, ipv6=self.ipv6)
        return [ex.is_protocol(number) + lead for number in (ex.TCP, ex.UDP)]

    def _key_of(self, name: str) -> bytes:
        """Loads what a map of portals or node ports is keyed by, from the fifth word on."""
        if name.startswith(NODE_PORTS):
            return ex.load_protocol(4) + ex.load_port(5)
        return self._portal_key(4)

    def _portal_key(self, word: int) -> bytes:
        after = word + (4 if self.ipv6 else 1)
        return ex.load_address(word, ipv6=self.ipv6) + ex.load_protocol(after) + ex.load_port(after + 1)

    def _outsiders(self) -> bytes:
        """Matches clients whom a portal with source ranges does not serve."""
        source = ex.load_address(6 if self.ipv6 else 3, ipv6=self.ipv6, source=True)
        key = self._portal_key(0)
        return key + ex.lookup(RESTRICTED, 0) + key + source + ex.lookup(ALLOWED, 0, inverted=True)

    def _refused_portal(self, audience: str) -> bytes:
        return self._portal_key(0) + ex.lookup_verdict(REFUSED_PORTALS + audience, 0)

    def _guard(self) -> bytes:
        """Refuses datagrams that were written to a local port: it is no way around the portals.

        On addresses where we do not listen the port is somebody else's.
        """
        specific = self.bind_address not in _UNSPECIFIED
        ours = ex.is_to(ip_address(self.bind_address).packed, ipv6=self.ipv6) if specific else b""
        port = ex.is_protocol(ex.UDP) + ex.load_port(0) + ex.lookup(UDP_LISTENERS, 0)
        untranslated = ex.is_to_this_node() + ex.is_not_translated()
        return ex.is_new() + ours + port + untranslated + ex.verdict(ex.GOTO, REFUSE)


def _refused_node_port(audience: str) -> bytes:
    return ex.load_protocol(0) + ex.load_port(1) + ex.lookup_verdict(REFUSED_NODE_PORTS + audience, 0)
