"""Dialling: tries endpoints for a client until one accepts the connection. No dial delays another."""

import asyncio
import errno
import time
from collections.abc import Callable
from socket import SO_ERROR, SOL_SOCKET, SocketType
from typing import Final

import structlog

from userproxy.forwarding.deadlines import DeadlineQueue
from userproxy.forwarding.descriptors import DescriptorBudget, is_shortage
from userproxy.forwarding.listener_addresses import ListenerAddresses
from userproxy.forwarding.log_limit import LogLimit
from userproxy.forwarding.observation.reasons import ENDPOINT_GONE, GIVEN_UP, in_words
from userproxy.forwarding.observation.recorder import FailedDial, Peer, Portal
from userproxy.forwarding.poller import HANGUP, STREAM, Poller
from userproxy.forwarding.ports import ephemeral_ports
from userproxy.forwarding.tcp.sockets import has_source_address, reset_on_close, start_dial
from userproxy.forwarding.tcp.source_ports import SourcePorts
from userproxy.model import Endpoint, ListenerName
from userproxy.model.reports import DialFailure, Source
from userproxy.routing.balancer import Balancer

log = structlog.get_logger()

TIME_LIMITS: Final = (0.25, 0.5, 1.0, 2.0)
"""Seconds for each try, every one on the next endpoint: kube-proxy's endpointDialTimeouts."""

_UNDER_WAY: Final = frozenset({0, errno.EINPROGRESS})

_PORTS_TRIED: Final = 4
"""Ports in TIME_WAIT that a dial tries before it lets connect(2) choose; mostly the first one can be had."""


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
        self._listeners = listeners
        self._ports = ports
        self._shortage = LogLimit()
        self.limits = tuple(DeadlineQueue[Dial](loop, seconds, Dial.time_out, poller.failed) for seconds in TIME_LIMITS)

    def connect(self, endpoint: Endpoint) -> tuple[SocketType | None, int]:
        """A socket that connects to `endpoint`, and errno as of `connect_ex`; ELOOP and no socket if that is ourselves.

        Raises OSError where no socket can be had.
        """
        if endpoint in self._listeners:
            return None, errno.ELOOP
        if endpoint in self._ports.crowded and (backend := self._reuse_port(endpoint)) is not None:
            return backend, errno.EINPROGRESS
        backend, error = start_dial(endpoint)
        if error == errno.EADDRNOTAVAIL and (again := self._reuse_port(endpoint)) is not None:
            backend.close()
            return again, errno.EINPROGRESS
        return backend, error

    def is_out_of_ports(self, endpoint: Endpoint, error: int) -> bool:
        """Whether a dial failed because all local ports are in use towards `endpoint`: no fault of the endpoint's.

        connect(2) says the same where an IPv6 endpoint cannot be reached from any address of this node.
        """
        return error == errno.EADDRNOTAVAIL and has_source_address(endpoint)

    def note_shortage(self, endpoint: Endpoint, name: ListenerName) -> None:
        """Log that there is no local port left towards `endpoint`: once a shortage, whatever its endpoints."""
        if self._shortage.begins(self.loop.time()):
            log.warning(
                "Out of local ports towards an endpoint: clients go to others, and are reset where there are none;"
                " widen net.ipv4.ip_local_port_range, or set net.ipv4.tcp_tw_reuse to 1",
                service_port=str(name),
                endpoint=str(endpoint),
                ip_local_port_range=str(ephemeral_ports()),
            )

    def _reuse_port(self, endpoint: Endpoint) -> SocketType | None:
        """A socket that connects to `endpoint` from a port in TIME_WAIT, if one of the first few allows it."""
        for _ in range(_PORTS_TRIED):
            port = self._ports.take(endpoint)
            if port is None:
                break
            backend, error = start_dial(endpoint, port)
            if error in _UNDER_WAY:
                return backend
            backend.close()
        return None

    def shut_down(self) -> None:
        for queue in self.limits:
            queue.cancel()


class Dial:
    """The attempts to connect one client to an endpoint.

    Ends in exactly one call: `on_connected(dial, backend, events)` or `on_failed(dial)`; the client's socket is
    the caller's in both cases. `tried` are the endpoints so far, the last of which is being dialled or has accepted;
    `failed` are the dials that have failed, `source` is whose address the last one of `tried` sees. Whoever makes one
    sets `id`, `peer`, `portal`, and `opened` and `began`, the time when the client was accepted: `began` becomes that
    of the last try.
    """

    __slots__ = (
        "_attempt",
        "_backend",
        "_balancer",
        "_dialer",
        "_on_connected",
        "_on_failed",
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
        "source",
        "tried",
    )
    id: int
    peer: Peer
    portal: Portal
    opened: float
    began: float

    def __init__(
        self,
        dialer: Dialer,
        name: ListenerName,
        balancer: Balancer,
        client: SocketType,
        address: str,
        on_connected: "Callable[[Dial, SocketType, int], None]",
        on_failed: "Callable[[Dial], None]",
    ) -> None:
        self._dialer = dialer
        self._balancer = balancer
        self.address = address
        self._on_connected = on_connected
        self._on_failed = on_failed
        self._backend: SocketType | None = None
        self._attempt = -1
        self.tried: tuple[Endpoint, ...] = ()
        self.name = name
        self.client = client
        self.closed = False
        self.failures = 0
        self.failed: tuple[FailedDial, ...] = ()
        self.source: Source | None = None
        self.given_up = ""
        """Why it was ended before all was tried."""

    @property
    def endpoint(self) -> Endpoint | None:
        """The endpoint that is being dialled, or that has accepted."""
        return self.tried[-1] if self.tried else None

    def quiet(self) -> tuple[float, bool] | None:
        """None, which says that it is still being dialled. For :mod:`~userproxy.forwarding.shares`."""
        return None

    def start(self) -> None:
        """Try endpoints until one accepts or connecting to it takes time. An exception ends this dial alone."""
        try:
            self._try_endpoints()
        except Exception as error:  # noqa: BLE001 -- whoever called has other clients to care for
            self._dialer.poller.failed(self, error)

    def _try_endpoints(self) -> None:
        dialer = self._dialer
        while not self.closed and self._attempt + 1 < len(TIME_LIMITS):
            endpoint = self._balancer.pick(self.address, dialer.loop.time(), self.tried)
            if endpoint is None:
                break
            try:
                backend, error = dialer.connect(endpoint)
            except OSError as failure:
                if is_shortage(failure):
                    dialer.budget.wait(self.start, refused_by_kernel=True)
                    return
                log.error("A client cannot be served", service_port=str(self.name), reason=failure.strerror)
                break
            self._attempt += 1
            if self._attempt:
                self.began = dialer.clock()
            again, self.tried = endpoint in self.tried, (*self.tried, endpoint)
            self._backend, self.source = backend, Source.NODE
            if backend is not None and error in _UNDER_WAY:
                # Also a connection that is there already: its first event says that it is writable.
                dialer.limits[self._attempt].add(self)
                dialer.poller.add(backend.fileno(), STREAM, self._on_event, self)
                return
            if dialer.is_out_of_ports(endpoint, error):
                dialer.note_shortage(endpoint, self.name)
                self.failed += ((endpoint, *in_words(error)),)
                self._drop_backend()
                if again:
                    break  # there is no other, and to search all ports once more takes milliseconds
                continue
            self._give_up_backend(*in_words(error))
        self._fail()

    def time_out(self) -> None:
        """The endpoint has not answered in time: try the next."""
        self._give_up_backend(f"no answer within {TIME_LIMITS[self._attempt]:g} s", DialFailure.TIMED_OUT)
        self.start()

    def turn_away(self) -> None:
        """Reset the connection to the endpoint that is being dialled, because that is gone, and try the next."""
        if self._backend is not None:
            self._give_up_backend(ENDPOINT_GONE, DialFailure.ENDPOINT_GONE)
            self.start()

    def abort(self, reason: str = GIVEN_UP) -> None:
        """Give up, resetting the backend's connection; ends in `on_failed`."""
        if not self.closed:
            self.given_up = reason
            self._attempt = len(TIME_LIMITS)
            if self._backend is not None:
                self._drop_backend()
            self._fail()

    def _on_event(self, events: int) -> None:
        backend = self._backend
        if backend is None:
            return
        self._dialer.limits[self._attempt].discard(self)
        error = events & HANGUP and backend.getsockopt(SOL_SOCKET, SO_ERROR)
        if error:
            self._give_up_backend(*in_words(error))
            self.start()
            return
        self._on_connected(self, backend, events)
        self._backend = None
        self.closed = True

    def _give_up_backend(self, reason: str, kind: DialFailure) -> None:
        self.failures += 1
        self.failed += ((self.tried[-1], reason, kind),)
        self._balancer.suspect(self.tried[-1], self._dialer.loop.time())
        self._drop_backend()
        log.debug(
            "Backend not reached",
            v=2,
            service_port=str(self.name),
            endpoint=str(self.tried[-1]),
            reason=reason,
        )

    def _drop_backend(self) -> None:
        backend, self._backend = self._backend, None
        if backend is not None:
            for queue in self._dialer.limits:
                queue.discard(self)
            reset_on_close(backend)
            self._dialer.poller.close(backend)

    def _fail(self) -> None:
        if not self.closed:
            self.closed = True
            self._on_failed(self)
            self._balancer.forget(self.address)
