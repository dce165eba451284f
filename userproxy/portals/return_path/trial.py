"""Whether the kernel does what the way back takes, tried in a network namespace of its own. Blocking."""

import ctypes
import fcntl
import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Final

from msgspec import Struct

from userproxy.addresses import IPFamily
from userproxy.errors import KernelToolError
from userproxy.portals.return_path.marks import Mark
from userproxy.portals.return_path.rules import PodBridge
from userproxy.portals.return_path.standing import Standing
from userproxy.portals.return_path.surroundings import Surroundings

_NEW_NETWORK: Final = 0x40000000  # CLONE_NEWNET, linux/sched.h
_SET_FLAGS: Final = 0x8914  # SIOCSIFFLAGS, linux/sockios.h
_IFF_UP: Final = 1
_LINK: Final = struct.Struct("16sh22x")  # struct ifreq
_SOME_BRIDGE: Final = {
    IPFamily.IPV4: PodBridge("192.0.2.0/24", bytes([2, 0, 0, 0, 0, 1])),
    IPFamily.IPV6: PodBridge("2001:db8::/64", bytes([2, 0, 0, 0, 0, 1])),
}
"""Networks for documentation (RFC 5737, RFC 3849)."""


class Refusals(Struct, frozen=True):
    """What the kernel refuses: `all` of the way back, or only that between Pods `within_bridges`; empty for nothing."""

    all: str = ""
    within_bridges: str = ""


def refusals(family: IPFamily, mark: Mark) -> Refusals | None:
    """What the kernel refuses of the way back; None where that is not tried, since a namespace takes CAP_SYS_ADMIN."""
    with ThreadPoolExecutor(max_workers=1) as apart:
        return apart.submit(_refusals, family, mark).result()


def _refusals(family: IPFamily, mark: Mark) -> Refusals | None:
    """For a thread that ends after this."""
    if ctypes.CDLL(None, use_errno=True).unshare(_NEW_NETWORK):
        return None
    try:
        _raise_loopback()
        with closing(Standing(family, mark, guard=False)) as standing:
            return Refusals(within_bridges=standing.write(Surroundings(bridges=(_SOME_BRIDGE[family],))))
    except KernelToolError as error:
        return Refusals(str(error))
    except OSError as error:
        return Refusals(f"the kernel refuses policy routing: {error.strerror or error}")


def _raise_loopback() -> None:
    """The route is one of the loopback link, which is down in a new namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SET_FLAGS, _LINK.pack(b"lo", _IFF_UP))
