"""What the kernel tells whoever asks it to: multicast messages of netlink, read by the event loop as they come.

Numbers of groups: linux/netfilter/nfnetlink.h and linux/rtnetlink.h.
"""

import asyncio
import socket
from collections.abc import Callable, Iterable
from typing import Final

from userproxy.portals import netlink

NFTABLES: Final = 7
"""Every transaction of nf_tables, whichever program it is of: nft, iptables-nft, firewalld, kube-proxy."""

LINK: Final = 1
IPV4_ADDRESS: Final = 5
IPV4_ROUTE: Final = 7
IPV4_RULE: Final = 8
IPV6_ADDRESS: Final = 9
IPV6_ROUTE: Final = 11
IPV6_RULE: Final = 19

_SOL_NETLINK: Final = 270  # linux/socket.h
_ADD_MEMBERSHIP: Final = 1  # linux/netlink.h

_AT_ONCE: Final = 16
"""Datagrams that are read in one turn of the loop. Those of a transaction have 3 KiB each, about 4 rules."""


def join(listening: socket.socket, group: int) -> None:
    """Have a socket told what the kernel tells a multicast group. Raises OSError."""
    listening.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)


class Subscription:
    """The messages of some multicast groups, on the running loop, until it is closed.

    `received` gets each datagram; `lost` is called where the socket's buffer was too small for what came, so that
    anything may have happened. Made in the thread whose network namespace is meant. Raises OSError where the kernel has
    no such groups, or lets this process not join them (those of netfilter take CAP_NET_ADMIN).
    """

    def __init__(
        self, protocol: int, groups: Iterable[int], received: Callable[[bytes], None], lost: Callable[[], None]
    ) -> None:
        self._received = received
        self._lost = lost
        self._overrun = False
        self._loop = asyncio.get_running_loop()
        self._socket = netlink.netlink_socket(protocol)
        try:
            self._socket.settimeout(0)
            self._socket.bind((0, 0))
            for group in groups:
                join(self._socket, group)
            self._loop.add_reader(self._socket.fileno(), self._read)
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def _read(self) -> None:
        if self._socket.fileno() < 0:
            return
        for _ in range(_AT_ONCE):
            try:
                data = self._socket.recv(netlink.CHUNK)
            except BlockingIOError:
                self._drained()
                return
            except OSError:  # ENOBUFS, which the kernel tells before what is left in the buffer
                self._listen_again()
                self._overrun = True
                self._lost()
                return
            self._received(data)
        if self._overrun:
            self._loop.call_soon(self._read)  # even if that was all: when it was has to be known

    def _drained(self) -> None:
        """After an overrun the kernel drops all that comes, and says no more about it, until everything is read."""
        if self._overrun:
            self._overrun = False
            self._lost()

    def _listen_again(self) -> None:
        """uvloop (libuv) stops to poll a descriptor that had an error, until it is registered anew."""
        self._loop.remove_reader(self._socket.fileno())
        self._loop.add_reader(self._socket.fileno(), self._read)
