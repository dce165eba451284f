"""At which ports programs listen in the calling thread's network namespace, as sock_diag(7) tells.

/proc/net/tcp has that, too, but the kernel looks through the connections of all namespaces for it: 10 ms of CPU each
time, in programs that ask every few milliseconds. Layout and numbers: linux/sock_diag.h, linux/inet_diag.h.
"""

import errno
import os
import socket
import struct
from typing import Final, Literal, TypeAlias

Transport: TypeAlias = Literal["tcp", "udp"]

_SOCK_DIAG: Final = 4  # NETLINK_SOCK_DIAG, linux/netlink.h
_BY_FAMILY: Final = 20  # SOCK_DIAG_BY_FAMILY
_DUMP: Final = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_ERROR, _DONE = 2, 3  # NLMSG_ERROR, NLMSG_DONE
_HEADER: Final = struct.Struct("=IHHII")  # struct nlmsghdr
_REQUEST: Final = struct.Struct("=BBBxI48x")  # struct inet_diag_req_v2
_PORT: Final = struct.Struct(">4xH")  # of struct inet_diag_msg, up to idiag_sport
_CODE: Final = struct.Struct("=i")
_CHUNK: Final = 1 << 16

_WAITING: Final = {
    "tcp": (socket.IPPROTO_TCP, 1 << 10),  # TCP_LISTEN, net/tcp_states.h
    "udp": (socket.IPPROTO_UDP, 1 << 7),  # TCP_CLOSE, in which UDP sockets are that are not connected
}


def listening_ports(transport: Transport) -> set[int]:
    """Ports at which something waits for anybody, at any address of either family. Raises OSError."""
    protocol, states = _WAITING[transport]
    ports: set[int] = set()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _SOCK_DIAG) as kernel:
        for family in (socket.AF_INET, socket.AF_INET6):
            request = _REQUEST.pack(family, protocol, 0, states)
            kernel.send(_HEADER.pack(_HEADER.size + len(request), _BY_FAMILY, _DUMP, 0, 0) + request)
            while _take(kernel.recv(_CHUNK), ports):
                pass
    return ports


def _take(data: bytes, ports: set[int]) -> bool:
    """Add the ports of one datagram of a dump; returns whether more are to come."""
    begin = 0
    while begin < len(data):
        length, kind, *_ = _HEADER.unpack_from(data, begin)
        body = begin + _HEADER.size
        if kind == _DONE:
            return False
        if kind == _ERROR:
            code = -_CODE.unpack_from(data, body)[0]
            if code == errno.ENOENT:  # a family or protocol that this kernel does not have
                return False
            raise OSError(code, os.strerror(code))
        ports.add(_PORT.unpack_from(data, body)[0])
        begin += (length + 3) & ~3
    return True
