"""Keeps established connections translated while somebody's flush has taken all rules away.

The kernel tracks and translates connections of a network namespace only as long as a rule there needs it. Without one,
packets of established connections pass as they are, and whoever gets them resets the connection, well before rules
can be written again. So a table of nf_tables stands beside the rules of whatever driver, with a chain that has the
kernel translate, and a rule that has it track; it decides nothing. It belongs to a socket of ours (NFT_TABLE_F_OWNER,
Linux 5.12): ``nft flush ruleset`` leaves it alone, and it goes with our process.

Layout and numbers: linux/netfilter/nf_tables.h and linux/netfilter/nfnetlink.h.
"""

import socket
import struct
from typing import Final

import structlog

from userproxy.addresses import SOCKET_FAMILIES, IPFamily
from userproxy.portals import netlink
from userproxy.portals.netlink.transactions import NFTABLES
from userproxy.portals.untracked import track_connections

log = structlog.get_logger()

_BATCH_BEGIN: Final = 0x10
_BATCH_END: Final = 0x11
_NEW_TABLE: Final = NFTABLES | 0
_NEW_CHAIN: Final = NFTABLES | 3
_NEW_RULE: Final = NFTABLES | 6

_CREATE: Final = 0x400
_APPEND: Final = 0x800
_OWNER: Final = 0x2

_CHAIN: Final = "keep-translating"
_LAST: Final = 1000
"""The chain's priority: all others of its hook come before it."""

_INVALID: Final = struct.pack("=I", 1)
"""NF_CT_STATE_INVALID_BIT."""

_HEADER: Final = struct.Struct("=BBxB")  # struct nfgenmsg; the subsystem is a number of two bytes, big-endian
_NUMBER: Final = struct.Struct("!I")


class ConntrackGuard:
    """Such a table of one address family. All methods are called in a thread of the network namespace that is meant."""

    def __init__(self, family: IPFamily, *, with_table: bool = True) -> None:
        self._family = family
        self._with_table = with_table
        self._owner: socket.socket | None = None
        self._stands = False

    def stand(self) -> None:
        """Have the table stand from now on, and what the local driver serves tracked. A refusal is logged once.

        Where the table is not wanted it does not stand, and a flush of all rules may break connections.
        """
        if self._stands:
            return
        self._stands = True
        if self._with_table:
            self._make_table()
        track_connections(self._family)

    def _make_table(self) -> None:
        try:
            self._owner = _table(SOCKET_FAMILIES[self._family])
        except OSError as error:
            text = "Established connections may break when another program flushes all rules"
            reason = f"the kernel refuses a table that has an owner: {error.strerror or error}"
            log.info(text, family=self._family, reason=reason)

    def close(self) -> None:
        """Let the table go."""
        if self._owner is not None:
            self._owner.close()
            self._owner = None


def _table(family: int) -> socket.socket:
    """The socket that owns a new table. Raises OSError."""
    owner = netlink.netlink_socket(netlink.NETFILTER)
    try:
        owner.bind((0, 0))
        name = f"userproxy-guard-{owner.getsockname()[0]}"  # no other socket of the namespace has the number
        owner.send(_transaction(family, name))
        acknowledged = 0
        while acknowledged < 3:
            data = owner.recv(netlink.CHUNK)
            for kind, begin, _ in netlink.messages(data):
                if kind == netlink.ERROR:
                    netlink.raise_for_code(data, begin)
                    acknowledged += 1
    except BaseException:
        owner.close()
        raise
    return owner


def _transaction(family: int, table: str) -> bytes:
    header = _HEADER.pack(family, 0, 0)
    batch = _HEADER.pack(socket.AF_UNSPEC, 0, NFTABLES >> 8)
    hook = netlink.nested(4, _number(1, 0), _number(2, _LAST))  # NF_INET_PRE_ROUTING
    requests = (
        (_NEW_TABLE, _CREATE, _text(1, table) + _number(2, _OWNER)),
        (_NEW_CHAIN, _CREATE, _text(1, table) + _text(3, _CHAIN) + hook + _text(7, "nat")),
        (_NEW_RULE, _CREATE | _APPEND, _text(1, table) + _text(2, _CHAIN) + netlink.nested(4, *_ct_state_invalid())),
    )
    flags = netlink.REQUEST | netlink.ACK
    messages = (netlink.message(kind, flags | more, header + body) for kind, more, body in requests)
    begin, end = (netlink.message(kind, netlink.REQUEST, batch) for kind in (_BATCH_BEGIN, _BATCH_END))
    return b"".join((begin, *messages, end))


def _ct_state_invalid() -> tuple[bytes, ...]:
    """The match ``ct state invalid``, which no packet that gets here fulfils, as nft(8) writes it."""
    state = _number(1, 1) + _number(2, 0)  # into register 1
    mask = netlink.nested(4, netlink.attribute(1, _INVALID)) + netlink.nested(5, netlink.attribute(1, bytes(4)))
    masked = _number(1, 1) + _number(2, 1) + _number(3, len(_INVALID)) + mask
    differs = _number(1, 1) + _number(2, 1) + netlink.nested(3, netlink.attribute(1, bytes(4)))
    expressions = (("ct", state), ("bitwise", masked), ("cmp", differs))
    return tuple(netlink.nested(1, _text(1, name), netlink.nested(2, fields)) for name, fields in expressions)


def _number(kind: int, value: int) -> bytes:
    return netlink.attribute(kind, _NUMBER.pack(value))


def _text(kind: int, value: str) -> bytes:
    return netlink.attribute(kind, value.encode() + b"\0")
