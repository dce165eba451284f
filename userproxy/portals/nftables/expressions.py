"""The expressions of which rules are made, in the bytes in which the kernel itself lists them.

Pure. Numbers and layout: linux/netfilter/nf_tables.h. Attributes stand in the order of the kernel's dump functions, so
a rule is there when its bytes are; tests have a kernel say so, and nft print the rules.

An expression works on 4-byte words of a packet's registers. `word` is the first one that it reads or writes.
"""

import struct
from typing import Final

from userproxy.portals.netlink import attribute, text_attribute

TCP: Final = 6
UDP: Final = 17

_EXPRESSION: Final = 1  # NFTA_LIST_ELEM
_NAME: Final = 1
_DATA: Final = 2
_VALUE: Final = 1  # NFTA_DATA_VALUE
_VERDICT: Final = 2

_LINK_HEADER: Final = 0
_NETWORK_HEADER: Final = 1
_TRANSPORT_HEADER: Final = 2
_DESTINATION_PORT: Final = 2
"""Where it is in the headers of TCP and UDP alike."""

_META_PROTOCOL: Final = 1
_META_MARK: Final = 3
_META_IIFNAME: Final = 6
_META_L4PROTO: Final = 16
_META_PACKET_TYPE: Final = 19
_CT_STATE: Final = 0
_CT_STATUS: Final = 2
_STATE_NEW: Final = 1 << 3  # NF_CT_STATE_BIT(IP_CT_NEW)
_STATUS_DNAT: Final = 1 << 5  # IPS_DST_NAT
_EQUAL: Final = 0
_NOT_EQUAL: Final = 1
_AT_LEAST: Final = 5
_SOCKET_TRANSPARENT: Final = 0
_SOCKET_WILDCARD: Final = 2
_TO_THIS_HOST: Final = bytes(1)
"""PACKET_HOST, linux/if_packet.h."""
_INVERTED: Final = 1
_FIB_ADDRTYPE: Final = 3
_FIB_DESTINATION: Final = 1 << 1
_LOCAL: Final = 2  # RTN_LOCAL, linux/rtnetlink.h
_DNAT: Final = 1
_ADDRESS_AND_PORT: Final = 3  # NF_NAT_RANGE_MAP_IPS | NF_NAT_RANGE_PROTO_SPECIFIED
_UNREACHABLE: Final = 0
_RESET: Final = 1
_PORT_UNREACHABLE: Final = {False: 3, True: 4}
"""The codes of ICMP and ICMPv6."""

_INTERFACE_NAME_BYTES: Final = 16

_BIG = struct.Struct(">I")
_NATIVE = struct.Struct("=I")

DROP: Final = 0  # NF_DROP
RETURN: Final = -5
GOTO: Final = -4


def verdict_data(code: int, chain: str = "") -> bytes:
    """A verdict as the data of a map's element or of an expression."""
    named = text_attribute(2, chain) if chain else b""
    return attribute(_VERDICT, attribute(1, _BIG.pack(code & 0xFFFFFFFF)) + named)


def value_data(value: bytes) -> bytes:
    """A value as the key or the data of an element or of an expression."""
    return attribute(_VALUE, value)


def verdict(code: int, chain: str = "") -> bytes:
    """Ends a rule that matched: drop, return, or goto a chain."""
    return _expression("immediate", _number(1, 0), attribute(2, verdict_data(code, chain)))


def is_protocol(number: int) -> bytes:
    """Matches one transport protocol."""
    return load_protocol(0) + _compare(0, bytes([number]))


def load_protocol(word: int) -> bytes:
    return _expression("meta", _number(2, _META_L4PROTO), _number(1, _register(word)))


def load_address(word: int, *, ipv6: bool, source: bool = False) -> bytes:
    """The destination, or the `source`, of the packet."""
    offset = (8 if ipv6 else 12) if source else (24 if ipv6 else 16)
    return _payload(word, _NETWORK_HEADER, offset, 16 if ipv6 else 4)


def load_port(word: int) -> bytes:
    """The destination port."""
    return _payload(word, _TRANSPORT_HEADER, _DESTINATION_PORT, 2)


def load_value(word: int, value: bytes) -> bytes:
    return _expression("immediate", _number(1, _register(word)), attribute(2, value_data(value)))


def lookup(name: str, word: int, into: int | None = None, *, inverted: bool = False) -> bytes:
    """Matches what is in a set, or is not, and loads what a map has for it `into` a word."""
    found = b"" if into is None else _number(3, _register(into))
    flags = _number(5, _INVERTED if inverted else 0)
    return _expression("lookup", text_attribute(1, name), _number(2, _register(word)), found, flags)


def lookup_verdict(name: str, word: int) -> bytes:
    """Takes the verdict that a map has."""
    return _expression("lookup", text_attribute(1, name), _number(2, _register(word)), _number(3, 0), _number(5, 0))


def in_network(address: bytes, length: int, *, ipv6: bool) -> bytes:
    """Matches packets whose source is in a network."""
    return load_address(0, ipv6=ipv6, source=True) + _in_network(address, length)


def arrives_at(interface: str) -> bytes:
    """Matches packets by the name of the interface, or the beginning of it where ``+`` follows."""
    name = interface.encode()
    value = name[:-1] if name.endswith(b"+") else name.ljust(_INTERFACE_NAME_BYTES, b"\0")
    return _expression("meta", _number(2, _META_IIFNAME), _number(1, _register(0))) + _compare(0, value)


def is_to(address: bytes, *, ipv6: bool) -> bytes:
    """Matches packets to one address."""
    return load_address(0, ipv6=ipv6) + _compare(0, address)


def is_to_this_node() -> bytes:
    """Matches packets to an address of this node."""
    fib = _expression("fib", _number(1, _register(0)), _number(2, _FIB_ADDRTYPE), _number(3, _FIB_DESTINATION))
    return fib + _compare(0, _NATIVE.pack(_LOCAL))


def is_new() -> bytes:
    """Matches the first packet of a connection or flow."""
    return _ct(_CT_STATE) + _bitwise(0, _NATIVE.pack(_STATE_NEW)) + _compare(0, bytes(4), _NOT_EQUAL)


def is_not_translated() -> bytes:
    """Matches packets of connections whose destination no rule has changed."""
    return _ct(_CT_STATUS) + _bitwise(0, _NATIVE.pack(_STATUS_DNAT)) + _compare(0, bytes(4))


def dnat(address_word: int, port_word: int, *, ipv6: bool) -> bytes:
    """Leads the connection to the address and the port that stand in two words."""
    address, port = _register(address_word), _register(port_word)
    return _expression(
        "nat",
        _number(1, _DNAT),
        _number(2, 10 if ipv6 else 2),  # AF_INET6, AF_INET
        _number(3, address),
        _number(4, address),
        _number(5, port),
        _number(6, port),
        _number(7, _ADDRESS_AND_PORT),
    )


def reset() -> bytes:
    """Refuses a TCP connection."""
    return _expression("reject", _number(1, _RESET))


def unreachable(*, ipv6: bool) -> bytes:
    """Refuses with an ICMP error: nobody listens on the port."""
    return _expression("reject", _number(1, _UNREACHABLE), attribute(2, bytes([_PORT_UNREACHABLE[ipv6]])))


def is_for_transparent_socket() -> bytes:
    """Matches packets to a socket that has IP_TRANSPARENT; the kernel looks for it (nft_socket)."""
    return _socket(_SOCKET_TRANSPARENT)


def is_for_wildcard_socket() -> bytes:
    """Matches packets to a socket that is bound to no address. Takes Linux 5.11."""
    return _socket(_SOCKET_WILDCARD)


def set_mark(value: int, mask: int) -> bytes:
    """Sets those bits of the packet's mark that are in `mask`."""
    kept, bits = _NATIVE.pack(~mask & 0xFFFFFFFF), _NATIVE.pack(value)
    changed = _bitwise(0, kept, bits)
    return _meta(_META_MARK) + changed + _set_meta(_META_MARK)


def is_mark(value: int) -> bytes:
    """Matches packets that bear this mark."""
    return _meta(_META_MARK) + _compare(0, _NATIVE.pack(value))


def is_ethernet_type(number: int) -> bytes:
    """Matches frames that carry one protocol, such as 0x0800 for IPv4."""
    return _meta(_META_PROTOCOL) + _compare(0, number.to_bytes(2, "big"))


def has_network_byte(offset: int, value: int) -> bytes:
    """Matches one byte of the network header."""
    return _payload(0, _NETWORK_HEADER, offset, 1) + _compare(0, bytes([value]))


def has_network_bits(offset: int, mask: bytes) -> bytes:
    """Matches where any of these bits of the network header is set."""
    return (
        _payload(0, _NETWORK_HEADER, offset, len(mask)) + _bitwise(0, mask) + _compare(0, bytes(len(mask)), _NOT_EQUAL)
    )


def has_transport_byte(offset: int, value: int) -> bytes:
    """Matches one byte of the transport header."""
    return _payload(0, _TRANSPORT_HEADER, offset, 1) + _compare(0, bytes([value]))


def has_port_from(lowest: int, offset: int = _DESTINATION_PORT) -> bytes:
    """Matches a port that is no lower; `offset` is where it is in the transport header."""
    return _payload(0, _TRANSPORT_HEADER, offset, 2) + _compare(0, lowest.to_bytes(2, "big"), _AT_LEAST)


def is_to_network(address: bytes, length: int, *, ipv6: bool) -> bytes:
    """Matches packets whose destination is in a network."""
    return load_address(0, ipv6=ipv6) + _in_network(address, length)


def raise_to(hardware_address: bytes) -> bytes:
    """Has a bridge, whose address that is, give a frame to this host in place of another port."""
    to_bridge = load_value(0, hardware_address) + _expression(
        "payload",
        _number(5, _register(0)),
        _number(2, _LINK_HEADER),
        _number(3, 0),
        _number(4, len(hardware_address)),
        _number(6, 0),
        _number(7, 0),
        _number(8, 0),
    )
    return to_bridge + load_value(0, _TO_THIS_HOST) + _set_meta(_META_PACKET_TYPE)


def redirect_to_proxy(port_word: int, *, ipv6: bool) -> bytes:
    """Gives a packet to a transparent listener. A kernel that has such a rule defragments (nft_tproxy)."""
    return _expression("tproxy", _number(1, 10 if ipv6 else 2), _number(3, _register(port_word)))


def _in_network(address: bytes, length: int) -> bytes:
    bits = 8 * len(address)
    mask = ((1 << bits) - (1 << (bits - length))).to_bytes(len(address), "big")
    return (b"" if length == bits else _bitwise(0, mask)) + _compare(0, address)


def _socket(key: int) -> bytes:
    return _expression("socket", _number(1, key), _number(2, _register(0))) + _compare(0, b"\1")


def _meta(key: int) -> bytes:
    return _expression("meta", _number(2, key), _number(1, _register(0)))


def _set_meta(key: int) -> bytes:
    return _expression("meta", _number(2, key), _number(3, _register(0)))


def _payload(word: int, base: int, offset: int, length: int) -> bytes:
    return _expression("payload", _number(1, _register(word)), _number(2, base), _number(3, offset), _number(4, length))


def _ct(key: int) -> bytes:
    return _expression("ct", _number(1, _register(0)), _number(2, key))


def _compare(word: int, value: bytes, operator: int = _EQUAL) -> bytes:
    return _expression("cmp", _number(1, _register(word)), _number(2, operator), attribute(3, value_data(value)))


def _bitwise(word: int, mask: bytes, changed: bytes = b"") -> bytes:
    """Keeps the bits of `mask`, then turns those of `changed` over."""
    register = _number(1, _register(word)) + _number(2, _register(word))
    others = value_data(changed or bytes(len(mask)))
    return _expression(
        "bitwise",
        register,
        _number(3, len(mask)),
        _number(6, 0),
        attribute(4, value_data(mask)),
        attribute(5, others),
    )


def _register(word: int) -> int:
    """The kernel's number: 1 to 4 where one of the four old registers of 16 bytes begins, else 8 and on."""
    return 1 + word // 4 if word % 4 == 0 else 8 + word


def _expression(name: str, *attributes: bytes) -> bytes:
    return attribute(_EXPRESSION, text_attribute(_NAME, name) + attribute(_DATA, b"".join(attributes)))


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, _BIG.pack(value))
