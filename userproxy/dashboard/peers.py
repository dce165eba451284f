"""Whose program is at the other end of a connection on loopback.

TCP has no credentials of the peer, but the peer's socket is one of this machine, and the kernel's list of sockets says
whose that is. So a token, or a cookie, is of no use to another user who has got to know it: links stand in the list of
processes when a browser is started, and browsers send cookies to all ports of an address, whoever listens there.
"""

import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from userproxy.model import Endpoint
from userproxy.portals.netlink.sock_diag import user_of_connection


def users_of_page(environ: Mapping[str, str] = os.environ, user: int | None = None) -> frozenset[int]:
    """Whose programs may ask: those of the user who has started the command, also where that was by sudo."""
    own = os.geteuid() if user is None else user
    caller = environ.get("SUDO_UID", "")
    return frozenset({own, int(caller)} if own == 0 and caller.isdecimal() else {own})


def user_of(ours: Endpoint, theirs: Endpoint) -> int | None:
    """The user whose socket is connected from `theirs` to `ours`, both IPv4. None where there is no such socket."""
    try:
        user = user_of_connection(theirs, ours)
    except OSError:
        user = None
    if user is not None:
        return user
    try:  # a kernel without tcp_diag finds nothing, too
        return _listed(Path("/proc/thread-self/net/tcp").read_text("ascii"), theirs, ours)
    except OSError:
        return None


def _listed(table: str, address: Endpoint, peer: Endpoint) -> int | None:
    """The user of a connection in the kernel's `table` (proc(5)). One without an inode is nobody's any more."""
    ends = [_hexadecimal(address), _hexadecimal(peer)]
    for line in table.splitlines()[1:]:
        fields = line.split()
        if fields[1:3] == ends:
            return int(fields[7]) if int(fields[9]) else None
    return None


def _hexadecimal(end: Endpoint) -> str:
    number = int.from_bytes(socket.inet_aton(end.ip), sys.byteorder)
    return f"{number:08X}:{end.port:04X}"
