"""What of this node decides where portals are served: its addresses, and its programs that listen on them."""

from collections.abc import Iterable

from msgspec import Struct, structs

from userproxy.model import ServicePortName
from userproxy.portals.interface import PortalDriver
from userproxy.proxier.interfaces import Claims
from userproxy.proxier.local_addresses import OwnAddresses, Place
from userproxy.proxier.wanted import PortalKey, Wanted
from userproxy.routing.node_ports import node_port_ips
from userproxy.routing.reserved_ports import NODE_SERVICES, ReservedPorts
from userproxy.routing.services import Scope


class NodePortAddresses(Struct, frozen=True):
    """Where node ports are served: kube-proxy's ``nodePortAddresses`` and ``iptables.localhostNodePorts``.

    `reserved` are ports of the node's own services, which no other kind of portal on its addresses may have.
    """

    cidrs: tuple[str, ...] = ()
    localhost: bool = True
    reserved: ReservedPorts = NODE_SERVICES


class Surroundings:
    """Looks at the node when it is told to, and says whom it concerns that something there is different."""

    def __init__(
        self, portals: PortalDriver, claims: Claims, wanted: Wanted, node_ports: NodePortAddresses, scope: Scope
    ) -> None:
        self._portals = portals
        self._claims = claims
        self._wanted = wanted
        self._node_ports = node_ports
        self._contested: set[PortalKey] = set()
        """Portals on addresses of our own, other than node ports."""
        self.own = self._addresses(frozenset(), scope, frozenset())

    async def look(self, scope: Scope) -> Iterable[ServicePortName]:
        """Those of whose portals other ones may be served now. Raises KernelToolError."""
        found: Iterable[ServicePortName] = ()
        local = await self._portals.local_addresses()
        own = self._addresses(local, scope, self.own.taken)
        if own != self.own:
            self.own = own
            self._contested = {key for key in self._wanted.owners if key[0] in local}
            found = tuple(self._wanted.ports)
        before = self.own.taken
        taken = frozenset(await self._claims.taken([(ip, protocol, port) for ip, port, protocol in self._contested]))
        if taken != before:
            self.own = structs.replace(self.own, taken=taken)
            found = {*found, *self._wanted.contenders((ip, port, protocol) for ip, protocol, port in taken ^ before)}
        return found

    def move(self, portals: Iterable[PortalKey]) -> set[ServicePortName]:
        """Note that others have these portals now, or nobody; those that it concerns beside them."""
        others: set[PortalKey] = set()
        for key in portals:
            if not key[0]:  # on addresses of our own, a node port comes before other portals
                others.update(each for each in self._contested if each[1:] == key[1:])
            elif key not in self._wanted.owners:
                self._contested.discard(key)
            elif key[0] in self.own.local:
                self._contested.add(key)
        return self._wanted.contenders(others)

    def _addresses(self, local: frozenset[str], scope: Scope, taken: frozenset[Place]) -> OwnAddresses:
        asked = self._node_ports
        node_ips = scope.node_ips if scope.node_known else None
        ips = node_port_ips(asked.cidrs, local, scope.family, node_ips=node_ips, localhost=asked.localhost)
        return OwnAddresses(local, ips, scope.node_ips, taken, asked.reserved)
