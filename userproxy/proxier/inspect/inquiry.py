"""Answers what is asked of one family's control plane: service ports, their endpoints, and what a client would meet."""

from collections.abc import Callable

from msgspec import Struct, structs

from userproxy.model import Endpoint, Portal, ServiceName, ServicePort, ServicePortName, ServiceState, Snapshot
from userproxy.portals.interface import PortalDriver
from userproxy.proxier.inspect.explanation import Explanation, Programmed, Surroundings, explain, find_portal
from userproxy.proxier.inspect.reports import (
    EndpointReport,
    ServicePortReport,
    endpoint_reports,
    portal_reports,
    usable_endpoints,
)
from userproxy.proxier.local_addresses import LocalAddressTracker
from userproxy.proxier.plan import Actual, binding, snapshots_of
from userproxy.proxier.problems import Problems
from userproxy.proxier.wanted import Wanted
from userproxy.routing.selection import Locality


class Inquiry(Struct, frozen=True):
    """Looks at a proxier's state as it is at each call, and changes nothing."""

    wanted: Wanted
    actual: Actual
    local: LocalAddressTracker
    problems: Problems

    def report(self, name: ServicePortName, driver: PortalDriver) -> ServicePortReport | None:
        """A service port as it is now; None if it is not wanted."""
        port = self.wanted.ports.get(name)
        if port is None:
            return None
        needed = binding(name, self.wanted, self.actual, self.local.addresses)
        portals = self.local.addresses.with_node_port_addresses(port.portals)
        return ServicePortReport(
            name,
            self.actual.family,
            driver.name,
            portal_reports(portals, needed, self.actual.programmed.get(name)),
            port.affinity_timeout,
            len({endpoint for told in map(self._told, snapshots_of(port)) for endpoint in usable_endpoints(told)}),
            len(set(port.endpoints)),
            port.client_address,
            port.sends_proxy,
            port.accepts_proxy,
            port.balancer,
            port.limits,
            port.hold,
        )

    def endpoints(self, name: ServicePortName, state: ServiceState, locality: Locality) -> tuple[EndpointReport, ...]:
        """The endpoints of a service port, whose Service is now as `state` says."""
        port = self.wanted.ports.get(name)
        if port is None:
            return ()
        return endpoint_reports(port, state, locality, self.actual.snapshots)

    def explain(
        self,
        name: ServicePortName,
        client: str,
        to: Endpoint | None,
        node: Surroundings,
        driver: PortalDriver,
        locality: Locality,
        state_of: Callable[[ServiceName], ServiceState | None],
    ) -> Explanation | None:
        """What becomes of a client's next connection to a portal of a service port; None if there is no such portal.

        Where another service port has the portal, clients are that one's, and so is the answer. `node` need not have
        the node's own addresses.
        """
        port, state = self.wanted.ports.get(name), state_of(name.service)
        if port is None or state is None:
            return None
        addresses = self.local.addresses
        portals = addresses.with_node_port_addresses(port.portals)
        portal = find_portal(portals, to, addresses.local)
        if portal is None:
            return None
        owner = self._owner(name, portal)
        if owner != name:
            found = self.explain(owner, client, _place(portal), node, driver, locality, state_of)
            return found and structs.replace(found, reason=f"{owner} has this portal: {found.reason}")
        there = self._programmed(port, state, portals, driver, locality)
        return explain(there, client, portal, structs.replace(node, addresses=addresses.local))

    def _owner(self, name: ServicePortName, portal: Portal) -> ServicePortName:
        """Who has a portal. One of a node port's addresses has the owner of the node port."""
        owners, key = self.wanted.owners, (portal.port, name.protocol)
        return owners.get((portal.ip, *key)) or owners.get(("", *key), name)

    def _programmed(
        self,
        port: ServicePort,
        state: ServiceState,
        portals: tuple[Portal, ...],
        driver: PortalDriver,
        locality: Locality,
    ) -> Programmed:
        name, addresses = port.name, self.local.addresses
        withheld = addresses.withheld(name, self.wanted.portals(name), self.wanted.owners)
        return Programmed(
            port,
            state,
            portals,
            binding(name, self.wanted, self.actual, addresses),
            self.actual.programmed.get(name),
            {portal: problem.text for portal, problem in withheld.items()},
            "; ".join(problem.text for problem in self.problems.of(("refused by the driver", name))),
            self.actual.snapshots,
            locality,
            driver.name,
            driver.traits,
        )

    def _told(self, snapshot: Snapshot) -> Snapshot:
        """What the data plane has been told in the place of a snapshot."""
        return self.actual.snapshots.get(snapshot.listener, snapshot)


def _place(portal: Portal) -> Endpoint:
    return Endpoint(portal.ip or "0.0.0.0", portal.port)
