"""The Services of one address family, and what became of them when they were last looked at."""

from collections.abc import Collection, KeysView, Sequence

import structlog
from msgspec import Struct

from userproxy.model import (
    HealthCheck,
    PortalKind,
    Problem,
    Service,
    ServiceName,
    ServicePort,
    ServicePortName,
    ServiceState,
)
from userproxy.proxier.plan import shape
from userproxy.proxier.wanted import NO_OWNER_CHANGES, OwnerChanges, Wanted
from userproxy.routing.services import NoLocalEndpoints, Routed, Scope, is_plain, service_ports, with_endpoints

log = structlog.get_logger()

_GONE = Routed()
_NONE = NoLocalEndpoints()


class ServiceChange(Struct, frozen=True, gc=False):
    """What follows from a change of a Service.

    `names` are its service ports, those of now and of before, and `reshaped` those of them of which more than endpoints
    and affinity changed. `owners` are the portals that belong to others now. `left_out` is what of the Service is not
    served. `node_ports` are the node ports that the API server gave it.
    """

    names: Collection[ServicePortName]
    reshaped: Collection[ServicePortName]
    owners: OwnerChanges
    left_out: tuple[Problem, ...]
    node_ports: Collection[int]


class ServiceMap:
    """Services by name, with the service ports, health checks and counts that follow from each."""

    def __init__(self) -> None:
        self.wanted = Wanted()
        self._names: dict[ServiceName, tuple[ServicePortName, ...]] = {}
        """The service ports of each Service that has any, or of which something is not served."""
        self._plain: dict[ServiceName, Service] = {}
        """The Services of whose service ports slices decide the endpoints alone, as these were made in `_scope`."""
        self._scope: Scope | None = None
        self._health_checks: dict[ServiceName, HealthCheck] = {}
        self._no_local: dict[ServiceName, NoLocalEndpoints] = {}
        self.no_local = NoLocalEndpoints()
        """How many service ports have endpoints, but under a ``Local`` policy none that may serve."""

    @property
    def names(self) -> KeysView[ServiceName]:
        """The Services that concern this family and node: a live view."""
        return self._names.keys()

    @property
    def health_checks(self) -> tuple[HealthCheck, ...]:
        """The health check node ports of all Services."""
        return tuple(self._health_checks.values())

    def ports_of(self, service: ServiceName) -> tuple[ServicePortName, ...]:
        """The service ports of a Service."""
        return self._names.get(service, ())

    def update(self, service: ServiceName, state: ServiceState | None, scope: Scope) -> ServiceChange:
        """Take over a Service as it is now; a `state` of None means that it is gone."""
        if scope is not self._scope:
            self._plain.clear()
            self._scope = scope
        ports = None if state is None else self.with_other_endpoints(service, state, scope)
        if ports is not None:
            for port in ports:
                self.wanted.put(port)
            return ServiceChange(self._names[service], [], NO_OWNER_CHANGES, (), [])
        return self._update(service, state, scope)

    def with_other_endpoints(
        self, service: ServiceName, state: ServiceState, scope: Scope
    ) -> Sequence[ServicePort] | None:
        """The service ports of a Service as they are to be, where nothing else follows from a change of it; else None.

        That is so where its slices name other endpoints for clients who have had some before.
        """
        if scope is not self._scope or self._plain.get(service) is not state.service:
            return None
        ports = []
        for name in self._names[service]:
            port = with_endpoints(self.wanted.ports[name], state, scope)
            if port is None:
                return None
            ports.append(port)
        return ports

    def _update(self, service: ServiceName, state: ServiceState | None, scope: Scope) -> ServiceChange:
        """All that follows from a Service."""
        routed = _GONE if state is None else service_ports(state, scope)
        if routed.skipped is not None:
            log.debug("Service skipped", v=3, service=str(service), family=scope.family, reason=routed.skipped)
        self._note(service, routed)
        self._plain.pop(service, None)
        if state is not None and is_plain(state.service, routed):
            self._plain[service] = state.service
        names = tuple([port.name for port in routed.ports])
        gone = [name for name in self._names.pop(service, ()) if name not in names]
        if names or routed.left_out:
            self._names[service] = names
        reshaped = [*gone, *[port.name for port in routed.ports if self._is_reshaped(port)]]
        owners = NO_OWNER_CHANGES
        for port in routed.ports:
            moved = self.wanted.put(port)
            owners = moved if owners is NO_OWNER_CHANGES else owners | moved
        for name in gone:
            owners |= self.wanted.drop(name)
        return ServiceChange((*names, *gone), reshaped, owners, routed.left_out, _node_ports(routed))

    def _is_reshaped(self, port: ServicePort) -> bool:
        before = self.wanted.ports.get(port.name)
        return before is None or shape(before) != shape(port)

    def _note(self, service: ServiceName, routed: Routed) -> None:
        """Remember a Service's health check, and whether it has endpoints elsewhere only."""
        if routed.health_check is not None:
            self._health_checks[service] = routed.health_check
        else:
            self._health_checks.pop(service, None)
        before, now = self._no_local.pop(service, _NONE), routed.no_local
        if now != _NONE:
            self._no_local[service] = now
        if now != before:
            internal = self.no_local.internal + now.internal - before.internal
            self.no_local = NoLocalEndpoints(internal, self.no_local.external + now.external - before.external)


def _node_ports(routed: Routed) -> list[int]:
    ports = [portal.port for port in routed.ports for portal in port.portals if portal.kind is PortalKind.NODE_PORT]
    return ports if routed.health_check is None else [*ports, routed.health_check.port]
