"""UDP listeners whose socket another process has opened, and holds."""

import os
from typing import Final

import structlog

from userproxy.forwarding.poller import DATAGRAMS
from userproxy.forwarding.udp.listener import UdpListener
from userproxy.forwarding.udp.portal import UdpPortal
from userproxy.forwarding.udp.sockets import dropped

log = structlog.get_logger()

_RETRY_SECONDS: Final = 1.0


class SharedUdpListener(UdpListener):
    """Takes datagrams from a copy of a socket. Whether the kernel lets any in is the business of its holder."""

    def _opened(self) -> None:
        # The kernel has counted since the socket was opened, perhaps for a process before this one.
        self.statistics.add_dropped(-dropped(self._socket))
        super()._opened()

    def renew(self, descriptor: int) -> None:
        """Go on with another socket, to the kernel, in place of the one so far. Takes over its descriptor."""
        try:
            self.statistics.unwatch(self._socket)
            os.dup2(descriptor, self.descriptor, inheritable=False)
            self.statistics.watch(self._socket)
            if self._watched:
                self.plane.poller.add(self.descriptor, DATAGRAMS, self._on_event, self)
        finally:
            os.close(descriptor)

    def _switch(self) -> None:
        """Begin to read, at the first snapshot; after that the holder of the socket has done all there is to do."""
        self._retry = None
        self._verdict = self._wanted
        if self._watched:
            return
        try:
            self.plane.poller.add(self.descriptor, DATAGRAMS, self._on_event, self)
            self._watched = True
        except OSError as error:
            log.error("A UDP listener does not follow yet", service_port=str(self.name), reason=error.strerror)
            self._retry = self.plane.loop.call_later(_RETRY_SECONDS, self._switch)


class SharedUdpPortal(SharedUdpListener, UdpPortal):
    """The socket at a portal, shared."""

    def _opened(self) -> None:
        """It has no port of its own that an endpoint might name."""
        self.statistics.add_dropped(-dropped(self._socket))
