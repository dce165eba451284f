"""TCP listeners whose socket another process has opened, and from which other processes accept, too.

That process decides on the socket's verdict and closes it last, see :mod:`userproxy.processes`.
"""

import asyncio
import errno
from typing import ClassVar, Final

from userproxy.forwarding.accept_turns import AcceptTurns
from userproxy.forwarding.tcp.connections import Connections
from userproxy.forwarding.tcp.listener import TcpListener
from userproxy.forwarding.tcp.plane import TcpPlane
from userproxy.forwarding.tcp.portal import TcpPortal
from userproxy.forwarding.tcp.sockets import ListeningSocket
from userproxy.model import Verdict

_LEFT_TO_OTHERS_SECONDS: Final = 0.001

_LEFT_TO_FIRST_SECONDS: Final = 2.0
"""How long the first of the processes may take to accept clients who are to be held."""


class SharedTcpListener(TcpListener):
    """Accepts its share of the clients of a socket."""

    __slots__ = ("_later", "_missed", "_turns")

    accepts_per_turn: ClassVar[int] = 4

    def __init__(
        self,
        plane: TcpPlane,
        sock: ListeningSocket,
        connections: Connections,
        turns: AcceptTurns,
        *,
        portals_only: bool,
        verdict: Verdict = Verdict.REJECT,
    ) -> None:
        """Take over a copy of the socket. Raises OSError as :class:`TcpListener` does.

        Unless `verdict` lets clients in, they wait for the first snapshot.
        """
        self._turns = turns
        self._later: asyncio.TimerHandle | None = None
        self._missed = False
        """Whether there was an event while nobody was accepted."""
        # Of the base by its name: a portal's comes between, and has other arguments.
        TcpListener.__init__(self, plane, sock, connections, portals_only=portals_only, verdict=verdict)
        self._accepting = verdict is not Verdict.REJECT

    def close(self) -> None:
        """Serve the clients that wait, then refuse new ones, as far as other processes do not serve them."""
        if self._later is not None:
            self._later.cancel()
        super().close()

    def leave(self) -> None:
        """Close, and leave the clients that wait to the other processes."""
        self.accept_nobody()
        self.close()

    def accept_nobody(self) -> None:
        """Leave all clients to other processes from now on. The socket stays open."""
        self._accepting = False

    def look(self) -> None:
        """Accept clients that nobody tells us of, because a process has ended that was told."""
        self._poller.again(self._on_event, self)

    def _on_event(self, events: int) -> None:
        """Accept clients unless they are to be left to others.

        Those who are to be held are accepted by one process, so that they keep the order in which they came.
        """
        if not self._accepting:
            self._missed = True
            return
        if self.connections.holds:
            if not self._turns.is_first:
                self._leave_for(_LEFT_TO_FIRST_SECONDS)
                return
        elif self._turns.others_first(self._plane.active):
            self._leave_for(_LEFT_TO_OTHERS_SECONDS)
            return
        self._accept_some(events)

    def _leave_for(self, seconds: float) -> None:
        if self._later is None:
            self._later = self._plane.loop.call_later(seconds, self._accept_what_is_left)

    def _accept_what_is_left(self) -> None:
        self._later = None
        if not self._closed:
            try:
                self._accept_some(0)
            except Exception as error:  # noqa: BLE001 -- the loop has other listeners to care for
                self._poller.failed(self, error)

    def _accept_some(self, events: int) -> None:
        before = self.connections.statistics.accepted
        super()._on_event(events)
        self._turns.accepted(self.connections.statistics.accepted - before)
        self._turns.mine(self._plane.active)

    def _set_verdict(self) -> None:
        """Follow the socket, which treats clients so already."""
        self._accepting = self._verdict is not Verdict.REJECT
        if not self._accepting:
            self._refuse_held()
        elif self._missed:
            self._missed = False
            self.look()  # they may have come before we were told

    def _survive(self, error: OSError) -> bool:
        if error.errno == errno.EINVAL:  # it listens no longer, of which we shall be told
            return False
        return super()._survive(error)


class SharedTcpPortal(SharedTcpListener, TcpPortal):
    """The listening socket at a portal, shared."""

    __slots__ = ()

    def __init__(self, plane: TcpPlane, sock: ListeningSocket, connections: Connections, turns: AcceptTurns) -> None:
        """Take over a copy of the socket. Raises OSError as :class:`TcpListener` does."""
        SharedTcpListener.__init__(self, plane, sock, connections, turns, portals_only=False, verdict=Verdict.SERVE)

    def _let_go(self) -> None:
        """The others go on to accept from it."""
