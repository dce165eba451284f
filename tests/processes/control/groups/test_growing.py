"""Which groups grow in a take-over, and who gets what waited in their sockets."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from tests.forwarding.conftest import LOOPBACK
from tests.processes.control.test_forwarding import UDP_NAME
from userproxy.forwarding.udp.groups.group import DatagramGroup
from userproxy.forwarding.udp.groups.spreading import member_of
from userproxy.model import Admission, AdmissionRule, PortalAddress, Protocol
from userproxy.processes.control.groups import growing
from userproxy.processes.control.groups.growing import Growing, Grown
from userproxy.processes.control.held_portals import HeldPortal


@pytest.fixture
def groups() -> Iterator[list[DatagramGroup]]:
    with ExitStack() as stack:
        yield [stack.enter_context(closing(DatagramGroup.open(LOOPBACK, 0))) for _ in range(3)]


def test_what_waits_goes_to_the_processes_whose_clients_have_sent_it(groups: list[DatagramGroup]) -> None:
    group = groups[0]
    of_two = Growing(2, 100)
    assert of_two.grow(group)

    def place_of(client: tuple[str, int]) -> int:
        return member_of(client, 2) + 1

    of_two.note(Grown(UDP_NAME, None, group, False, place_of))
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(300)]
        for client in clients:
            client.connect((LOOPBACK, group.port))
            client.send(b"%d" % client.getsockname()[1])
        found = of_two.settle()
        assert {place for place, _ in found} == {1, 2}
        assert {message.listener for _, message in found} == {UDP_NAME}
        told = [(place, int(payload)) for place, message in found for _, payload in message.datagrams]
        assert sorted(told) == sorted((place_of(client.getsockname()), client.getsockname()[1]) for client in clients)
    assert of_two.settle() == []


def test_descriptors_are_for_as_many_groups_as_there_is_room_for(groups: list[DatagramGroup]) -> None:
    """Two members are three descriptors, with what keeps others away: two more each."""
    of_two = Growing(2, 5)
    assert [of_two.grow(group) for group in groups] == [True, True, False]
    assert [len(group.descriptors) for group in groups] == [3, 3, 1]


def test_one_that_has_as_many_sockets_stays_and_takes_room(groups: list[DatagramGroup]) -> None:
    groups[0].widen(2)
    of_two = Growing(2, 3)
    assert [of_two.grow(group) for group in groups] == [False, False, False]


def test_sockets_of_a_portal_that_stays_as_it_is_take_room(groups: list[DatagramGroup]) -> None:
    with closing(DatagramGroup.open("::1", 0)) as its:
        its.widen(2)
        everybody = (AdmissionRule("", UDP_NAME),)
        address = PortalAddress("::1", Protocol.UDP, its.port)
        of_two = Growing(2, 2)
        of_two.grow_portal(HeldPortal(address, its.members, Admission(everybody, everybody)))
        assert not of_two.grow(groups[0]), "there is room for one more, and it needs two"
        assert of_two.settle() == []


def test_so_many_grow_at_once(groups: list[DatagramGroup], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing, "MOST", 2)
    assert [Growing(2, 100).grow(group) for group in groups[:1]] == [True]
    of_three = Growing(3, 100)
    assert [of_three.grow(group) for group in groups] == [True, True, False]
