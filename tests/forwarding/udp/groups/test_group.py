"""Groups of sockets of one UDP port, in the kernel: who can join, and refusing and taking clients again."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any

import pytest

from userproxy.addresses import family_of
from userproxy.errors import PortUnavailableError
from userproxy.forwarding.udp.datagrams import Inbox
from userproxy.forwarding.udp.groups.group import DatagramGroup
from userproxy.forwarding.udp.groups.spreading import member_of
from userproxy.forwarding.udp.groups.waiting import waiting
from userproxy.forwarding.udp.sockets import DatagramSocket, stand_aside

PLACES = [("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "127.0.0.1"), ("::", "::1"), ("::1", "::1")]


@pytest.fixture(params=PLACES, ids=[place[0] for place in PLACES])
def place(request: pytest.FixtureRequest) -> tuple[str, str]:
    found: tuple[str, str] = request.param
    return found


@contextmanager
def clients(address: str, port: int, count: int = 20) -> Iterator[list[socket.socket]]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with ExitStack() as stack:
        found = [stack.enter_context(socket.socket(family, socket.SOCK_DGRAM)) for _ in range(count)]
        for client in found:
            client.settimeout(5)
            client.connect((address, port))
        yield found


def reader_of(group: DatagramGroup, client: socket.socket) -> int:
    """The number of the member that gets what a client sends."""
    client.send(b"x")
    found = []
    for number, member in enumerate(group.members):
        member.settimeout(0)
        try:
            assert member.recvfrom(10)[1][:2] == client.getsockname()[:2]
        except BlockingIOError:
            continue
        found.append(number)
    (only,) = found
    return only


def expected(client: socket.socket, members: int, *, by_address: bool = False) -> int:
    return member_of(client.getsockname()[:2], members, by_address=by_address)


def test_one_socket_is_what_it_always_was() -> None:
    with closing(DatagramGroup.open("127.0.0.1", 0)) as group:
        assert len(group.descriptors) == 1
        assert not group.members[0].getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
        group.refuse()
        with clients("127.0.0.1", group.port, 1) as (client,):
            client.send(b"x")
            with pytest.raises(ConnectionRefusedError):
                client.recv(10)
            group.admit(by_address=False)
            assert reader_of(group, client) == 0


def test_another_program_cannot_join(place: tuple[str, str]) -> None:
    """Not even one of our own user that asks for it; nor is it given the port by chance."""
    with closing(DatagramGroup.open(place[0], 0)) as group:
        group.widen(2)
        for _ in range(2):
            for host in place:
                with socket.socket(group.members[0].family, socket.SOCK_DGRAM) as stranger:
                    stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                    with pytest.raises(OSError, match="Address already in use"):
                        stranger.bind((host, group.port))
            with pytest.raises(PortUnavailableError):
                DatagramGroup.open(place[0], group.port)
            group.refuse()
            group.admit(by_address=False)


def test_refused_clients_hear_so_at_once_and_the_same_members_take_them_again(place: tuple[str, str]) -> None:
    with closing(DatagramGroup.open(place[0], 0)) as group:
        group.widen(3)
        port, before = group.port, group.descriptors
        with clients(place[1], port) as several:
            assert [reader_of(group, each) for each in several] == [expected(each, 3) for each in several]
            # Other processes have copies of the sockets, and close them later.
            copies = [os.dup(each) for each in before]
            for _ in range(2):
                group.refuse()
                for each in several:
                    each.send(b"x")
                    with pytest.raises(ConnectionRefusedError):
                        each.recv(10)
                group.admit(by_address=False)
                assert group.port == port
                assert [reader_of(group, each) for each in several] == [expected(each, 3) for each in several]
            for copy in copies:
                os.close(copy)
            assert [reader_of(group, each) for each in several] == [expected(each, 3) for each in several]


def test_clients_with_affinity_meet_one_member_and_can_be_told_apart_again() -> None:
    with closing(DatagramGroup.open("127.0.0.1", 0)) as group:
        group.widen(2)
        with clients("127.0.0.1", group.port) as several:
            assert {reader_of(group, each) for each in several} == {0, 1}
            group.spread(by_address=True)
            wanted = expected(several[0], 2, by_address=True)
            assert {reader_of(group, each) for each in several} == {wanted}
            for _ in range(2):
                group.refuse()
                group.admit(by_address=True)
                assert {reader_of(group, each) for each in several} == {wanted}
            group.spread(by_address=False)
            assert [reader_of(group, each) for each in several] == [expected(each, 2) for each in several]


def test_another_process_goes_on_with_it() -> None:
    with closing(DatagramGroup.open("0.0.0.0", 0)) as group:
        group.widen(2)
        with clients("127.0.0.1", group.port) as several:
            several[0].send(b"waiting")
            adopted = DatagramGroup.adopt([os.dup(each) for each in group.descriptors], "0.0.0.0")
            group.close()
            with closing(adopted):
                assert len(adopted.descriptors) == 3
                mine = adopted.members[expected(several[0], 2)]
                assert mine.recv(10) == b"waiting"
                assert [reader_of(adopted, each) for each in several] == [expected(each, 2) for each in several]
                adopted.refuse()
                adopted.admit(by_address=False)
                assert [reader_of(adopted, each) for each in several] == [expected(each, 2) for each in several]


def test_what_kept_others_away_and_is_gone_comes_again() -> None:
    with closing(DatagramGroup.open("0.0.0.0", 0)) as group:
        group.widen(2)
        members = [os.dup(each.fileno()) for each in group.members]
        group.close()
        with closing(DatagramGroup.adopt(members, "0.0.0.0")) as adopted:
            assert len(adopted.descriptors) == 3


def test_a_port_that_cannot_have_so_many_keeps_the_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(DatagramGroup.open("127.0.0.1", 0)) as group:
        monkeypatch.setattr("userproxy.forwarding.udp.groups.group.program", lambda *_, **__: b"\xff" * 8)
        with pytest.raises(OSError, match="Invalid argument"):
            group.widen(2)
        assert len(group.descriptors) == 1
        with clients("127.0.0.1", group.port, 5) as several:
            assert {reader_of(group, each) for each in several} == {0}


def test_it_grows_while_another_process_reads_it_and_no_datagram_goes_astray(place: tuple[str, str]) -> None:
    with closing(DatagramGroup.open(place[0], 0)) as before:
        group = DatagramGroup.adopt([os.dup(each) for each in before.descriptors], place[0])
        with closing(group), clients(place[1], before.port) as several:
            group.grow(3)
            assert {reader_of(group, each) for each in several} == {0}, "whoever reads it has all clients"
            with socket.socket(before.members[0].family, socket.SOCK_DGRAM) as stranger:
                stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                with pytest.raises(OSError, match="Address already in use"):
                    stranger.bind((place[1], before.port))
            for each in several:
                each.send(b"waits")
            assert group.settle(by_address=False) == group.members[:1]
            inbox = Inbox(family_of(place[0]))
            found = list(waiting(group.members[:1], inbox))
            assert [each.client for each in found] == [each.getsockname()[:2] for each in several]
            assert {each.payload for each in found} == {b"waits"}
            assert [reader_of(group, each) for each in several] == [expected(each, 3) for each in several]


def test_it_grows_from_two_and_clients_with_affinity_stay_together() -> None:
    with closing(DatagramGroup.open("127.0.0.1", 0)) as group, clients("127.0.0.1", group.port) as several:
        group.widen(2)
        group.grow(4)
        group.spread(by_address=True)
        assert [reader_of(group, each) for each in several] == [expected(each, 2) for each in several]
        assert len(group.settle(by_address=True)) == 2
        assert {reader_of(group, each) for each in several} == {expected(several[0], 4, by_address=True)}
        group.refuse()
        group.admit(by_address=True)
        assert {reader_of(group, each) for each in several} == {expected(several[0], 4, by_address=True)}


def test_one_that_has_refused_its_clients_for_some_time_can_grow_too(place: tuple[str, str]) -> None:
    """A Service may well be there before its endpoints are."""
    with closing(DatagramGroup.open(place[0], 0)) as group, clients(place[1], group.port) as several:
        group.refuse()
        group.admit(by_address=False)
        group.grow(2)
        assert {reader_of(group, each) for each in several} == {0}
        group.settle(by_address=False)
        assert [reader_of(group, each) for each in several] == [expected(each, 2) for each in several]


def takers(groups: list[DatagramGroup], several: list[socket.socket]) -> set[int]:
    """Which groups get what clients send, each by the member whose client it is."""
    found = set()
    for client in several:
        client.send(b"x")
        got = [(number, member) for number, group in enumerate(groups) for member in taken_by(group)]
        ((number, member),) = got
        assert member == expected(client, len(groups[number].members))
        found.add(number)
    return found


def taken_by(group: DatagramGroup) -> Iterator[int]:
    for number, member in enumerate(group.members):
        if member.fileno() >= 0:
            with suppress(BlockingIOError):
                member.recvfrom(10)
                yield number


@pytest.mark.parametrize("sizes", [(2, 3), (1, 2), (3, 1)])
def test_the_newer_of_two_processes_at_a_portal_has_all_clients_whatever_becomes_of_the_older_one(
    sizes: tuple[int, int],
) -> None:
    """The kernel numbers the sockets of a group anew when one is closed: they must be groups of their own."""
    with ExitStack() as stack:
        older = stack.enter_context(closing(DatagramGroup.open_at_portal("127.96.0.53", 5353, None, sizes[0])))
        several = stack.enter_context(clients("127.96.0.53", 5353, 40))
        assert takers([older], several) == {0}
        newer = stack.enter_context(closing(DatagramGroup.open_at_portal("127.96.0.53", 5353, None, sizes[1])))
        assert len({each.getsockname() for each in (*older.members, *newer.members)}) == 1
        assert takers([older, newer], several) == {1}
        newest = DatagramGroup.open_at_portal("127.96.0.53", 5353, None, 2)
        assert takers([older, newer, newest], several) == {2}
        newest.close()
        assert takers([older, newer], several) == {1}, "it has failed as it started"
        for each in older.members:
            each.close()
            assert takers([older, newer], several) == {1}


def test_over_ipv6_the_older_one_has_them_until_it_stands_aside_or_is_closed() -> None:
    with ExitStack() as stack:
        older, newer, newest = (
            stack.enter_context(closing(DatagramGroup.open_at_portal("::1", 5353, None, size))) for size in (2, 3, 2)
        )
        several = stack.enter_context(clients("::1", 5353, 40))
        assert takers([older, newer, newest], several) == {0}
        stand_aside(older.members)
        assert takers([older, newer, newest], several) == {1}
        older.close()
        assert takers([older, newer, newest], several) == {1}
        stand_aside(newer.members)
        newer.close()
        assert takers([older, newer, newest], several) == {2}


def test_a_portal_is_not_another_program_s() -> None:
    with closing(DatagramGroup.open_at_portal("127.96.0.53", 5353, None, 2)) as group, ExitStack() as stack:
        for option in (None, socket.SO_REUSEADDR):
            other = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            if option is not None:
                other.setsockopt(socket.SOL_SOCKET, option, 1)
            with pytest.raises(OSError, match="in use"):
                other.bind(("127.96.0.53", 5353))
        ours = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        ours.bind(("127.96.0.53", 5353))
        assert takers([group], stack.enter_context(clients("127.96.0.53", 5353, 20))) == {0}, "it gets nothing"


def test_a_portal_that_cannot_be_bound_is_told_of_and_leaves_nothing() -> None:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as other:
        other.bind(("127.96.0.53", 5353))
        with pytest.raises(PortUnavailableError, match="in use"):
            DatagramGroup.open_at_portal("127.96.0.53", 5353, None, 2)
    DatagramGroup.open_at_portal("127.96.0.53", 5353, None).close()


def test_where_the_kernel_binds_to_no_interface_there_is_one_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = DatagramSocket.open_shared

    def refused(*of: Any) -> DatagramSocket:
        if of[3:]:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return opened(*of)

    monkeypatch.setattr(DatagramSocket, "open_shared", refused)
    with closing(DatagramGroup.open_at_portal("127.96.0.53", 5353, None, 2)) as group:
        assert len(group.members) == 1


@pytest.mark.parametrize("size", [1, 2])
def test_one_that_was_to_grow_and_does_not_is_what_it_was(place: tuple[str, str], size: int) -> None:
    with closing(DatagramGroup.open(place[0], 0)) as before, clients(place[1], before.port) as several:
        if size > 1:
            before.widen(size)
        for _ in range(2):
            group = DatagramGroup.adopt([os.dup(each) for each in before.descriptors], place[0])
            group.grow(3)
            group.close()
            assert [reader_of(before, each) for each in several] == [expected(each, size) for each in several]
            with socket.socket(before.members[0].family, socket.SOCK_DGRAM) as stranger:
                stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                with pytest.raises(OSError, match="Address already in use"):
                    stranger.bind((place[1], before.port))


def test_a_socket_that_others_cannot_join_stays_alone() -> None:
    """An earlier release has opened it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as earlier:
        earlier.bind(("127.0.0.1", 0))
        with closing(DatagramGroup.adopt([os.dup(earlier.fileno())], "127.0.0.1")) as group:
            with pytest.raises(OSError, match="Invalid argument"):
                group.grow(2)
            assert len(group.descriptors) == 1
            assert not earlier.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
