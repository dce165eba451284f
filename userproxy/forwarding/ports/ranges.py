"""Ranges of local ports: kube-proxy 1.25's ``--proxy-port-range``, and those of the kernel."""

import re
from collections.abc import Iterator
from itertools import islice
from math import gcd
from pathlib import Path
from random import Random
from typing import Final

from msgspec import Struct

from userproxy.addresses import HIGHEST_PORT

_NET: Final = Path("/proc/sys/net/ipv4")

_FIRST_TRIES: Final = 8
"""How many ports are tried first among those that connect(2) takes last."""


class PortRange(Struct, frozen=True):
    """An inclusive range of ports; the empty range (0, 0) is any port."""

    first: int = 0
    last: int = 0

    def __contains__(self, port: int) -> bool:
        return self.first <= port <= self.last

    def __str__(self) -> str:
        return f"{self.first}-{self.last}" if self.last > self.first else str(self.first)

    def candidates(self, random: Random) -> Iterator[int]:
        """All ports in an order that `random` decides.

        The first few are of every second port, beginning with the second: connect(2) takes the others first when it
        needs a local port (the kernel's inet_hash_connect()), and a port that it has taken cannot be bound. These few
        come again among all.
        """
        ports = range(self.first, self.last + 1)
        yield from islice(_shuffled(ports[1::2], random), _FIRST_TRIES)
        yield from _shuffled(ports, random)


_USUAL: Final = PortRange(32_768, 60_999)
"""net.ipv4.ip_local_port_range by default, where it cannot be read."""


def parse_port_range(text: str) -> PortRange:
    """A range written ``N``, ``min-max`` or ``min+offset``; empty, ``0`` and ``0-0`` mean any port.

    Raises ValueError with a clause that says what is wrong with the value.
    """
    match = re.fullmatch(r"([0-9]{1,9})(?:([-+])([0-9]{1,9}))?", text.strip() or "0")
    if match is None:
        raise ValueError(f"{text!r} is not a port range such as 40000-40999 or 40000+999")
    first = int(match[1])
    last = first if match[2] is None else int(match[3]) + (first if match[2] == "+" else 0)
    if last < first:
        raise ValueError(f"{text!r} ends before it begins")
    if last > HIGHEST_PORT:
        raise ValueError(f"{text!r} goes beyond port {HIGHEST_PORT}")
    if first == 0 and last != 0:
        raise ValueError(f"{text!r} contains port 0")
    return PortRange(first, last)


def ephemeral_ports() -> PortRange:
    """net.ipv4.ip_local_port_range, which counts for IPv6, too."""
    try:
        first, last = map(int, (_NET / "ip_local_port_range").read_text().split())
    except (OSError, ValueError):
        return _USUAL
    return PortRange(first, last)


def reserved_ports() -> tuple[PortRange, ...]:
    """net.ipv4.ip_local_reserved_ports: the kernel gives them only to those who ask for them by number."""
    try:
        text = (_NET / "ip_local_reserved_ports").read_text().strip()
        return tuple(parse_port_range(part) for part in text.split(",")) if text else ()
    except (OSError, ValueError):
        return ()


def _shuffled(ports: range, random: Random) -> Iterator[int]:
    """Each of `ports` once: by steps of a random length that has no factor in common with their number."""
    count = len(ports)
    if not count:
        return
    index, stride = random.randrange(count), random.randrange(1, count + 1)
    while gcd(stride, count) > 1:
        stride = random.randrange(1, count + 1)
    for _ in range(count):
        yield ports[index]
        index = (index + stride) % count
