"""Portals on the node's own addresses, and its own programs: who has what."""

import pytest

from tests.proxier.oracle import wanted_of
from userproxy.model import Portal, PortalKind, Problem, ProblemKind, Protocol, ServicePort, ServicePortName
from userproxy.proxier.local_addresses import OwnAddresses
from userproxy.routing.reserved_ports import NODE_SERVICES

OWN = "192.0.2.10"
BALANCED = "198.51.100.7"
LOCAL = frozenset({OWN, BALANCED, "127.0.0.1"})
WEB = ServicePortName("default", "web", "", Protocol.TCP)
EXTERNAL, LOAD_BALANCER, CLUSTER_IP = PortalKind.EXTERNAL_IP, PortalKind.LOAD_BALANCER_IP, PortalKind.CLUSTER_IP


def withheld(
    ports: list[ServicePort], taken: frozenset[tuple[str, Protocol, int]] = frozenset(), node_ips: tuple[str, ...] = ()
) -> dict[Portal, str]:
    """What the first of `ports` has to give up, and why."""
    own = OwnAddresses(LOCAL, None, node_ips, taken, NODE_SERVICES)
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
    own = OwnAddresses(LOCAL, reserved=NODE_SERVICES)
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
    own = OwnAddresses(LOCAL, ips)
    before, node_port, after = (
        Portal(CLUSTER_IP, "10.96.0.1", 80),
        Portal(PortalKind.NODE_PORT, "", 30080),
        Portal(EXTERNAL, OWN, 80),
    )
    expected = (before, *(Portal(PortalKind.NODE_PORT, ip, 30080) for ip in at), after)
    assert own.placed((before, node_port, after)) == expected


def test_a_conflict_between_services_stays_one() -> None:
    portal = Portal(EXTERNAL, OWN, 10250)
    other = ServicePort(ServicePortName("default", "other", "", Protocol.TCP), (portal,))
    web = ServicePort(WEB, (portal,))
    assert list(withheld([other, web], node_ips=(OWN,))) == [portal]
    assert not withheld([web, other], node_ips=(OWN,)), "it lost already"
