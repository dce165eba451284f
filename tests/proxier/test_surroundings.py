"""Whom it concerns that the node's addresses, or the programs that listen on them, are others."""

import asyncio
from collections.abc import Collection, Iterable
from typing import cast

import pytest

from tests.proxier.test_plan import a_name
from userproxy.model import IPFamily, Portal, PortalKind, Protocol, ServicePort, ServicePortName
from userproxy.portals.interface import PortalDriver
from userproxy.proxier.interfaces import Claims
from userproxy.proxier.local_addresses import Place
from userproxy.proxier.surroundings import NodePortAddresses, Surroundings
from userproxy.proxier.wanted import PortalKey, Wanted
from userproxy.routing.services import Scope

OWN, OWN_6, FOREIGN = "192.0.2.10", "2001:db8::10", "203.0.113.5"
WEB, OTHER, ELSEWHERE = a_name("web"), a_name("other"), a_name("elsewhere")
KNOWN = Scope(node_ips=(OWN, OWN_6))


class Node:
    """Its addresses, and where programs listen."""

    def __init__(self) -> None:
        self.addresses = frozenset({OWN, OWN_6, "127.0.0.1"})
        self.listening: set[Place] = set()
        self.asked: set[Place] = set()

    async def local_addresses(self) -> frozenset[str]:
        return self.addresses

    async def taken(self, ports: Collection[Place]) -> frozenset[Place]:
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
        self.seen = Surroundings(cast(PortalDriver, there), cast(Claims, there), self.wanted, asked, scope)

    def put(self, name: ServicePortName, *portals: Portal) -> None:
        self.wanted.put(ServicePort(name, portals))

    def look(self) -> set[ServicePortName]:
        return set(asyncio.run(self._look()))

    async def _look(self) -> Iterable[ServicePortName]:
        return await self.seen.look(self.scope)


def key(ip: str, port: int, protocol: Protocol = Protocol.TCP) -> PortalKey:
    return ip, port, protocol


def test_other_addresses_concern_everybody_and_the_same_ones_nobody() -> None:
    world = World(NodePortAddresses())
    assert world.look() == {WEB, OTHER, ELSEWHERE}
    assert world.seen.own.local == world.node.addresses
    assert world.look() == set()
    world.node.addresses |= {FOREIGN}
    assert world.look() == {WEB, OTHER, ELSEWHERE}


def test_a_program_concerns_those_whose_portal_is_where_it_listens_as_it_comes_and_goes() -> None:
    world = World(NodePortAddresses())
    world.look()
    assert world.node.asked == {(OWN, Protocol.TCP, 80)}, "where a portal is on an address of the node"
    world.node.listening = {(OWN, Protocol.TCP, 80), (OWN, Protocol.TCP, 22)}
    assert world.look() == {WEB}
    assert world.seen.own.taken == {(OWN, Protocol.TCP, 80)}
    assert world.look() == set()
    world.node.listening = set()
    assert world.look() == {WEB}


def test_portals_that_come_and_go_are_asked_about_from_then_on() -> None:
    world = World(NodePortAddresses())
    world.look()
    world.put(OTHER, Portal(PortalKind.EXTERNAL_IP, OWN, 443), Portal(PortalKind.EXTERNAL_IP, FOREIGN, 443))
    world.seen.move([key(OWN, 443), key(FOREIGN, 443)])
    world.look()
    assert world.node.asked == {(OWN, Protocol.TCP, 80), (OWN, Protocol.TCP, 443)}
    world.put(WEB)
    world.seen.move([key(OWN, 80)])
    world.look()
    assert world.node.asked == {(OWN, Protocol.TCP, 443)}


def test_a_node_port_that_moves_concerns_those_who_have_its_number_on_an_address_of_the_node() -> None:
    world = World(NodePortAddresses())
    world.put(WEB, Portal(PortalKind.EXTERNAL_IP, OWN, 30080))
    world.put(ELSEWHERE, Portal(PortalKind.EXTERNAL_IP, FOREIGN, 30080))
    world.look()
    assert world.seen.move([key("", 30080)]) == {WEB}
    assert world.seen.move([key("", 30080, Protocol.UDP)]) == set()
    assert world.seen.move([key("", 30081)]) == set()
    assert world.seen.move([key(OWN, 30080)]) == set()


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
    assert world.seen.own.node_ports == served
    assert world.seen.own.node_ips == scope.node_ips
    assert world.seen.own.reserved == asked.reserved
