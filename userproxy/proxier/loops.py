"""Endpoints that are portals and would lead traffic in a circle. Pure.

One datagram would go round for ever, and one connection until no descriptor is left for anybody. Kubernetes forbids
cluster IPs as endpoints, but nothing enforces it, and external addresses and node ports work as well; those of other
nodes, too, for the proxy there would send on what it gets.
"""

from collections.abc import Collection, Container, Mapping

from userproxy.model import Endpoint, Protocol, ServicePort, ServicePortName

Owners = Mapping[tuple[str, int, Protocol], ServicePortName]
"""To whom an address and port lead, by address, which is empty for a node port; port; protocol."""


class Reachable:
    """The addresses at which node ports are served: those of this node's interfaces, and those of all Nodes."""

    def __init__(self, local: Collection[str], nodes: Container[str]) -> None:
        self._local = local
        self._nodes = nodes

    def __contains__(self, address: object) -> bool:
        return address in self._local or address in self._nodes


class Circles:
    """Tells which endpoints of a service port not to use, for as long as nothing changes.

    A portal of another Service may be an endpoint, as long as no endpoint of that Service is a portal in turn. This
    breaks every circle, also one over several nodes that decide alike: whoever may be led to leads to no portal. So
    what counts of a Service is every endpoint that a slice names, not only those that this node uses.

    `node_addresses` is asked about no address but those of endpoints at a node port's number.
    """

    def __init__(
        self, wanted: Mapping[ServicePortName, ServicePort], owners: Owners, node_addresses: Container[str]
    ) -> None:
        self._wanted = wanted
        self._owners = owners
        self._node_addresses = node_addresses
        self._leading_on: dict[ServicePortName, bool] = {}

    def closed_by(self, name: ServicePortName, endpoints: Collection[Endpoint]) -> tuple[Endpoint, ...]:
        """Those of `endpoints` that may lead back to `name`."""
        return tuple(endpoint for endpoint in endpoints if self._closes(name, endpoint))

    def _closes(self, name: ServicePortName, endpoint: Endpoint) -> bool:
        owner = self._owner(endpoint, name.protocol)
        return owner is not None and (owner == name or self._leads_on(owner))

    def _leads_on(self, name: ServicePortName) -> bool:
        """Whether an endpoint of a service port is a portal."""
        found = self._leading_on.get(name)
        if found is None:
            found = any(self._owner(each, name.protocol) is not None for each in self._wanted[name].endpoints)
            self._leading_on[name] = found
        return found

    def _owner(self, endpoint: Endpoint, protocol: Protocol) -> ServicePortName | None:
        owner = self._owners.get((endpoint.ip, endpoint.port, protocol))
        if owner is None and (node_port := self._owners.get(("", endpoint.port, protocol))) is not None:
            return node_port if endpoint.ip in self._node_addresses else None
        return owner
