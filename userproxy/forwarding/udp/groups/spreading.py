"""Which socket of a group takes a client's datagrams: a program for the kernel, and the same in Python.

The kernel would spread clients by a hash with a secret of its own (reuseport_select_sock(), net/core/sock_reuseport.c).
With a program of ours (SO_ATTACH_REUSEPORT_CBPF, socket(7)) it is known whose socket a client's is, so that a flow can
be handed to the process that will get its datagrams; and clients with affinity can be spread by address alone.
"""

import struct
from ipaddress import IPv6Address, ip_address
from typing import Final

_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_LOAD_HALF: Final = 0x28  # BPF_LD | BPF_H | BPF_ABS
_LOAD_HALF_BEHIND_X: Final = 0x48  # BPF_LD | BPF_H | BPF_IND
_LOAD_LENGTH_TO_X: Final = 0xB1  # BPF_LDX | BPF_B | BPF_MSH: four times the lower half of a byte
_LOAD_KEPT_TO_X: Final = 0x61  # BPF_LDX | BPF_W | BPF_MEM
_KEEP: Final = 0x02  # BPF_ST
_TO_X: Final = 0x07  # BPF_MISC | BPF_TAX
_ADD_X: Final = 0x0C  # BPF_ALU | BPF_ADD | BPF_X
_MULTIPLY: Final = 0x24  # BPF_ALU | BPF_MUL | BPF_K
_SHIFT_RIGHT: Final = 0x74  # BPF_ALU | BPF_RSH | BPF_K
_XOR_X: Final = 0xAC  # BPF_ALU | BPF_XOR | BPF_X
_REMAINDER: Final = 0x94  # BPF_ALU | BPF_MOD | BPF_K
_RETURN: Final = 0x16  # BPF_RET | BPF_A

_IP_HEADER: Final = -0x100000  # SKF_NET_OFF
_IPV6_HEADER_BYTES: Final = 40
_IPV4_SOURCE: Final = (12,)
_IPV6_SOURCE: Final = (8, 12, 16, 20)
"""Where the words of a source address are in an IP header."""

_FIRST, _SECOND = 0x9E3779B1, 0x85EBCA6B
"""Odd numbers with bits all over, of xxHash and MurmurHash3: a multiplication carries every bit upwards."""

_WORD: Final = 0xFFFFFFFF


def member_of(client: tuple[str, int], members: int, *, by_address: bool = False) -> int:
    """The number, from 0, of the socket that takes datagrams of a client; with `by_address`, whatever its port."""
    address, port = client
    source = ip_address(address)
    count = 4 if isinstance(source, IPv6Address) else 1
    value = 0
    for word in struct.unpack(f"!{count}I", source.packed):
        value = (value + word) * _FIRST & _WORD
    value = value + (0 if by_address else port) & _WORD
    value = (value ^ value >> 16) * _SECOND & _WORD
    return (value ^ value >> 15) % members


def program(members: int, *, is_ipv6: bool, by_address: bool) -> bytes:
    """The program that returns :func:`member_of`.

    The port is looked for right behind the header: behind extension headers of IPv6 it is not found, and a client who
    sends them is told apart by what they begin with.
    """
    words = _IPV6_SOURCE if is_ipv6 else _IPV4_SOURCE
    code = [_load(words[0]), _instruction(_MULTIPLY, _FIRST)]
    for at in words[1:]:
        code += [_instruction(_TO_X), _load(at), _instruction(_ADD_X), _instruction(_MULTIPLY, _FIRST)]
    if not by_address:
        code += _add_port(is_ipv6=is_ipv6)
    code += [_instruction(_TO_X), _instruction(_SHIFT_RIGHT, 16), _instruction(_XOR_X)]
    code += [_instruction(_MULTIPLY, _SECOND)]
    code += [_instruction(_TO_X), _instruction(_SHIFT_RIGHT, 15), _instruction(_XOR_X)]
    code += [_instruction(_REMAINDER, members), _instruction(_RETURN)]
    return b"".join(code)


def _add_port(*, is_ipv6: bool) -> list[bytes]:
    """Add the source port, the first field of a UDP header, to what is in the accumulator."""
    if is_ipv6:
        at = _IP_HEADER + _IPV6_HEADER_BYTES
        return [_instruction(_TO_X), _instruction(_LOAD_HALF, at), _instruction(_ADD_X)]
    return [
        _instruction(_KEEP, 0),
        _instruction(_LOAD_LENGTH_TO_X, _IP_HEADER),
        _instruction(_LOAD_HALF_BEHIND_X, _IP_HEADER),
        _instruction(_LOAD_KEPT_TO_X, 0),
        _instruction(_ADD_X),
    ]


def _load(at: int) -> bytes:
    return _instruction(_LOAD, _IP_HEADER + at)


def _instruction(code: int, value: int = 0) -> bytes:
    """struct sock_filter (linux/filter.h), without a jump."""
    return struct.pack("=HBBI", code, 0, 0, value & _WORD)
