"""What the kernel tells of changes to nftables: whether any of them was to our table.

Programs that have rules of their own there (container runtimes, network plug-ins) change them with every Pod. As long
as they leave ours alone, it need not be read again.
"""

import asyncio
import errno
import socket
from contextlib import suppress
from typing import Final

from userproxy.model import IPFamily
from userproxy.portals import netlink
from userproxy.portals.nftables.kernel import Kernel, unreachable
from userproxy.portals.nftables.messages import NEW_GENERATION, generation_in, request

_SOL_NETLINK: Final = 270  # linux/socket.h
_ADD_MEMBERSHIP: Final = 1  # NETLINK_ADD_MEMBERSHIP, linux/netlink.h
_GROUP: Final = 7  # NFNLGRP_NFTABLES, linux/netfilter/nfnetlink.h
_SO_RCVBUFFORCE: Final = 33  # asm-generic/socket.h
_BUFFER_BYTES: Final = 1 << 20


class Notices:
    """The changes in the network namespace of the calling thread, from now on, as seen by one family's table.

    Raises KernelToolError.
    """

    def __init__(self, family: IPFamily) -> None:
        ours = request(family)
        self._family, self._table = ours[0], ours[netlink.NETFILTER_HEADER_SIZE :]
        """What a notice of anything in our table begins with."""
        self._concerned = False
        self._touched = 0
        try:
            self._socket = _joined()
        except OSError as error:
            raise unreachable(error) from error
        self._latest: int | None = Kernel(family).generation()
        self._complete_since: int | None = self._latest

    async def wait(self) -> None:
        """Return once there is something to take in, on the running loop."""
        loop = asyncio.get_running_loop()
        heard: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._socket.fileno(), _finish, heard)
        try:
            await heard
        finally:
            loop.remove_reader(self._socket.fileno())

    def touched(self, since: int, until: int) -> bool:
        """Whether our table may have been changed by any of the changes after generation `since` up to `until`."""
        self._take_in()
        if self._complete_since is None or self._latest != until or self._complete_since > since:
            return True
        return self._touched > since

    def close(self) -> None:
        self._socket.close()

    def _take_in(self) -> None:
        with suppress(BlockingIOError):
            while True:
                try:
                    data = self._socket.recv(netlink.CHUNK)
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        raise
                    self._latest = self._complete_since = None  # more than the socket's buffer held
                else:
                    self._note(data)

    def _note(self, data: bytes) -> None:
        for kind, begin, end in netlink.messages(data):
            if kind != NEW_GENERATION:
                ours = data[begin] == self._family and data.startswith(
                    self._table, begin + netlink.NETFILTER_HEADER_SIZE
                )
                self._concerned = self._concerned or ours
                continue
            # It ends a transaction.
            generation = generation_in(data, begin, end)
            if self._latest is None or generation > self._latest + 1:
                self._complete_since = generation
            self._latest = generation
            if self._concerned:
                self._touched, self._concerned = generation, False


def _finish(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _joined() -> socket.socket:
    made = netlink.netlink_socket(netlink.NETFILTER)
    try:
        made.setblocking(False)  # noqa: FBT003 - as the library has it
        made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        made.bind((0, 0))  # what has no number of its own yet hears nothing
        made.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP)
    except OSError:
        made.close()
        raise
    return made
