"""Portals on the node's own addresses, and its own programs: who has what, and whom a change of either concerns."""

import asyncio
from collections.abc import Collection, Iterable
from typing import cast

import pytest

from tests.proxier.oracle import wanted_of
from tests.proxier.test_plan import a_name
from userproxy.model import IPFamily, Portal, PortalKind, Problem, ProblemKind, Protocol, ServicePort, ServicePortName
from userproxy.portals.interface import PortalDriver
from userproxy.proxier.interfaces import Claims
from userproxy.proxier.local_addresses import LocalAddresses, LocalAddressTracker, LocalPort, NodePortAddresses
from userproxy.proxier.wanted import PortalKey, Wanted
from userproxy.routing.reserved_ports import NODE_SERVICES
from userproxy.routing.services import Scope

OWN = "192.0.2.10"
BALANCED = "198.51.100.7"
LOCAL = frozenset({OWN, BALANCED, "127.0.0.1"})
WEB = ServicePortName("default", "web", "", Protocol.TCP)
EXTERNAL, LOAD_BALANCER, CLUSTER_IP = PortalKind.EXTERNAL_IP, PortalKind.LOAD_BALANCER_IP, PortalKind.CLUSTER_IP


def withheld(
    ports: list[ServicePort], taken: frozenset[tuple[str, Protocol, int]] = frozenset(), node_ips: tuple[str, ...] = ()
) -> dict[Portal, str]:
    """What the first of `ports` has to give up, and why."""
    own = LocalAddresses(LOCAL, None, node_ips, taken, NODE_SERVICES)
    wanted = wanted_of(ports)
    name = ports[0].name
    found = own.withheld(name, wanted.portals(name), wanted.owners)
    return {portal: problem.text for portal, problem in found.items()}


@pytest.mark.parametrize(
    ("portal", "node_ips", "served"),
    [
        (Portal(EXTERNAL, OWN, 10250), (OWN,), False),
        (Portal(EXTERNAL, BALANCED, 10250), (OWN,), False),
        (Portal(CLUSTER_IP, OWN, 2379), (OWN,), False),
        (Portal(LOAD_BALANCER, OWN, 10250), (OWN,), False),
        (Portal(LOAD_BALANCER, OWN, 10250), (), False),
        (Portal(LOAD_BALANCER, BALANCED, 6443), (OWN,), True),
        (Portal(LOAD_BALANCER, BALANCED, 6443), (), False),
        (Portal(EXTERNAL, OWN, 80), (OWN,), True),
        (Portal(EXTERNAL, OWN, 443), (OWN,), True),
        (Portal(EXTERNAL, "203.0.113.5", 10250), (OWN,), True),
        (Portal(CLUSTER_IP, "10.96.0.1", 10250), (OWN,), True),
        (Portal(PortalKind.NODE_PORT, "", 10250), (OWN,), True),
        (Portal(PortalKind.NODE_PORT, OWN, 10250), (OWN,), True),
    ],
)
def test_reserved_ports_of_the_nodes_addresses(portal: Portal, node_ips: tuple[str, ...], served: bool) -> None:
    assert (portal in withheld([ServicePort(WEB, (portal,))], node_ips=node_ips)) is not served


def test_a_program_that_listens_has_its_port_and_the_portal_is_named() -> None:
    portals = (Portal(CLUSTER_IP, "10.96.0.1", 80), Portal(EXTERNAL, OWN, 80), Portal(LOAD_BALANCER, BALANCED, 80))
    taken = frozenset({(BALANCED, Protocol.TCP, 80), (OWN, Protocol.UDP, 80)})
    assert withheld([ServicePort(WEB, portals)], taken, (OWN,)) == {
        portals[2]: (
            "default/web: load-balancer IP 198.51.100.7:80 (TCP) is not served: a program of this node listens there"
        )
    }


def test_what_is_withheld_is_a_problem_of_its_service_on_this_node() -> None:
    portal = Portal(EXTERNAL, OWN, 10250)
    own = LocalAddresses(LOCAL, reserved=NODE_SERVICES)
    (problem,) = own.withheld(WEB, (portal,), {}).values()
    text = (
        "default/web: external IP 192.0.2.10:10250 (TCP) is not served:"
        " port 10250 of this node is kept for its own services (--reserved-node-ports)"
    )
    assert problem == Problem(WEB.service, ProblemKind.PORT_CONFLICT, text, here=True)


def test_a_node_port_is_not_taken_away_by_an_address_of_the_node() -> None:
    portal, node_port = Portal(EXTERNAL, OWN, 30080), Portal(PortalKind.NODE_PORT, "", 30080)
    web = ServicePort(WEB, (portal,))
    other = ServicePort(ServicePortName("default", "other", "", Protocol.TCP), (node_port,))
    (text,) = withheld([web, other]).values()
    assert text.endswith("is not served: it is the node port of default/other")
    assert not withheld([other, web])
    assert not withheld([ServicePort(WEB, (portal, node_port))])


@pytest.mark.parametrize(
    ("ips", "at"),
    [(None, ("",)), ((), ()), ((OWN,), (OWN,)), ((OWN, BALANCED), (OWN, BALANCED))],
    ids=["on every address", "on none", "on one", "on two"],
)
def test_node_ports_are_placed_on_the_addresses_that_have_them(
    ips: tuple[str, ...] | None, at: tuple[str, ...]
) -> None:
    own = LocalAddresses(LOCAL, ips)
    before, node_port, after = (
        Portal(CLUSTER_IP, "10.96.0.1", 80),
        Portal(PortalKind.NODE_PORT, "", 30080),
        Portal(EXTERNAL, OWN, 80),
    )
    expected = (before, *(Portal(PortalKind.NODE_PORT, ip, 30080) for ip in at), after)
    assert own.with_node_port_addresses((before, node_port, after)) == expected


def test_a_conflict_between_services_stays_one() -> None:
    portal = Portal(EXTERNAL, OWN, 10250)
    other = ServicePort(ServicePortName("default", "other", "", Protocol.TCP), (portal,))
    web = ServicePort(WEB, (portal,))
    assert list(withheld([other, web], node_ips=(OWN,))) == [portal]
    assert not withheld([web, other], node_ips=(OWN,)), "it lost already"


OWN_6, FOREIGN = "2001:db8::10", "203.0.113.5"
OTHER, ELSEWHERE = a_name("other"), a_name("elsewhere")
KNOWN = Scope(node_ips=(OWN, OWN_6))


class Node:
    """Its addresses, and where programs listen."""

    def __init__(self) -> None:
        self.addresses = frozenset({OWN, OWN_6, "127.0.0.1"})
        self.listening: set[LocalPort] = set()
        self.asked: set[LocalPort] = set()

    async def local_addresses(self) -> frozenset[str]:
        return self.addresses

    async def taken(self, ports: Collection[LocalPort]) -> frozenset[LocalPort]:
        self.asked = set(ports)
        return frozenset(self.listening & self.asked)


class World:
    """Two Services: one with an external IP of the node, one with a node port."""

    def __init__(self, asked: NodePortAddresses, scope: Scope = KNOWN) -> None:
        self.node = Node()
        self.wanted = Wanted()
        self.put(WEB, Portal(PortalKind.EXTERNAL_IP, OWN, 80))
        self.put(OTHER, Portal(PortalKind.NODE_PORT, "", 30080))
        self.put(ELSEWHERE, Portal(PortalKind.EXTERNAL_IP, FOREIGN, 80))
        there = self.node
        self.scope = scope
        self.tracker = LocalAddressTracker(cast(PortalDriver, there), cast(Claims, there), self.wanted, asked, scope)

    def put(self, name: ServicePortName, *portals: Portal) -> None:
        self.wanted.put(ServicePort(name, portals))

    def look(self) -> set[ServicePortName]:
        return set(asyncio.run(self._look()))

    async def _look(self) -> Iterable[ServicePortName]:
        return await self.tracker.refresh(self.scope)


def key(ip: str, port: int, protocol: Protocol = Protocol.TCP) -> PortalKey:
    return ip, port, protocol


def test_other_addresses_concern_everybody_and_the_same_ones_nobody() -> None:
    world = World(NodePortAddresses())
    assert world.look() == {WEB, OTHER, ELSEWHERE}
    assert world.tracker.addresses.local == world.node.addresses
    assert world.look() == set()
    world.node.addresses |= {FOREIGN}
    assert world.look() == {WEB, OTHER, ELSEWHERE}


def test_a_program_concerns_those_whose_portal_is_where_it_listens_as_it_comes_and_goes() -> None:
    world = World(NodePortAddresses())
    world.look()
    assert world.node.asked == {(OWN, Protocol.TCP, 80)}, "where a portal is on an address of the node"
    world.node.listening = {(OWN, Protocol.TCP, 80), (OWN, Protocol.TCP, 22)}
    assert world.look() == {WEB}
    assert world.tracker.addresses.taken == {(OWN, Protocol.TCP, 80)}
    assert world.look() == set()
    world.node.listening = set()
    assert world.look() == {WEB}


def test_portals_that_come_and_go_are_asked_about_from_then_on() -> None:
    world = World(NodePortAddresses())
    world.look()
    world.put(OTHER, Portal(PortalKind.EXTERNAL_IP, OWN, 443), Portal(PortalKind.EXTERNAL_IP, FOREIGN, 443))
    world.tracker.owners_changed([key(OWN, 443), key(FOREIGN, 443)])
    world.look()
    assert world.node.asked == {(OWN, Protocol.TCP, 80), (OWN, Protocol.TCP, 443)}
    world.put(WEB)
    world.tracker.owners_changed([key(OWN, 80)])
    world.look()
    assert world.node.asked == {(OWN, Protocol.TCP, 443)}


def test_a_node_port_that_moves_concerns_those_who_have_its_number_on_an_address_of_the_node() -> None:
    world = World(NodePortAddresses())
    world.put(WEB, Portal(PortalKind.EXTERNAL_IP, OWN, 30080))
    world.put(ELSEWHERE, Portal(PortalKind.EXTERNAL_IP, FOREIGN, 30080))
    world.look()
    assert world.tracker.owners_changed([key("", 30080)]) == {WEB}
    assert world.tracker.owners_changed([key("", 30080, Protocol.UDP)]) == set()
    assert world.tracker.owners_changed([key("", 30081)]) == set()
    assert world.tracker.owners_changed([key(OWN, 30080)]) == set()


@pytest.mark.parametrize(
    ("asked", "scope", "served"),
    [
        (NodePortAddresses(), KNOWN, None),
        (NodePortAddresses(("192.0.2.0/24",)), KNOWN, (OWN,)),
        (NodePortAddresses(("primary",)), KNOWN, (OWN,)),
        (NodePortAddresses(("primary",)), Scope(node_known=False), ()),
        (NodePortAddresses(("primary",)), Scope(IPFamily.IPV6, node_ips=KNOWN.node_ips), (OWN_6,)),
        (NodePortAddresses(localhost=False), KNOWN, (OWN,)),
    ],
)
def test_where_node_ports_are_served(asked: NodePortAddresses, scope: Scope, served: tuple[str, ...] | None) -> None:
    world = World(asked, scope)
    world.look()
    assert world.tracker.addresses.node_ports == served
    assert world.tracker.addresses.node_ips == scope.node_ips
    assert world.tracker.addresses.reserved == asked.reserved
