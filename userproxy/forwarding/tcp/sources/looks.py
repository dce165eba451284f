"""Looks whether answers to clients' addresses come back after all, where one did not. No client waits for one."""

import asyncio
from socket import SO_ERROR, SOL_SOCKET, SocketType
from typing import Final

from userproxy.forwarding.client_addresses import SourceChoice
from userproxy.forwarding.deadlines import DeadlineQueue
from userproxy.forwarding.descriptors import DescriptorBudget
from userproxy.forwarding.poller import HANGUP, STREAM, Poller
from userproxy.forwarding.return_pairs import ReturnPair
from userproxy.forwarding.tcp.sockets import connecting_events, is_answer, reset_on_close
from userproxy.forwarding.tcp.sources.client_sockets import ClientSockets
from userproxy.model import Endpoint, ListenerName

SECONDS: Final = 0.25
"""How long an answer may take: the first time limit of a dial."""


class Looks:
    """What all looks of a process share."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, poller: Poller, budget: DescriptorBudget, sockets: ClientSockets
    ) -> None:
        self.loop = loop
        self.poller = poller
        self.budget = budget
        self._sockets = sockets
        self.limit = DeadlineQueue[Look](loop, SECONDS, Look.time_out, poller.failed)
        self.current: set[Look] = set()

    def begin(
        self, pair: ReturnPair, client: str, endpoint: Endpoint, choice: SourceChoice, listener: ListenerName
    ) -> None:
        """Connect to an endpoint from the client's address, and reset the connection once it stands.

        Where no socket can be had for it, that counts as no answer.
        """
        if not (self.budget.take(1) and self._look(pair, client, endpoint, choice, listener)):
            pair.lose(self.loop.time(), client, endpoint, str(listener))

    def _look(
        self, pair: ReturnPair, client: str, endpoint: Endpoint, choice: SourceChoice, listener: ListenerName
    ) -> bool:
        """Whether a look has begun; if not, its descriptor is given back."""
        try:
            sock = self._sockets.connect(client, endpoint, choice)
            if isinstance(sock, SocketType):
                Look(self, pair, sock, client, endpoint, listener)
                return True
        except OSError:
            pass
        except BaseException:
            self.budget.give(1)
            raise
        self.budget.give(1)
        return False

    def shut_down(self) -> None:
        """End all looks and cancel the timer."""
        for look in tuple(self.current):
            look.abort()
        self.limit.cancel()


class Look:
    """One connection that is reset as soon as it stands."""

    __slots__ = ("_client", "_endpoint", "_listener", "_looks", "_pair", "_socket")

    def __init__(
        self,
        looks: Looks,
        pair: ReturnPair,
        sock: SocketType,
        client: str,
        endpoint: Endpoint,
        listener: ListenerName,
    ) -> None:
        """Takes over a socket on its way. Raises OSError where the kernel can watch no more.

        After an exception it is closed.
        """
        self._looks = looks
        self._pair = pair
        self._socket: SocketType | None = sock
        self._client = client
        self._endpoint = endpoint
        self._listener = listener
        try:
            looks.poller.add(sock.fileno(), STREAM, self._on_event, self)
        except BaseException:
            sock.close()
            raise
        pair.is_probed = True
        looks.limit.add(self)
        looks.current.add(self)

    def time_out(self) -> None:
        """There is no answer, unless nobody has looked at it yet."""
        if self._socket is not None and (events := connecting_events(self._socket)):
            self._on_event(events)
        else:
            self.abort()

    def abort(self) -> None:
        """There is no answer, or it cannot be awaited."""
        self._end(answered=False)

    def _on_event(self, events: int) -> None:
        if self._socket is not None:
            error = self._socket.getsockopt(SOL_SOCKET, SO_ERROR) if events & HANGUP else 0
            self._end(answered=is_answer(error))

    def _end(self, *, answered: bool) -> None:
        sock, self._socket = self._socket, None
        if sock is None:
            return
        looks = self._looks
        looks.limit.discard(self)
        looks.current.discard(self)
        reset_on_close(sock)
        looks.poller.close(sock)
        looks.budget.give(1)
        if answered:
            self._pair.answer()
        else:
            self._pair.lose(looks.loop.time(), self._client, self._endpoint, str(self._listener))
