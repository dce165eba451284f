"""Which local ports listeners may have; finds a free one."""

import errno
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from random import Random
from typing import Final, TypeVar

import structlog

from userproxy.errors import PortUnavailableError
from userproxy.forwarding.ports.ranges import PortRange, ephemeral_ports, reserved_ports

log = structlog.get_logger()

Bound = TypeVar("Bound")

NODE_PORTS: Final = PortRange(30_000, 32_767)
"""kube-apiserver's default ``--service-node-port-range``."""

_MOST_TRIES: Final = 1000
"""Ports tried for one listener: where nearly all are taken a try costs 12 us, and the loop waits."""


class ListenerPorts:
    """The ports that listeners may have: of the configured range, or if that is empty of those that the kernel gives.

    Ports of `kept` are left out, because they are needed later: the API server assigns node ports, and our own servers
    may come up after the listeners. If that leaves no port at all they are used nevertheless, which is logged.
    """

    def __init__(self, configured: PortRange, kept: Iterable[PortRange] = ()) -> None:
        self.source = configured if configured.last else ephemeral_ports()
        """What ports are taken from."""
        self._kept = tuple(kept)
        self._reserved = () if configured.last else reserved_ports()
        self._given: set[int] = set()
        """Those that listeners have: they are tried last, since to make a socket and not to bind it takes time."""
        self._node_ports: set[int] = set()
        """Those that are not of NODE_PORTS: a cluster's range need not be the default."""
        self._look_for_overlap(is_configured=bool(configured.last))

    def keep_off(self, port: int) -> None:
        """Leave out a port that a Service has as a node port, from now on."""
        if port not in NODE_PORTS:
            self._node_ports.add(port)

    def allows(self, port: int) -> bool:
        """Whether a port, of any range, is not left out."""
        return port not in self._node_ports and not any(port in each for each in self._kept)

    def candidates(self, random: Random) -> Iterator[int]:
        """Ports to try in turn; some of them may come twice."""
        given = self._given
        last = []
        for port in self.source.candidates(random):
            if self.allows(port) and not any(port in each for each in self._reserved):
                if port in given:
                    last.append(port)
                else:
                    yield port
        yield from last

    def release(self, port: int) -> None:
        """A listener has a port no longer."""
        self._given.discard(port)

    def bind(self, bind: Callable[[str, int], Bound], host: str, preferred: int | None, random: Random) -> Bound:
        """What `bind(host, port)` returns for a port that is free: `preferred` if it is, else any.

        Raises PortUnavailableError.
        """
        if preferred is not None and self.allows(preferred):
            try:
                return self._give(bind(host, preferred), preferred)
            except PortUnavailableError as error:
                log.debug("Preferred port not available", v=2, reason=str(error))
        for port in islice(self.candidates(random), _MOST_TRIES):
            try:
                return self._give(bind(host, port), port)
            except PortUnavailableError as error:
                if not _is_taken(error):
                    raise
        raise PortUnavailableError(f"no free port was found on {host} among {self.source}")

    def _give(self, bound: Bound, port: int) -> Bound:
        self._given.add(port)
        return bound

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


def _is_taken(error: PortUnavailableError) -> bool:
    """Whether another port may well be available on the same address: this one is taken, or too low for us."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in {errno.EADDRINUSE, errno.EACCES}
