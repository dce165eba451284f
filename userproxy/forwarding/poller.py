"""One epoll for all sockets of the data plane, drained by one reader of the event loop."""

import asyncio
import os
import select
import time
from collections.abc import Callable
from contextlib import closing, suppress
from selectors import EpollSelector
from socket import SocketType
from types import MethodType
from typing import Any, Protocol, TypeAlias

from userproxy.forwarding.failures import HandlerFailures

READABLE = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
WRITABLE = select.EPOLLOUT
HANGUP = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
FAILED = select.EPOLLERR
ANOTHER_TURN = select.EPOLLIN | select.EPOLLRDHUP
"""What a handler is called with after :meth:`Poller.again`: read on until the kernel says EAGAIN."""

UNFINISHED = HANGUP | select.EPOLLPRI
"""After a short read there may be more: the end, or what follows urgent data, where recv(2) stops (tcp(7))."""

STREAM = select.EPOLLIN | select.EPOLLPRI | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
"""What to watch a TCP socket for: everything, edge-triggered. Its handler goes on until the kernel says EAGAIN."""

LEAVING = select.EPOLLRDHUP | select.EPOLLET
"""What to watch a TCP socket for whose peer is only to be noticed when it leaves: errors are always told."""

DATAGRAMS = select.EPOLLIN | select.EPOLLET
"""What to watch a UDP socket for whose handler takes all there is. Not for whether it is writable: the kernel would say
so once for every datagram that has left."""

WHILE_DATAGRAMS = select.EPOLLIN
"""What to watch a UDP socket for whose handler may leave datagrams: it is called again as long as there are any. To be
told once more costs less than a read that finds nothing."""

_BATCH = 512
_BATCHES_PER_TURN = 4
"""While one batch is dealt with the next arrives; asking again at once saves a turn of the loop, 4 % of a request."""

_TURNS_SECONDS = 0.0005
"""How long turns may keep events waiting, beyond the one that is being taken."""

_FIRST_ROOM = 64

Handler = Callable[[int], None]


class Owner(Protocol):
    """What has sockets at the poller: a connection, a flow or a listener."""

    def abort(self) -> None:
        """One of its handlers has raised an exception: end the connection, flow or listener that it was for."""


Entry: TypeAlias = tuple[Callable[[Any, int], None], Any, Owner]
"""What to call with what and the events, and whose it is. A method is kept as its function and what it belongs to: to
make a bound one for each socket of a connection costs as much as to call it."""


class Poller:
    """Calls a handler with the events of its socket.

    A reader of the event loop for each socket would cost a handle, and two calls of epoll_ctl(2) whenever it is
    added or removed. Here a socket is registered once for everything, and
    a connection in flow control costs no call at all. Edge-triggered means that a handler must go on
    until the kernel says EAGAIN (a short read of a stream says the same, epoll(7)), or ask for
    another turn with :meth:`again`.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        after_handlers: Callable[[], None] | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """`after_handlers` is called when the handlers of a batch of events, or of some turns, have returned.

        `clock` is monotonic, in seconds; the loop's if there is none.
        """
        self._loop = loop
        self._clock = clock or loop.time
        self.now = 0.0
        """While the events of a batch are dealt with, when they were taken from the kernel, on the clock; 0 otherwise.
        To ask the clock anew costs more than much of what is done for a connection."""
        self._after_handlers = after_handlers
        self._epoll = select.epoll()
        self._handlers: list[Entry | None] = [None] * _FIRST_ROOM
        """By descriptor, as in the kernel."""
        self._closing: list[SocketType] = []
        self.copied = True
        """Whether another process may have copies of our sockets: one that a program is being started in does for a
        moment, and a successor for longer. If not, the kernel itself takes those that we close out of epoll."""
        self.of_others: set[int] = set()
        """Descriptors of sockets that another process has handed to us, which may still have its copies."""
        self._in_batch = False
        """Whether what waits to be closed will be closed anyway, when the events at hand are dealt with."""
        self._again: dict[Handler, Owner] = {}
        self._turns_are_due = False
        self.is_paused = False
        """Whether no handler is called: what is watched may be another process's yet."""
        self._is_mute = False
        """Whether the loop is told nothing meanwhile, though it watches the epoll."""
        self.failures = HandlerFailures(loop.time)
        """Exceptions of handlers."""
        loop.add_reader(self._epoll.fileno(), self._drain)

    def __len__(self) -> int:
        return sum(entry is not None for entry in self._handlers)

    def add(self, descriptor: int, events: int, handler: Handler, owner: Owner) -> None:
        """Watch a socket for STREAM, DATAGRAMS or WHILE_DATAGRAMS; its present state is reported as a first event.

        Raises OSError where the kernel can watch no more (epoll_ctl(2), ENOSPC and ENOMEM).
        """
        self._epoll.register(descriptor, events)
        self._put(descriptor, _entry(handler, owner))

    def add_method(self, descriptor: int, method: Callable[[Any, int], None], owner: Owner) -> None:
        """As :meth:`add` for STREAM; `method` is a function that is called with `owner` and the events."""
        self._epoll.register(descriptor, STREAM)
        try:
            self._handlers[descriptor] = (method, owner, owner)
        except IndexError:
            self._put(descriptor, (method, owner, owner))

    def add_beside(
        self,
        descriptor: int,
        method: Callable[[Any, int], None],
        watched: int,
        its_method: Callable[[Any, int], None],
        owner: Owner,
    ) -> None:
        """As :meth:`add_method`, beside a socket that is watched already and gets another method. Raises OSError."""
        handlers = self._handlers
        handlers[watched] = (its_method, owner, owner)
        self._epoll.register(descriptor, STREAM)
        try:
            handlers[descriptor] = (method, owner, owner)
        except IndexError:
            self._put(descriptor, (method, owner, owner))

    def replace(self, descriptor: int, handler: Handler, owner: Owner) -> None:
        """Give a socket another handler if it is watched; nothing is reported anew."""
        if self._watches(descriptor):
            self._handlers[descriptor] = _entry(handler, owner)

    def close(self, sock: SocketType) -> None:
        """Stop watching a socket, and close it when the events at hand are dealt with.

        Closing at once would let accept() reuse the number while a stale event for it is still in the
        batch; that event would reach the wrong handler. Closing alone does not take a socket out of epoll
        either while a program that is just being started still holds a copy (epoll(7)).
        """
        self.forget(sock)
        if not self._closing and not self._in_batch:
            self._loop.call_soon(self.close_now)
        self._closing.append(sock)

    def close_both(self, one: SocketType, other: SocketType) -> None:
        """As :meth:`close`, for the two sockets of a connection.

        They are left to close(2) alone where nobody else has copies of them: unless they are :attr:`copied`, or some
        :attr:`of_others`.
        """
        handlers, closing = self._handlers, self._closing
        descriptor, its = one.fileno(), other.fileno()
        try:
            if descriptor < 0 or its < 0:
                raise IndexError  # one is closed already, and -1 would be the last of all handlers
            handlers[descriptor] = handlers[its] = None
            if self.copied:
                unregister = self._epoll.unregister
                unregister(descriptor)
                unregister(its)
            elif self.of_others:
                self._leave_those_of_others(descriptor, its)
        except (IndexError, OSError):  # one was never watched
            self._leave(descriptor)
            self._leave(its)
        if not closing and not self._in_batch:
            self._loop.call_soon(self.close_now)
        closing.append(one)
        closing.append(other)

    def _leave_those_of_others(self, *descriptors: int) -> None:
        for descriptor in descriptors:
            if descriptor in self.of_others:
                self.of_others.discard(descriptor)
                self._epoll.unregister(descriptor)

    def _leave(self, descriptor: int) -> None:
        """Stop watching a socket that perhaps is not watched."""
        if self._watches(descriptor):
            self._handlers[descriptor] = None
        with suppress(OSError, ValueError):
            self._epoll.unregister(descriptor)

    def _watches(self, descriptor: int) -> bool:
        return 0 <= descriptor < len(self._handlers) and self._handlers[descriptor] is not None

    def _put(self, descriptor: int, entry: Entry) -> None:
        """Note whose a socket is, with room for more: one that is not there costs less than to ask each time."""
        handlers = self._handlers
        missing = descriptor + 2 - len(handlers)
        if missing > 0:
            handlers += [None] * max(missing, len(handlers))
        handlers[descriptor] = entry

    def forget(self, sock: SocketType) -> None:
        """Stop watching a socket, which goes on to be used; :meth:`add` reports its state as a first event again."""
        descriptor = sock.fileno()
        if self._watches(descriptor):
            self._handlers[descriptor] = None
            self._epoll.unregister(descriptor)

    def close_at_once(self, sock: SocketType) -> None:
        """Stop watching a socket and close it, so that the next one may have its descriptor.

        Only where it does no harm that an event still to come for it reaches the descriptor's new owner: the handler of
        a UDP socket finds nothing to read then.
        """
        self.forget(sock)
        sock.close()

    def close_now(self) -> None:
        """Close what waits to be closed. Not for handlers: see :meth:`close`."""
        closing, self._closing = self._closing, []
        for sock in closing:
            sock.close()

    def again(self, handler: Handler, owner: Owner) -> None:
        """Call `handler` with ANOTHER_TURN after the others had their turn; once, however often it asks.

        Turns are for what may take long. Between some of them events are looked at, so that what is short goes first.
        """
        self._again[handler] = owner
        if not self._turns_are_due:
            self._turns_are_due = True
            self._loop.call_soon(self._run_again)

    def failed(self, owner: Owner, error: Exception) -> None:
        """Count an exception of a handler, and have `owner` end what it was for."""
        self.failures.note(error)
        try:
            owner.abort()
        except Exception as again:  # noqa: BLE001 -- the same bug, perhaps
            self.failures.note(again)

    def pause(self) -> None:
        """Call no handler until :meth:`resume`; what the kernel has to say waits, and so do turns."""
        if self.is_paused:
            return
        self.is_paused = True
        self._is_mute = self._tell(0)
        if not self._is_mute:
            self._loop.remove_reader(self._epoll.fileno())

    def resume(self) -> None:
        """Call handlers again."""
        if not self.is_paused:
            return
        self.is_paused = False
        if self._turns_are_due:
            self._loop.call_soon(self._run_again)
        if not (self._is_mute and self._tell(select.EPOLLIN)):
            self._loop.add_reader(self._epoll.fileno(), self._drain)

    def _tell(self, events: int) -> bool:
        """Have the loop's own epoll ask ours for `events` from now on; whether it does, and so goes on to watch it.

        To put ours in again the kernel looks at every socket in it, for 10 ms with 10,000 of them (ep_loop_check() in
        fs/eventpoll.c), and nobody is served while that lasts.
        """
        descriptor = _epoll_of(self._loop)
        if descriptor is None:
            return False
        try:
            with closing(select.epoll.fromfd(os.dup(descriptor))) as its:
                its.modify(self._epoll.fileno(), events)
        except OSError:  # the loop has not begun to watch it, or there is no descriptor left
            return False
        return True

    def shut_down(self) -> None:
        """Close the epoll. Sockets that are still watched are left open for their owners to close."""
        self.close_now()
        self._handlers[:] = [None]
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def _drain(self) -> None:
        handlers, poll, clock = self._handlers, self._epoll.poll, self._clock
        for _ in range(_BATCHES_PER_TURN):
            batch = poll(0, _BATCH)
            if not batch:
                return
            self._in_batch = True
            self.now = clock()
            for descriptor, events in batch:
                entry = handlers[descriptor]
                if entry is not None:
                    try:
                        entry[0](entry[1], events)
                    except Exception as error:  # noqa: BLE001 -- one connection's bug must not lose the others' edges
                        self.failed(entry[2], error)
            self._in_batch = False
            self.now = 0.0
            if self._closing:
                self.close_now()
            if self._after_handlers is not None:
                self._after_handlers()

    def _run_again(self) -> None:
        if self.is_paused:
            return
        self._turns_are_due = False
        end = time.monotonic() + _TURNS_SECONDS
        for _ in range(len(self._again)):
            handler = next(iter(self._again))
            owner = self._again.pop(handler)
            try:
                handler(ANOTHER_TURN)
            except Exception as error:  # noqa: BLE001 -- as above
                self.failed(owner, error)
            if time.monotonic() >= end:
                break
        if self._again and not self._turns_are_due:
            self._turns_are_due = True
            self._loop.call_soon(self._run_again)
        if self._after_handlers is not None:
            self._after_handlers()


def _epoll_of(loop: asyncio.AbstractEventLoop) -> int | None:
    """The descriptor of a loop's own epoll, for which neither uvloop nor asyncio has a public name."""
    backend: Callable[[], int] | None = getattr(loop, "_get_backend_id", None)
    if backend is not None:
        return backend()
    selector = getattr(loop, "_selector", None)
    return selector.fileno() if isinstance(selector, EpollSelector) else None


def _entry(handler: Handler, owner: Owner) -> Entry:
    if type(handler) is MethodType:
        return handler.__func__, handler.__self__, owner
    return _call, handler, owner


def _call(handler: Handler, events: int) -> None:
    """Call what is no method."""
    handler(events)
