"""Ports of portals that cannot be bound, and which programs of the node are in the way."""

import errno
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from itertools import islice
from typing import Final

import structlog

from userproxy.errors import ObjectError, PortUnavailableError
from userproxy.model import IPFamily, PortalAddress, ServicePortName
from userproxy.portals.local.wildcards import LocalPort, wildcard_listeners
from userproxy.portals.netlink.sock_diag import why_not, wildcard_sockets

log = structlog.get_logger()

Failures = Mapping[PortalAddress, PortUnavailableError | ObjectError]
"""Where a service port cannot be listened for, and why."""

_MOST_TOLD: Final = 5
"""Portals that are named in the sentence for a service port."""

_MOST_WILDCARDS_TOLD: Final = 20


class Conflicts:
    """The service ports of one family that cannot have all their portals."""

    def __init__(self, family: IPFamily) -> None:
        self._family = family
        self._failures: dict[ServicePortName, Failures] = {}
        self._programs: Mapping[LocalPort, str] = {}
        """What other programs listen on at every address, of the ports that we were refused."""
        self._told_wildcards = False

    @property
    def names(self) -> Collection[ServicePortName]:
        """Who cannot have all their portals."""
        return self._failures.keys()

    @property
    def are_of_programs(self) -> bool:
        """Whether a program that listens on every address is in the way of any."""
        return bool(self._programs)

    @property
    def sentences(self) -> dict[ServicePortName, str]:
        """What each of them cannot have, and why."""
        return {name: self._sentence(failures) for name, failures in self._failures.items()}

    def put(self, name: ServicePortName, failures: Failures) -> None:
        """Note where a service port cannot be listened for, which may be nowhere."""
        self._failures.pop(name, None)
        if failures:
            self._failures[name] = failures

    def look(self, *, again: bool) -> None:
        """Find out which programs are in the way, `again` also where that is known. Blocking."""
        refused = {port for failures in self._failures.values() for port in _in_use(failures)}
        if again or not refused <= self._programs.keys():
            self._programs = self._wildcards(refused) if refused else {}
        else:
            self._programs = {port: program for port, program in self._programs.items() if port in refused}

    def have_gone(self) -> bool:
        """Whether a port is free by now on which a program listened at the last look. Blocking."""
        with suppress(OSError):
            return bool(self._programs.keys() - wildcard_sockets(self._family, self._programs.keys()).keys())
        return False

    def tell_wildcards(self) -> None:
        """Warn once of the programs of the node that portals' addresses lead to. Blocking."""
        if self._told_wildcards:
            return
        self._told_wildcards = True
        listeners = self._wildcards(None)
        if listeners:
            listed = [_named(port, program) for port, program in islice(listeners.items(), _MOST_WILDCARDS_TOLD)]
            more = len(listeners) - len(listed)
            log.warning(
                "Programs that listen on every address of this node are reached at Services' addresses, too, at ports"
                " that the Service does not have",
                family=self._family,
                listeners=", ".join(listed) + (f" and {more} more" if more else ""),
            )

    def _wildcards(self, ports: Collection[LocalPort] | None) -> Mapping[LocalPort, str]:
        try:
            return wildcard_listeners(self._family, ports)
        except OSError as error:
            text = "Programs that listen on every address of this node are not known"
            log.debug(text, v=1, family=self._family, reason=why_not(error))
            return {}

    def _sentence(self, failures: Failures) -> str:
        told = [self._reason(address, error) for address, error in islice(failures.items(), _MOST_TOLD)]
        more = [f"and {len(failures) - _MOST_TOLD} more"] if len(failures) > _MOST_TOLD else []
        return "; ".join([*told, *more])

    def _reason(self, address: PortalAddress, error: PortUnavailableError | ObjectError) -> str:
        number = _errno(error)
        if number == errno.EACCES:
            return f"{address}: ports as low as this one take CAP_NET_BIND_SERVICE"
        if number != errno.EADDRINUSE:
            return f"{address}: {error}"
        port = (address.protocol, address.port)
        if port not in self._programs:
            return f"{address}: a program of this node listens there"
        return f"{address}: {self._programs[port] or 'a program of this node'} listens on this port of every address"


def _in_use(failures: Failures) -> Iterable[LocalPort]:
    for address, error in failures.items():
        if _errno(error) == errno.EADDRINUSE:
            yield address.protocol, address.port


def _errno(error: PortUnavailableError | ObjectError) -> int | None:
    return error.__cause__.errno if isinstance(error.__cause__, OSError) else None


def _named(port: LocalPort, program: str) -> str:
    return " ".join([*map(str, port), *([f"of {program}"] if program else [])])
