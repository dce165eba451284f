"""The node's own addresses: where its node ports are served, and which other portals on them are withheld.

Anybody who may create a Service may name an address of the node as an external IP, with any port, and the node's own
programs need ports there too. So nothing is bound for such a portal, which leaves every program free to start. Where a
program listens, or the port is reserved for one, the portal is not served.
"""

from collections.abc import Iterable, Mapping

from msgspec import Struct, structs

from userproxy.model import Portal, PortalKind, Problem, ProblemKind, Protocol, ServicePortName
from userproxy.portals.interface import PortalDriver
from userproxy.proxier.interfaces import Claims
from userproxy.proxier.wanted import PortalKey, Wanted
from userproxy.routing.node_ports import node_port_ips
from userproxy.routing.reserved_ports import NODE_SERVICES, ReservedPorts
from userproxy.routing.services import Scope

LocalPort = tuple[str, Protocol, int]
"""Address, protocol, port."""


class NodePortAddresses(Struct, frozen=True):
    """Where node ports are served: kube-proxy's ``nodePortAddresses`` and ``iptables.localhostNodePorts``.

    `reserved` are the ports of the node's own services, which no other kind of portal on the node's addresses may have.
    """

    cidrs: tuple[str, ...] = ()
    localhost: bool = True
    reserved: ReservedPorts = NODE_SERVICES


class LocalAddresses(Struct, frozen=True):
    """The node's addresses, and what else decides which portals are served on them.

    `local` are the addresses of the interfaces. `node_ports` are those of them on which node ports are served; None is
    all of them. `node_ips` are the addresses that the Node object names. A load-balancer IP on an interface that is not
    one of these is there for its Service, so it is withheld only where a program listens now; without any `node_ips`,
    every address may be the node's own. `taken` are the ports on which programs listen, `reserved` the ports of the
    node's own services.
    """

    local: frozenset[str] = frozenset()
    node_ports: tuple[str, ...] | None = None
    node_ips: tuple[str, ...] = ()
    taken: frozenset[LocalPort] = frozenset()
    reserved: ReservedPorts = ReservedPorts()

    def with_node_port_addresses(self, portals: tuple[Portal, ...]) -> tuple[Portal, ...]:
        """`portals`, with one portal for each address on which a node port is served in place of the node port."""
        ips = self.node_ports
        if ips is None:
            return portals
        return tuple(
            each
            for portal in portals
            for each in (
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
        if port in self.reserved and self._is_node_address(portal):
            return f"port {port} of this node is kept for its own services (--reserved-node-ports)"
        if (portal.ip, name.protocol, port) in self.taken:
            return "a program of this node listens there"
        if (other := owners.get(("", port, name.protocol), name)) != name:
            return f"it is the node port of {other}"
        return ""

    def _is_node_address(self, portal: Portal) -> bool:
        return portal.kind is not PortalKind.LOAD_BALANCER_IP or not self.node_ips or portal.ip in self.node_ips


class LocalAddressTracker:
    """Keeps the node's `addresses` up to date, and says which service ports a change concerns."""

    def __init__(
        self, driver: PortalDriver, claims: Claims, wanted: Wanted, node_ports: NodePortAddresses, scope: Scope
    ) -> None:
        self._driver = driver
        self._claims = claims
        self._wanted = wanted
        self._node_ports = node_ports
        self._on_node: set[PortalKey] = set()
        """Portals on addresses of the node, other than node ports."""
        self.addresses = self._addresses(frozenset(), scope, frozenset())

    def use(self, driver: PortalDriver) -> None:
        """Ask another driver for the node's addresses from now on."""
        self._driver = driver

    async def refresh(self, scope: Scope) -> dict[ServicePortName, None]:
        """Look at interfaces and listening programs; returns the service ports that other portals may be served of.

        Raises KernelToolError.
        """
        concerned: dict[ServicePortName, None] = {}
        local = await self._driver.local_addresses()
        addresses = self._addresses(local, scope, self.addresses.taken)
        if addresses != self.addresses:
            self.addresses = addresses
            self._on_node = {key for key in self._wanted.owners if key[0] in local}
            concerned = dict.fromkeys(self._wanted.ports)
        before = self.addresses.taken
        taken = frozenset(await self._claims.taken([(ip, protocol, port) for ip, port, protocol in self._on_node]))
        if taken != before:
            self.addresses = structs.replace(self.addresses, taken=taken)
            changed = ((ip, port, protocol) for ip, protocol, port in taken ^ before)
            concerned |= dict.fromkeys(self._wanted.contenders(changed))
        return concerned

    def owners_changed(self, portals: Iterable[PortalKey]) -> set[ServicePortName]:
        """Note that these portals have other owners now, or none; returns what else that concerns."""
        others: set[PortalKey] = set()
        for key in portals:
            if not key[0]:  # on the node's own addresses a node port comes before other portals
                others.update(each for each in self._on_node if each[1:] == key[1:])
            elif key not in self._wanted.owners:
                self._on_node.discard(key)
            elif key[0] in self.addresses.local:
                self._on_node.add(key)
        return self._wanted.contenders(others)

    def _addresses(self, local: frozenset[str], scope: Scope, taken: frozenset[LocalPort]) -> LocalAddresses:
        asked = self._node_ports
        node_ips = scope.node_ips if scope.node_known else None
        ips = node_port_ips(asked.cidrs, local, scope.family, node_ips=node_ips, localhost=asked.localhost)
        return LocalAddresses(local, ips, scope.node_ips, taken, asked.reserved)
