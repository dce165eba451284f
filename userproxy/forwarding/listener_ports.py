"""Which local ports listeners may have, and what they keep off."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Final

import structlog

from userproxy.forwarding.ports import PortRange, parse_port_range

log = structlog.get_logger()

_NET: Final = Path("/proc/sys/net/ipv4")

NODE_PORTS: Final = PortRange(30_000, 32_767)
"""kube-apiserver's default ``--service-node-port-range``."""

_USUAL: Final = PortRange(32_768, 60_999)
"""net.ipv4.ip_local_port_range as the kernel has it unless somebody says otherwise."""


class ListenerPorts:
    """The ports that listeners may have: of the configured range, or if that is empty of those that the kernel gives.

    They keep off `kept`, because somebody else will need these later: the API server gives out node ports, and our own
    servers may come up after the listeners. Where that leaves no port at all it is not done, which is logged.
    """

    def __init__(self, configured: PortRange, kept: Iterable[PortRange] = ()) -> None:
        self.source = configured if configured.last else ephemeral_ports()
        """What ports are taken from."""
        self._kept = tuple(kept)
        self._reserved = () if configured.last else reserved_ports()
        self._node_ports: set[int] = set()
        """Those that are not of NODE_PORTS: a cluster's range need not be the default."""
        self._look_for_overlap(is_configured=bool(configured.last))

    def keep_off(self, port: int) -> None:
        """Have no listener on a port that a Service needs for itself, from now on."""
        if port not in NODE_PORTS:
            self._node_ports.add(port)

    def allows(self, port: int) -> bool:
        """Whether nobody else is known to need this port, which may be of any range."""
        return port not in self._node_ports and not any(port in each for each in self._kept)

    def candidates(self, random: Random) -> Iterator[int]:
        """Ports to try in turn; some of them may come twice."""
        for port in self.source.candidates(random):
            if self.allows(port) and not any(port in each for each in self._reserved):
                yield port

    def _look_for_overlap(self, *, is_configured: bool) -> None:
        overlap = tuple(
            each for each in self._kept if each.first <= self.source.last and self.source.first <= each.last
        )
        if not overlap:
            return
        name = "--proxy-port-range" if is_configured else "net.ipv4.ip_local_port_range"
        needed = ", ".join(map(str, overlap))
        if all(any(port in each for each in overlap) for port in range(self.source.first, self.source.last + 1)):
            self._kept = ()
            text = "Listeners take ports that are needed for node ports, health or metrics, for there are no others"
            log.warning(text, **{name: str(self.source)}, needed=needed)
        elif is_configured:
            text = "Listeners keep off ports of --proxy-port-range that are for node ports, health or metrics"
            log.info(text, **{name: str(self.source)}, kept_off=needed)


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
