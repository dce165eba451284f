"""Our tables of nf_tables: one marks packets for transparent sockets, one has bridges give answers to this host.

Pure. There are two for each address family. ``userproxy-return-path`` of ``ip`` or ``ip6`` looks up the socket of each
packet, after all translation, so that the mark is seen by nobody but routing, and without connection tracking. That of
``bridge`` takes what goes from one Pod to another by the same bridge, and is to a port of OWN_PORTS or may be a part of
such an answer: ICMP errors about what such a port sent, and fragments of UDP, all of them, since the first alone has
ports.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_network
from typing import Final

from msgspec import Struct, structs

from userproxy.addresses import SOCKET_FAMILIES, IPFamily
from userproxy.model import OWN_PORTS
from userproxy.portals.netlink import attribute, text_attribute
from userproxy.portals.nftables import expressions as ex
from userproxy.portals.nftables.layout import Chain, Hook
from userproxy.portals.nftables.messages import (
    CREATE,
    DELETE_TABLE,
    NEW_CHAIN,
    NEW_RULE,
    NEW_TABLE,
    Message,
)
from userproxy.portals.return_path.marks import Mark

NAME: Final = "userproxy-return-path"
BRIDGE: Final = 7  # NFPROTO_BRIDGE
_PREROUTING: Final = 0
_AFTER_NAT: Final = -90
"""After NF_IP_PRI_NAT_DST (-100): an answer to what others have masqueraded has its address back by then."""
_BEFORE_IP: Final = -310
"""Before br_netfilter (NF_BR_PRI_BRNF, 0) shows the frame to rules of IP, and before NF_BR_PRI_NAT_DST_BRIDGED."""

_ICMP: Final = 1
_ICMPV6: Final = 58
_UNREACHABLE: Final = {IPFamily.IPV4: (3,), IPFamily.IPV6: (1, 2)}
"""Types of ICMP errors: destination unreachable, packet too big."""
_ERROR_HEADER: Final = {IPFamily.IPV4: 8 + 20, IPFamily.IPV6: 8 + 40}
"""Bytes of an ICMP error before the ports of what it is about, which begins with the source port."""
_ETHERNET: Final = {IPFamily.IPV4: 0x0800, IPFamily.IPV6: 0x86DD}
_FRAGMENT_FIELD: Final = (6, b"\x3f\xff")
"""Of IPv4: whether more fragments follow, and where this one belongs."""
_NEXT_HEADER: Final = (6, 44)
"""Of IPv6: that the fragment header is next."""

_MARKING: Final = "mark-transparent"
_RAISING: Final = "raise-answers"
_HEADER: Final = struct.Struct("=BBH")  # struct nfgenmsg
_BIG: Final = struct.Struct(">I")
_SIGNED: Final = struct.Struct(">i")
_APPEND: Final = 0x800
_ACCEPT: Final = 1
_OWNER: Final = 2


class Table(Struct, frozen=True):
    """A table with its chains, those that others lead to first. `family` is netfilter's number.

    One that is `owned` belongs to the socket that writes it (NFT_TABLE_F_OWNER, Linux 5.12): it outlives a flush of all
    rules by others, and goes with the socket.
    """

    family: int
    name: str
    chains: tuple[Chain, ...] = ()
    owned: bool = False


class PodBridge(Struct, frozen=True, order=True):
    """A network whose Pods are on one bridge, and that bridge's hardware address."""

    network: str
    hardware_address: bytes


def marking_table(family: IPFamily, mark: Mark, *, defragments: bool) -> Table:
    """Marks packets to sockets that are transparent and bound to an address.

    Where it `defragments`, large datagrams find their socket, too. A kernel that tracks connections does so anyway.
    """
    hook = Hook("filter", _PREROUTING, _AFTER_NAT)
    found = Chain(
        _MARKING,
        (ex.is_for_wildcard_socket() + ex.verdict(ex.RETURN), ex.set_mark(mark.value, mark.mask)),
    )
    rules: tuple[bytes, ...] = (ex.is_for_transparent_socket() + ex.verdict(ex.GOTO, _MARKING),)
    if defragments:
        rules += (_never_to_a_proxy(family),)
    return Table(SOCKET_FAMILIES[family], NAME, (found, Chain("prerouting", rules, hook)))


def bridge_table(family: IPFamily, bridges: Sequence[PodBridge]) -> Table:
    """Has these bridges give answers between their Pods to this host; of each family there is one."""
    hook = Hook("filter", _PREROUTING, _BEFORE_IP)
    raising = Chain(_RAISING, tuple(_raise(family, each) for each in sorted(bridges)))
    goto = ex.verdict(ex.GOTO, _RAISING)
    carried = ex.is_ethernet_type(_ETHERNET[family])
    answers = tuple(carried + answer + goto for answer in _answers(family))
    return Table(BRIDGE, bridge_table_name(family), (raising, Chain("prerouting", answers, hook)))


def bridge_table_name(family: IPFamily) -> str:
    """The tables of both families are of netfilter's family ``bridge``."""
    return f"{NAME}-{family.lower()}"


def owned_by(port: int, tables: Iterable[Table]) -> list[Table]:
    """The same tables for the socket with this netlink port, by which no other socket's have the same names."""
    return [structs.replace(table, name=f"{table.name}-{port}", owned=True) for table in tables]


def written(tables: Iterable[Table]) -> list[Message]:
    """The steps that make these tables, in place of what has their names."""
    return [step for table in tables for step in (*removed(table), *_made(table))]


def removed(table: Table) -> tuple[Message, Message]:
    """The steps after which there is no such table, whether or not there was one."""
    return _create(table), _message(table, DELETE_TABLE, 0, b"", "table")


def request(table: Table) -> bytes:
    """Names the table. Asked for so, the kernel lists what is in it."""
    return _HEADER.pack(table.family, 0, 0) + text_attribute(1, table.name)


def _made(table: Table) -> Iterator[Message]:
    yield _create(table)
    for chain in table.chains:
        yield _message(table, NEW_CHAIN, CREATE, _described(chain), f"chain {chain.name}")
    for chain in table.chains:
        for rule in chain.rules:
            body = text_attribute(2, chain.name) + attribute(4, rule)
            yield _message(table, NEW_RULE, CREATE | _APPEND, body, f"a rule of chain {chain.name}")


def _create(table: Table) -> Message:
    flags = attribute(2, _BIG.pack(_OWNER)) if table.owned else b""
    return _message(table, NEW_TABLE, CREATE, flags, "table")


def _described(chain: Chain) -> bytes:
    body = text_attribute(3, chain.name)
    if chain.hook is None:
        return body
    hook = attribute(1, _BIG.pack(chain.hook.number)) + attribute(2, _SIGNED.pack(chain.hook.priority))
    return body + attribute(4, hook) + attribute(5, _BIG.pack(_ACCEPT)) + text_attribute(7, chain.hook.type)


def _message(table: Table, kind: int, flags: int, body: bytes, what: str) -> Message:
    return Message(kind, flags, request(table) + body, f"{what} of table {table.name}")


def _never_to_a_proxy(family: IPFamily) -> bytes:
    """A rule for packets with two marks at once. The kernel defragments because there is one of its kind."""
    to_proxy = ex.load_value(1, b"\0\1") + ex.redirect_to_proxy(1, ipv6=family is IPFamily.IPV6)
    return ex.is_mark(1) + ex.is_mark(2) + to_proxy


def _answers(family: IPFamily) -> Iterator[bytes]:
    lowest = OWN_PORTS[0]
    for protocol in (ex.TCP, ex.UDP):
        yield ex.is_protocol(protocol) + ex.has_port_from(lowest)
    for error in _UNREACHABLE[family]:
        about = ex.has_transport_byte(0, error) + ex.has_port_from(lowest, _ERROR_HEADER[family])
        yield ex.is_protocol(_ICMP if family is IPFamily.IPV4 else _ICMPV6) + about
    if family is IPFamily.IPV4:
        yield ex.is_protocol(ex.UDP) + ex.has_network_bits(*_FRAGMENT_FIELD)
    else:
        yield ex.has_network_byte(*_NEXT_HEADER)


def _raise(family: IPFamily, bridge: PodBridge) -> bytes:
    network = ip_network(bridge.network)
    ipv6 = family is IPFamily.IPV6
    address, length = network.network_address.packed, network.prefixlen
    among = ex.in_network(address, length, ipv6=ipv6) + ex.is_to_network(address, length, ipv6=ipv6)
    return among + ex.raise_to(bridge.hardware_address)
