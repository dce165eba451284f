"""How long questions and answers are under way, by the timestamps of the kernels at both ends.

A client and a server wait for the CPU, too, before they read what has come, and are held up in the midst of what they
do. So a question has come when the server's kernel has it, and an answer when the client's has (SO_TIMESTAMPNS,
socket(7); a clock that all network namespaces share). When either was sent its sender says, and where sending itself
took long, because the CPU was taken away meanwhile, the end of it counts: the wait is as long as that at least.
"""

import asyncio
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

TIMESTAMPS: Final = 35
"""SO_TIMESTAMPNS as a socket option, and the type of the message that goes with what is read."""

_TIMESPEC: Final = struct.Struct("=qq")
_HELD_UP: Final = 1_000_000
"""Nanoseconds; who needs longer to send a few bytes had no CPU."""

_TCP_INFO_BYTES: Final = 104
_ROUND_TRIP: Final = 68
_RETRANSMITTED: Final = 100
"""``tcpi_rtt``, in microseconds, and ``tcpi_total_retrans`` of struct tcp_info (linux/tcp.h)."""


class Timed:
    """A socket over which one question at a time is asked of a server that says when it had it and when it answered.

    `note` is called with how long a question was under way, in seconds, and later with how long the same one and its
    answer were together, once the server has told how long it took to send that. `note_server` is called with how long
    the question was the server's: a program on the same machine that waits for the CPU as others do.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        note: Callable[[float], None],
        note_server: Callable[[float], None] = lambda _: None,
    ) -> None:
        """Take over a connected socket that has :data:`TIMESTAMPS`."""
        self._note_server = note_server
        self._loop = loop
        self._socket = sock
        self._note = note
        self._answer: asyncio.Future[tuple[bytes, int]] | None = None
        self._unconfirmed: int | None = None
        self._sent_at = 0
        loop.add_reader(sock, self._read)

    async def ask(self, said: bytes) -> list[bytes]:
        """The words of the answer, but for the times. Raises OSError, and EOFError where the connection ends."""
        self._answer = self._loop.create_future()
        began = time.time_ns()
        self._socket.send(said)
        sent = _when(began, time.time_ns() - began)
        answer, had_answer = await self._answer
        *words, had_question, answered, last_took = answer.split()
        if self._unconfirmed is not None:
            self._note((self._unconfirmed - _when(self._sent_at, int(last_took))) / 1e9)
        self._sent_at = int(answered)
        self._unconfirmed = int(had_question) - sent + had_answer
        self._note((int(had_question) - sent) / 1e9)
        self._note_server((int(answered) - int(had_question)) / 1e9)
        return words

    def close(self) -> None:
        """Close the socket."""
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _read(self) -> None:
        if self._answer is None or self._answer.done():
            self._loop.remove_reader(self._socket)  # the end, which the next question finds
            return
        with suppress(BlockingIOError):
            try:
                data, said, *_ = self._socket.recvmsg(1000, 64)
            except BlockingIOError:
                raise
            except OSError as error:
                self._answer.set_exception(error)
                return
            if not data:
                self._answer.set_exception(EOFError("the connection has ended"))
            else:
                self._answer.set_result((data, _timestamp(said)))


def handshake_seconds(sock: socket.socket, waited: float) -> float:
    """How long the handshake of a new connection took: `waited` where something was sent again, else as TCP says."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    (again,) = struct.unpack_from("=I", info, _RETRANSMITTED)
    (microseconds,) = struct.unpack_from("=I", info, _ROUND_TRIP)
    return waited if again else float(microseconds) / 1e6


def _when(began: int, took: int) -> int:
    """When something was sent at the latest, as far as that was not at once."""
    return began + took if took > _HELD_UP else began


def _timestamp(said: list[tuple[int, int, bytes]]) -> int:
    for level, kind, value in said:
        if (level, kind) == (socket.SOL_SOCKET, TIMESTAMPS):
            seconds, nanoseconds = _TIMESPEC.unpack(value)
            return int(seconds) * 10**9 + int(nanoseconds)
    raise OSError("the kernel has not said when this came")
