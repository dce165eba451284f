"""Which connections suffer a fault. Pure."""

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

from userproxy.model.cluster import ServicePortName
from userproxy.model.faults import Drop, Fault
from userproxy.model.snapshots import Endpoint

_MASK = (1 << 64) - 1


def faults_of(faults: Iterable[Fault], name: ServicePortName) -> tuple[Fault, ...]:
    """Those that connections of a service port may suffer."""
    return tuple(fault for fault in faults if fault.is_of(name))


def suffered(faults: Iterable[Fault], endpoint: Endpoint | None, client: str, number: int) -> tuple[Fault, ...]:
    """Those that one connection or flow suffers, by its endpoint, its client's address and its id."""
    return tuple(
        fault
        for fault in faults
        if fault.endpoint in (None, endpoint) and _is_from(client, fault.client) and is_chosen(fault, number)
    )


def is_chosen(fault: Fault, number: int) -> bool:
    """Whether the connection with an id is among the `percent` that suffer a fault: always the same answer."""
    if fault.percent >= 100 or isinstance(fault.effect, Drop):
        return True
    return _mixed(number + fault.id * 0x9E3779B97F4A7C15) < fault.percent / 100 * (_MASK + 1)


def _mixed(number: int) -> int:
    """64 bits that look like chance: the finalizer of splitmix64."""
    found = (number + 0x9E3779B97F4A7C15) & _MASK
    found = ((found ^ (found >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    found = ((found ^ (found >> 27)) * 0x94D049BB133111EB) & _MASK
    return found ^ (found >> 31)


def _is_from(client: str, network: str) -> bool:
    if not network:
        return True
    found, address = _network(network), ipaddress.ip_address(client)
    return found.version == address.version and address in found


@lru_cache(maxsize=256)
def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network(text)
