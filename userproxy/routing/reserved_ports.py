"""Ports on the node's own addresses that no Service may have (``--reserved-node-ports``)."""

import re
from typing import Final

from msgspec import Struct

from userproxy.addresses import HIGHEST_PORT

_RANGE: Final = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")


class ReservedPorts(Struct, frozen=True):
    """Inclusive ranges of ports, of TCP and UDP alike."""

    ranges: tuple[tuple[int, int], ...] = ()

    def __contains__(self, port: int) -> bool:
        return any(first <= port <= last for first, last in self.ranges)

    def __str__(self) -> str:
        return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in self.ranges)


def parse_reserved_ports(text: str) -> ReservedPorts:
    """Ports and ranges with commas between them, such as ``2379-2381,6443``; none if empty.

    Raises ValueError with a clause that says what is wrong with the value.
    """
    return ReservedPorts(tuple(_range(part.strip()) for part in text.split(",")) if text.strip() else ())


def _range(text: str) -> tuple[int, int]:
    match = _RANGE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a port or a range of ports such as 10248-10260")
    first, last = int(match[1]), int(match[2] or match[1])
    if not 1 <= first <= HIGHEST_PORT or not 1 <= last <= HIGHEST_PORT:
        raise ValueError(f"{text!r} is not within 1 to {HIGHEST_PORT}")
    if last < first:
        raise ValueError(f"{text!r} ends before it begins")
    return first, last


NODE_SERVICES: Final = parse_reserved_ports("2379-2381,4789,6443,8472,10248-10260,20256-20257")
"""Where a node's own programs listen by default: etcd, the API server, kubelet, proxies, controller managers, scheduler
and node-problem-detector; and where VXLAN arrives (4789, flannel's 8472)."""
