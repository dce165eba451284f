"""Portals on addresses of the node itself, whose ports its own programs need, too. Pure.

Whoever may create a Service may name such an address as an external IP, and any port of it. So nothing is bound for
these portals: a program can always start; and where one listens, or is to listen, the portal gives way.
"""

from collections.abc import Iterable, Mapping

from msgspec import Struct

from userproxy.model import Portal, PortalKind, Problem, ProblemKind, Protocol, ServicePortName
from userproxy.proxier.wanted import PortalKey
from userproxy.routing.reserved_ports import ReservedPorts

Place = tuple[str, Protocol, int]
"""Address, protocol, port."""


class OwnAddresses(Struct, frozen=True):
    """The node's addresses, as far as portals depend on them.

    `local` are those of its interfaces. `node_ports` are those of them on which node ports are served; None is all.
    `node_ips` are what its Node calls its addresses: a load-balancer IP on an interface that is none of them is there
    for its Service, and only what listens there now counts. Without any, every address may be the node's.
    `taken` are places where a program listens; `reserved` are ports of the node's services.
    """

    local: frozenset[str] = frozenset()
    node_ports: tuple[str, ...] | None = None
    node_ips: tuple[str, ...] = ()
    taken: frozenset[Place] = frozenset()
    reserved: ReservedPorts = ReservedPorts()

    def placed(self, portals: tuple[Portal, ...]) -> tuple[Portal, ...]:
        """`portals` with node ports on these addresses alone."""
        ips = self.node_ports
        if ips is None:
            return portals
        return tuple(
            place
            for portal in portals
            for place in (
                (Portal(portal.kind, ip, portal.port) for ip in ips)
                if portal.kind is PortalKind.NODE_PORT
                else (portal,)
            )
        )

    def withheld(
        self, name: ServicePortName, portals: Iterable[Portal], owners: Mapping[PortalKey, ServicePortName]
    ) -> dict[Portal, Problem]:
        """Those of a service port's `portals` that belong to programs of this node or to node ports, and why."""
        found: dict[Portal, Problem] = {}
        for portal in portals:
            if portal.ip in self.local and portal.kind is not PortalKind.NODE_PORT:
                reason = self._reason(name, portal, owners)
                if reason:
                    text = f"{name}: {portal} ({name.protocol}) is not served: {reason}"
                    found[portal] = Problem(name.service, ProblemKind.PORT_CONFLICT, text, here=True)
        return found

    def _reason(self, name: ServicePortName, portal: Portal, owners: Mapping[PortalKey, ServicePortName]) -> str:
        port = portal.port
        if port in self.reserved and self._is_the_nodes(portal):
            return f"port {port} of this node is kept for its own services (--reserved-node-ports)"
        if (portal.ip, name.protocol, port) in self.taken:
            return "a program of this node listens there"
        if (other := owners.get(("", port, name.protocol), name)) != name:
            return f"it is the node port of {other}"
        return ""

    def _is_the_nodes(self, portal: Portal) -> bool:
        return portal.kind is not PortalKind.LOAD_BALANCER_IP or not self.node_ips or portal.ip in self.node_ips
