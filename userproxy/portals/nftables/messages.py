"""Transactions on our table, and what the kernel lists of it, as netlink messages.

Pure. Numbers and layout: linux/netfilter/nf_tables.h.
"""

import struct
from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import Struct

from userproxy.model import IPFamily
from userproxy.portals.netlink import (
    Place,
    attribute,
    attributes,
    netfilter_header,
    places,
    text_at,
    text_attribute,
    whole,
)
from userproxy.portals.netlink.transactions import NFTABLES
from userproxy.portals.nftables.elements import ELEMENT_COMMENT, ELEMENT_DATA, ELEMENT_NAMES
from userproxy.portals.nftables.layout import TABLE, VERDICT_DATA, Chain, Hook, Set
from userproxy.portals.nftables.ledger import Edits

NEW_TABLE: Final = NFTABLES | 0
GET_TABLE: Final = NFTABLES | 1
DELETE_TABLE: Final = NFTABLES | 2
NEW_CHAIN: Final = NFTABLES | 3
GET_CHAINS: Final = NFTABLES | 4
NEW_RULE: Final = NFTABLES | 6
GET_RULES: Final = NFTABLES | 7
DELETE_RULES: Final = NFTABLES | 8
NEW_SET: Final = NFTABLES | 9
GET_SETS: Final = NFTABLES | 10
DELETE_SET: Final = NFTABLES | 11
NEW_ELEMENTS: Final = NFTABLES | 12
GET_ELEMENTS: Final = NFTABLES | 13
DELETE_ELEMENTS: Final = NFTABLES | 14

CREATE: Final = 0x400  # NLM_F_CREATE, linux/netlink.h
_APPEND: Final = 0x800


_TABLE_NAME: Final = 1
"""Of all kinds of object: the table that it belongs to."""
_NAME: Final = 2
"""Of a set, of a set's elements, and of the chain that a rule belongs to."""
_CHAIN_NAME: Final = 3
_HOOK: Final = 4
_POLICY: Final = 5
_CHAIN_TYPE: Final = 7
_EXPRESSIONS: Final = 4
_SET_FLAGS: Final = 3
_KEY_TYPE: Final = 4
_KEY_SIZE: Final = 5
_DATA_TYPE: Final = 6
_DATA_SIZE: Final = 7
_DESCRIPTION: Final = 9
_SET_ID: Final = 10
_ELEMENTS: Final = 3
_ELEMENT: Final = 1  # NFTA_LIST_ELEM

_INTERVAL: Final = 0x4
_MAP: Final = 0x8
_CONCATENATION: Final = 0x80
_ACCEPT: Final = 1
_WORD: Final = 4
_TYPE_BITS: Final = 6
"""nft keeps the types of a key's fields in as many bits each (nftables' datatype.h)."""

_MOST_BYTES: Final = 60_000
"""An attribute has a length of 16 bits, and elements are within one."""

_BIG = struct.Struct(">I")
_SIGNED = struct.Struct(">i")


class Message(Struct, frozen=True):
    """One step of a transaction. `what` is what it is about, for whoever reads why the kernel refused it."""

    kind: int
    flags: int
    body: bytes
    what: str


class SetShape(Struct, frozen=True):
    """What tells whether a set is the one that we would make."""

    flags: int
    key_type: int
    key_size: int
    data_type: int


def remove_table(family: IPFamily) -> Message:
    """Deletes our table and all that is in it."""
    return _message(family, DELETE_TABLE, 0, b"", "table")


def create_table(family: IPFamily) -> Message:
    """Makes our table, if there is none."""
    return _message(family, NEW_TABLE, CREATE, b"", "table")


def impossible(family: IPFamily) -> Message:
    """Deletes a set that never was."""
    return _message(family, DELETE_SET, 0, text_attribute(_NAME, "no-such-set"), "set that never was")


def create_chain(family: IPFamily, chain: Chain) -> Message:
    """Makes a chain without its rules."""
    body = text_attribute(_CHAIN_NAME, chain.name)
    if chain.hook is not None:
        hook = attribute(1, _BIG.pack(chain.hook.number)) + attribute(2, _SIGNED.pack(chain.hook.priority))
        body += attribute(_HOOK, hook) + _number(_POLICY, _ACCEPT) + text_attribute(_CHAIN_TYPE, chain.hook.type)
    return _message(family, NEW_CHAIN, CREATE, body, f"chain {chain.name}")


def create_set(family: IPFamily, made: Set, number: int) -> Message:
    """Makes a set without its elements. `number` names it within the transaction."""
    shape = set_shape(made)
    body = text_attribute(_NAME, made.name) + _number(_SET_FLAGS, shape.flags)
    body += _number(_KEY_TYPE, shape.key_type) + _number(_KEY_SIZE, shape.key_size)
    if made.data:
        size = 0 if made.data == VERDICT_DATA else 2
        body += _number(_DATA_TYPE, made.data) + _number(_DATA_SIZE, size)
    body += _number(_SET_ID, number)
    if made.interval:
        fields = b"".join(attribute(_ELEMENT, _number(1, field.size)) for field in made.key)
        body += attribute(_DESCRIPTION, attribute(2, fields))
    return _message(family, NEW_SET, CREATE, body, f"set {made.name}")


def replace_rules(family: IPFamily, chain: Chain, *, empty: bool) -> Iterator[Message]:
    """Has a chain's rules be as they should, whatever they are, unless it is `empty`."""
    named = text_attribute(_NAME, chain.name)
    if not empty:
        yield _message(family, DELETE_RULES, 0, named, f"chain {chain.name}")
    for rule in chain.rules:
        body = named + attribute(_EXPRESSIONS, rule)
        yield _message(family, NEW_RULE, CREATE | _APPEND, body, f"a rule of chain {chain.name}")


def edit_elements(family: IPFamily, edits: Edits) -> Iterator[Message]:
    """Deletes and adds elements."""
    yield from _elements(family, DELETE_ELEMENTS, 0, [(each.set, each.key) for each in edits.deleted])
    yield from _elements(family, NEW_ELEMENTS, CREATE, [(each.set, each.body) for each in edits.added])


def request(family: IPFamily, set_name: str = "") -> bytes:
    """Names our table, or one of its sets. Asked for so, the kernel lists what is in it."""
    named = text_attribute(_NAME, set_name) if set_name else b""
    return netfilter_header(family) + text_attribute(_TABLE_NAME, TABLE) + named


def set_shape(made: Set) -> SetShape:
    """How the kernel describes a set that we make."""
    key_type, key_size, several = 0, 0, len(made.key) > 1
    for field in made.key:
        key_type = key_type << _TYPE_BITS | field.type
        key_size += -(-field.size // _WORD) * _WORD if several else field.size
    flags = (_MAP if made.data else 0) | (_INTERVAL | _CONCATENATION if made.interval else 0)
    return SetShape(flags, key_type, key_size, made.data)


def listed_set(data: bytes, begin: int, end: int) -> tuple[str, SetShape]:
    """The name and the shape of a set that the kernel lists."""
    found = attributes(data, begin, end)
    numbers = (
        _BIG.unpack_from(data, found[kind][0])[0] if kind in found else 0
        for kind in (_SET_FLAGS, _KEY_TYPE, _KEY_SIZE, _DATA_TYPE)
    )
    return text_at(data, *found[_NAME]), SetShape(*numbers)


def listed_chain(data: bytes, begin: int, end: int) -> tuple[str, str, Hook | None]:
    """The table, the name and the hook of a chain that the kernel lists."""
    found = attributes(data, begin, end)
    hook = None
    if _HOOK in found:
        where = attributes(data, *found[_HOOK])
        number = _BIG.unpack_from(data, where[1][0])[0]
        hook = Hook(text_at(data, *found[_CHAIN_TYPE]), number, _SIGNED.unpack_from(data, where[2][0])[0])
    return text_at(data, *found[_TABLE_NAME]), text_at(data, *found[_CHAIN_NAME]), hook


def listed_rule(data: bytes, begin: int, end: int) -> tuple[str, bytes]:
    """The chain and the expressions of a rule that the kernel lists."""
    found = attributes(data, begin, end)
    first, last = found.get(_EXPRESSIONS, (end, end))
    return text_at(data, *found[_NAME]), data[first:last]


def listed_elements(data: bytes, begin: int, end: int) -> Iterator[Place]:
    """The place of each element's attributes in what the kernel lists of a set."""
    found = attributes(data, begin, end)
    return places(data, *found[_ELEMENTS]) if _ELEMENTS in found else iter(())


def split_element(data: bytes, begin: int, end: int) -> tuple[bytes, bytes]:
    """The attributes that name an element, and the other ones."""
    found = attributes(data, begin, end)
    key = b"".join(whole(data, *found[kind]) for kind in ELEMENT_NAMES if kind in found)
    return key, data[begin + len(key) : end]


def element_parts(data: bytes, begin: int, end: int) -> tuple[bytes, bytes, bytes]:
    """Key, data and comment of an element, without attributes; empty where it has none, or its data is a verdict."""
    found = attributes(data, begin, end)
    key, value = (_value_in(data, found.get(kind, (end, end))) for kind in (ELEMENT_NAMES[0], ELEMENT_DATA))
    first, last = found.get(ELEMENT_COMMENT, (end, end))
    return key, value, data[first:last]


def _value_in(data: bytes, place: Place) -> bytes:
    first, last = attributes(data, *place).get(1, (0, 0))  # NFTA_DATA_VALUE
    return data[first:last]


def _elements(family: IPFamily, kind: int, flags: int, elements: Iterable[tuple[str, bytes]]) -> Iterator[Message]:
    by_set: dict[str, list[bytes]] = {}
    for name, body in elements:
        by_set.setdefault(name, []).append(attribute(_ELEMENT, body))
    for name, bodies in by_set.items():
        for part in _parts(bodies):
            body = text_attribute(_NAME, name) + attribute(_ELEMENTS, part)
            yield _message(family, kind, flags, body, f"elements of {name}")


def _parts(bodies: Iterable[bytes]) -> Iterator[bytes]:
    """The bodies joined, as many at a time as one attribute can hold."""
    part: list[bytes] = []
    size = 0
    for body in bodies:
        if part and size + len(body) > _MOST_BYTES:
            yield b"".join(part)
            part, size = [], 0
        part.append(body)
        size += len(body)
    yield b"".join(part)


def _message(family: IPFamily, kind: int, flags: int, body: bytes, what: str) -> Message:
    return Message(kind, flags, request(family) + body, what)


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, _BIG.pack(value))
