"""Portals on the node's own addresses, and its own programs: who has what."""

import pytest

from userproxy.model import Portal, PortalKind, Protocol, ServicePort, ServicePortName
from userproxy.proxier.own_addresses import contested, withhold
from userproxy.proxier.plan import Granted, grant_portals
from userproxy.routing.reserved_ports import NODE_SERVICES

OWN = "192.0.2.10"
BALANCED = "198.51.100.7"
LOCAL = {OWN, BALANCED, "127.0.0.1"}
WEB = ServicePortName("default", "web", "", Protocol.TCP)
EXTERNAL, LOAD_BALANCER, CLUSTER_IP = PortalKind.EXTERNAL_IP, PortalKind.LOAD_BALANCER_IP, PortalKind.CLUSTER_IP


def granted(*portals: Portal, name: ServicePortName = WEB) -> Granted:
    return grant_portals([ServicePort(name, portals)])


def kept(found: Granted, taken: set[tuple[str, Protocol, int]], node_ips: tuple[str, ...]) -> Granted:
    places = contested(found, LOCAL)
    return withhold(found, places, taken=taken, reserved=NODE_SERVICES, node_ips=node_ips)


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
    found = kept(granted(portal), set(), node_ips)
    assert found.portals[WEB] == ((portal,) if served else ())
    assert bool(found.conflicts) is not served


def test_a_program_that_listens_has_its_port_and_the_portal_is_named() -> None:
    portals = (Portal(CLUSTER_IP, "10.96.0.1", 80), Portal(EXTERNAL, OWN, 80), Portal(LOAD_BALANCER, BALANCED, 80))
    found = kept(granted(*portals), {(BALANCED, Protocol.TCP, 80), (OWN, Protocol.UDP, 80)}, (OWN,))
    assert found.portals[WEB] == portals[:2]
    (problem,) = found.conflicts
    assert problem.text == (
        "default/web: load-balancer IP 198.51.100.7:80 (TCP) is not served: a program of this node listens there"
    )


def test_only_portals_on_our_own_addresses_are_looked_at() -> None:
    portals = (Portal(CLUSTER_IP, "10.96.0.1", 80), Portal(EXTERNAL, OWN, 80), Portal(PortalKind.NODE_PORT, "", 30080))
    assert contested(granted(*portals), LOCAL) == ((OWN, Protocol.TCP, 80),)


def test_a_node_port_is_not_taken_away_by_an_address_of_the_node() -> None:
    portal, node_port = Portal(EXTERNAL, OWN, 30080), Portal(PortalKind.NODE_PORT, "", 30080)
    other = ServicePortName("default", "other", "", Protocol.TCP)
    found = kept(grant_portals([ServicePort(WEB, (portal,)), ServicePort(other, (node_port,))]), set(), (OWN,))
    assert (found.portals[WEB], found.portals[other]) == ((), (node_port,))
    assert found.conflicts[0].text.endswith("is not served: it is the node port of default/other")
    same = kept(granted(portal, node_port), set(), (OWN,))
    assert same.portals[WEB] == (portal, node_port)


def test_a_conflict_between_services_stays_one() -> None:
    other = ServicePortName("default", "other", "", Protocol.TCP)
    portal = Portal(EXTERNAL, OWN, 10250)
    both = grant_portals([ServicePort(WEB, (portal,)), ServicePort(other, (portal,))])
    found = kept(both, set(), (OWN,))
    assert len(both.conflicts) == 1
    assert found.conflicts[0] == both.conflicts[0]
    assert not any(found.portals.values())
