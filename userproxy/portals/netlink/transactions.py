"""Transactions of nf_tables as the kernel announces them: which of them concern us, and who made them. Pure.

A transaction is announced by a message for each object that it makes or deletes, and one (NFT_MSG_NEWGEN) with the
number of the ruleset's generation that it began, and the name and process of the program. Layout and numbers:
linux/netfilter/nf_tables.h.
"""

import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Final, TypeAlias

from msgspec import Struct

from userproxy.portals import netlink

NFTABLES: Final = 10 << 8  # NFNL_SUBSYS_NFTABLES
GET_GENERATION: Final = NFTABLES | 16
_NEW_GENERATION: Final = NFTABLES | 15

_NEW_TABLE: Final = NFTABLES | 0
_DELETE_TABLE: Final = NFTABLES | 2
_NEW_CHAIN: Final = NFTABLES | 3
_DELETE_CHAIN: Final = NFTABLES | 5

_TABLE: Final = 1
"""The attribute that names an object's table: NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE, NFTA_SET_TABLE ..."""
_NAME: Final = 2
"""NFTA_RULE_CHAIN, NFTA_SET_NAME, NFTA_SET_ELEM_LIST_SET, NFTA_OBJ_NAME. Of a table it is its flags."""
_CHAIN_NAME: Final = 3

_GENERATION: Final = 1
_PROCESS: Final = 2
_PROGRAM: Final = 3

_NUMBER: Final = struct.Struct("!I")
_GENERATIONS: Final = 1 << 32


class Touched(Struct, frozen=True):
    """Something that a transaction made or deleted: a table, or a chain, set or object of it; of a rule, its chain.

    `family` is netfilter's number (AF_INET, AF_INET6, NFPROTO_INET, ...). `name` is empty for a table.
    """

    family: int
    table: str
    name: str


Concerns: TypeAlias = Callable[[Touched], bool]


class Transaction(Struct, frozen=True):
    """One transaction: the generation that it began, whether it `concerns` us, and who made it.

    `process` is the process's number where it runs, which may be no number here: in a container there are others.
    """

    generation: int
    concerns: bool
    program: str = ""
    process: int = 0


class TransactionReader:
    """Puts messages together to transactions. `concerns` says of each object whether it is of interest."""

    def __init__(self, concerns: Concerns) -> None:
        self._asks = concerns
        self._concerns = False
        self._asked = (-1, b"")
        """The kind of the last object that was asked about, and the bytes that its names end with."""

    def read(self, data: bytes) -> Iterator[Transaction]:
        """The transactions that end in a datagram."""
        for kind, begin, end in netlink.messages(data):
            if kind == _NEW_GENERATION:
                yield self._ended(data, begin + netlink.NETFILTER_HEADER_SIZE, end)
                self._concerns = False
                self._asked = (-1, b"")
            elif not self._concerns and kind & 0xFF00 == NFTABLES and begin < end:
                self._ask(kind, data, begin, end)

    def _ask(self, kind: int, data: bytes, begin: int, end: int) -> None:
        """Ask about an object, unless it is one more of what was asked about last: thousands of rules of one chain."""
        asked, names = self._asked
        if kind == asked and data.startswith(names, begin):
            return
        touched, names_end = _touched(kind, data, begin, end)
        self._asked = (kind, data[begin:names_end])
        self._concerns = self._asks(touched)

    def lost(self) -> None:
        """Some messages are missing: what they were of may be of interest."""
        self._concerns = True

    def _ended(self, data: bytes, begin: int, end: int) -> Transaction:
        found = netlink.attributes(data, begin, end)
        generation, process = (_number(data, found, kind) or 0 for kind in (_GENERATION, _PROCESS))
        return Transaction(generation, self._concerns, netlink.text_of(data, found, _PROGRAM), process)


def generation_in(data: bytes, begin: int, end: int) -> int | None:
    """The generation that the answer to GET_GENERATION names, where it names one."""
    return _number(data, netlink.attributes(data, begin + netlink.NETFILTER_HEADER_SIZE, end), _GENERATION)


def _number(data: bytes, found: Mapping[int, netlink.Place], kind: int) -> int | None:
    begin, end = found.get(kind, (0, 0))
    return int(_NUMBER.unpack_from(data, begin)[0]) if end - begin == _NUMBER.size else None


def is_later(generation: int, than: int) -> bool:
    """Generations begin anew after 2^32."""
    return 0 < (generation - than) % _GENERATIONS < _GENERATIONS // 2


def _touched(kind: int, data: bytes, begin: int, end: int) -> tuple[Touched, int]:
    """What an object is of, and where the names of that end: other objects that begin alike are of the same."""
    found = netlink.attributes(data, begin + netlink.NETFILTER_HEADER_SIZE, end)
    names = _CHAIN_NAME if kind in (_NEW_CHAIN, _DELETE_CHAIN) else _NAME
    name = "" if kind in (_NEW_TABLE, _DELETE_TABLE) else netlink.text_of(data, found, names)
    names_end = max(found[each][1] if each in found else end for each in (_TABLE, names))
    return Touched(data[begin], netlink.text_of(data, found, _TABLE), name), names_end
