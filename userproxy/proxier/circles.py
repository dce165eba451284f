"""Endpoints that are portals of ours and would lead traffic in a circle. Pure.

One datagram would go round for ever, and one connection until no descriptor is left for anybody. Kubernetes forbids
cluster IPs as endpoints, but nothing enforces it, and external addresses and node ports work as well.
"""

from collections.abc import Collection, Mapping

from userproxy.model import Endpoint, Protocol, ServicePort, ServicePortName

Owners = Mapping[tuple[str, int, Protocol], ServicePortName]
"""Who has a portal, by its address, which is empty for a node port; port; protocol."""


class Circles:
    """Tells which endpoints of a service port not to use.

    A portal of another Service may be an endpoint, as long as no endpoint of that Service is a portal in turn. This
    breaks every circle, whatever the order in which Services change.
    """

    def __init__(
        self, wanted: Mapping[ServicePortName, ServicePort], owners: Owners, local_addresses: Collection[str]
    ) -> None:
        self._wanted = wanted
        self._owners = owners
        self._local_addresses = local_addresses

    def closed_by(self, name: ServicePortName, endpoints: Collection[Endpoint]) -> tuple[Endpoint, ...]:
        """Those of `endpoints` that may lead back to `name`."""
        return tuple(endpoint for endpoint in endpoints if self._closes(name, endpoint))

    def _closes(self, name: ServicePortName, endpoint: Endpoint) -> bool:
        owner = self._owner(endpoint, name.protocol)
        if owner is None:
            return False
        return owner == name or any(
            self._owner(further, name.protocol) is not None
            for route in self._wanted[owner].routes
            for further in route.endpoints
        )

    def _owner(self, endpoint: Endpoint, protocol: Protocol) -> ServicePortName | None:
        owner = self._owners.get((endpoint.ip, endpoint.port, protocol))
        if owner is None and endpoint.ip in self._local_addresses:
            owner = self._owners.get(("", endpoint.port, protocol))
        return owner
