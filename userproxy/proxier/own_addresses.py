"""Portals on addresses of the node itself, whose ports its own programs need, too. Pure.

Whoever may create a Service may name such an address as an external IP, and any port of it. So nothing is bound for
these portals: a program can always start; and where one listens, or is to listen, the portal gives way.
"""

from collections.abc import Collection, Container, Iterator

from msgspec import structs

from userproxy.model import Portal, PortalKind, Problem, ProblemKind, Protocol, ServicePortName
from userproxy.proxier.plan import Granted
from userproxy.routing.reserved_ports import ReservedPorts

Place = tuple[str, Protocol, int]
"""Address, protocol, port."""


def contested(granted: Granted, local_addresses: Collection[str]) -> tuple[Place, ...]:
    """Where programs of this node and portals other than node ports may want the same."""
    return tuple((ip, protocol, port) for ip, port, protocol in granted.owners if ip in local_addresses)


def withhold(
    granted: Granted,
    places: Collection[Place],
    *,
    taken: Container[Place],
    reserved: ReservedPorts,
    node_ips: Collection[str] = (),
) -> Granted:
    """The same without portals at `places` that belong to programs of this node or to node ports; each is a problem.

    `taken` are places where a program listens; `reserved` are ports of the node's services. `node_ips` are what its
    Node calls its addresses: a load-balancer IP on an interface that is none of them is there for its Service, and
    only what listens there now counts. Without any, every address may be the node's.
    """
    refused = dict(_refused(granted, places, taken, reserved, node_ips))
    if not refused:
        return granted
    concerned = {name for name, _ in refused}
    portals = {
        name: tuple(portal for portal in found if (name, portal) not in refused) if name in concerned else found
        for name, found in granted.portals.items()
    }
    problems = (
        Problem(name.service, ProblemKind.PORT_CONFLICT, text, here=True) for (name, _), text in refused.items()
    )
    return structs.replace(granted, portals=portals, conflicts=(*granted.conflicts, *problems))


def _refused(
    granted: Granted,
    places: Collection[Place],
    taken: Container[Place],
    reserved: ReservedPorts,
    node_ips: Collection[str],
) -> Iterator[tuple[tuple[ServicePortName, Portal], str]]:
    for ip, protocol, port in places:
        name = granted.owners[ip, port, protocol]
        for portal in granted.portals[name]:
            if (portal.ip, portal.port) == (ip, port) and portal.kind is not PortalKind.NODE_PORT:
                reason = ""
                if port in reserved and _is_the_nodes(portal, node_ips):
                    reason = f"port {port} of this node is kept for its own services (--reserved-node-ports)"
                elif (ip, protocol, port) in taken:
                    reason = "a program of this node listens there"
                elif (other := granted.owners.get(("", port, protocol), name)) != name:
                    reason = f"it is the node port of {other}"
                if reason:
                    yield (name, portal), f"{name}: {portal} ({protocol}) is not served: {reason}"


def _is_the_nodes(portal: Portal, node_ips: Collection[str]) -> bool:
    return portal.kind is not PortalKind.LOAD_BALANCER_IP or not node_ips or portal.ip in node_ips
