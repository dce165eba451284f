"""Endpoints that are portals themselves, and would make traffic loop. Pure.

In a routing loop one datagram goes round for ever, and one connection until no descriptor is left for anybody.
Kubernetes forbids cluster IPs as endpoints, but nothing enforces that, and external addresses and node ports make loops
as well; so do the node ports of other nodes, whose proxy sends on what it gets.
"""

from collections.abc import Collection, Container, Mapping

from userproxy.model import Endpoint, Protocol, ServicePort, ServicePortName

Owners = Mapping[tuple[str, int, Protocol], ServicePortName]
"""The service port that an address (empty for a node port), port and protocol belong to."""


class AnyNodeAddress:
    """The addresses at which node ports are served: those of this node's interfaces, and those of all Nodes."""

    def __init__(self, local: Collection[str], nodes: Container[str]) -> None:
        self._local = local
        self._nodes = nodes

    def __contains__(self, address: object) -> bool:
        return address in self._local or address in self._nodes


class RoutingLoops:
    """Tells which endpoints of a service port must not be used. Valid as long as `wanted` and `owners` do not change.

    A portal of another Service may be an endpoint, unless that Service has itself an endpoint that is a portal. This
    breaks every loop, also one over several nodes that decide alike: a portal that is used as an endpoint never sends
    on to a portal. So every endpoint of a Service's slices counts, not only those that this node uses.

    `node_addresses` is asked only about the addresses of endpoints whose port is a node port.
    """

    def __init__(
        self, wanted: Mapping[ServicePortName, ServicePort], owners: Owners, node_addresses: Container[str]
    ) -> None:
        self._wanted = wanted
        self._owners = owners
        self._node_addresses = node_addresses
        self._has_portal: dict[ServicePortName, bool] = {}

    def portals(self, name: ServicePortName, endpoints: Collection[Endpoint]) -> dict[Endpoint, ServicePortName]:
        """Those of the `endpoints` of `name` that are portals, and whose."""
        owners, protocol = self._owners, name.protocol
        found = {}
        for endpoint in endpoints:
            # Nearly all endpoints are no portal, and are looked at whenever one of a Service changes.
            port = endpoint.port
            if owners.get((endpoint.ip, port, protocol)) is None and owners.get(("", port, protocol)) is None:
                continue
            owner = self._owner(endpoint, protocol)
            if owner is not None:
                found[endpoint] = owner
        return found

    def looping(self, name: ServicePortName, endpoints: Collection[Endpoint]) -> tuple[Endpoint, ...]:
        """Those of `endpoints` from which traffic could come back to `name`."""
        portals = self.portals(name, endpoints).items()
        return tuple(endpoint for endpoint, owner in portals if owner == name or self._has_portal_as_endpoint(owner))

    def _has_portal_as_endpoint(self, name: ServicePortName) -> bool:
        found = self._has_portal.get(name)
        if found is None:
            found = any(self._owner(each, name.protocol) is not None for each in self._wanted[name].endpoints)
            self._has_portal[name] = found
        return found

    def _owner(self, endpoint: Endpoint, protocol: Protocol) -> ServicePortName | None:
        owner = self._owners.get((endpoint.ip, endpoint.port, protocol))
        if owner is None and (node_port := self._owners.get(("", endpoint.port, protocol))) is not None:
            return node_port if endpoint.ip in self._node_addresses else None
        return owner
