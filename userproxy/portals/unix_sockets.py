"""Whose an abstract Unix socket is, without asking it: a full queue of connections, or none, keeps nothing from us."""

import socket
import struct
from pathlib import Path
from typing import Final

from userproxy.portals.netlink import CHUNK, REQUEST, attributes, message, messages, netlink_socket

_SOCK_DIAG: Final = 4  # NETLINK_SOCK_DIAG, linux/netlink.h
_BY_FAMILY: Final = 20  # SOCK_DIAG_BY_FAMILY, linux/sock_diag.h
_SHOW_UID: Final = 0x40  # UDIAG_SHOW_UID, linux/unix_diag.h, since Linux 5.3
_UID_ATTRIBUTE: Final = 7  # UNIX_DIAG_UID
_UNCONNECTED: Final = "01"  # SS_UNCONNECTED, linux/net.h, which a listening socket is
_ANY: Final = 0xFFFFFFFF

_REQUEST: Final = struct.Struct("=BBHIIIII")  # struct unix_diag_req
_ANSWER_BYTES: Final = 16  # struct unix_diag_msg
_UID: Final = struct.Struct("=I")


def user_of(name: str) -> int | None:
    """The user who made the socket that is bound to the abstract `name` in this thread's network namespace.

    None where there is no such socket, or the kernel does not tell.
    """
    try:
        inode = _inode(name)
        if inode is None:
            return None
        request = _REQUEST.pack(socket.AF_UNIX, 0, 0, _ANY, inode, _SHOW_UID, _ANY, _ANY)
        with netlink_socket(_SOCK_DIAG) as asking:
            asking.send(message(_BY_FAMILY, REQUEST, request))
            data = asking.recv(CHUNK)
    except OSError:
        return None
    for kind, begin, end in messages(data):
        place = attributes(data, begin + _ANSWER_BYTES, end).get(_UID_ATTRIBUTE) if kind == _BY_FAMILY else None
        if place is not None:
            user: int = _UID.unpack_from(data, place[0])[0]
            return user
    return None


def _inode(name: str) -> int | None:
    # /proc/net is the main thread's namespace.
    for line in Path("/proc/thread-self/net/unix").read_text(errors="replace").splitlines():
        fields = line.split()
        if fields[-1] == f"@{name}" and fields[5] == _UNCONNECTED:  # who is connected to it has its name, too
            return int(fields[6])
    return None
