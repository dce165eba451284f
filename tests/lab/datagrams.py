"""A UDP client of the lab's Pods that says what it got, and from whom."""

import itertools
import socket

import msgspec

from userproxy.demo.hosts import Address, Host
from userproxy.demo.traffic import Answer

_NUMBERS = itertools.count(1)


def ask_over(sock: socket.socket) -> Answer:
    """Send a question over a connected socket and wait for its answer; later ones for earlier questions are skipped.

    Raises OSError: ConnectionRefusedError where an ICMP message says so, TimeoutError where nothing comes.
    """
    question = b"?%d" % next(_NUMBERS)
    sock.send(question)
    while True:
        name, _, echo = sock.recv(1 << 16).partition(b"\n")
        if echo == question:
            return msgspec.json.decode(name, type=Answer)


class Answers:
    """A client that asks on whether or not it is answered, over one connected socket.

    ``by_number`` are all answers so far, by the number of the question.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.by_number: dict[int, Answer] = {}
        self._sock = sock

    def exchange(self, count: int) -> int:
        """Ask `count` questions, each once the one before was answered or lost; how many were answered in the end."""
        numbers = [self._ask() for _ in range(count)]
        if not all(number in self.by_number for number in numbers):
            self._listen(0, 0.5)  # one that was late
        return sum(number in self.by_number for number in numbers)

    def _ask(self) -> int:
        number = next(_NUMBERS)
        self._sock.send(b"?%d" % number)
        self._listen(number, 1.0)
        return number

    def _listen(self, number: int, seconds: float) -> None:
        self._sock.settimeout(seconds)
        try:
            while number not in self.by_number:
                name, _, echoed = self._sock.recv(1 << 16).partition(b"\n")
                self.by_number[int(echoed[1:])] = msgspec.json.decode(name, type=Answer)
        except TimeoutError:
            return


def ask(host: Host, address: Address, timeout: float = 15.0, *, source: Address | None = None) -> Answer:
    """Ask the Pod behind `address` over UDP who it is, on a flow of its own. Raises OSError, as `ask_over`."""
    with host.udp_socket(address, timeout, source=source) as sock:
        return ask_over(sock)


def echo(sock: socket.socket, payload: bytes) -> bytes:
    """What comes back for a datagram over a connected socket."""
    sock.send(payload)
    return sock.recv(1 << 16)
