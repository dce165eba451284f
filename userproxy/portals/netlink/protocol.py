"""Netlink messages and attributes: requests, and the answers as places in the datagrams in which they come.

Layout and numbers: linux/netlink.h.
"""

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from ipaddress import IPv6Address
from typing import TypeVar

from userproxy.addresses import SOCKET_FAMILIES
from userproxy.model import IPFamily

ROUTE = 0
NETFILTER = 12

ERROR = 2
DONE = 3
REQUEST = 0x1
ACK = 0x4
DUMP = 0x300

CHUNK = 1 << 16
"""More than the kernel ever puts into one datagram of a dump."""

T = TypeVar("T")

Place = tuple[int, int]
"""Where something begins and ends in a datagram."""

_PATIENCE = 5.0
"""Seconds to wait for one answer of the kernel, which comes at once or never."""
_TRIES = 10
_NESTED = 0x8000
_TYPE_MASK = 0x3FFF
_HEADER = struct.Struct("=IHHII")
_FLAGS = struct.Struct("=6xH")
_INTERRUPTED = 0x10  # NLM_F_DUMP_INTR
_ATTRIBUTE = struct.Struct("=HH")
_CODE = struct.Struct("=i")
_NETFILTER_HEADER = struct.Struct("=BBH")

NETFILTER_HEADER_SIZE = _NETFILTER_HEADER.size


def netlink_socket(protocol: int) -> socket.socket:
    """A socket to one part of the kernel. Raises OSError, as do its calls when the kernel does not answer."""
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    made.settimeout(_PATIENCE)
    return made


def dump(listing: socket.socket, kind: int, request: bytes) -> Iterator[tuple[bytes, list[Place]]]:
    """Each datagram of a dump, with the bodies of its messages.

    Raises OSError where the kernel refuses, and InterruptedError where the list changed meanwhile, as far as the kernel
    tells: what it gave may lack some and have others twice.
    """
    listing.send(message(kind, REQUEST | DUMP, request))
    done = False
    while not done:
        data = listing.recv(CHUNK)
        bodies = []
        for answer, begin, end in messages(data):
            if _FLAGS.unpack_from(data, begin - _HEADER.size)[0] & _INTERRUPTED:
                raise InterruptedError(errno.EINTR, "the list changed while the kernel gave it")
            if answer not in (ERROR, DONE):
                bodies.append((begin, end))
                continue
            done = True
            if end - begin >= _CODE.size:
                raise_for_code(data, begin)
        yield data, bodies


def settled(read: Callable[[], T]) -> T:
    """What `read` returns from a dump, asked again where something changed meanwhile.

    Raises InterruptedError where that happens again and again, and what `read` raises.
    """
    for _ in range(_TRIES - 1):
        with suppress(InterruptedError):
            return read()
    return read()


def get(asking: socket.socket, kind: int, request: bytes) -> None:
    """Ask for one object by its name. Raises OSError where there is none, or the kernel refuses."""
    asking.send(message(kind, REQUEST, request))
    data = asking.recv(CHUNK)
    for answer, begin, _ in messages(data):
        if answer == ERROR:
            raise_for_code(data, begin)


def netfilter_header(family: IPFamily) -> bytes:
    """What each request to a part of netfilter begins with (struct nfgenmsg, linux/netfilter/nfnetlink.h)."""
    return _NETFILTER_HEADER.pack(SOCKET_FAMILIES[family], 0, 0)


def raise_for_code(data: bytes, begin: int, unless: int = 0) -> int:
    """The error number that an answer holds, if it is 0 or `unless`. Raises OSError for any other."""
    code = error_code(data, begin)
    if code not in (0, unless):
        raise OSError(code, os.strerror(code))
    return code


def error_code(data: bytes, begin: int) -> int:
    """The error number that an answer holds; 0 is none."""
    return -int(_CODE.unpack_from(data, begin)[0])


def message(kind: int, flags: int, body: bytes, sequence: int = 0) -> bytes:
    """One message. Answers to it bear the number `sequence` (:func:`sequence_of`)."""
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, sequence, 0) + body + bytes(-len(body) % 4)


def messages(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Type, begin and end of the body of each message."""
    begin = 0
    while begin + _HEADER.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, begin)
        if length < _HEADER.size or begin + length > len(data):
            return
        yield kind, begin + _HEADER.size, begin + length
        begin += length + 3 & ~3


def sequence_of(data: bytes, begin: int) -> int:
    """The number of the message whose body begins there."""
    sequence: int = _HEADER.unpack_from(data, begin - _HEADER.size)[3]
    return sequence


def attribute(kind: int, body: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(body), kind) + body + bytes(-len(body) % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    return attribute(kind | _NESTED, b"".join(attributes))


def attributes(data: bytes, begin: int, end: int) -> dict[int, Place]:
    """The bodies of the attributes by type."""
    found = {}
    while begin + _ATTRIBUTE.size <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, begin)
        if length < _ATTRIBUTE.size or begin + length > end:
            break
        found[kind & _TYPE_MASK] = (begin + _ATTRIBUTE.size, begin + length)
        begin += length + 3 & ~3
    return found


def places(data: bytes, begin: int, end: int) -> Iterator[Place]:
    """The bodies of the attributes in their order: a list, whose attributes are all of one type."""
    while begin + _ATTRIBUTE.size <= end:
        length, _ = _ATTRIBUTE.unpack_from(data, begin)
        if length < _ATTRIBUTE.size or begin + length > end:
            return
        yield begin + _ATTRIBUTE.size, begin + length
        begin += length + 3 & ~3


def whole(data: bytes, begin: int, end: int) -> bytes:
    """An attribute just as it came, header and padding included."""
    return data[begin - _ATTRIBUTE.size : end] + bytes(-(end - begin) % 4)


def text_attribute(kind: int, text: str) -> bytes:
    """An attribute that is a text, with a zero at its end."""
    return attribute(kind, text.encode() + b"\0")


def text_at(data: bytes, begin: int, end: int) -> str:
    """The text in the body of an attribute, which need not end with a zero."""
    return bytes(data[begin:end]).rstrip(b"\0").decode(errors="replace")


def text_of(data: bytes, found: Mapping[int, Place], kind: int) -> str:
    """The text of one of the attributes `found`; empty where there is none of that kind."""
    return text_at(data, *found[kind]) if kind in found else ""


def address_text(data: bytes, begin: int, end: int) -> str:
    """An IP address as canonical text."""
    raw = data[begin:end]
    if len(raw) == 4:
        return socket.inet_ntop(socket.AF_INET, raw)
    text = socket.inet_ntop(socket.AF_INET6, raw)
    # The C library writes the end of some addresses in IPv4's way, ipaddress does not.
    return str(IPv6Address(raw)) if "." in text else text
