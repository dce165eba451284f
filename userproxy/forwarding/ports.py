"""Local ports for listeners: kube-proxy 1.25's ``--proxy-port-range``."""

import re
from collections.abc import Iterator
from random import Random

from msgspec import Struct

_HIGHEST = 65_535


class PortRange(Struct, frozen=True):
    """An inclusive range of ports; the empty range (0, 0) lets the kernel pick."""

    first: int = 0
    last: int = 0

    def candidates(self, random: Random) -> Iterator[int]:
        """Ports to try: 0 for the empty range, else all from a random one on, wrapping around."""
        count = self.last - self.first + 1
        start = random.randrange(count)
        for step in range(count):
            yield self.first + (start + step) % count


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
    if last > _HIGHEST:
        raise ValueError(f"{text!r} goes beyond port {_HIGHEST}")
    if first == 0 and last != 0:
        raise ValueError(f"{text!r} contains port 0")
    return PortRange(first, last)
