"""One direction of a relay: recv(2) and send(2), or splice(2) through a pipe, with flow control."""

import contextlib
import os
import select
import socket
from socket import SocketType
from typing import Final, Protocol

from userproxy.forwarding.poller import HANGUP, UNFINISHED, WRITABLE, Owner, Poller
from userproxy.forwarding.tcp.pipes import PIPE_BYTES, Pipe, PipePool
from userproxy.forwarding.tcp.relays.buffer import NoMessageError, Parts
from userproxy.forwarding.tcp.sockets import unacknowledged
from userproxy.forwarding.tcp.states import DirectionState
from userproxy.forwarding.tcp.tap import TappedSockets

BUFFER_BYTES: Final = 64 * 1024
_TURN_BYTES: Final = PIPE_BYTES
"""What one direction may move before the other connections get their turn."""

_TURN_MOVES: Final = 64
"""How many reads that may take: a sender of small messages can write as fast as they are passed on."""

A_MESSAGE: Final = select.EPOLLIN | select.EPOLLOUT
"""The events of a socket that has bytes to read and room to write, and neither a FIN nor an error."""

NOTHING_READ: Final = -1
"""In place of a size: nothing has been read for the event yet."""

_SPLICE_FLAGS: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


class DirectionContext:
    """What all directions of a process share: the poller, the pipes, one read buffer."""

    __slots__ = ("buffer", "parts", "pipes", "poller", "view")

    def __init__(self, poller: Poller, pipes: PipePool) -> None:
        self.poller = poller
        self.pipes = pipes
        self.buffer = bytearray(BUFFER_BYTES)
        self.view = memoryview(self.buffer)
        self.parts = Parts(self.view)


class Connection(Owner, Protocol):
    """What a direction needs of both: of a connection's :class:`~userproxy.forwarding.tcp.relays.ways.Ways`."""

    def on_events(self, direction: "Direction", events: int, *, put_off: bool = False) -> None:
        """Handle events of the source of `direction`, unless they were a small message that it has moved itself.

        `put_off` are those that :meth:`Direction.put_off` was called for.
        """

    def fail(self) -> None:
        """Handle the failure of a socket."""


class Direction:
    """One direction of a relay, as soon as it begins.

    It has no `__init__`: a class that has one costs 600 instructions more to call.
    """

    __slots__ = (
        "_context",
        "_due",
        "_kept",
        "_parts",
        "_pending",
        "_pipe",
        "_read",
        "_relay",
        "_sent",
        "_sink",
        "_source",
        "_streak",
        "_view",
        "blocked",
        "bulk",
        "count",
        "ended",
        "usual",
    )

    def begin(self, relay: Connection, context: DirectionContext, source: SocketType, sink: SocketType) -> None:
        """Be the one from `source` to `sink`. Before everything else."""
        self._relay = relay
        self._context = context
        self._source: SocketType | TappedSockets = source
        self._sink: SocketType | TappedSockets = sink
        self._view = context.view
        self._parts = context.parts
        self._read = NOTHING_READ
        """Bytes in the shared buffer that `on_events` has read and left to `pump`."""
        self._sent = 0
        """How many of these it has sent."""
        self._pending: memoryview | None = None
        self._pipe: Pipe | None = None
        self._streak = 0
        """Bytes read by `pump` since the source was last found empty."""
        self._kept = 0
        """Bytes of `_pending` that were in a pipe."""
        self._due = 0
        """Events that have been put off."""
        self.blocked = False
        """The sink took less than it was given; the rest waits here and nothing more is read."""
        self.ended = False
        """The source's FIN has arrived."""
        self.bulk = False
        """The source has filled the read buffer. False again once it is found empty after less than that."""
        self.usual = True
        """Whether there was nothing to care for but small messages and the end, after the last event that was neither:
        `is_usual` held for both directions, or the opposite one has come to its end."""
        self.count = 0

    @property
    def is_usual(self) -> bool:
        """Nothing waits, nothing has ended, and what comes is small."""
        return not self.blocked and not self.ended and not self.bulk

    def delivered(self) -> int:
        """Bytes that the sink's peer has acknowledged: megabytes may still be on their way to a slow reader."""
        count = self.count - unacknowledged(self._sink)
        if self._pending is not None:
            count -= len(self._pending)
        if self._pipe is not None:
            count -= self._pipe.fill
        return count

    @property
    def is_plain(self) -> bool:
        """Whether its counter is all that there is to know of it."""
        return self.is_usual and not self._streak

    @property
    def pipe(self) -> Pipe | None:
        """The pipe in which bytes wait; None if there is none."""
        return self._pipe if self._pipe is not None and self._pipe.fill else None

    def state(self) -> DirectionState:
        """The same as a value; the ends of :attr:`pipe` belong to it."""
        pending, pipe = bytes(self._pending or b""), self.pipe
        fill = 0 if pipe is None else pipe.fill
        return DirectionState(self.count, self.ended, self.blocked, self.bulk, self._streak, self._kept, pending, fill)

    def restore(self, state: DirectionState, ends: tuple[int, int] | None) -> None:
        """Be as `state` says; `ends` are those of its pipe. The first event of the sockets is still to come."""
        self.count, self.ended, self.blocked, self.bulk = state.count, state.ended, state.blocked, state.bulk
        self._streak, self._kept = state.streak, state.kept
        self._pending = memoryview(state.pending) if state.pending else None
        pipes = self._context.pipes
        pipes.adopt_kept(state.kept)
        if ends is not None:
            self._pipe = pipes.adopt(ends, state.fill)
            pipes.stuck(self._pipe, self._keep)

    def forsake(self) -> None:
        """Close our copy of the pipe, if there is one: what is in it is another process's."""
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None

    def on_events(self, events: int) -> None:
        """What the poller calls with the events of the source.

        A small message is moved right here while nothing waits in either direction: most requests run only these
        lines. Everything else is handed to the relay.
        """
        if events != A_MESSAGE or not self.usual:
            if events != WRITABLE or not self.usual:  # else there is nothing to read, and nothing waits to be sent
                self._relay.on_events(self, events)
            return
        size, sent = NOTHING_READ, 0
        try:
            size = self._source.recv_into(self._view)
            sent = self._sink.send(self._parts[size])
            if sent == size:
                self.count += size
                return
        except (BlockingIOError, NoMessageError):
            if size == NOTHING_READ:
                return
        except OSError:
            self._relay.fail()
            return
        self._read, self._sent = size, sent
        self._relay.on_events(self, events)

    def begin_with(self, size: int, sent: int) -> None:
        """Go on with `size` bytes that are in the shared buffer, the first `sent` of which have been sent."""
        self._read, self._sent = size, sent

    def tap(self, sockets: TappedSockets, context: DirectionContext) -> None:
        """Move bytes by way of `sockets` from now on. The context has no pipes: what is in one is kept in memory."""
        self._empty_pipe()
        self._context = context
        self._source = self._sink = sockets

    def go_by(self, source: SocketType, sink: SocketType, context: DirectionContext) -> None:
        """Move bytes by other ends of the same sockets, also what is told to whoever taps."""
        self._empty_pipe()
        if isinstance(self._source, TappedSockets):
            self._source.go_by(source, sink)
        else:
            self._context = context
            self._source, self._sink = source, sink

    def wait_with(self, data: bytes) -> None:
        """Have bytes wait that were read before those that wait already."""
        if data:
            self._empty_pipe()
            self._pending = memoryview(data + bytes(self._pending or b""))
            self.blocked = True

    def _empty_pipe(self) -> None:
        """Keep in memory what is in the pipe, and give it back."""
        if self._pipe is not None and self._pipe.fill:
            self._pending = memoryview(os.read(self._pipe.read_end, self._pipe.fill))
            self._pipe.fill = 0
        self.release_pipe()

    def untap(self, source: SocketType, sink: SocketType, context: DirectionContext) -> None:
        """Move bytes as before :meth:`tap`."""
        self._context = context
        self._source, self._sink = source, sink

    def send_first(self, data: bytes) -> None:
        """Send `data` before all that is read, without counting it. Raises OSError as :meth:`pump`."""
        sent = 0
        with contextlib.suppress(BlockingIOError):
            sent = self._sink.send(memoryview(data))
        self.blocked = sent < len(data)
        if self.blocked:
            self._pending = memoryview(data[sent:])

    def put_off(self, events: int) -> None:
        """Handle these events after those of other connections that take less time."""
        self._due |= events
        self._context.poller.again(self._take_turn, self._relay)

    def _take_turn(self, _another: int) -> None:
        events, self._due = self._due, 0
        self._relay.on_events(self, events, put_off=True)

    def pump(self, events: int) -> bool:
        """Read and send for one turn. True if there may be more to read, because the turn is over.

        A read shorter than the buffer has emptied the socket, unless the events announce an end or urgent data. Raises
        OSError when either socket has failed.
        """
        view = self._view
        size, sent = self._read, self._sent
        self._read, self._sent = NOTHING_READ, 0
        moved = 0
        for _ in range(_TURN_MOVES):
            if self._pipe is not None:
                if self._splice(self._pipe):
                    return not self.blocked
                events |= HANGUP
            if size == NOTHING_READ:
                try:
                    size = self._source.recv_into(view)
                except BlockingIOError:
                    self._slacken()
                    return False
            if not size:
                self.release_pipe()
                self.ended = True
                self.bulk = False
                return False
            self.count += size
            self._streak += size
            with contextlib.suppress(BlockingIOError):
                sent += self._sink.send(view[sent:size])
            if sent < size:
                self.blocked = True
                self._pending = memoryview(bytes(view[sent:size]))
                return False
            if size == BUFFER_BYTES:
                self.bulk = True
                moved += size
                if moved >= _TURN_BYTES:
                    return True
                if self._pipe is None:
                    self._pipe = self._context.pipes.borrow()
            elif not events & UNFINISHED:
                self._slacken()
                return False
            size, sent = NOTHING_READ, 0
        return True

    def flush(self) -> bool:
        """Send what waits. True if all of it was sent, and reading may go on. Raises OSError as `pump`."""
        if self._pending is not None:
            self._send_pending(self._pending)
        elif self._pipe is not None:
            self._drain_pipe(self._pipe)
        return not self.blocked

    def half_close(self) -> None:
        """Pass the source's FIN on. Raises OSError as `pump`."""
        self._sink.shutdown(socket.SHUT_WR)

    def salvage(self) -> None:
        """Move what can still be read after a failure; raises nothing.

        The kernel reports a reset once. After that, the end of the socket looks like a FIN.
        """
        if self.blocked or self.ended:
            return
        view = self._context.view
        with contextlib.suppress(OSError):
            while size := self._source.recv_into(view):
                self.count += size
                if self._sink.send(view[:size]) < size:
                    return  # what comes after a gap is not to be passed on

    def release_pipe(self) -> None:
        if self._pipe is not None:
            self._context.pipes.give_back(self._pipe)
            self._pipe = None

    def release(self) -> None:
        """Give the pipe back and drop what is unsent."""
        if self._pipe is not None:
            self.release_pipe()
        if self._kept:
            self._forget_kept()

    def _slacken(self) -> None:
        """The source is empty: if it had less than a buffer of bytes, what comes next is likely to be small, too."""
        if self._streak < BUFFER_BYTES:
            self.bulk = False
            if self._pipe is not None:
                self.release_pipe()
        self._streak = 0

    def _send_pending(self, data: memoryview) -> None:
        try:
            sent = self._sink.send(data)
        except BlockingIOError:
            return
        self.blocked = sent < len(data)
        self._pending = data[sent:] if self.blocked else None
        if not self.blocked:
            self._forget_kept()

    def _keep(self, data: bytes) -> None:
        """Keep what was in the pipe, which another direction gets. Called by the pool."""
        self._pipe = None
        self._pending = memoryview(data)
        self._kept = len(data)

    def _forget_kept(self) -> None:
        if self._kept:
            self._context.pipes.let_go(self._kept)
            self._kept = 0

    def _splice(self, pipe: Pipe) -> bool:
        """Move what splice(2) can. True if the sink is full or the turn over, False if recv(2) has to be asked.

        At urgent data splice(2) returns what it returns for an empty socket, or for an ended one.
        """
        moved = 0
        for _ in range(_TURN_MOVES):
            try:
                size = os.splice(self._source.fileno(), pipe.write_end, _TURN_BYTES, flags=_SPLICE_FLAGS)
            except BlockingIOError:
                size = 0
            if not size:
                return False
            self.count += size
            self._streak += size
            moved += size
            pipe.fill += size
            self._drain_pipe(pipe)
            if self.blocked or moved >= _TURN_BYTES:
                break
        return True

    def _drain_pipe(self, pipe: Pipe) -> None:
        was_blocked, before = self.blocked, pipe.fill
        self.blocked = True
        while pipe.fill:
            try:
                pipe.fill -= os.splice(pipe.read_end, self._sink.fileno(), pipe.fill, flags=_SPLICE_FLAGS)
            except BlockingIOError:
                if not was_blocked or pipe.fill < before:
                    self._context.pipes.stuck(pipe, self._keep)
                return
        self.blocked = False
        if was_blocked:
            self._context.pipes.moves(pipe)
