"""Dialling: finds a backend that answers, without ever delaying another client."""

import asyncio
import errno
import os
from collections.abc import Callable
from socket import SO_ERROR, SOL_SOCKET, SocketType
from typing import Final

import structlog

from userproxy.forwarding.deadlines import DeadlineQueue
from userproxy.forwarding.descriptors import DescriptorBudget, is_shortage
from userproxy.forwarding.own_addresses import OwnAddresses
from userproxy.forwarding.poller import HANGUP, Poller
from userproxy.forwarding.sockets import reset_on_close, start_dial
from userproxy.model import Endpoint, ListenerName
from userproxy.routing.balancer import Balancer

log = structlog.get_logger()

TIME_LIMITS: Final = (0.25, 0.5, 1.0, 2.0)
"""Seconds for each try, every one on the next endpoint: kube-proxy's endpointDialTimeouts."""


class Dialer:
    """What all dials of a process share: the poller, the time limits, the descriptor budget, whom not to dial."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, poller: Poller, budget: DescriptorBudget, own: OwnAddresses
    ) -> None:
        self.loop = loop
        self.poller = poller
        self.budget = budget
        self.own = own
        self.limits = tuple(DeadlineQueue[Dial](loop, seconds, Dial.time_out) for seconds in TIME_LIMITS)

    def connect(self, endpoint: Endpoint) -> tuple[SocketType | None, int]:
        """A socket that connects to `endpoint`, and errno as of `connect_ex`; ELOOP and no socket if that is ourselves.

        Raises OSError where no socket can be had.
        """
        if endpoint in self.own:
            return None, errno.ELOOP
        return start_dial(endpoint)

    def shut_down(self) -> None:
        for queue in self.limits:
            queue.cancel()


class Dial:
    """One client on its way to a backend.

    Ends in exactly one call: `on_connected(dial, backend, events)` or `on_failed(dial)`; the client's socket is
    the caller's in both cases.
    """

    __slots__ = (
        "_address",
        "_attempt",
        "_backend",
        "_balancer",
        "_dialer",
        "_on_connected",
        "_on_failed",
        "_tried",
        "client",
        "closed",
        "failures",
        "name",
    )

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
        self._address = address
        self._on_connected = on_connected
        self._on_failed = on_failed
        self._backend: SocketType | None = None
        self._attempt = -1
        self._tried: tuple[Endpoint, ...] = ()
        self.name = name
        self.client = client
        self.closed = False
        self.failures = 0

    @property
    def endpoint(self) -> Endpoint | None:
        """Whom it is dialling, or reached."""
        return self._tried[-1] if self._tried else None

    def start(self) -> None:
        """Try endpoints until one answers or is under way."""
        dialer = self._dialer
        while not self.closed and self._attempt + 1 < len(TIME_LIMITS):
            endpoint = self._balancer.pick(self._address, dialer.loop.time(), self._tried)
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
            self._tried += (endpoint,)
            self._backend = backend
            if backend is not None and error in {0, errno.EINPROGRESS}:
                # Also a connection that is there already: its first event says that it is writable.
                dialer.limits[self._attempt].add(self)
                dialer.poller.add(backend.fileno(), self._on_event, self)
                return
            self._give_up_backend(os.strerror(error))
        self._fail()

    def time_out(self) -> None:
        """The backend's time is over: on to the next."""
        self._give_up_backend(f"no answer within {TIME_LIMITS[self._attempt]:g} s")
        self.start()

    def turn_away(self, reason: str) -> None:
        """Leave the endpoint that is being dialled, resetting its connection: on to the next."""
        if self._backend is not None:
            self._give_up_backend(reason)
            self.start()

    def abort(self) -> None:
        """Give up, resetting the backend's connection; ends in `on_failed`."""
        if not self.closed:
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
            self._give_up_backend(os.strerror(error))
            self.start()
            return
        self.closed = True
        self._backend = None
        self._on_connected(self, backend, events)

    def _give_up_backend(self, reason: str) -> None:
        self.failures += 1
        self._balancer.suspect(self._tried[-1], self._dialer.loop.time())
        self._drop_backend()
        log.debug(
            "Backend not reached",
            v=2,
            service_port=str(self.name),
            endpoint=str(self._tried[-1]),
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
            self._balancer.forget(self._address)
            self._on_failed(self)
