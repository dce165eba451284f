"""Take-overs between two loops; and those that fail, at each message, in which the predecessor serves on."""

import asyncio
import os
import resource
import socket
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import closing

import pytest
from msgspec import Raw, structs

from tests.forwarding.conftest import LOOPBACK, NAME, Serve, echo, eventually
from tests.forwarding.conftest import serve as serve
from tests.forwarding.handover.conftest import a_forwarder
from tests.processes.takeover.conftest import SETUP, Beside, Meddle, Middle, Packet, hand_over, possessions
from userproxy.forwarding.descriptors import open_descriptors
from userproxy.forwarding.forwarder import Forwarder
from userproxy.forwarding.handover.taking import Taker
from userproxy.forwarding.handover.values import release
from userproxy.model import Endpoint, Snapshot, Verdict
from userproxy.processes.channel import encode, packet, socket_pair
from userproxy.processes.takeover import predecessor, successor
from userproxy.processes.takeover.messages import PROTOCOL, Ask, Commit, Ready, Serving
from userproxy.processes.takeover.packages import Package
from userproxy.processes.takeover.token import Token

CLIENTS = 5
MESSAGES = 6 + CLIENTS + 2 + 3
"""About so many pass: what is asked and offered, listener and connections, sockets, who is ready, and the rest."""


@pytest.fixture
async def plane() -> AsyncIterator[Forwarder]:
    made = a_forwarder()
    yield made
    made.shut_down()


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predecessor, "ANSWER_SECONDS", 1.5)
    monkeypatch.setattr(successor, "_SILENCE_SECONDS", 2.0)


class Clients:
    """Some clients with established connections, one of whom has closed his side."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.connections: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def connect(self) -> None:
        for _ in range(CLIENTS):
            self.connections.append(await asyncio.open_connection(LOOPBACK, self.port))
        await self.ask()

    async def ask(self) -> None:
        """All are answered, and so is a new one."""
        async with asyncio.timeout(10):
            for number, (reader, writer) in enumerate(self.connections):
                text = b"%d" % number * 1000
                writer.write(text)
                assert await reader.readexactly(len(text)) == text
            reader, writer = await asyncio.open_connection(LOOPBACK, self.port)
            writer.write(b"new")
            writer.write_eof()
            assert await reader.read() == b"new"
            writer.close()

    def close(self) -> None:
        for _, writer in self.connections:
            writer.close()


@pytest.fixture
async def clients(plane: Forwarder, serve: Serve) -> AsyncIterator[Clients]:
    port = plane.open(NAME)
    plane.update(Snapshot(NAME, Verdict.SERVE, (Endpoint(*await serve(echo)),)))
    made = Clients(port)
    await made.connect()
    await eventually(lambda: plane.active == CLIENTS)
    yield made
    made.close()


@pytest.fixture
def named() -> Iterator[socket.socket]:
    with socket.socket() as listening:
        listening.bind((LOOPBACK, 0))
        listening.listen()
        yield listening


async def test_everything_goes_on_in_the_successor(plane: Forwarder, clients: Clients, named: socket.socket) -> None:
    ours, its = socket_pair()
    beside = Beside(its)
    assert await hand_over(plane, ours, possessions(plane, [("healthz", named.fileno())]))
    await clients.ask()
    assert (beside.everything, beside.active) == (True, CLIENTS)
    with socket.socket(fileno=os.dup(beside.sockets["healthz"])) as inherited:
        assert inherited.getsockname() == named.getsockname()
    clients.close()
    beside.end()


async def test_a_successor_that_reads_nothing_is_given_up(plane: Forwarder, clients: Clients) -> None:
    class Much:
        def cancel(self, *, lingers: bool) -> None:
            pass

        async def first(self) -> AsyncGenerator[Package, None]:
            for _ in range(40):
                yield Package(Raw(encode(["x" * 60_000])), ())

        def changed(self) -> AsyncGenerator[Package, None]:
            return self.first()

        def rest(self, _token: Token, _end: float) -> Generator[Package, None, None]:
            yield from ()

    ours, its = socket_pair()
    with closing(its):
        its.send(packet(Ask(PROTOCOL, release(), "one that hangs", SETUP)))
        async with asyncio.timeout(20):
            assert not await hand_over(plane, ours, structs.replace(possessions(plane), giver=Much))
    await clients.ask()


def cut(_packet: Packet) -> Packet | None:
    return None


def garbage(packet: Packet) -> Packet | None:
    return b"\0\xc1 this is no message", packet[1]


def without_descriptors(packet: Packet) -> Packet | None:
    return packet[0], []


@pytest.mark.parametrize("fault", [cut, garbage, without_descriptors])
@pytest.mark.parametrize("number", range(MESSAGES + 4))
async def test_whatever_fails_at_whichever_message_somebody_serves_and_nobody_is_cut(
    plane: Forwarder, clients: Clients, named: socket.socket, fault: Meddle, number: int
) -> None:
    was_last = threading.Event()

    def meddle(count: int, to_successor: bool, packet: Packet) -> Packet | None:
        if not to_successor and packet[0][1:] == encode(Serving()):
            was_last.set()  # what the successor has said arrives: the kernel loses no packet of a Unix socket
            return packet
        return fault(packet) if count == number else packet  # type: ignore[call-arg,arg-type]

    middle = Middle(meddle)
    middle.start()
    beside = Beside(middle.for_successor)
    is_given = await hand_over(plane, middle.for_predecessor, possessions(plane, [("healthz", named.fileno())]))
    beside.done.wait(10)
    assert is_given is was_last.is_set() is (beside.failure is None)
    await clients.ask()
    if not is_given:
        assert plane.active == CLIENTS
        assert not plane.shares_sockets
        ours, its = socket_pair()
        second = Beside(its)
        assert await hand_over(plane, ours)
        await clients.ask()
        clients.close()
        second.end()
    clients.close()
    beside.end()
    middle.join(10)


@pytest.mark.parametrize("kind", [Ready, Serving])
async def test_a_successor_that_says_nothing_more_is_given_up(plane: Forwarder, clients: Clients, kind: type) -> None:
    released = threading.Event()

    def meddle(_count: int, to_successor: bool, packet: Packet) -> Packet | None:
        is_ready = packet[0][1:] == encode(Ready())
        if (kind is Ready and is_ready and not to_successor) or (b"Commit" in packet[0] and to_successor):
            released.wait(20)
        return packet

    middle = Middle(meddle)
    middle.start()
    beside = Beside(middle.for_successor)
    assert not await hand_over(plane, middle.for_predecessor)
    await clients.ask()
    released.set()
    beside.done.wait(10)
    assert beside.failure is not None
    await clients.ask()
    assert plane.active == CLIENTS
    clients.close()
    beside.end()
    middle.join(10)


@pytest.mark.parametrize("fault", [None, Commit])
async def test_whoever_serves_goes_first_for_a_moment_and_then_no_longer(
    plane: Forwarder, clients: Clients, monkeypatch: pytest.MonkeyPatch, fault: type | None
) -> None:
    """The threads of both sides, each by itself."""
    asked: dict[int, list[int]] = {}

    def note(_which: int, _who: int, nice: int) -> None:
        asked.setdefault(threading.get_ident(), []).append(nice)

    monkeypatch.setattr(os, "setpriority", note)
    before = os.getpriority(os.PRIO_PROCESS, 0)

    def meddle(_: int, _to_successor: bool, packet: Packet) -> Packet | None:
        return garbage(packet) if fault is not None and packet[0][1:] == encode(fault()) else packet

    middle = Middle(meddle)
    middle.start()
    beside = Beside(middle.for_successor)
    assert await hand_over(plane, middle.for_predecessor) is (fault is None)
    await eventually(lambda: list(asked.values()) == [[-20, before], [-20, before]])
    await clients.ask()
    clients.close()
    beside.end()
    middle.join(10)


@pytest.mark.parametrize("backlog_seconds", [0.0, 5.0])
async def test_a_successor_that_does_not_serve_itself_goes_first_no_longer_than_the_pause(
    plane: Forwarder, clients: Clients, backlog_seconds: float
) -> None:
    """What it does next may take it long, and clients of its data processes want the CPU."""
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    ours, its = socket_pair()
    beside = Beside(its, backlog_seconds=backlog_seconds)
    assert await hand_over(plane, ours)
    await asyncio.to_thread(beside.done.wait, 10)
    if backlog_seconds and beside.nice == usual:
        pytest.skip("it takes CAP_SYS_NICE")
    assert beside.nice == (-20 if backlog_seconds else usual)
    await clients.ask()
    clients.close()
    beside.end()


def fail() -> None:
    raise RuntimeError("a bug")


async def test_a_successor_with_a_bug_says_so_and_the_predecessor_serves_on(plane: Forwarder, clients: Clients) -> None:
    ours, its = socket_pair()
    beside = Beside(its, serves=fail)
    assert not await hand_over(plane, ours)
    beside.done.wait(10)
    assert isinstance(beside.failure, successor.NotTakenOverError)
    assert "a bug" in str(beside.failure)
    await clients.ask()
    assert plane.active == CLIENTS
    clients.close()
    beside.end()


@pytest.mark.parametrize(("at", "is_given"), [("complete", False), ("go_on", True)])
async def test_what_cannot_be_served_ends_the_successor(
    plane: Forwarder, clients: Clients, monkeypatch: pytest.MonkeyPatch, at: str, is_given: bool
) -> None:
    monkeypatch.setattr(Taker, at, lambda _self: fail())
    ours, its = socket_pair()
    beside = Beside(its)
    assert await hand_over(plane, ours) is is_given
    assert beside.done.wait(10), "it does not wait for ever"
    assert isinstance(beside.failure, successor.CannotServeError if is_given else successor.NotTakenOverError)
    if not is_given:
        await clients.ask()
    clients.close()
    beside.end()


async def test_peers_hear_of_ends_also_while_a_successor_hangs_that_has_copies(
    plane: Forwarder, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(successor, "_SILENCE_SECONDS", 60.0)
    released = threading.Event()

    def meddle(_count: int, to_successor: bool, packet: Packet) -> Packet | None:
        if packet[0][1:] == encode(Ready()) and not to_successor:
            released.wait(30)
        return packet

    middle = Middle(meddle)
    middle.start()
    beside = Beside(middle.for_successor)
    assert not await hand_over(plane, middle.for_predecessor)
    async with asyncio.timeout(10):
        for reader, writer in clients.connections:
            writer.write_eof()
            assert await reader.read() == b""
    released.set()
    beside.end()
    middle.join(10)


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (Ask(0, 0, "0.0", "as in the tests"), "it speaks protocol 0, and this release 1"),
        (Ask(1, 0, "0.0", "otherwise"), "it is to serve otherwise: otherwise, and not as in the tests"),
        (Ask(1, 1, "0.0", "as in the tests"), "connections cannot be handed over to it, and there is no listener"),
        (Serving(), "it has said Serving out of turn"),
    ],
)
async def test_who_asks_for_what_cannot_be_is_told_why(
    plane: Forwarder, clients: Clients, first: object, reason: str
) -> None:
    ours, its = socket_pair()
    with closing(its):
        its.send(b"\0" + encode(first))
        assert not await hand_over(plane, ours)
        said = b"".join(iter(lambda: its.recv(1 << 16), b""))
    assert reason.encode() in said
    await clients.ask()


async def test_a_proxy_that_stops_hands_nothing_over(plane: Forwarder, clients: Clients) -> None:
    ours, its = socket_pair()
    beside = Beside(its)
    reluctant = structs.replace(possessions(plane), reluctance=lambda: "it is stopping")
    assert not await hand_over(plane, ours, reluctant)
    beside.done.wait(10)
    assert isinstance(beside.failure, successor.RefusedError)
    assert str(beside.failure) == "it is stopping"
    await clients.ask()
    beside.end()


async def test_descriptors_are_those_of_one_process_again(plane: Forwarder, clients: Clients) -> None:
    before = open_descriptors()
    for _ in range(3):
        middle = Middle(lambda _, __, packet: None if packet[0][1:] == encode(Commit()) else packet)
        middle.start()
        beside = Beside(middle.for_successor)
        assert not await hand_over(plane, middle.for_predecessor)
        beside.end()
        middle.join(10)
    assert open_descriptors() == before


async def test_whom_the_predecessor_has_given_up_cannot_go_on_later(plane: Forwarder, clients: Clients) -> None:
    kept: list[int] = []

    def meddle(_: int, to_successor: bool, packet: Packet) -> Packet:
        if to_successor and packet[0][1:] == encode(Commit()):
            kept.append(os.dup(packet[1][0]))
            return garbage(packet) or packet
        return packet

    middle = Middle(meddle)
    middle.start()
    beside = Beside(middle.for_successor)
    assert not await hand_over(plane, middle.for_predecessor)
    beside.end()
    with closing(Token(kept[0])) as token:
        assert not token.take()
    await clients.ask()


async def test_a_predecessor_without_a_descriptor_left_serves_on(plane: Forwarder, clients: Clients) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    def meddle(_: int, to_successor: bool, packet: Packet) -> Packet:
        if not to_successor and packet[0][1:] == encode(Ready()):  # next is the pipe that says who goes on
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        return packet

    middle = Middle(meddle)
    middle.start()
    beside = Beside(middle.for_successor)
    try:
        assert not await hand_over(plane, middle.for_predecessor)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    beside.end()
    assert beside.failure is not None
    assert plane.active == CLIENTS
    await clients.ask()
