"""Clients who begin with a PROXY header: it is read before an endpoint is chosen.

Until the header is whole its bytes stay in the kernel: they are looked at and not taken (MSG_PEEK), so that nothing is
kept here, what follows is left for the relay, and another process could go on with the client.
"""

import asyncio
import socket
from collections.abc import Callable, Iterable
from socket import SocketType
from typing import Final

import structlog
from msgspec import structs

from userproxy.forwarding.client_addresses import Sources
from userproxy.forwarding.deadlines import DeadlineQueue
from userproxy.forwarding.log_limit import LogLimit
from userproxy.forwarding.observation.reasons import GIVEN_UP, RESET_BY_CLIENT
from userproxy.forwarding.poller import FAILED, HANGUP, STREAM, Poller
from userproxy.forwarding.proxy_protocol.header import HeaderError, ProxyHeader
from userproxy.forwarding.proxy_protocol.versions import MOST_BYTES, decode
from userproxy.forwarding.shares import IDLE_SECONDS
from userproxy.forwarding.tcp.dialer import Dial, Dialer, DialOwner
from userproxy.forwarding.tcp.states import DialState
from userproxy.model import ListenerName, ProxyProtocol
from userproxy.model.reports import Outcome
from userproxy.routing.networks import Networks

log = structlog.get_logger()

HEADER_SECONDS: Final = 3.0
"""How long a client may take for its header. The specification asks for three seconds at least, so that one packet can
be lost and sent again."""


class Introductions:
    """What all clients who begin with a PROXY header share: who may, and the time limit."""

    def __init__(self, loop: asyncio.AbstractEventLoop, poller: Poller, trusted: Iterable[str]) -> None:
        """`trusted` are the networks whose headers are believed. Raises ValueError for what is no network."""
        self.poller = poller
        self.trusted = Networks(trusted)
        self.limit = DeadlineQueue[IntroducedDial](loop, HEADER_SECONDS, IntroducedDial.expire, poller.failed)
        self._now = loop.time
        self._refusals = LogLimit()

    def note_refusal(self, name: ListenerName, proxy: str, reason: str) -> None:
        """Log that a trusted proxy has sent no good header: once a minute, whatever their number."""
        if self._refusals.is_due(self._now()):
            log.warning(
                "A client from --trusted-proxies is refused, for want of a good PROXY header",
                service_port=str(name),
                proxy=proxy,
                reason=reason,
            )

    def shut_down(self) -> None:
        """Disarm the timer."""
        self.limit.cancel()


class IntroducedDial(Dial):
    """The dial for a client who begins with a PROXY header.

    Once that is read, `on_introduced(dial, header)` is called; whoever is called starts the dial again, or refuses the
    client. `on_refused(dial, outcome, reason)` is called instead if there is no good header; the client's socket is the
    caller's then.
    """

    __slots__ = ("_introductions", "_is_watched", "_on_introduced", "_on_refused", "_version", "awaits_header", "proxy")

    def begin(
        self,
        dialer: Dialer,
        owner: DialOwner,
        name: ListenerName,
        client: SocketType,
        address: str,
    ) -> None:
        """As of every dial."""
        super().begin(dialer, owner, name, client, address)
        self._is_watched = False
        self.awaits_header = True
        self.proxy = address
        """Who has made the connection."""

    def expect(
        self,
        version: ProxyProtocol,
        introductions: Introductions,
        on_introduced: "Callable[[IntroducedDial, ProxyHeader], None]",
        on_refused: "Callable[[IntroducedDial, Outcome, str], None]",
    ) -> None:
        """Which header is to come, and whom to tell. Before the first start."""
        self._version = version
        self._introductions = introductions
        self._on_introduced = on_introduced
        self._on_refused = on_refused

    def keep_client_address(self, sources: Sources, *, introduced: bool = False) -> None:
        """As of a dial, once it is known who the client is; before that nothing."""
        if not self.awaits_header:
            super().keep_client_address(sources, introduced=introduced or self.address != self.proxy)

    def quiet(self) -> tuple[float, float] | None:
        """As of a dial; a client who has not even sent its header waits for nothing."""
        return (self._dialer.clock() - self.opened, IDLE_SECONDS) if self.awaits_header else super().quiet()

    def start(self) -> None:
        """Read the header, at once if it is there; from then on as of every dial."""
        if not self.awaits_header:
            super().start()
            return
        try:
            self._look(0)
            if self.awaits_header and not self.closed:
                self._introductions.limit.add(self)
                self._introductions.poller.add(self.client.fileno(), STREAM, self._look, self)
                self._is_watched = True
        except Exception as error:  # noqa: BLE001 -- whoever called has other clients to care for
            self._introductions.poller.failed(self, error)

    def state(self) -> DialState:
        """As of a dial; what has come of the header is still in the kernel."""
        if not self.awaits_header:
            return super().state()
        return structs.replace(super().state(), awaits=self._version, deadline=self._introductions.limit.deadline(self))

    def resume(self, backend: SocketType | None, deadline: float | None) -> None:
        """As of a dial, or go on to wait for the header."""
        if deadline is None or not self.awaits_header:
            super().resume(backend, deadline)
            return
        self._introductions.limit.restore(self, deadline)
        self._introductions.poller.add(self.client.fileno(), STREAM, self._look, self)
        self._is_watched = True

    def expire(self) -> None:
        """The time for the header is over."""
        self.refuse(Outcome.TIMED_OUT, f"no whole PROXY header has come within {HEADER_SECONDS:g} s")

    def abort(self, reason: str = GIVEN_UP) -> None:
        """As of a dial, at any time."""
        if self.awaits_header:
            self.refuse(Outcome.RESET, reason)
        else:
            super().abort(reason)

    def refuse(self, outcome: Outcome, reason: str) -> None:
        """End it before anything is dialled; ends in `on_refused`."""
        if not self.closed:
            self.closed = True
            self._introductions.limit.discard(self)
            self._on_refused(self, outcome, reason)

    def _look(self, events: int) -> None:
        try:
            data = self.client.recv(MOST_BYTES[self._version], socket.MSG_PEEK)
            found = decode(self._version, data)
        except BlockingIOError:
            return
        except HeaderError as error:
            self._refuse_header(f"no PROXY header of {self._version}: {error}")
            return
        except OSError:
            self.refuse(Outcome.RESET, RESET_BY_CLIENT)
            return
        if found is not None:
            self._take(*found)
        elif events & FAILED:  # what had come before the RST can still be read
            self.refuse(Outcome.RESET, RESET_BY_CLIENT)
        elif not data:
            self.refuse(Outcome.REFUSED, "closed by the client, which has sent no PROXY header")
        elif events & HANGUP:
            self._refuse_header("closed by the client within its PROXY header")

    def _refuse_header(self, reason: str) -> None:
        self._introductions.note_refusal(self.name, self.proxy, reason)
        self.refuse(Outcome.REFUSED, reason)

    def _take(self, header: ProxyHeader, size: int) -> None:
        self.client.recv(size)
        if self._is_watched:
            self._introductions.limit.discard(self)
            self._introductions.poller.forget(self.client)
        self.awaits_header = False
        self._on_introduced(self, header)
