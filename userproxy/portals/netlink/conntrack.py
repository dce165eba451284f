"""Deletes conntrack entries, one by one, over netlink.

Written against the kernel's own interface (linux/netfilter/nfnetlink_conntrack.h): an entry is named by the very
bytes with which the kernel listed it. With pyroute2 10,000 entries take 0.6 s to list and 5 s to delete, nearly all
of it holding the interpreter's lock against the loop that forwards.
"""

import asyncio
import errno
import socket
import struct
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing

import structlog
from msgspec import Struct

from userproxy.model import IPFamily, Protocol
from userproxy.portals import netlink
from userproxy.portals.netlink import rtnetlink

log = structlog.get_logger()

_CONNTRACK_GET = 0x101  # NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET, linux/netfilter/nfnetlink_conntrack.h
_CONNTRACK_DELETE = 0x102
_TUPLE_ORIG = 1
_TUPLE_REPLY = 2
_STATUS = 3
_PROTOCOL_INFO = 4
_ID = 12
_ZONE = 18
_FILTER = 25
_STATUS_MASK = 26
_TUPLE_IP = 1
_TUPLE_PROTO = 2
_PROTO_NUM = 1
_PROTO_SRC_PORT = 2
_PROTO_DST_PORT = 3
_TCP_INFO = 1
_TCP_STATE = 1
_FILTER_ORIG_FLAGS = 1
_FILTER_BY_PROTO_NUM = 1 << 3  # CTA_FILTER_F_CTA_PROTO_NUM, net/netfilter/nf_conntrack_netlink.c

_SEEN_REPLY = 1 << 1  # IPS_SEEN_REPLY, linux/netfilter/nf_conntrack_common.h
_SYN_SENT = 1  # TCP_CONNTRACK_SYN_SENT, linux/netfilter/nf_conntrack_tcp.h

_PORT = struct.Struct(">H")
_WORD = struct.Struct(">I")

# CTA_IP_V4_SRC, CTA_IP_V4_DST and the same of IPv6
_IP_ATTRIBUTES = {IPFamily.IPV4: (1, 2), IPFamily.IPV6: (3, 4)}

_NUMBERS = {Protocol.TCP: socket.IPPROTO_TCP, Protocol.UDP: socket.IPPROTO_UDP}

_BATCH = 64
"""Deletions that are under way at once: their answers fit into any receive buffer."""


class ConntrackEntry(Struct, frozen=True, gc=False):
    """One entry: where the client wrote to, and who answers it. Addresses are canonical text.

    The answers come from `destination` and `port` themselves unless the entry is translated.
    ``destination_local`` and ``reply_local`` are whether those are addresses of this node.
    """

    source: str
    source_port: int
    destination: str
    port: int
    reply_source: str
    reply_port: int
    destination_local: bool = False
    reply_local: bool = False
    protocol: Protocol = Protocol.UDP


class Conntrack:
    """The entries of one address family in the network namespace of the calling thread. Needs CAP_NET_ADMIN."""

    def __init__(self, family: IPFamily) -> None:
        self._family = family
        self._told = ""

    async def delete(self, protocols: Collection[Protocol], is_stale: Callable[[ConntrackEntry], bool]) -> int:
        """Delete the entries for which `is_stale` is true, and return how many that were.

        `is_stale` is called in another thread, for entries of UDP and of TCP, as far as those are among `protocols`. Of
        TCP it sees connections whose SYN nobody has answered: the others have found their way. Where the kernel
        refuses, or has no conntrack that can be listed, this is logged once and nothing more is deleted.
        """
        return await asyncio.to_thread(self._delete, protocols, is_stale)

    def _delete(self, protocols: Collection[Protocol], is_stale: Callable[[ConntrackEntry], bool]) -> int:
        deleted = 0
        try:
            # Two sockets: deletions go on while the kernel still lists, so that no list is ever kept.
            with (
                closing(netlink.netlink_socket(netlink.NETFILTER)) as listing,
                closing(netlink.netlink_socket(netlink.NETFILTER)) as deleting,
            ):
                local = frozenset(address.ip for address in rtnetlink.addresses(self._family))
                for protocol in sorted(_NUMBERS.keys() & set(protocols)):
                    for entries in _chunks(listing, self._family, protocol, local):
                        stale = [name for entry, name in entries if is_stale(entry)]
                        deleted += _delete(deleting, self._family, stale)
        except OSError as error:
            self._tell(error)
        else:
            self._told = ""
        if deleted:
            log.debug("Deleted stale conntrack entries", v=2, family=self._family.value, entries=deleted)
        return deleted

    def _tell(self, error: OSError) -> None:
        reason = f"{error.strerror or error} (it takes CAP_NET_ADMIN and the kernel's nf_conntrack_netlink)"
        if reason == self._told:
            return
        self._told = reason
        log.warning(
            "Stale conntrack entries cannot be deleted: who wrote to a Service before its rules may not reach it",
            family=self._family.value,
            reason=reason,
        )


def _chunks(
    listing: socket.socket, family: IPFamily, protocol: Protocol, local: frozenset[str]
) -> Iterator[list[tuple[ConntrackEntry, bytes]]]:
    """The kernel's entries as they come, each with the bytes that name it to the kernel. Raises OSError."""
    # Kernels before 5.8 know no filter and list every protocol, those before 5.16 none of the status, so each is looked
    # at once more.
    flags = netlink.attribute(_FILTER_ORIG_FLAGS, struct.pack("=I", _FILTER_BY_PROTO_NUM))
    number = netlink.nested(_TUPLE_PROTO, netlink.attribute(_PROTO_NUM, bytes([_NUMBERS[protocol]])))
    request = netlink.netfilter_header(family) + netlink.nested(_TUPLE_ORIG, number) + netlink.nested(_FILTER, flags)
    if protocol is Protocol.TCP:
        request += netlink.attribute(_STATUS, _WORD.pack(0)) + netlink.attribute(_STATUS_MASK, _WORD.pack(_SEEN_REPLY))
    for data, bodies in netlink.dump(listing, _CONNTRACK_GET, request):
        found = (
            _entry(data, begin + netlink.NETFILTER_HEADER_SIZE, end, family, protocol, local) for begin, end in bodies
        )
        yield [each for each in found if each is not None]


def _entry(
    data: bytes, begin: int, end: int, family: IPFamily, protocol: Protocol, local: frozenset[str]
) -> tuple[ConntrackEntry, bytes] | None:
    found = netlink.attributes(data, begin, end)
    if protocol is Protocol.TCP and not _awaits_answer(data, found):
        return None
    original = _parties(data, found[_TUPLE_ORIG], family, protocol)
    reply = _parties(data, found[_TUPLE_REPLY], family, protocol)
    if original is None or reply is None:
        return None
    source, source_port, destination, port = original
    reply_source, reply_port, _, _ = reply
    entry = ConntrackEntry(
        source=source,
        source_port=source_port,
        destination=destination,
        port=port,
        reply_source=reply_source,
        reply_port=reply_port,
        destination_local=_is_local(destination, local),
        reply_local=_is_local(reply_source, local),
        protocol=protocol,
    )
    # The number tells it from a later entry of the same parties.
    return entry, b"".join(netlink.whole(data, *found[kind]) for kind in (_TUPLE_ORIG, _ZONE, _ID) if kind in found)


def _awaits_answer(data: bytes, found: dict[int, netlink.Place]) -> bool:
    """Whether a connection has but a SYN. One of another kind may be older than its entry, and must go on."""
    if _WORD.unpack_from(data, found[_STATUS][0])[0] & _SEEN_REPLY or _PROTOCOL_INFO not in found:
        return False
    tcp = netlink.attributes(data, *found[_PROTOCOL_INFO]).get(_TCP_INFO)
    return tcp is not None and data[netlink.attributes(data, *tcp)[_TCP_STATE][0]] == _SYN_SENT


def _parties(
    data: bytes, place: netlink.Place, family: IPFamily, protocol: Protocol
) -> tuple[str, int, str, int] | None:
    """Source, its port, destination, its port; None where it is of another protocol."""
    parts = netlink.attributes(data, *place)
    ports = netlink.attributes(data, *parts[_TUPLE_PROTO])
    if data[ports[_PROTO_NUM][0]] != _NUMBERS[protocol]:
        return None
    addresses = netlink.attributes(data, *parts[_TUPLE_IP])
    source, destination = _IP_ATTRIBUTES[family]
    return (
        netlink.address_text(data, *addresses[source]),
        _PORT.unpack_from(data, ports[_PROTO_SRC_PORT][0])[0],
        netlink.address_text(data, *addresses[destination]),
        _PORT.unpack_from(data, ports[_PROTO_DST_PORT][0])[0],
    )


def _delete(deleting: socket.socket, family: IPFamily, names: Sequence[bytes]) -> int:
    """How many of the entries there still were. Raises OSError."""
    deleted = 0
    header = netlink.netfilter_header(family)
    flags = netlink.REQUEST | netlink.ACK
    for first in range(0, len(names), _BATCH):
        batch = names[first : first + _BATCH]
        deleting.send(b"".join(netlink.message(_CONNTRACK_DELETE, flags, header + name) for name in batch))
        answers = 0
        while answers < len(batch):
            data = deleting.recv(netlink.CHUNK)
            for _, begin, _ in netlink.messages(data):
                answers += 1
                deleted += netlink.raise_for_code(data, begin, unless=errno.ENOENT) == 0
    return deleted


def _is_local(address: str, local: frozenset[str]) -> bool:
    return address in local or address.startswith("127.")
