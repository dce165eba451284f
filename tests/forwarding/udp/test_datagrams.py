"""The kernel's side of datagrams: what it tells of them, and what it makes of ours."""

import select
import socket
from contextlib import closing

import pytest

from tests.forwarding.udp.bench import received_batch
from tests.forwarding.udp.conftest import Ends
from userproxy.addresses import IPFamily
from userproxy.forwarding.udp.datagrams import OUTBOX, Inbox, Outbox, last_error
from userproxy.forwarding.udp.sockets import DatagramSocket, connect_to
from userproxy.model import Endpoint


class Sender:
    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.totals = (0, 0, 0)

    def sent(self, count: int, size: int, refused: int) -> None:
        self.totals = (self.totals[0] + count, self.totals[1] + size, self.totals[2] + refused)


def test_a_batch_has_every_datagram_whole_and_in_order(ends: Ends) -> None:
    family, listener, client = ends
    inbox = Inbox(family)
    sent = [b"first", b"", bytes(range(256)) * 255, b"x" * 65_507, b"last"]
    for datagram in sent:
        client.send(datagram)
    assert received_batch(listener, inbox) == sent
    assert received_batch(listener, inbox) == []
    assert last_error() == 11


def test_datagrams_of_one_client_have_the_same_bytes_and_others_do_not(ends: Ends) -> None:
    family, listener, client = ends
    inbox = Inbox(family)
    with socket.socket(client.family, socket.SOCK_DGRAM) as other:
        client.send(b"1")
        other.sendto(b"2", client.getpeername())
        client.send(b"3")
        assert len(received_batch(listener, inbox)) == 3
        one, two, three = (inbox.memory[inbox.clients[i]] for i in range(3))
    assert one == three
    assert one != two
    assert inbox.address(0) == client.getsockname()[:2]


def test_the_local_address_is_part_of_a_client() -> None:
    inbox = Inbox(IPFamily.IPV4)
    with closing(DatagramSocket.open("0.0.0.0", 0)) as listener, socket.socket(type=socket.SOCK_DGRAM) as client:
        client.bind(("127.0.0.1", 0))
        client.sendto(b"", ("127.0.0.1", listener.port))
        client.sendto(b"", ("127.0.0.2", listener.port))
        assert len(received_batch(listener, inbox)) == 2
    assert inbox.memory[inbox.clients[0]] != inbox.memory[inbox.clients[1]]


def test_answers_go_out_together_and_whole(ends: Ends) -> None:
    family, listener, client = ends
    inbox, outbox, sender = Inbox(family), Outbox(family), Sender(listener.fileno())
    client.send(b"hello")
    received_batch(listener, inbox)
    answers = [b"", b"b" * 65_507, b"c"]
    with socket.socket(client.family, socket.SOCK_DGRAM) as backend:
        backend.bind((client.getpeername()[0], 0))
        flow = connect_to(Endpoint(*backend.getsockname()[:2]))
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
    received_batch(listener, inbox)
    answers = [b"%d" % number for number in range(OUTBOX * 3)]
    with socket.socket(client.family, socket.SOCK_DGRAM) as backend:
        backend.bind((client.getpeername()[0], 0))
        flow = connect_to(Endpoint(*backend.getsockname()[:2]))
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
    received_batch(listener, inbox)
    addressee = inbox.addressee(0)
    answers = [b"", b"b" * 65_507, b"c", b"d"]
    with socket.socket(client.family, socket.SOCK_DGRAM) as backend:
        backend.bind((client.getpeername()[0], 0))
        flow = connect_to(Endpoint(*backend.getsockname()[:2]))
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
        closing(DatagramSocket.open("127.0.0.1", 0)) as listener,
        socket.socket(type=socket.SOCK_DGRAM) as client,
        socket.socket(type=socket.SOCK_DGRAM) as backend,
    ):
        sender = Sender(listener.fileno())
        client.settimeout(5)
        client.connect(("127.0.0.1", listener.port))
        client.send(b"hello")
        received_batch(listener, inbox)
        good = inbox.addressee(0)
        nowhere = good.replace(socket.inet_aton("127.0.0.1"), socket.inet_aton("240.0.0.1"))
        backend.bind(("127.0.0.1", 0))
        flow = connect_to(Endpoint(*backend.getsockname()))
        for addressee in (good, nowhere, good):
            backend.sendto(b"answer", flow.getsockname())
            outbox.collect(sender, flow.fileno(), addressee)
        outbox.flush()
        assert [client.recv(100), client.recv(100)] == [b"answer", b"answer"]
        assert sender.totals == (2, 12, 1)
        flow.close()
