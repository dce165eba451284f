"""The kernel's side of UDP: what it tells of datagrams, and what it makes of ours."""

import os
import select
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from userproxy.errors import PortUnavailableError
from userproxy.forwarding.udp.datagrams import (
    BATCH,
    OUTBOX,
    DatagramSocket,
    Inbox,
    Outbox,
    dropped,
    last_error,
    receive_batch,
    start_flow,
)
from userproxy.model import Endpoint, IPFamily

FAMILIES = [(IPFamily.IPV4, "0.0.0.0", "127.0.0.1"), (IPFamily.IPV6, "::", "::1")]


@pytest.fixture(params=FAMILIES, ids=["IPv4", "IPv6"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[IPFamily, DatagramSocket, socket.socket]]:
    """A listener at every address, and a client that takes datagrams from the address it writes to alone."""
    family, everywhere, address = request.param
    with (
        closing(DatagramSocket(everywhere, 0)) as listener,
        socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(5)
        client.connect((address, listener.port))
        yield family, listener, client


Ends = tuple[IPFamily, DatagramSocket, socket.socket]


class Sender:
    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.totals = (0, 0, 0)

    def sent(self, count: int, size: int, refused: int) -> None:
        self.totals = (self.totals[0] + count, self.totals[1] + size, self.totals[2] + refused)


def received(sock: DatagramSocket, inbox: Inbox) -> list[bytes]:
    count = receive_batch(sock.fileno(), inbox.headers, BATCH, 0, None)
    return [inbox.memory[start : start + inbox.sizes[i]] for i, start in enumerate(inbox.starts[: max(count, 0)])]


def test_a_batch_has_every_datagram_whole_and_in_order(ends: Ends) -> None:
    family, listener, client = ends
    inbox = Inbox(family)
    sent = [b"first", b"", bytes(range(256)) * 255, b"x" * 65_507, b"last"]
    for datagram in sent:
        client.send(datagram)
    assert received(listener, inbox) == sent
    assert received(listener, inbox) == []
    assert last_error() == 11


def test_datagrams_of_one_client_have_the_same_bytes_and_others_do_not(ends: Ends) -> None:
    family, listener, client = ends
    inbox = Inbox(family)
    with socket.socket(client.family, socket.SOCK_DGRAM) as other:
        client.send(b"1")
        other.sendto(b"2", client.getpeername())
        client.send(b"3")
        assert len(received(listener, inbox)) == 3
        one, two, three = (inbox.memory[inbox.clients[i]] for i in range(3))
    assert one == three
    assert one != two
    assert inbox.address(0) == client.getsockname()[0]


def test_the_local_address_is_part_of_a_client() -> None:
    inbox = Inbox(IPFamily.IPV4)
    with closing(DatagramSocket("0.0.0.0", 0)) as listener, socket.socket(type=socket.SOCK_DGRAM) as client:
        client.bind(("127.0.0.1", 0))
        client.sendto(b"", ("127.0.0.1", listener.port))
        client.sendto(b"", ("127.0.0.2", listener.port))
        assert len(received(listener, inbox)) == 2
    assert inbox.memory[inbox.clients[0]] != inbox.memory[inbox.clients[1]]


def test_answers_go_out_together_and_whole(ends: Ends) -> None:
    family, listener, client = ends
    inbox, outbox, sender = Inbox(family), Outbox(family), Sender(listener.fileno())
    client.send(b"hello")
    received(listener, inbox)
    answers = [b"", b"b" * 65_507, b"c"]
    with socket.socket(client.family, socket.SOCK_DGRAM) as backend:
        backend.bind((client.getpeername()[0], 0))
        flow = start_flow(Endpoint(*backend.getsockname()[:2]))
        for answer in answers:
            backend.sendto(answer, flow.getsockname())
        assert outbox.collect(sender, flow.fileno(), inbox.addressee(0)) == 3
        assert outbox.collect(sender, flow.fileno(), inbox.addressee(0)) == -1
        assert select.select([client], [], [], 0)[0] == []
        outbox.flush()
        assert [client.recv(65_536) for _ in answers] == answers
        assert sender.totals == (3, 65_508, 0)
        flow.close()


def test_more_answers_than_there_is_room_for_all_arrive(ends: Ends) -> None:
    family, listener, client = ends
    inbox, outbox, sender = Inbox(family), Outbox(family), Sender(listener.fileno())
    client.send(b"hello")
    received(listener, inbox)
    answers = [b"%d" % number for number in range(OUTBOX * 3)]
    with socket.socket(client.family, socket.SOCK_DGRAM) as backend:
        backend.bind((client.getpeername()[0], 0))
        flow = start_flow(Endpoint(*backend.getsockname()[:2]))
        for answer in answers:
            backend.sendto(answer, flow.getsockname())
        while outbox.collect(sender, flow.fileno(), inbox.addressee(0)) > 0:
            pass
        outbox.flush()
        flow.close()
    assert [client.recv(65_536) for _ in answers] == answers
    assert sender.totals[0] == len(answers)


def test_answers_taken_in_one_by_one_go_out_together_with_the_others(ends: Ends) -> None:
    family, listener, client = ends
    inbox, outbox, sender = Inbox(family), Outbox(family), Sender(listener.fileno())
    client.send(b"hello")
    received(listener, inbox)
    addressee = inbox.addressee(0)
    answers = [b"", b"b" * 65_507, b"c", b"d"]
    with socket.socket(client.family, socket.SOCK_DGRAM) as backend:
        backend.bind((client.getpeername()[0], 0))
        flow = start_flow(Endpoint(*backend.getsockname()[:2]))
        for answer in answers[:3]:
            backend.sendto(answer, flow.getsockname())
            outbox.collect_one(sender, flow.recv_into, addressee)
        backend.sendto(answers[3], flow.getsockname())
        assert outbox.collect(sender, flow.fileno(), addressee) == 1
        with pytest.raises(BlockingIOError):
            outbox.collect_one(sender, flow.recv_into, addressee)
        assert select.select([client], [], [], 0)[0] == []
        outbox.flush()
        assert [client.recv(65_536) for _ in answers] == answers
        assert sender.totals == (4, 65_509, 0)
        many = [b"%d" % number for number in range(OUTBOX * 2)]
        for answer in many:
            backend.sendto(answer, flow.getsockname())
            outbox.collect_one(sender, flow.recv_into, addressee)
        outbox.flush()
        assert [client.recv(65_536) for _ in many] == many
        flow.close()


def test_an_answer_that_cannot_be_sent_costs_no_other() -> None:
    inbox, outbox = Inbox(IPFamily.IPV4), Outbox(IPFamily.IPV4)
    with (
        closing(DatagramSocket("127.0.0.1", 0)) as listener,
        socket.socket(type=socket.SOCK_DGRAM) as client,
        socket.socket(type=socket.SOCK_DGRAM) as backend,
    ):
        sender = Sender(listener.fileno())
        client.settimeout(5)
        client.connect(("127.0.0.1", listener.port))
        client.send(b"hello")
        received(listener, inbox)
        good = inbox.addressee(0)
        nowhere = good.replace(socket.inet_aton("127.0.0.1"), socket.inet_aton("240.0.0.1"))
        backend.bind(("127.0.0.1", 0))
        flow = start_flow(Endpoint(*backend.getsockname()))
        for addressee in (good, nowhere, good):
            backend.sendto(b"answer", flow.getsockname())
            outbox.collect(sender, flow.fileno(), addressee)
        outbox.flush()
        assert [client.recv(100), client.recv(100)] == [b"answer", b"answer"]
        assert sender.totals == (2, 12, 1)
        flow.close()


def test_refusing_makes_the_kernel_answer_and_admitting_ends_it(ends: Ends) -> None:
    family, listener, client = ends
    inbox = Inbox(family)
    port = listener.port
    for _ in range(2):
        listener.refuse()
        client.send(b"refused")
        with pytest.raises(ConnectionRefusedError):
            client.recv(100)
        listener.admit()
        assert listener.port == port
        client.send(b"served")
        assert received(listener, inbox) == [b"served"]
        assert inbox.memory[inbox.clients[0]]


def test_copies_that_a_program_being_started_has_are_in_nobodys_way(ends: Ends) -> None:
    _, listener, _ = ends
    copies: list[int] = []
    try:
        for _ in range(3):
            listener.refuse()
            held = listener._holder  # between fork(2) and execve(2) there is a copy of everything
            assert held is not None
            copies += [os.dup(held.fileno()), os.dup(listener.fileno())]
            listener.admit()
    finally:
        for copy in copies:
            os.close(copy)


@pytest.mark.parametrize("reuse", [0, 1])
def test_a_port_that_refuses_is_nobody_elses(ends: Ends, reuse: int) -> None:
    _, listener, client = ends
    port = listener.port
    listener.refuse()
    with socket.socket(client.family, socket.SOCK_DGRAM) as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        for address in (listener.host, "::1" if listener.host == "::" else "127.0.0.2"):
            with pytest.raises(OSError, match="in use"):
                thief.bind((address, port))
        listener.admit()
        with pytest.raises(OSError, match="in use"):
            thief.bind((listener.host, port))
        listener.refuse()
        listener.close()
        thief.bind((listener.host, port))


def test_a_taken_port_cannot_be_had(ends: Ends) -> None:
    _, listener, _ = ends
    with pytest.raises(
        PortUnavailableError, match=rf"^cannot listen on UDP \S+:{listener.port}: Address already in use"
    ):
        DatagramSocket(listener.host, listener.port)


def test_a_port_of_the_kernels_choice_is_shared_with_nobody(ends: Ends) -> None:
    _, listener, client = ends
    with socket.socket(client.family, socket.SOCK_DGRAM) as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            thief.bind((listener.host, listener.port))


def test_both_families_can_have_one_port() -> None:
    with closing(DatagramSocket("0.0.0.0", 0)) as four, closing(DatagramSocket("::", four.port)) as six:
        assert four.port == six.port


def test_what_the_kernel_drops_is_counted() -> None:
    with closing(DatagramSocket("127.0.0.1", 0)) as listener, socket.socket(type=socket.SOCK_DGRAM) as client:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        assert dropped(listener) == 0
        for _ in range(100):
            client.sendto(b"x" * 1000, ("127.0.0.1", listener.port))
        inbox = Inbox(IPFamily.IPV4)
        assert dropped(listener) == 100 - len(received(listener, inbox))
        assert dropped(listener) > 0


def test_a_listener_has_room_for_a_thousand_waiting_datagrams_where_the_kernel_grants_it() -> None:
    with closing(DatagramSocket("127.0.0.1", 0)) as listener, open("/proc/sys/net/core/rmem_max") as file:
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 2 * min(1 << 20, int(file.read()))
