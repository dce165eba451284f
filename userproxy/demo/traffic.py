"""Clients that sit in a host: one request or datagram, or many at once, counted by the Pod that answered."""

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from socket import socket

import msgspec

from userproxy.demo.hosts import Address, Host


class Answer(msgspec.Struct, frozen=True):
    """What a Pod's server says: its name and the client address that it saw, ``ip:port`` or ``[ip]:port``."""

    pod: str
    client: str

    @property
    def client_ip(self) -> str:
        return self.client.rpartition(":")[0].strip("[]")


class Tally(msgspec.Struct, frozen=True):
    """What became of many requests: how many each Pod answered, seconds each took, and every failure's text."""

    pods: Counter[str]
    clients: Counter[str]
    seconds: tuple[float, ...]
    failures: tuple[str, ...]

    def percentile(self, percent: float) -> float:
        """Seconds that this share of the answered requests stayed within."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def http(host: Host, address: Address, path: str = "/", timeout: float = 15.0) -> bytes:
    """The body of a GET request sent from `host` on a connection of its own.

    Raises OSError, also for an answer that is no HTTP or no success.
    """
    with closing(HTTPConnection(address[0], address[1])) as connection:
        connection.sock = host.connect(address, timeout)
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            response = connection.getresponse()
            body = response.read()
        except HTTPException as error:
            raise OSError(f"{address[0]}:{address[1]}: {error!r}") from error
        if response.status != 200:
            raise OSError(f"{address[0]}:{address[1]}: HTTP status {response.status}")
        return body


def fetch(host: Host, address: Address, timeout: float = 15.0) -> Answer:
    """Ask the Pod behind `address` who it is. Raises OSError."""
    return msgspec.json.decode(http(host, address, timeout=timeout), type=Answer)


def fetch_many(host: Host, address: Address, count: int, concurrency: int = 8, timeout: float = 15.0) -> Tally:
    """`count` requests, `concurrency` of them at a time, each on a new connection."""
    return _many(lambda: fetch(host, address, timeout), count, concurrency)


def ask(host: Host, address: Address, timeout: float = 15.0) -> Answer:
    """Ask the Pod behind `address` over UDP who it is, from a port of its own. Raises OSError."""
    with host.udp_socket(address, timeout) as sock:
        return ask_over(sock)


def ask_over(sock: socket) -> Answer:
    """The same over a socket that is connected already, and stays open. Raises OSError."""
    sock.send(b"?")
    return msgspec.json.decode(sock.recv(1 << 16).partition(b"\n")[0], type=Answer)


def ask_many(host: Host, address: Address, count: int, concurrency: int = 8, timeout: float = 15.0) -> Tally:
    """`count` datagrams, `concurrency` of them at a time, each from a port of its own, and their answers."""
    return _many(lambda: ask(host, address, timeout), count, concurrency)


def _many(attempt: Callable[[], Answer], count: int, concurrency: int) -> Tally:
    def one(_: int) -> tuple[Answer | str, float]:
        start = time.monotonic()
        try:
            return attempt(), time.monotonic() - start
        except (OSError, msgspec.DecodeError) as error:
            return str(error) or repr(error), time.monotonic() - start

    with ThreadPoolExecutor(concurrency) as threads:
        results = list(threads.map(one, range(count)))
    answers = [(answer, seconds) for answer, seconds in results if isinstance(answer, Answer)]
    return Tally(
        pods=Counter(answer.pod for answer, _ in answers),
        clients=Counter(answer.client_ip for answer, _ in answers),
        seconds=tuple(seconds for _, seconds in answers),
        failures=tuple(answer for answer, _ in results if isinstance(answer, str)),
    )
