"""Which service ports are wanted, which of them has which portal, and which has a portal as endpoint. Pure.

It is edited change by change, and the cost of an edit depends on what changes, not on how many Services there are.
"""

from collections import ChainMap
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeAlias

from msgspec import Struct

from userproxy.model import (
    ClientAddress,
    Endpoint,
    ListenerName,
    Portal,
    Problem,
    ProblemKind,
    Protocol,
    ServicePort,
    ServicePortName,
)

PortalKey: TypeAlias = tuple[str, int, Protocol]
"""A portal's address, which is empty for a node port; its port; its protocol."""


class OwnerChanges(Struct, frozen=True, gc=False):
    """What has another owner since an edit, or none any more.

    `destinations` are the portals and, in addition, the addresses that only a load balancer elsewhere has: an endpoint
    may name either.
    """

    portals: frozenset[PortalKey] = frozenset()
    destinations: frozenset[PortalKey] = frozenset()

    def __or__(self, other: "OwnerChanges") -> "OwnerChanges":
        return OwnerChanges(self.portals | other.portals, self.destinations | other.destinations)


NO_OWNER_CHANGES = OwnerChanges()


class Wanted:
    """Service ports by name. Every portal is given to one: where several claim it, to that of the oldest Service.

    Services without a creation time are the youngest, and names decide between equals, so the outcome never depends
    on the order in which they came.
    """

    def __init__(self) -> None:
        self._ports: dict[ServicePortName, ServicePort] = {}
        self.ports: Mapping[ServicePortName, ServicePort] = self._ports
        """All service ports: a live view."""
        self._portals = _Claims(self._age)
        self.owners: Mapping[PortalKey, ServicePortName] = self._portals.owners
        """The service port that has each portal: a live view."""
        self._balancers = _Claims(self._age)
        self._users = _EndpointUsers()
        self.asks_for_clients = False
        """Whether endpoints of any service port so far are to see their clients' addresses."""

    @property
    def destinations(self) -> Mapping[PortalKey, ServicePortName]:
        """The service port that traffic to an address and port reaches, also by way of a load balancer: a live view."""
        balancers = self._balancers.owners
        # Few Services have such a load balancer, and a lookup in one mapping is much faster.
        return ChainMap(self._portals.owners, balancers) if balancers else self._portals.owners

    def put(self, port: ServicePort) -> OwnerChanges:
        """Take over a service port that is new or has changed."""
        self.asks_for_clients |= port.client_address is not ClientAddress.NODE
        old = self._ports.get(port.name)
        if old is None:
            self._ports[port.name] = port
            self._users.add(port.name, set(port.endpoints))
            return self._enter(port.name, _keys(port).keys(), _balancer_keys(port))
        self._users.change(port.name, set(old.endpoints), set(port.endpoints))
        if (old.created, old.portals, old.balancers) == (port.created, port.portals, port.balancers):
            self._ports[port.name] = port
            return NO_OWNER_CHANGES
        before, after = (_keys(old).keys(), _balancer_keys(old)), (_keys(port).keys(), _balancer_keys(port))
        if old.created != port.created:
            moved = self._withdraw(port.name, *before)
            self._ports[port.name] = port
            return moved | self._enter(port.name, *after)
        self._ports[port.name] = port
        return self._withdraw(port.name, before[0] - after[0], before[1] - after[1]) | self._enter(
            port.name, after[0] - before[0], after[1] - before[1]
        )

    def put_endpoints(
        self, port: ServicePort, came: Iterable[Endpoint], gone: Iterable[Endpoint], ports: Collection[int]
    ) -> None:
        """Take over a service port of which nothing has changed but endpoints: which `came`, and which are `gone`.

        `ports` are the port numbers of all that it has now.
        """
        self._users.add(port.name, came)
        self._users.remove(port.name, gone, ports)
        self._ports[port.name] = port

    def drop(self, name: ServicePortName) -> OwnerChanges:
        """Forget a service port. Raises KeyError if it is not there."""
        old = self._ports[name]
        self._users.remove(name, set(old.endpoints))
        moved = self._withdraw(name, _keys(old).keys(), _balancer_keys(old))
        del self._ports[name]
        return moved

    def portals(self, name: ServicePortName) -> tuple[Portal, ...]:
        """A service port's portals that no older Service claims; none if the service port is not wanted."""
        port = self._ports.get(name)
        if port is None:
            return ()
        owners, protocol = self.owners, name.protocol
        for portal in port.portals:  # asked three times for each at a start, and nearly all have what they claim
            if owners[portal.ip, portal.port, protocol] != name:
                return tuple([each for key, each in _keys(port).items() if owners[key] == name])
        return port.portals if len(port.portals) < 2 else tuple(_keys(port).values())

    def conflicts(self, name: ServicePortName) -> tuple[Problem, ...]:
        """A problem for each portal that a service port claims and another one has."""
        port = self._ports.get(name)
        if port is None:
            return ()
        found = []
        for portal in port.portals:
            if (owner := self.owners[portal.ip, portal.port, name.protocol]) != name:
                text = f"{name}: {portal} ({name.protocol}) is not served, because {owner} has it"
                found.append(Problem(name.service, ProblemKind.PORT_CONFLICT, text))
        return tuple(found)

    def contenders(self, portals: Iterable[PortalKey]) -> set[ServicePortName]:
        """The service ports that claim any of these portals."""
        return {name for key in portals for name in self._portals.contenders(key)}

    def with_endpoints_at(self, destinations: Iterable[PortalKey]) -> set[ServicePortName]:
        """The service ports that have an endpoint at one of these; for a node port, any endpoint with its number."""
        users = self._users.at
        return {name for ip, port, protocol in destinations for name in users(ip, port) if name.protocol is protocol}

    def with_endpoints_in(self, names: Iterable[ServicePortName]) -> set[ServicePortName]:
        """The service ports that have an endpoint at a portal which one of these claims, or at its load balancers."""
        found: set[ServicePortName] = set()
        for name in names:
            port = self._ports.get(name)
            if port is None:
                continue
            for portal in port.portals:  # asked at each change: without a call for each
                if users := self._users.at(portal.ip, portal.port):
                    found.update([each for each in users if each.protocol is name.protocol])
            if port.balancers:
                found |= self.with_endpoints_at(_balancer_keys(port))
        return found

    def has_listener(self, listener: ListenerName) -> bool:
        """Whether a service port is to have this listener."""
        port = self._ports.get(listener.service_port)
        return port is not None and listener in port.listeners

    def _enter(
        self, name: ServicePortName, portals: Iterable[PortalKey], balancers: Iterable[PortalKey]
    ) -> OwnerChanges:
        moved = frozenset(self._portals.enter(name, portals))
        return OwnerChanges(moved, moved.union(self._balancers.enter(name, balancers)))

    def _withdraw(
        self, name: ServicePortName, portals: Iterable[PortalKey], balancers: Iterable[PortalKey]
    ) -> OwnerChanges:
        moved = frozenset(self._portals.withdraw(name, portals))
        return OwnerChanges(moved, moved.union(self._balancers.withdraw(name, balancers)))

    def _age(self, name: ServicePortName) -> tuple[bool, str, ServicePortName]:
        created = self._ports[name].created
        return not created, created, name


class _Claims:
    """Gives each key to one of the service ports that claim it: the first in the order of `age`."""

    def __init__(self, age: Callable[[ServicePortName], Any]) -> None:
        self.owners: dict[PortalKey, ServicePortName] = {}
        self._losers: dict[PortalKey, tuple[ServicePortName, ...]] = {}
        """The others that claim a key, in order. Keys without others have no entry."""
        self._age = age

    def contenders(self, key: PortalKey) -> tuple[ServicePortName, ...]:
        owner = self.owners.get(key)
        return () if owner is None else (owner, *self._losers.get(key, ()))

    def enter(self, name: ServicePortName, keys: Iterable[PortalKey]) -> list[PortalKey]:
        """Have `name` claim `keys`; returns those that it gets."""
        moved = []
        for key in keys:
            owner = self.owners.get(key)
            if owner is None:
                self.owners[key] = name
                moved.append(key)
            else:
                first, *others = sorted((*self.contenders(key), name), key=self._age)
                self.owners[key], self._losers[key] = first, tuple(others)
                if first == name:
                    moved.append(key)
        return moved

    def withdraw(self, name: ServicePortName, keys: Iterable[PortalKey]) -> list[PortalKey]:
        """Have `name` claim `keys` no longer; returns those that it had."""
        moved = []
        for key in keys:
            if self.owners[key] == name:
                moved.append(key)
            rest = [each for each in self.contenders(key) if each != name]
            self._losers.pop(key, None)
            if rest:
                self.owners[key] = rest[0]
            else:
                del self.owners[key]
            if len(rest) > 1:
                self._losers[key] = tuple(rest[1:])
        return moved


class _EndpointUsers:
    """The service ports that have each endpoint."""

    def __init__(self) -> None:
        self._at: dict[Endpoint, tuple[ServicePortName] | set[ServicePortName]] = {}
        """The endpoints that only one service port has share one tuple: a set each would take 200 bytes."""
        self._at_port: dict[int, set[ServicePortName]] = {}

    def at(self, ip: str, port: int) -> Collection[ServicePortName]:
        return self._at.get(Endpoint(ip, port), ()) if ip else self._at_port.get(port, ())

    def change(self, name: ServicePortName, before: set[Endpoint], after: set[Endpoint]) -> None:
        if before != after:
            self.add(name, after - before)
            self.remove(name, before - after, {endpoint.port for endpoint in after})

    def add(self, name: ServicePortName, endpoints: Iterable[Endpoint]) -> None:
        alone = (name,)
        for endpoint in endpoints:
            users = self._at.get(endpoint)
            if users is None:
                self._at[endpoint] = alone
            elif isinstance(users, set):
                users.add(name)
            else:
                self._at[endpoint] = {*users, name}
            self._at_port.setdefault(endpoint.port, set()).add(name)

    def remove(self, name: ServicePortName, endpoints: Iterable[Endpoint], kept_ports: Collection[int] = ()) -> None:
        for endpoint in endpoints:
            users = self._at[endpoint]
            if isinstance(users, set) and len(users) > 1:
                users.remove(name)
            else:
                del self._at[endpoint]
            if endpoint.port not in kept_ports and (names := self._at_port.get(endpoint.port)):
                names.discard(name)
                if not names:
                    del self._at_port[endpoint.port]


def _keys(port: ServicePort) -> dict[PortalKey, Portal]:
    """The portals that a service port claims; of several with one address and port, the first."""
    keys: dict[PortalKey, Portal] = {}
    for portal in port.portals:
        keys.setdefault((portal.ip, portal.port, port.name.protocol), portal)
    return keys


def _balancer_keys(port: ServicePort) -> frozenset[PortalKey]:
    if not port.balancers:
        return frozenset()
    return frozenset((each.ip, each.port, port.name.protocol) for each in port.balancers)
