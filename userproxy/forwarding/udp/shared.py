"""UDP listeners whose socket another process has opened, and holds."""

import os
from collections.abc import Sequence
from typing import Final

import structlog

from userproxy.forwarding.poller import DATAGRAMS
from userproxy.forwarding.udp.datagrams import BATCH, receive_batch
from userproxy.forwarding.udp.groups.further import inode_of
from userproxy.forwarding.udp.listener import UdpListener
from userproxy.forwarding.udp.portal import UdpPortal
from userproxy.forwarding.udp.sockets import dropped

log = structlog.get_logger()

_RETRY_SECONDS: Final = 1.0

_MOST_BATCHES: Final = 64
"""More than wait in a socket, so that an end comes."""


class SharedUdpListener(UdpListener):
    """Takes datagrams from a copy of a socket. Whether the kernel lets any in is the business of its holder."""

    def _opened(self) -> None:
        self._opened_anew()
        super()._opened()

    def read_from(self, descriptors: Sequence[int]) -> None:
        """Go on with these sockets of a group, at least one. Takes over descriptors. Raises OSError."""
        found = {inode_of(each): each for each in descriptors}
        own = inode_of(self.descriptor)
        if own in found:
            os.close(found.pop(own))
        else:
            self._empty()
            try:
                self._renew(found.pop(next(iter(found))))
            except OSError:
                for each in found.values():
                    os.close(each)
                raise
        if found or self.further is not None:
            self.read_also(list(found.values()))

    def _empty(self) -> None:
        """Serve those whose datagrams wait in its own socket, which is left: what comes now comes elsewhere."""
        for _ in range(_MOST_BATCHES if self._watched else 0):
            count = receive_batch(self.descriptor, self.inbox.headers, BATCH, 0, None)
            if count > 0:
                self.take(count)
            if count < BATCH:
                return

    def _renew(self, descriptor: int) -> None:
        """Go on with another socket, to the kernel, in place of its own so far. Takes over the descriptor."""
        try:
            self.statistics.unwatch(self._socket)
            # Others have copies of the socket: the kernel would go on to tell us of what they get.
            self.plane.poller.forget(self._socket)
            os.dup2(descriptor, self.descriptor, inheritable=False)
            self._opened_anew()
            self.statistics.watch(self._socket)
            if self._watched:
                self.plane.poller.add(self.descriptor, DATAGRAMS, self.read, self)
        finally:
            os.close(descriptor)

    def _opened_anew(self) -> None:
        # The kernel has counted since the socket was opened, perhaps for a process before this one.
        self.statistics.add_dropped(-dropped(self._socket))

    def _switch(self) -> None:
        """Begin to read, at the first snapshot; after that the holder of the socket has done all there is to do."""
        self._retry = None
        self._verdict = self._wanted
        if self._watched:
            return
        try:
            self._watch()
        except OSError as error:
            log.error("A UDP listener does not follow yet", service_port=str(self.name), reason=error.strerror)
            self._retry = self.plane.loop.call_later(_RETRY_SECONDS, self._switch)


class SharedUdpPortal(SharedUdpListener, UdpPortal):
    """The socket at a portal, shared."""

    def _opened(self) -> None:
        """It has no port of its own that an endpoint might name."""
        self._opened_anew()
