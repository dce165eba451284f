"""What a data plane has learned that is no connection's own: ways back to clients, and ports that may be used again."""

from collections.abc import Iterator
from typing import Final

from userproxy.forwarding.client_addresses import ClientAddresses
from userproxy.forwarding.handover.parts import Parts
from userproxy.forwarding.handover.values import Item, PairsHandedOver, PathHandedOver, PortsHandedOver

_PAIRS_AT_ONCE: Final = 256


def paths(parts: Parts) -> Iterator[Item]:
    """Which clients' addresses the host can keep."""
    for path in parts.tcp.client_addresses.paths:
        yield PathHandedOver(path)


def given(parts: Parts) -> Iterator[Item]:
    """What was learned, as it is when it is asked for. Something may be learned meanwhile."""
    yield from pairs(parts.tcp.client_addresses)
    for state in parts.tcp.relays.source_ports.states():
        yield PortsHandedOver(state)


def pairs(addresses: ClientAddresses) -> Iterator[PairsHandedOver]:
    """What was learned of ways back to clients' addresses, in parts of bounded size."""
    for (protocol, family), found in addresses.pairs.items():
        states = found.states()
        for begin in range(0, len(states), _PAIRS_AT_ONCE):
            yield PairsHandedOver(protocol, family, tuple(states[begin : begin + _PAIRS_AT_ONCE]))


def know(addresses: ClientAddresses, item: PairsHandedOver) -> None:
    """Know of ways back what another process does."""
    found = addresses.pairs[item.protocol, item.family]
    for state in item.pairs:
        found.restore(state)


def take(parts: Parts, item: PathHandedOver | PairsHandedOver | PortsHandedOver) -> None:
    """Know the same. Raises ValueError for a path whose networks are none."""
    match item:
        case PathHandedOver(path):
            parts.tcp.client_addresses.follow(path)
        case PairsHandedOver():
            know(parts.tcp.client_addresses, item)
        case PortsHandedOver(ports):
            parts.tcp.relays.source_ports.restore(ports)
