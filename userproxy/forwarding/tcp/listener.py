"""A TCP listener: the socket that portals of one service port lead to."""

from collections import deque
from collections.abc import Iterable
from socket import SocketType
from typing import ClassVar, Final

import structlog

from userproxy.forwarding.descriptors import PER_CONNECTION, is_shortage
from userproxy.forwarding.observation.recorder import Peer, Portal
from userproxy.forwarding.poller import STREAM
from userproxy.forwarding.tcp.connections import Connections
from userproxy.forwarding.tcp.plane import TcpPlane
from userproxy.forwarding.tcp.relays.accounts import TcpStatistics
from userproxy.forwarding.tcp.sockets import (
    ListeningSocket,
    dialled_portal,
    has_connection,
    queued,
    quiet_seconds,
    reset_on_close,
)
from userproxy.model import Snapshot, Verdict
from userproxy.routing.balancer import Balancer

log = structlog.get_logger()

_RETRY_SECONDS: Final = 1.0
"""Pause after an error of accept(2), or of ours, that is neither a client's nor a shortage; the original has none."""


class TcpListener:
    """Accepts clients while descriptors last and hands them to `connections`.

    Each accepted client has two descriptors taken from the budget, its own and its backend's; they are given back
    when the connection ends. A client that `connections` raises an exception for is reset and accounted for here,
    and the next one is served. With `portals_only` a client that dialled the listener itself,
    rather than a portal that leads to it, is reset: the random port is no way around portal rules.

    While descriptors are short, :class:`~userproxy.forwarding.shares.Shares` decides which clients wait. The address of
    a client shows only once it is accepted, so a few are held accepted while the rest waits in the kernel's queue.

    Until the first snapshot it treats clients by `verdict`, as the socket does already.
    """

    __slots__ = (
        "_accepting",
        "_budget",
        "_closed",
        "_held",
        "_plane",
        "_poller",
        "_portal",
        "_portals_only",
        "_share",
        "_shares",
        "_socket",
        "_verdict",
        "connections",
        "name",
        "port",
    )

    accepts_per_turn: ClassVar[int] = 64

    def __init__(
        self,
        plane: TcpPlane,
        sock: ListeningSocket,
        connections: Connections,
        *,
        portals_only: bool,
        verdict: Verdict = Verdict.REJECT,
    ) -> None:
        """Take over a bound socket. Raises OSError where the kernel can watch no more; the socket is then left open."""
        self._plane = plane
        self._poller = plane.poller
        self._budget = plane.budget
        self._shares = plane.shares
        self._share = plane.shares.of(connections.name.service_port)
        self._held: deque[tuple[SocketType, Peer]] = deque()
        """Clients who were accepted while the service port may have no more, and whom nobody has made room for yet."""
        self._socket = sock
        self._portals_only = portals_only
        self._portal: Portal = None if portals_only else sock.getsockname()
        self._verdict = verdict
        self._accepting = sock.listening
        self._closed = False
        self.connections = connections
        self.name = connections.name
        self.port = sock.port
        plane.poller.add(sock.fileno(), STREAM, self._on_event, self)
        self._opened()

    @property
    def balancer(self) -> Balancer:
        """Chooses endpoints for new clients."""
        return self.connections.balancer

    @property
    def statistics(self) -> TcpStatistics:
        """What it has done so far."""
        return self.connections.statistics

    def follow(self, snapshot: Snapshot) -> None:
        """Treat new clients by the snapshot's verdict; the balancer knows its endpoints already.

        Established connections stay, except those to an endpoint that the snapshot does not know.
        """
        if snapshot.verdict is not self._verdict:
            self._verdict = snapshot.verdict
            self._set_verdict()
        self.connections.follow(snapshot)

    @property
    def socket(self) -> ListeningSocket:
        """What clients come to."""
        return self._socket

    @property
    def verdict(self) -> Verdict:
        """How clients are treated now."""
        return self._verdict

    @property
    def held(self) -> Iterable[tuple[SocketType, Peer]]:
        """Clients who are accepted and wait for descriptors."""
        return self._held

    def adopt_held(self, client: SocketType, peer: Peer) -> None:
        """Have a client of another process wait, who is accepted there and waits for descriptors."""
        self._budget.adopt(PER_CONNECTION)
        self._held.append((client, peer))
        self._shares.hold(1)

    def adopted(self) -> None:
        """Begin to serve clients that were adopted."""
        if self._held:
            self._budget.wait(self._resume)

    def forsake(self) -> None:
        """Close our copies of its sockets: they are another process's, and no client is told."""
        self._closed = True
        self._accepting = False
        for client, _ in self._held:
            client.close()
        if self._share.gate is not None:  # which would look at the queue of a socket that is closed
            self._share.gate.forget(self)
        self._socket.close()

    def close(self) -> None:
        """Serve the clients that the kernel has already accepted for us, then refuse new ones."""
        if not self._closed:
            self._accept_all()
            self._serve_held()
            if self._share.gate is not None:
                self._share.gate.forget(self)
            self._closed = True
            self._accepting = False
            self._budget.give_port()
            self._poller.close(self._socket)
            self._let_go()

    @property
    def holds(self) -> int:
        """How many clients are accepted and not served."""
        return len(self._held)

    @property
    def queued(self) -> int:
        """How many clients wait in the kernel's queue."""
        return queued(self._socket)

    @property
    def somebody_waits(self) -> bool:
        """Whether there is a client who is not served, accepted or not."""
        return bool(self._held) or has_connection(self._socket)

    def resume(self) -> None:
        """Accept clients as far as they may come in."""
        if not self._closed:
            self._resume()

    def expire_waiting(self, seconds: float, reason: str) -> float | None:
        """Refuse clients who have waited for so long; how long the next one may wait yet, None if there is none.

        How long that is shows once one is accepted: the handshake was the last that was said to it. Of very many, some
        are left to another turn: 0 seconds are left then.
        """
        for _ in range(self.accepts_per_turn):
            if not (self._accepting and (self._held or self._hold_next())):
                return None
            left = seconds - quiet_seconds(self._held[0][0])[1]
            if left > 0:
                return left
            client, peer = self._release_held()
            self.connections.limited(peer, self._portal, reason)
            self._refuse(client)
        return 0.0

    def abort(self) -> None:
        """Accepting has failed: go on after a pause. For the poller."""
        if not self._closed:
            self._plane.loop.call_later(_RETRY_SECONDS, self._resume)

    def _opened(self) -> None:
        self._plane.listener_addresses.add(self.name.family, self._socket.getsockname()[0], self.port)

    def _let_go(self) -> None:
        self._plane.listener_addresses.discard(self.name.family, self.port)
        self.connections.left()

    def _set_verdict(self) -> None:
        if self._closed:
            return
        try:
            self._socket.set_verdict(self._verdict)
        except OSError as error:
            log.error(
                "New clients are not yet treated as they should be",
                service_port=str(self.name),
                verdict=self._verdict,
                reason=error.strerror,
            )
            self._plane.loop.call_later(_RETRY_SECONDS, self._set_verdict)
        self._accepting = self._socket.listening
        if not self._accepting:
            self._refuse_held()

    def _refuse_held(self) -> None:
        while self._held:
            client, peer = self._release_held()
            self.connections.refused(peer, self._portal, "no endpoint is left")
            self._refuse(client)

    def _on_event(self, _events: int) -> None:
        """Accept clients who wait; of those who come meanwhile there will be another event.

        How many there are is asked once: accept(2) in vain costs ten times as much, and so does the exception. Who was
        accepted only to be held is not served yet, so there is another turn, which waits for room if there is none.
        """
        if not self._accepting:
            return
        waiting = queued(self._socket) + len(self._held)
        if not waiting and self._share.gate is not None:
            waiting = 1  # the gate is to know that nobody waits here any more
        for _ in range(min(waiting, self.accepts_per_turn)):
            if not self._accept_one():
                return
        if waiting > self.accepts_per_turn or self._held:
            self._poller.again(self._on_event, self)

    def _accept_all(self) -> None:
        try:
            while self._accept_one():
                pass
        except Exception as error:  # noqa: BLE001 -- it is to close all the same
            self._poller.failures.note(error)

    def _resume(self) -> None:
        try:
            self._on_event(0)
        except Exception as error:  # noqa: BLE001 -- whoever calls has other listeners to care for
            self._poller.failed(self, error)

    def _accept_one(self) -> bool:
        """Whether to go on: False once nobody waits, or nobody can be served now."""
        if not self._accepting:
            return False
        gate = self._share.gate
        if gate is not None and not gate.may_accept(self):
            return False
        has_room = self._shares.take(self._share) or (self.somebody_waits and self._shares.make_room(self._share))
        if has_room:
            if self._held:
                self._budget.give(PER_CONNECTION)  # it has its own since it was accepted
                self._serve(*self._release_held())
                return True
        elif self._serve_favoured():
            return True
        elif not self._may_look():
            return False
        try:
            client, peer = self._socket.accept_client()
        except OSError as error:
            self._budget.give(PER_CONNECTION)
            return self._survive(error)
        except BaseException:
            self._budget.give(PER_CONNECTION)
            raise
        if has_room or self._shares.prefers(self._share, peer[0]):
            self._serve(client, peer)
        else:
            self._held.append((client, peer))
            self._shares.hold(1)
        return True

    def _hold_next(self) -> bool:
        """Accept the client who has waited for longest, without serving it; False if that cannot be done now."""
        if not has_connection(self._socket) or not self._budget.take(PER_CONNECTION):
            return False
        try:
            client, peer = self._socket.accept_client()
        except OSError:
            self._budget.give(PER_CONNECTION)
            return False
        self._held.append((client, peer))
        self._shares.hold(1)
        return True

    def _may_look(self) -> bool:
        """Take descriptors to see whose client is next; else wait until there may be room, if there is anybody."""
        has_next = has_connection(self._socket)
        if has_next and self._shares.take_to_look(len(self._held)):
            return True
        if has_next or self._held:
            self._budget.wait(self._resume)
        return False

    def _release_held(self) -> tuple[SocketType, Peer]:
        self._shares.hold(-1)
        return self._held.popleft()

    def _serve_favoured(self) -> bool:
        """Serve a held client for whom another address makes room now."""
        for _ in range(len(self._held)):
            if self._shares.prefers(self._share, self._held[0][1][0]):
                self._serve(*self._release_held())
                return True
            self._held.rotate(-1)
        return False

    def _serve_held(self) -> None:
        while self._held:
            self._serve(*self._release_held())

    def _serve(self, client: SocketType, peer: Peer) -> None:
        try:
            portal: Portal = dialled_portal(client, self.port) if self._portals_only else self._portal
            gate = self._share.gate
            if portal is None:
                log.debug("Client refused: it dialled the local port, not a portal", v=2, service_port=str(self.name))
                self.connections.refused(peer, client.getsockname(), "it dialled the local port, not a portal")
                self._refuse(client)
            elif gate is not None and (reason := gate.admit()):
                self.connections.limited(peer, portal, reason)
                self._refuse(client)
            else:
                self.connections.serve(client, peer, portal)
        except Exception as error:  # noqa: BLE001 -- one client's bug must not cost the others
            self._poller.failures.note(error)
            self._refuse(client)

    def _refuse(self, client: SocketType) -> None:
        reset_on_close(client)
        client.close()
        self._budget.give(PER_CONNECTION)

    def _survive(self, error: OSError) -> bool:
        if isinstance(error, BlockingIOError):
            return False
        if isinstance(error, ConnectionAbortedError):
            self._poller.again(self._on_event, self)  # this client is gone already, the next may wait (accept(2))
            return True
        if is_shortage(error):
            self._budget.wait(self._resume, refused_by_kernel=True)
        else:
            log.error("Accepting pauses", service_port=str(self.name), reason=error.strerror)
            self._plane.loop.call_later(_RETRY_SECONDS, self._resume)
        return False
