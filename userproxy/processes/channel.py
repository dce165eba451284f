"""Messages and descriptors between two processes of userproxy, over a Unix socket of type SOCK_SEQPACKET.

A packet is one byte, which says whether the message goes on in the next packet, or will not, and a piece of it in
msgpack.
Packets rather than a stream, because descriptors (SCM_RIGHTS, unix(7)) then belong to one packet for certain: where the
receiver has no room for them, it is known whose they were.
"""

import array
import asyncio
import errno
import fcntl
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, Final, Generic, TypeVar

import msgspec

from userproxy.pace import SLICE_SECONDS

Received = TypeVar("Received")

MOST_WAITING: Final = 64 * 1024 * 1024
"""Bytes that may wait to be sent: twenty times the snapshots of 10,000 Services. A peer for whom more waits is lost."""

_PIECE: Final = 32 * 1024
_DESCRIPTORS_OF_PIECE: Final = 64
"""The kernel takes 253 (SCM_MAX_FD)."""

_MOST_BYTES: Final = 64 * 1024 * 1024
"""Of one message."""

_LOW_WATER: Final = 256 * 1024
_TURN_SECONDS: Final = SLICE_SECONDS
"""How long messages are received or sent in one turn of the loop, one at least: a data process serves clients, too."""

_RETRY_SECONDS: Final = 0.01
_LAST, _GOES_ON, _BROKEN_OFF = b"\0", b"\1", b"\2"
_ROOM_FOR_DESCRIPTORS: Final = socket.CMSG_SPACE(4 * _DESCRIPTORS_OF_PIECE)
_BUSY: Final = frozenset({errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS})
"""Errors of sendmsg(2) that pass: ETOOMANYREFS is a limit of descriptors that are under way, unix(7)."""

_PLAIN: Final = (IPv4Address, IPv4Network, IPv6Address, IPv6Network)


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a new connection, neither inheritable. Raises OSError."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def encode(message: object) -> bytes:
    """A message, or part of one, as msgpack."""
    return _ENCODER.encode(message)


def packet(message: object) -> bytes:
    """A short message as one packet, for whoever has a socket and no loop."""
    return _LAST + encode(message)


class Decoder(Generic[Received]):
    """Makes messages of what :func:`encode` returned. Raises msgspec.DecodeError for what is none of them."""

    def __init__(self, kind: Any) -> None:
        """`kind` is a union of Structs with tags, or any other type."""
        self._decoder: msgspec.msgpack.Decoder[Received] = msgspec.msgpack.Decoder(kind, dec_hook=_to_address)

    def decode(self, data: bytes | bytearray | msgspec.Raw) -> Received:
        """The message."""
        return self._decoder.decode(data)


class _Packet:
    """One that waits to be sent. Its descriptors are copies."""

    __slots__ = ("data", "descriptors")

    def __init__(self, data: bytes, descriptors: Sequence[int]) -> None:
        self.data = data
        self.descriptors: list[int] = []
        try:
            for each in descriptors:
                self.descriptors.append(fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 0))
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        close_descriptors(self.descriptors)


class Channel(Generic[Received]):
    """One end of a connection between two processes. To be used on the loop's thread only.

    `received` is called with each message and the descriptors that came with it, which are its own from then on; there
    are none if this process has too few left for all of them. An exception of it goes to the loop's exception handler.
    `ended` is called once, with the reason, when the peer has closed, has sent what is no message, or does not read;
    not after :meth:`close`.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        decoder: Decoder[Received],
        received: Callable[[Received, list[int]], None],
        ended: Callable[[str], None],
        most_waiting: int = MOST_WAITING,
        low_water: int = _LOW_WATER,
    ) -> None:
        """Take over a connected socket. :meth:`drained` returns once no more than `low_water` bytes wait."""
        sock.setblocking(False)  # noqa: FBT003 -- the socket module's own
        self._loop = loop
        self._socket = sock
        self._decoder = decoder
        self._received = received
        self._ended = ended
        self._most_waiting = most_waiting
        self._low_water = low_water
        self._pieces = bytearray()
        self._descriptors: list[int] = []
        self._incomplete = False
        self._packets: deque[_Packet] = deque()
        self.waiting = 0
        """Bytes that wait to be sent."""
        self._below_low_water: list[asyncio.Future[None]] = []
        self._retry: asyncio.TimerHandle | None = None
        self._writing = False
        self._failure = ""
        """Why nothing can be sent any more. What the peer has sent before is received yet, and may say why."""
        self.open = True
        loop.add_reader(sock.fileno(), self._read)

    def send(self, message: object, descriptors: Sequence[int] = ()) -> None:
        """Send a message as soon as the peer takes it. Copies of `descriptors` go with it; they stay the caller's.

        Nothing happens once the channel has ended. Raises OSError where descriptors would have to wait and there is
        none left for the copies.
        """
        if not self.open:
            return
        begun = False
        for data, part in _packets(encode(message), descriptors):
            if self._packets or not self._sent(data, part):
                try:
                    self._wait_with(data, part)
                except OSError:
                    if begun:  # else the next message would be taken for the rest of this one
                        self._wait_with(_BROKEN_OFF)
                    raise
            begun = True
        if self.waiting > self._most_waiting:
            self._end("it does not read what is sent to it")

    @property
    def has_room(self) -> bool:
        """Whether so little waits to be sent that more may be made; also once the channel has ended."""
        return self.waiting <= self._low_water

    async def drained(self) -> None:
        """Wait until little waits to be sent, or the channel has ended."""
        if not self.has_room:
            waiter = self._loop.create_future()
            self._below_low_water.append(waiter)
            await waiter

    def close(self) -> None:
        """Close the connection; what waits to be sent is lost."""
        if not self.open:
            return
        self.open = False
        self._loop.remove_reader(self._socket.fileno())
        self._stop_writing()
        if self._retry is not None:
            self._retry.cancel()
        self._socket.close()
        for packet in self._packets:
            packet.close()
        self._packets.clear()
        self.waiting = 0
        close_descriptors(self._descriptors)
        self._wake()

    def flush(self, seconds: float) -> None:
        """Send what waits, blocking for at most so long: for the last words of a process."""
        end = time.monotonic() + seconds
        while self.open and self._packets and not self._failure and time.monotonic() < end:
            waiting = len(self._packets)
            self._write()
            if len(self._packets) == waiting:
                time.sleep(_RETRY_SECONDS)

    def wait(self, until: Callable[[], bool], seconds: float) -> bool:
        """Send and receive without the loop until `until()`, for at most so long; whether it has come to that.

        For an exchange in one turn of the loop. It also ends with the channel.
        """
        end = time.monotonic() + seconds
        poll = select.poll()
        while not until() and self.open and (left := end - time.monotonic()) > 0:
            poll.register(self._socket, select.POLLIN | (select.POLLOUT if self._packets else 0))
            poll.poll(left * 1000)
            if self._packets:
                self._write()
            self._read()
        return until()

    def _wait_with(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        self._packets.append(_Packet(data, descriptors))
        self.waiting += len(data)

    def _end(self, reason: str) -> None:
        if self.open:
            self.close()
            self._ended(reason)

    def finish(self, seconds: float) -> None:
        """Receive what the peer has sent before it ended, for at most so long, and close."""
        self._receive(time.monotonic() + seconds)
        self.close()

    def _read(self) -> None:
        may_be_more = self._receive(time.monotonic() + _TURN_SECONDS)
        if self._failure and self.open:
            if may_be_more:  # after an error uvloop calls no reader any more, whatever is left to read
                self._loop.call_soon(self._read)
            else:
                self._end(self._failure)

    def _receive(self, end: float) -> bool:
        """Receive until `end` on the monotonic clock, one packet at least; whether there may be more."""
        while self.open:
            try:
                packet, ancillary, flags, _ = self._socket.recvmsg(
                    _PIECE + 1, _ROOM_FOR_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return False
            except OSError as error:
                reason = error.strerror or str(error)
                if error.errno != errno.ECONNRESET:
                    self._end(reason)
                    return False
                self._failure = reason  # said once, where the peer has not read all: what it had sent comes after that
                continue
            self._take(packet, _descriptors_in(ancillary), flags)
            if time.monotonic() >= end:
                return True
        return False

    def _take(self, packet: bytes, descriptors: list[int], flags: int) -> None:
        self._descriptors += descriptors
        self._incomplete |= bool(flags & socket.MSG_CTRUNC)
        if not packet:
            self._end("it has closed the connection")
        elif packet == _BROKEN_OFF:
            self._pieces.clear()
            self._incomplete = False
            close_descriptors(self._descriptors)
        elif flags & socket.MSG_TRUNC or packet[:1] not in {_LAST, _GOES_ON}:
            self._end("it has sent what is no message")
        elif packet[:1] == _GOES_ON or self._pieces:
            self._pieces += memoryview(packet)[1:]
            if len(self._pieces) > _MOST_BYTES:
                self._end("it has sent a message that is too long")
            elif packet[:1] == _LAST:
                pieces, self._pieces = self._pieces, bytearray()
                self._deliver(pieces)
        else:
            self._deliver(packet[1:])

    def _deliver(self, data: bytes | bytearray) -> None:
        descriptors, self._descriptors = self._descriptors, []
        if self._incomplete:
            self._incomplete = False
            close_descriptors(descriptors)
        try:
            message = self._decoder.decode(data)
        except (msgspec.DecodeError, ValueError) as error:
            close_descriptors(descriptors)
            self._end(f"it has sent what is no message: {error}")
            return
        try:
            self._received(message, descriptors)
        except Exception as error:  # noqa: BLE001 -- a bug that one message meets is not to cost the others
            text = f"a message of type {type(message).__name__} was not dealt with"
            self._loop.call_exception_handler({"message": text, "exception": error})

    def _sent(self, data: bytes, descriptors: Sequence[int]) -> bool:
        """Whether the kernel has taken a packet; if not, it is tried again, or the channel is about to end."""
        if self._failure:
            return False
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        try:
            self._socket.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            if not self._writing:
                self._writing = True
                self._loop.add_writer(self._socket.fileno(), self._write)
            return False
        except OSError as error:
            if error.errno in _BUSY:
                if self._retry is None:
                    self._retry = self._loop.call_later(_RETRY_SECONDS, self._try_again)
            else:
                self._failure = error.strerror or str(error)
                self._loop.call_soon(self._read)  # and not at once: the caller may be in the middle of something
            return False
        return True

    def _try_again(self) -> None:
        self._retry = None
        self._write()

    def _write(self) -> None:
        end = time.monotonic() + _TURN_SECONDS
        while self._packets and self._sent(self._packets[0].data, self._packets[0].descriptors):
            packet = self._packets.popleft()
            packet.close()
            self.waiting -= len(packet.data)
            if time.monotonic() >= end:
                break
        if not self._packets:
            self._stop_writing()
        if self.has_room:
            self._wake()

    def _stop_writing(self) -> None:
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._socket.fileno())

    def _wake(self) -> None:
        waiters, self._below_low_water = self._below_low_water, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


def _packets(data: bytes, descriptors: Sequence[int]) -> Iterator[tuple[bytes, Sequence[int]]]:
    """The packets of a message, and the descriptors that go with each."""
    count = max(1, -(-len(data) // _PIECE), -(-len(descriptors) // _DESCRIPTORS_OF_PIECE))
    for number in range(count):
        mark = _LAST if number == count - 1 else _GOES_ON
        begin = number * _DESCRIPTORS_OF_PIECE
        yield (
            mark + data[number * _PIECE : (number + 1) * _PIECE],
            descriptors[begin : begin + _DESCRIPTORS_OF_PIECE],
        )


def _descriptors_in(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)


def close_descriptors(descriptors: list[int]) -> None:
    """Close all of them, and forget them."""
    while descriptors:
        os.close(descriptors.pop())


def _from_address(value: object) -> str:
    if isinstance(value, _PLAIN):
        return str(value)
    raise NotImplementedError(f"{type(value).__name__} cannot be sent")


def _to_address(kind: type, value: object) -> object:
    if kind in _PLAIN and isinstance(value, str):
        return kind(value)
    raise NotImplementedError(f"{kind.__name__} cannot be received")


_ENCODER: Final = msgspec.msgpack.Encoder(enc_hook=_from_address)
