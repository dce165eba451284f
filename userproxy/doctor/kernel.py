"""What userproxy asks of the kernel beside rules."""

import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from userproxy.addresses import IPFamily
from userproxy.config import PortalMode, Settings
from userproxy.doctor.findings import Outcome, ok, warn
from userproxy.doctor.sysctls import read_number
from userproxy.model import Protocol
from userproxy.portals import netlink
from userproxy.portals.netlink.sock_diag import listened_on, why_not

_GET_ENTRY: Final = 0x101  # NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET, linux/netfilter/nfnetlink_conntrack.h
_NOBODY: Final = "192.0.2.1"
"""For documentation (RFC 5737)."""
_FULL: Final = 0.9


def modules(settings: Settings) -> Iterator[Outcome]:
    """Lists of sockets and of tracked connections: parts of the kernel that may be modules, and not loaded."""
    try:
        listened_on(IPFamily.IPV4, [(_NOBODY, protocol, 1) for protocol in Protocol if protocol is not Protocol.SCTP])
        yield ok("the kernel tells who listens on which port (inet_diag, tcp_diag, udp_diag)")
    except OSError as error:
        yield warn(
            f"the kernel does not tell who listens on which port: {why_not(error)}",
            "modprobe tcp_diag udp_diag; else conflicts with programs of the node are found only as a failed bind",
        )
    if settings.portals in (PortalMode.LOCAL, PortalMode.NONE):
        return
    try:
        _list_connections()
        yield ok("the kernel lists and deletes tracked connections (nf_conntrack, nf_conntrack_netlink)")
    except OSError as error:
        yield warn(
            f"the kernel does not list tracked connections: {error.strerror or error}",
            "modprobe nf_conntrack_netlink; else UDP clients may stay with what an older rule said",
        )


def conntrack(settings: Settings) -> Iterator[Outcome]:
    """How full the table of tracked connections is."""
    folder = Path("/proc/sys/net/netfilter")
    if settings.portals in (PortalMode.LOCAL, PortalMode.NONE):
        yield ok(f"--portals {settings.portals} needs no connection tracking")
    else:
        yield fullness(read_number(folder / "nf_conntrack_count"), read_number(folder / "nf_conntrack_max"))


def fullness(count: int | None, most: int | None) -> Outcome:
    """What it means that `count` connections are tracked, of at most so many; None is not known, 0 no limit. Pure."""
    if count is None or most is None:
        return warn("nf_conntrack is not loaded", "modprobe nf_conntrack, unless rules that need it load it")
    text = f"{count} of {most} connections are tracked"
    if most and count >= _FULL * most:
        return warn(
            f"{text}: new ones are dropped when the table is full",
            "raise net.netfilter.nf_conntrack_max (--conntrack-max-per-core), or take --portals local",
        )
    return ok(text)


def _list_connections() -> None:
    """Raises OSError where the kernel has no such list."""
    with closing(netlink.netlink_socket(netlink.NETFILTER)) as kernel:
        next(netlink.dump(kernel, _GET_ENTRY, bytes([socket.AF_INET, 0, 0, 0])), None)
