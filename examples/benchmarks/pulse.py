"""``python -m examples.benchmarks.pulse``: a client that exchanges 100 bytes every millisecond, and its backend.

A process of its own, so that nothing but the proxy and the machine makes it wait.
"""

import gc
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import click

_BYTES = 100
_EVERY_NS = 1_000_000


@click.command()
@click.argument("backend")
@click.argument("portal")
def main(backend: str, portal: str) -> None:
    """Serve BACKEND, an ``ip:port``, and talk to it by way of PORTAL until standard input ends.

    Each line there is answered with three figures of the waits since the last one: the longest and the 99th percentile
    in milliseconds, and how many there were.
    """
    listening = socket.create_server(_address(backend))
    threading.Thread(target=_echo, args=(listening,), name="backend", daemon=True).start()
    client = connect(_address(portal))
    gc.disable()
    pulse = Pulse(client)
    threading.Thread(target=_run, args=(pulse,), name="client", daemon=True).start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for _ in sys.stdin:
        waits = pulse.waits()
        sys.stdout.write(f"{pulse.longest() / 1e6:.3f} {percentile(waits, 99) / 1e6:.3f} {len(waits)}\n")
        sys.stdout.flush()


class Pulse:
    """Sends, waits until everything is back, and rests for what is left of the millisecond."""

    def __init__(self, client: socket.socket, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self._client = client
        self._clock = clock
        self._longest = 0
        self._waits: list[int] = []
        self._sent: int | None = None

    def waits(self) -> list[int]:
        """The waits that have ended since this was asked last, in nanoseconds."""
        waits, self._waits = self._waits, []
        return waits

    def longest(self) -> int:
        """The longest wait since this was asked last, in nanoseconds; one that has not ended yet counts."""
        sent = self._sent
        waiting = 0 if sent is None else self._clock() - sent
        longest, self._longest = self._longest, 0
        return max(longest, waiting)

    def run(self) -> None:
        """Go on until the connection ends."""
        data = bytes(_BYTES)
        with suppress(OSError):
            while True:
                self._sent = began = self._clock()
                self._client.sendall(data)
                if len(self._client.recv(_BYTES, socket.MSG_WAITALL)) < _BYTES:
                    break
                ended = self._clock()
                self._longest = max(self._longest, ended - began)
                self._waits.append(ended - began)
                self._sent = None
                time.sleep(max(0, _EVERY_NS - (ended - began)) / 1e9)
        self._sent = None


def percentile(waits: Sequence[int], percent: int) -> int:
    """What so many per cent of `waits` do not exceed (nearest rank); 0 where there is none."""
    return sorted(waits)[-(-len(waits) * percent // 100) - 1] if waits else 0


def connect(address: tuple[str, int], limit: float = 60.0) -> socket.socket:
    """A connection to `address` as soon as it answers. Raises OSError after `limit` seconds."""
    deadline = time.monotonic() + limit
    while True:
        try:
            client = socket.create_connection(address, timeout=2.0)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.settimeout(None)
            client.sendall(b"?")
            if client.recv(1) == b"?":
                return client
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def _run(pulse: Pulse) -> None:
    pulse.run()
    os._exit(1)  # a client that is cut off has no figure


def _echo(listening: socket.socket) -> None:
    while True:
        peer, _ = listening.accept()
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_echo_one, args=(peer,), name="connection", daemon=True).start()


def _echo_one(peer: socket.socket) -> None:
    with suppress(OSError), peer:
        while data := peer.recv(4096):
            peer.sendall(data)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


if __name__ == "__main__":
    main()
