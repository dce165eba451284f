"""What answers in Pods, over real sockets."""

import contextlib
import os
import select
import socket
from collections.abc import Iterator

import msgspec
import pytest

from userproxy.demo import pods
from userproxy.demo.hosts import Host
from userproxy.demo.programs import Program, wait_for_port
from userproxy.demo.traffic import Answer, fetch
from userproxy.demo.waiting import eventually

LOCAL = "127.0.0.1"
REQUEST = b"GET / HTTP/1.1\r\nHost: web\r\n\r\n"


@pytest.fixture
def server(root: None) -> Iterator[Program]:
    with Host("one") as host, Program(host, pods.command("web-1")) as program:
        wait_for_port(host, 8080)
        yield program


@pytest.fixture
def pod(server: Program) -> Host:
    return server.host


def test_a_pod_says_its_name_and_whom_it_sees(pod: Host) -> None:
    answer = fetch(pod, (LOCAL, 8080))
    assert (answer.pod, answer.client_ip) == ("web-1", LOCAL)


def test_a_pod_answers_in_ipv6(pod: Host) -> None:
    answer = fetch(pod, ("::1", 8080))
    assert answer.client.startswith("[::1]:")
    assert (answer.pod, answer.client_ip) == ("web-1", "::1")


@pytest.mark.parametrize("loopback", [LOCAL, "::1"])
def test_a_pod_returns_datagrams_and_with_a_question_mark_says_its_name(pod: Host, loopback: str) -> None:
    with pod.udp_socket((loopback, 8080)) as client:
        for payload in (b"", b"x", bytes(range(256)) * 255 + b"end"):
            client.send(payload)
            assert client.recv(1 << 16) == payload
        client.send(b"?who")
        name, _, question = client.recv(1 << 16).partition(b"\n")
        answer = msgspec.json.decode(name, type=Answer)
        assert (answer.pod, answer.client_ip, question) == ("web-1", loopback, b"?who")


def test_requests_that_come_in_pieces_or_together_are_answered_one_by_one(pod: Host) -> None:
    with pod.connect((LOCAL, 8080)) as client:
        for piece in (REQUEST[:7], REQUEST[7:] + REQUEST + REQUEST[:20], REQUEST[20:]):
            client.sendall(piece)
        assert received(client, 3) == 3


def test_who_half_closes_or_asks_for_the_end_gets_the_answer_and_the_end(pod: Host) -> None:
    with pod.connect((LOCAL, 8080)) as client:
        client.sendall(REQUEST)
        client.shutdown(socket.SHUT_WR)
        assert all_of(client).count(b"HTTP/1.1 200 OK") == 1
    with pod.connect((LOCAL, 8080)) as client:
        client.sendall(REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + REQUEST)
        assert all_of(client).count(b"HTTP/1.1 200 OK") == 1, "nothing is answered after the last request"


def test_what_a_client_does_not_take_yet_is_sent_later_and_nothing_is_read_before() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        client = pods.Client(ours, b"x" * 1_000_000)
        theirs.sendall(REQUEST * 3)
        client.go_on()
        assert client.wanted == select.EPOLLOUT
        theirs.sendall(REQUEST)
        taken = 0
        while client.wanted == select.EPOLLOUT:
            taken += len(theirs.recv(1 << 16))
            client.go_on()
        theirs.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                taken += len(theirs.recv(1 << 16))
        assert taken == 3_000_000
        client.go_on()
        assert client.wanted == select.EPOLLOUT, "the fourth request is read by now"


def test_of_clients_that_have_gone_nothing_is_left(server: Program) -> None:
    descriptors = f"/proc/{server.pid}/fd"
    before = len(os.listdir(descriptors))
    clients = [server.host.connect((LOCAL, 8080)) for _ in range(50)]
    eventually(lambda: len(os.listdir(descriptors)) == before + 50)
    for number, client in enumerate(clients):
        if number % 2:  # with a RST
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0, 0, 0, 0, 0]))
        client.close()
    eventually(lambda: len(os.listdir(descriptors)) == before)


def received(client: socket.socket, answers: int) -> int:
    """How many answers have come once there are so many, or the client is told no more."""
    data = b""
    while data.count(b"}\n") < answers and (more := client.recv(1 << 16)):
        data += more
    return data.count(b"}\n")


def all_of(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(1 << 16), b""))
