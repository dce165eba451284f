"""Dialling: tries endpoints for a client until one accepts the connection. No dial delays another."""

import asyncio
import time
from collections.abc import Callable
from errno import EINPROGRESS
from socket import SO_ERROR, SOL_SOCKET, SocketType
from typing import Final, Protocol

import structlog

from userproxy.forwarding.client_addresses import Sources
from userproxy.forwarding.deadlines import DeadlineQueue
from userproxy.forwarding.descriptors import DescriptorBudget, is_shortage
from userproxy.forwarding.listener_addresses import ListenerAddresses
from userproxy.forwarding.observation.reasons import ENDPOINT_GONE, GIVEN_UP, in_words
from userproxy.forwarding.observation.recorder import FailedDial, Peer, Portal
from userproxy.forwarding.poller import HANGUP, WRITABLE, Poller
from userproxy.forwarding.return_pairs import ReturnPair
from userproxy.forwarding.shares import Connection
from userproxy.forwarding.tcp.sockets import UNDER_WAY, connecting_events, reset_on_close
from userproxy.forwarding.tcp.source_ports import SourcePorts
from userproxy.forwarding.tcp.sources.client_sockets import ClientSockets
from userproxy.forwarding.tcp.sources.dial_source import DialSource
from userproxy.forwarding.tcp.sources.looks import Looks
from userproxy.forwarding.tcp.sources.node_sockets import NodeSockets
from userproxy.forwarding.tcp.states import DialState
from userproxy.model import Endpoint, ListenerName
from userproxy.model.reports import DialFailure, Source, SourceFallback
from userproxy.routing.balancer import Balancer

log = structlog.get_logger()

TIME_LIMITS: Final = (0.25, 0.5, 1.0, 2.0)
"""Seconds for each try, every one on the next endpoint: kube-proxy's endpointDialTimeouts."""

WAIT_SECONDS: Final = 0.05
"""How long a client waits for another one that finds out whether answers to their addresses come back."""

_LAST_ATTEMPT: Final = len(TIME_LIMITS) - 1

# Looked up once: an attribute of an enumeration costs 300 instructions in Python 3.11.
_CLIENT: Final = Source.CLIENT
_NODE: Final = Source.NODE


class Dialer:
    """What all dials of a process share: the poller, the time limits, the descriptor budget, local ports.

    `listeners` are our own, which are not to be dialled.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        poller: Poller,
        budget: DescriptorBudget,
        listeners: ListenerAddresses,
        ports: SourcePorts,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.loop = loop
        self.poller = poller
        self.budget = budget
        self.clock = clock
        self.limits = tuple(DeadlineQueue[Dial](loop, seconds, Dial.time_out, poller.failed) for seconds in TIME_LIMITS)
        self.waiting = DeadlineQueue[Dial](loop, WAIT_SECONDS, Dial.stop_waiting, poller.failed)
        self.node_sockets = NodeSockets(listeners, ports, loop.time)
        self.client_sockets = ClientSockets(listeners, loop.time)
        self.looks = Looks(loop, poller, budget, self.client_sockets)

    def shut_down(self) -> None:
        self.looks.shut_down()
        for queue in (*self.limits, self.waiting):
            queue.cancel()


class DialOwner(Protocol):
    """Whose dials they are."""

    balancer: Balancer

    def connected(self, dial: "Dial", backend: SocketType, events: int) -> None:
        """An endpoint has accepted; `events` are those that said so."""

    def unserved(self, dial: "Dial") -> None:
        """No endpoint has accepted, or the dial was ended."""


class Dial:
    """The attempts to connect one client to an endpoint.

    Ends in exactly one call of its `owner`: of `connected` or `unserved`; the client's socket is the owner's in both
    cases. `tried` are the endpoints so far, the last of which is being dialled or has accepted;
    `failed` are the dials that have failed, `source` is whose address the last one of `tried` sees. Whoever makes one
    sets `id`, `peer`, `portal`, and `opened` and `began`, the time when the client was accepted: `began` becomes that
    of the last try. `relay` is set by whoever relays, for as long as that lasts: what is asked of a dial by
    :mod:`~userproxy.forwarding.shares`, which knows it all the time, is then asked of the relay.
    """

    __slots__ = (
        "_attempt",
        "_backend",
        "_chosen",
        "_decider",
        "_dialer",
        "_limit",
        "_owner",
        "_waits",
        "address",
        "began",
        "client",
        "closed",
        "failed",
        "failures",
        "given_up",
        "id",
        "name",
        "opened",
        "peer",
        "portal",
        "relay",
        "source",
        "tried",
    )
    _backend: SocketType | None
    _chosen: Endpoint | None
    _decider: DialSource | None
    id: int
    peer: Peer
    portal: Portal
    opened: float
    began: float
    tried: tuple[Endpoint, ...]
    failed: tuple[FailedDial, ...]
    source: Source | None
    relay: Connection | None
    given_up: str
    """Why it was ended before all was tried."""

    def begin(
        self,
        dialer: Dialer,
        owner: "DialOwner",
        name: ListenerName,
        client: SocketType,
        address: str,
    ) -> None:
        """Be one for a client. Before everything else: a class with `__init__` costs more to call."""
        self._dialer = dialer
        self._owner = owner
        self.name = name
        self.client = client
        self.address = address
        self._attempt = -1
        self._limit = dialer.limits[0]
        self._backend = self._decider = self._chosen = self.source = self.relay = None
        self._waits = self.closed = False
        self.tried = self.failed = ()
        self.failures = 0
        self.given_up = ""

    @property
    def endpoint(self) -> Endpoint | None:
        """The endpoint that is being dialled, or that has accepted."""
        return self.tried[-1] if self.tried else None

    def keep_client_address(self, sources: Sources, *, introduced: bool = False) -> None:
        """Have endpoints see the client's address, as `sources` says. To be called before :meth:`start`.

        `introduced` is whether the address comes from a PROXY header.
        """
        self._decider = DialSource(self._dialer, sources, self.name, self.address, introduced=introduced)

    @property
    def waits(self) -> bool:
        """Whether it waits for another one that finds out whether answers to their addresses come back."""
        return self._waits

    def quiet(self) -> tuple[float, float] | None:
        """None, which says that it is still being dialled; as of the relay if there is one."""
        return None if self.relay is None else self.relay.quiet()

    @property
    def backend_to_keep(self) -> SocketType | None:
        """The socket that another process should go on with: none if it is to find out something for this one."""
        return None if self._decider is not None and self._decider.finds_out else self._backend

    def state(self) -> DialState:
        """The same as a value, to which the client's socket and :attr:`backend_to_keep` belong."""
        portal, attempt, tried = self.portal, self._attempt, self.tried
        plain = portal if portal is None or isinstance(portal, bytes) else portal[:2]
        deadline, chosen = None if self.backend_to_keep is None else self._limit.deadline(self), self._chosen
        if self._backend is not None and deadline is None:
            attempt, chosen, tried = attempt - 1, tried[-1], tried[:-1]
        introduced = self._decider is not None and self._decider.introduced
        known = (self.failed, self.failures, attempt, deadline, self.source, None, chosen, introduced)
        return DialState(self.id, self.peer[:2], plain, self.opened, self.began, tried, *known)

    def restore(self, state: DialState) -> None:
        """Be as `state` says. There is no socket to an endpoint yet."""
        self.id, self.peer, self.portal = state.id, state.peer, state.portal
        self.opened, self.began = state.opened, state.began
        self.tried, self.failed, self.failures = state.tried, state.failed, state.failures
        self._attempt, self.source, self._chosen = state.attempt, state.source, state.chosen

    def begin_again(self) -> None:
        """Dial anew after this has failed, with what has failed remembered."""
        self.closed, self._attempt, self.tried = False, -1, ()
        self.began = self._dialer.clock()
        self.start()

    def resume(self, backend: SocketType | None, deadline: float | None) -> None:
        """Go on with a dial of another process, whose time is over at `deadline`; without a socket try the next."""
        if backend is None or deadline is None:
            self.start()
            return
        self._backend, self._limit = backend, self._dialer.limits[self._attempt]
        self._limit.restore(self, deadline)
        self._dialer.poller.add_method(backend.fileno(), _ON_EVENT, self)

    def forsake(self) -> None:
        """Close our copies of its sockets: it is another process's, and nobody is told."""
        self.closed = True
        for sock in (self.client, self._backend):
            if sock is not None:
                sock.close()
        self._backend = None

    def start(self) -> None:
        """Try endpoints until one accepts or connecting to it takes time. An exception ends this dial alone."""
        dialer, decider = self._dialer, self._decider
        poller = dialer.poller
        try:
            while not self.closed and self._attempt < _LAST_ATTEMPT:
                now, tried = poller.now or dialer.loop.time(), self.tried
                endpoint, self._chosen = self._chosen or self._owner.balancer.pick(self.address, now, tried), None
                if endpoint is None:
                    break
                if decider is not None and (pair := decider.decide(endpoint)) is not None:
                    self._chosen = endpoint  # a turn that is not taken would be missing at this endpoint
                    self._wait_for(pair)
                    return
                try:
                    backend, code = (decider or dialer.node_sockets).connect(endpoint)
                except OSError as failure:
                    if self._survives(failure):
                        return
                    break
                attempt = self._attempt = self._attempt + 1
                if attempt:
                    self.began = dialer.clock()
                self.tried = (*tried, endpoint) if tried else (endpoint,)
                self._backend = backend
                self.source = _CLIENT if decider is not None and decider.keeps else _NODE
                if backend is not None and (code == EINPROGRESS or not code):
                    limit = self._limit = dialer.limits[0 if decider is not None and decider.finds_out else attempt]
                    if limit.timer is None:
                        limit.add(self, now)
                    else:
                        limit.deadlines[self] = now + limit.seconds  # as add() does, without the call
                    # A connection that is there already has an event, too, which says that it is writable.
                    poller.add_method(backend.fileno(), _ON_EVENT, self)
                    return
                if not self._goes_on(endpoint, code, again=endpoint in tried):
                    break
            self._fail()
        except Exception as error:  # noqa: BLE001 -- whoever called has other clients to care for
            poller.failed(self, error)

    def _goes_on(self, endpoint: Endpoint, code: int, *, again: bool) -> bool:
        """Note that connecting to an endpoint has failed at once; whether to try another one."""
        sockets = self._dialer.node_sockets
        if not sockets.is_out_of_ports(endpoint, code):
            self._give_up_backend(*in_words(code))
            return True
        sockets.note_shortage(endpoint, self.name)
        self.failed += ((endpoint, *in_words(code)),)
        self._drop_backend()
        return not again  # there is no other, and to search all ports once more takes milliseconds

    def _survives(self, failure: OSError) -> bool:
        """No socket could be had: go on once it can, if that is a matter of time, and return whether it is."""
        if self._decider is not None:
            self._decider.end()
        if is_shortage(failure):
            self._dialer.budget.wait(self.start, refused_by_kernel=True)
            return True
        log.error("A client cannot be served", service_port=str(self.name), reason=failure.strerror)
        return False

    def _await(self, backend: SocketType, limit: DeadlineQueue["Dial"]) -> None:
        """Wait for a connection."""
        self._limit = limit
        limit.add(self)
        self._dialer.poller.add_method(backend.fileno(), _ON_EVENT, self)

    def _wait_for(self, pair: ReturnPair) -> None:
        self._waits = True
        pair.waiting.append(self._wake)
        self._dialer.waiting.add(self)

    def _wake(self) -> None:
        """Another client has found out: go on when it is this one's turn."""
        if self._waits:
            self._dialer.poller.again(self._go_on, self)

    def _go_on(self, _events: int) -> None:
        self._dialer.waiting.discard(self)
        self.stop_waiting()

    def stop_waiting(self) -> None:
        """Go on, whether or not it is known by now if answers to the client's address come back."""
        if self._waits:
            self._waits = False
            self.start()

    def _compare(self, decider: DialSource) -> None:
        """The client's address got no answer: dial the same endpoint from the node's, at no cost to the endpoint."""
        dialer = self._dialer
        self._close_backend()
        decider.fall_back(SourceFallback.NO_ANSWER)
        self.source = Source.NODE
        self.began = dialer.clock()
        try:
            backend, error = dialer.node_sockets.connect(self.tried[-1])
        except OSError as failure:
            if not self._survives(failure):
                self._fail()
            return
        self._backend = backend
        if backend is not None and error in UNDER_WAY:
            self._await(backend, dialer.limits[self._attempt])
            return
        self._give_up_backend(*in_words(error))
        self.start()

    def time_out(self) -> None:
        """The endpoint has not answered in time: try the next. An answer that nobody has looked at yet counts."""
        if self._backend is not None and (events := connecting_events(self._backend)):
            self.on_event(events)
            return
        decider = self._decider
        if decider is not None and decider.finds_out and decider.keeps:
            self._compare(decider)
            return
        self._give_up_backend(f"no answer within {TIME_LIMITS[self._attempt]:g} s", DialFailure.TIMED_OUT)
        self.start()

    def turn_away(self) -> None:
        """Reset the connection to the endpoint that is being dialled, because that is gone, and try the next."""
        if self._backend is not None:
            self._give_up_backend(ENDPOINT_GONE, DialFailure.ENDPOINT_GONE)
            self.start()

    def abort(self, reason: str = GIVEN_UP) -> None:
        """Give up, resetting the backend's connection; ends in `on_failed`. A relay is ended instead of it."""
        if self.relay is not None:
            self.relay.abort(reason)
        elif not self.closed:
            self.given_up = reason
            self._attempt = len(TIME_LIMITS)
            if self._backend is not None:
                self._drop_backend()
            self._fail()

    def on_event(self, events: int) -> None:
        """The backend's socket is connected, or has failed. For the poller."""
        backend = self._backend
        if backend is None:
            return
        pop = self._limit.pop
        pop(self, None)
        error = 0 if events == WRITABLE else events & HANGUP and backend.getsockopt(SOL_SOCKET, SO_ERROR)
        decider = self._decider
        if decider is not None and decider.finds_out and not decider.learn(self.tried[-1], error) and decider.keeps:
            self._compare(decider)
            return
        if error:
            self._give_up_backend(*in_words(error))
            self.start()
            return
        self._owner.connected(self, backend, events)
        self._backend = self._decider = None
        self.closed = True

    def _give_up_backend(self, reason: str, kind: DialFailure) -> None:
        self.failures += 1
        note = self._owner.balancer.suspect(self.tried[-1], self._dialer.loop.time(), reason)
        self.failed += ((self.tried[-1], f"{reason}; {note}" if note else reason, kind),)
        self._drop_backend()
        log.debug(
            "Backend not reached",
            v=2,
            service_port=str(self.name),
            endpoint=str(self.tried[-1]),
            reason=reason,
        )

    def _drop_backend(self) -> None:
        if self._decider is not None:
            self._decider.end()
        self._close_backend()

    def _close_backend(self) -> None:
        backend, self._backend = self._backend, None
        if backend is not None:
            self._limit.discard(self)
            reset_on_close(backend)
            self._dialer.poller.close(backend)

    def _fail(self) -> None:
        if self._decider is not None:
            self._decider.end()
        if not self.closed:
            self.closed = True
            self._owner.unserved(self)
            self._owner.balancer.forget(self.address)


_ON_EVENT: Final = Dial.on_event
"""What the poller calls with a dial and events."""
