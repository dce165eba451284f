"""What nearly all changes in a cluster are: a Service has other endpoints, and nothing else follows from that.

They are taken over in the call that tells of them. What :meth:`Proxier.follow` does is right for every change; this is
the same result for the most frequent one, by a third of the calls: for a change that comes alone it is not the work
that takes time, but the number of different functions, which are no longer in the processor's caches.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from msgspec import structs

from userproxy.model import Endpoint, Protocol, ServiceName, ServicePort, ServicePortName
from userproxy.proxier.drains.family import FamilyDrains
from userproxy.proxier.executor import Executor
from userproxy.proxier.interfaces import Source
from userproxy.proxier.plan import Actual
from userproxy.proxier.service_map import ServiceMap
from userproxy.proxier.wanted import PortalKey
from userproxy.routing.services import Scope

_MOST: Final = 8
"""What concerns more service ports than these is left to what works in slices of time."""


class EndpointChanges:
    """Takes over changes of endpoints from a `source`, one Service at a time.

    It is to be asked only where everything that was wanted before is in force.
    """

    def __init__(
        self, source: Source, services: ServiceMap, actual: Actual, executor: Executor, drains: FamilyDrains
    ) -> None:
        self._source = source
        self._services = services
        self._wanted = services.wanted
        self._actual = actual
        self._executor = executor
        self._drains = drains

    def take(self, scope: Scope, *, of_many: bool = False) -> bool:
        """Take over those changes that are no more than other endpoints; returns whether no others are left.

        With `of_many` only the last ones are looked at where there are many: those before were left here already, and
        nobody else takes them over now.
        """
        source = self._source
        waiting = source.waiting
        if len(waiting) > 1 and not of_many and self._ports(waiting) > _MOST:
            return False
        for service in tuple(waiting)[-_MOST:]:
            state = source.state(service)
            ports = None if state is None else self._services.with_other_endpoints(service, state, scope)
            if ports is not None and self._hand_out(ports):
                source.take(service)
        return not waiting

    def _ports(self, services: Collection[ServiceName]) -> int:
        """How many service ports Services have, of which each counts at least as one."""
        if len(services) > _MOST:
            return len(services)
        return sum(max(1, len(self._services.ports_of(each))) for each in services)

    def _hand_out(self, ports: Sequence[ServicePort]) -> bool:
        """Have new clients of a Service's ports go to the endpoints that these are to have.

        False, and nothing has changed, where that is not all that follows for each of them.
        """
        wanted = self._wanted
        others = []
        for port in ports:
            name, before, old = port.name, self._actual.snapshots.get(port.listeners[0]), wanted.ports[port.name]
            if before is None or before.draining or port.known is not None or self._drains.concern(name):
                return False
            if before.endpoints != old.routes[0].endpoints or before.client_address is not port.client_address:
                return False  # it has portals among its endpoints, and may loop
            until_now, from_now = set(old.endpoints), set(port.endpoints)
            changed, numbers = until_now ^ from_now, {each.port for each in from_now}
            gone = changed & until_now
            concerned = from_now | gone if old.unused else changed
            if _may_have_portal(concerned, numbers, name.protocol, wanted.destinations):
                return False  # it may loop, now or until now, and so may others that lead to it
            others.append((port, before, changed & from_now, gone, numbers))
        for port, before, came, gone, numbers in others:
            wanted.put_endpoints(port, came, gone, numbers)
            route = port.routes[0]
            snapshot = structs.replace(before, endpoints=route.endpoints, nodes=route.nodes, weights=())
            if came or gone or snapshot != before:
                self._executor.renew(snapshot)
        return True


def _may_have_portal(
    others: Iterable[Endpoint],
    ports: Iterable[int],
    protocol: Protocol,
    owners: Mapping[PortalKey, ServicePortName],
) -> bool:
    """Whether a portal may be among endpoints, of which these are `others` than were used, and all have these `ports`.

    Of those that are used already it is known whether they are portals, but for node ports: which addresses have these
    is looked up again.
    """
    for number in ports:
        if ("", number, protocol) in owners:
            return True
    for endpoint in others:
        if (endpoint.ip, endpoint.port, protocol) in owners or ("", endpoint.port, protocol) in owners:
            return True
    return False
