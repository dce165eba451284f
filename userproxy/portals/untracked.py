"""Makes the kernel's connection tracking know connections that began without it.

The ``local`` driver translates nothing, so where no other program's rules need it nothing is tracked. Once a driver
that does translate has its rules, the next packet of a connection that is not tracked counts as the first one of
another connection, and is translated to a listener that does not know it, and resets it. So before such rules are
written each connection of the node gets an entry that says: established, as it is.

Layout and numbers: linux/netfilter/nfnetlink_conntrack.h, nf_conntrack_common.h and nf_conntrack_tcp.h.
"""

import errno
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import Final

import structlog

from userproxy.addresses import IPFamily, socket_family
from userproxy.errors import KernelToolError
from userproxy.portals import netlink
from userproxy.portals.local.routes import LocalRoutes
from userproxy.portals.netlink.sock_diag import Connection, connections

log = structlog.get_logger()

_NEW_ENTRY: Final = 0x100  # NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW
_CREATE: Final = 0x400
_EXCLUSIVE: Final = 0x200
_STATUS: Final = 0x2 | 0x4 | 0x8  # IPS_SEEN_REPLY, IPS_ASSURED, IPS_CONFIRMED
_TIMEOUT_SECONDS: Final = 5 * 24 * 3600
"""What the kernel gives an established connection by default; its next packet sets it to what the node has."""
_ESTABLISHED: Final = 3  # TCP_CONNTRACK_ESTABLISHED
_LIBERAL: Final = 0x8  # IP_CT_TCP_FLAG_BE_LIBERAL: nobody has seen the windows
_IP_ATTRIBUTES: Final = {IPFamily.IPV4: (1, 2), IPFamily.IPV6: (3, 4)}

_WORD: Final = struct.Struct(">I")
_PORT: Final = struct.Struct(">H")
_AT_ONCE: Final = 64
"""Entries that are asked for at once: the answers fit into any receive buffer."""


def track_connections(family: IPFamily) -> int:
    """Have an entry for each TCP connection of this network namespace that has none; returns how many are new.

    Blocking. Nothing is done on a node where the local driver has no routes. Where the kernel refuses, this is logged.
    """
    made = 0
    try:
        if not LocalRoutes(family).standing():
            return 0
        with closing(netlink.netlink_socket(netlink.NETFILTER)) as asking:
            found = connections(family)
            while batch := list(islice(found, _AT_ONCE)):
                made += _make(asking, family, batch)
    except (OSError, KernelToolError) as error:
        text = "Connections that were served without connection tracking may be reset"
        log.warning(text, family=family, reason=f"the kernel takes no entries for them: {error}")
    if made:
        log.debug("Connections are tracked from now on", v=1, family=family, connections=made)
    return made


def _make(asking: socket.socket, family: IPFamily, batch: Sequence[Connection]) -> int:
    header = netlink.netfilter_header(family)
    flags = netlink.REQUEST | netlink.ACK | _CREATE | _EXCLUSIVE
    asking.send(b"".join(netlink.message(_NEW_ENTRY, flags, header + _entry(family, each)) for each in batch))
    return sum(code == 0 for code in islice(_codes(asking), len(batch)))


def _codes(asking: socket.socket) -> Iterator[int]:
    while True:
        data = asking.recv(netlink.CHUNK)
        for kind, begin, _ in netlink.messages(data):
            if kind == netlink.ERROR:
                yield netlink.raise_for_code(data, begin, unless=errno.EEXIST)


def _entry(family: IPFamily, connection: Connection) -> bytes:
    ours, theirs = (connection.address, connection.port), (connection.peer, connection.peer_port)
    liberal = bytes([_LIBERAL, _LIBERAL])
    tcp = netlink.nested(
        1,
        netlink.attribute(1, bytes([_ESTABLISHED])),
        netlink.attribute(4, liberal),
        netlink.attribute(5, liberal),
    )
    return b"".join(
        (
            netlink.nested(1, _tuple(family, theirs, ours)),
            netlink.nested(2, _tuple(family, ours, theirs)),
            netlink.attribute(3, _WORD.pack(_STATUS)),
            netlink.nested(4, tcp),
            netlink.attribute(7, _WORD.pack(_TIMEOUT_SECONDS)),
        )
    )


def _tuple(family: IPFamily, source: tuple[str, int], destination: tuple[str, int]) -> bytes:
    places = zip(_IP_ATTRIBUTES[family], (source, destination), strict=True)
    addresses = (netlink.attribute(kind, socket.inet_pton(socket_family(ip), ip)) for kind, (ip, _) in places)
    ports = (netlink.attribute(kind, _PORT.pack(port)) for kind, (_, port) in ((2, source), (3, destination)))
    number = netlink.attribute(1, bytes([socket.IPPROTO_TCP]))
    return netlink.nested(1, *addresses) + netlink.nested(2, number, *ports)
