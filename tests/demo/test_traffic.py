"""The HTTP clients and the Pods' server, against each other and against servers that misbehave."""

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from userproxy.demo import pods
from userproxy.demo.hosts import Host
from userproxy.demo.programs import Program, wait_for_port
from userproxy.demo.traffic import Tally, fetch_many, http

LOCAL = "127.0.0.1"


@pytest.fixture
def host(root: None) -> Iterator[Host]:
    with Host("one") as host:
        yield host


@pytest.fixture
def pod(host: Host) -> Iterator[Host]:
    with Program(host, pods.command("web-1")):
        wait_for_port(host, 8080)
        yield host


def test_many_requests_are_counted_and_timed(pod: Host) -> None:
    tally = fetch_many(pod, (LOCAL, 8080), 50, concurrency=5)
    assert (tally.pods, tally.clients, tally.failures) == ({"web-1": 50}, {LOCAL: 50}, ())
    assert 0 < tally.percentile(50) <= tally.percentile(99) <= max(tally.seconds)


def test_failures_are_counted_not_raised(host: Host) -> None:
    tally = fetch_many(host, (LOCAL, 8080), 3)
    assert not tally.pods
    assert len(tally.failures) == 3
    assert "refused" in tally.failures[0]


def test_a_connection_is_kept_alive_and_answers_pipelined_requests(pod: Host) -> None:
    with pod.connect((LOCAL, 8080)) as client, client.makefile("rb") as replies:
        client.sendall(b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\nGET /")
        client.sendall(b" HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert replies.read().count(b'"pod": "web-1"') == 3


@pytest.mark.parametrize(
    ("reply", "complaint"),
    [
        (b"", "RemoteDisconnected"),
        (b"hello\r\n\r\n", "BadStatusLine"),
        (b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", "HTTP status 503"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", "IncompleteRead"),
    ],
)
def test_what_is_no_good_answer_is_an_error(host: Host, reply: bytes, complaint: str) -> None:
    def answer() -> None:
        accepted, _ = server.accept()
        with accepted:
            accepted.recv(4096)
            accepted.sendall(reply)

    with host.listen() as server, ThreadPoolExecutor(1) as thread:
        thread.submit(answer)
        with pytest.raises(OSError, match=complaint):
            http(host, server.getsockname())


def test_requests_run_at_the_same_time(host: Host) -> None:
    everyone = threading.Barrier(4, timeout=5)

    def answer() -> None:
        accepted, _ = server.accept()
        with accepted:
            accepted.recv(4096)
            everyone.wait()  # a fourth request has to arrive before the first is answered
            accepted.sendall(b'HTTP/1.1 200 OK\r\n\r\n{"pod": "web-1", "client": "127.0.0.1:1"}')

    with host.listen() as server, ThreadPoolExecutor(4) as threads:
        for _ in range(4):
            threads.submit(answer)
        tally = fetch_many(host, server.getsockname(), 4, concurrency=4)
    assert (tally.pods, tally.failures) == ({"web-1": 4}, ())


def test_percentiles_of_a_known_tally() -> None:
    tally = Tally(Counter(), Counter(), tuple(range(100, 0, -1)), ())
    assert [tally.percentile(percent) for percent in (0, 50, 99, 100)] == [1, 51, 100, 100]
