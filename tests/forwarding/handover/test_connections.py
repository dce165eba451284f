"""Established connections and dials under way, which go on in another data plane."""

import asyncio
import errno
import hashlib
import os
import socket
import time
from collections.abc import AsyncIterator

import pytest
from msgspec import structs

from tests.forwarding.conftest import LOOPBACK, NAME, Connected, Serve, echo, eventually
from tests.forwarding.handover.conftest import a_forwarder, first, forwarders, passed, rest, taken_over
from userproxy.forwarding.forwarder import Forwarder
from userproxy.forwarding.tcp.dialer import Dial
from userproxy.forwarding.tcp.listener import TcpListener
from userproxy.forwarding.tcp.relay import Relay
from userproxy.forwarding.tcp.relays.accounts import TcpStatistics
from userproxy.forwarding.tcp.sockets import quiet_seconds
from userproxy.model import ClientAddress, Endpoint, Limits, ProxyProtocol, Snapshot, Verdict
from userproxy.model.faults import Direction, Fault, Latency

MEGABYTE = 1 << 20


@pytest.fixture
async def planes() -> AsyncIterator[list[Forwarder]]:
    async with forwarders() as found:
        found.append(a_forwarder())
        yield found


def serving(plane: Forwarder, *addresses: tuple[str, int], affinity: int | None = None) -> int:
    """Has the listener serve, and returns its port."""
    port = plane.open(NAME)
    plane.update(Snapshot(NAME, Verdict.SERVE, tuple(Endpoint(*each) for each in addresses), affinity))
    return port


async def test_a_connection_goes_on_and_its_listener_keeps_the_port(planes: list[Forwarder], serve: Serve) -> None:
    port = serving(planes[0], await serve(echo))
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    writer.write(b"before")
    assert await reader.readexactly(6) == b"before"
    planes.append(await taken_over(planes[0]))
    new = planes[-1]
    assert new.open(NAME) == port
    assert new.active == 1
    (known,) = new._tcp.shares.of(NAME.service_port).addresses[LOOPBACK]
    assert known.quiet() is not None, "it can make room"
    (relay,) = members(new)
    assert isinstance(relay, Relay)
    assert {sock.fileno() for sock in relay.sockets} <= new._poller.of_others
    assert all(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) for sock in relay.sockets)
    writer.write(b"after")
    assert await reader.readexactly(5) == b"after"
    other_reader, other = await asyncio.open_connection(LOOPBACK, port)
    other.write(b"new")
    assert await other_reader.readexactly(3) == b"new"
    writer.write_eof()
    assert await reader.read() == b""
    other.close()
    await eventually(lambda: new.active == 0)
    counted = new.statistics(NAME)
    assert (counted.accepted, counted.ended, counted.bytes_up, counted.bytes_down) == (2, 2, 14, 14)
    writer.close()


async def test_a_hundred_hand_overs_in_a_row_lose_no_byte_of_big_transfers(
    planes: list[Forwarder], serve: Serve
) -> None:
    size = 256 * MEGABYTE
    sums: dict[str, str] = {}

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sums["up"] = await digest(reader)
        writer.write(b"done")

    async def pour(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await send(writer, size)

    up, down = await serve(swallow), await serve(pour)
    port = serving(planes[0], up)
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    planes[0].update(Snapshot(NAME, Verdict.SERVE, (Endpoint(*down),)))
    await eventually(lambda: planes[0].active == 1)
    down_reader, down_writer = await asyncio.open_connection(LOOPBACK, port)
    async with asyncio.TaskGroup() as group:
        group.create_task(send(writer, size), name="upload")
        received = group.create_task(digest(down_reader), name="download")
        while not received.done():
            planes.append(await taken_over(planes[-1]))
            await asyncio.sleep(0.01)
    assert len(planes) > 5
    writer.write_eof()
    assert await reader.read() == b"done"
    assert sums["up"] == received.result() == pattern_digest(size)
    writer.close()
    down_writer.close()
    await eventually(lambda: planes[-1].active == 0)


async def send(writer: asyncio.StreamWriter, size: int) -> None:
    for number in range(size // MEGABYTE):
        writer.write(block(number))
        await writer.drain()


async def digest(reader: asyncio.StreamReader) -> str:
    found = hashlib.sha256()
    while data := await reader.read(MEGABYTE):
        found.update(data)
    return found.hexdigest()


_BLOCKS = [os.urandom(MEGABYTE) for _ in range(7)]


def block(number: int) -> bytes:
    return _BLOCKS[number % len(_BLOCKS)]


def pattern_digest(size: int) -> str:
    found = hashlib.sha256()
    for number in range(size // MEGABYTE):
        found.update(block(number))
    return found.hexdigest()


@pytest.mark.parametrize("size", [1 << 16, 64 * MEGABYTE])
async def test_what_a_slow_reader_has_not_taken_yet_arrives(planes: list[Forwarder], serve: Serve, size: int) -> None:
    async def pour(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await send(writer, max(size, MEGABYTE))

    port = serving(planes[0], await serve(pour))
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, (LOOPBACK, port))
        await stuck(planes[0])
        planes.append(await taken_over(planes[0]))
        planes.append(await taken_over(planes[1]))
        reader, writer = await asyncio.open_connection(sock=client)
        assert await digest(reader) == pattern_digest(max(size, MEGABYTE))
        writer.close()
    await eventually(lambda: planes[-1].active == 0)
    assert planes[-1]._tcp.pipes._kept == 0


def members(plane: Forwarder) -> list[Dial | Relay]:
    """The connections of a data plane in the order in which it has them."""
    listeners = [each for each in plane._listeners.values() if isinstance(each, TcpListener)]
    return [member for each in listeners for member in each.connections.members.values()]


async def stuck(plane: Forwarder) -> None:
    """Wait until a connection has bytes that its client does not take."""

    def moved() -> int:
        return sum(each.moved[1] for each in members(plane) if isinstance(each, Relay))

    before = -1
    while before != moved() or not before:
        before = moved()
        await asyncio.sleep(0.1)


async def test_a_half_closed_connection_gets_its_reply(planes: list[Forwarder], serve: Serve) -> None:
    released = asyncio.Event()

    async def answer_at_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        question = await reader.read()
        await released.wait()
        writer.write(question.upper())

    port = serving(planes[0], await serve(answer_at_the_end))
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    writer.write(b"question")
    writer.write_eof()
    closing = planes[0]._tcp.relays.closing
    closing.seconds = 60.0  # so that it stays there
    await eventually(lambda: len(closing) == 1)
    (before,) = closing.deadlines
    await eventually(lambda: before._moved() == len(b"question"))  # once the FIN is acknowledged
    deadline = next(iter(closing.deadlines.values())) + planes[0]._tcp.half_open.seconds
    planes.append(await taken_over(planes[0]))
    assert list(planes[1]._tcp.half_open.deadlines.values()) == [deadline]
    (relay,) = members(planes[1])
    assert isinstance(relay, Relay)
    assert relay._seen == len(b"question")
    released.set()
    assert await reader.read() == b"QUESTION"
    writer.close()
    await eventually(lambda: planes[-1].active == 0)


async def test_a_dial_under_way_goes_on_with_its_time(
    planes: list[Forwarder], serve: Serve, black_hole: tuple[str, int]
) -> None:
    backend = await serve(echo)
    port = planes[0].open(NAME)
    planes[0].update(Snapshot(NAME, Verdict.SERVE, (Endpoint(*black_hole),)))
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    await eventually(lambda: len(planes[0]._tcp.dialer.limits[0]) == 1)
    planes[0].update(Snapshot(NAME, Verdict.SERVE, (Endpoint(*black_hole), Endpoint(*backend))))
    deadlines = list(planes[0]._tcp.dialer.limits[0].deadlines.values())
    planes.append(await taken_over(planes[0]))
    assert list(planes[1]._tcp.dialer.limits[0].deadlines.values()) == deadlines
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"
    assert planes[1].statistics(NAME).retried == 1
    (relay,) = members(planes[1])
    assert isinstance(relay, Relay)
    for _ in range(2):
        planes[1]._tcp.keep_alive._look()
    assert all(each.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) for each in relay.sockets)
    writer.close()
    await eventually(lambda: planes[-1].active == 0)


class Resumed(Dial):
    """A dial that notes when it goes on, which it cannot do without time."""

    __slots__ = ("_going_on",)

    def __init__(self, going_on: list[float | None]) -> None:
        self._going_on = going_on
        self.opened = 0.0

    def resume(self, backend: socket.SocketType | None, deadline: float | None) -> None:
        self._going_on.append(deadline)
        if deadline is None:
            raise OSError(errno.ENOSPC, "the kernel can watch no more")

    def abort(self, reason: str = "") -> None:
        self._going_on.append(-1.0 if reason else 0.0)


@pytest.mark.bugs
async def test_dials_of_several_processes_go_on_in_order_and_one_that_cannot_costs_no_other(
    planes: list[Forwarder], serve: Serve
) -> None:
    port = serving(planes[0], await serve(echo))
    new = a_forwarder()
    giver, taker = planes[0].hand_over(), new.take_over()
    await first(giver, taker)
    going_on: list[float | None] = []
    # The first two are of one process of the predecessor's, the others of another.
    taker._dials += [(Resumed(going_on), None, each) for each in (3.0, 5.0, None, 2.0)]
    rest(planes[0], new, giver, taker)
    planes.append(new)
    assert going_on == [None, 0.0, 2.0, 3.0, 5.0]
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
    writer.close()
    await eventually(lambda: new.active == 0)


async def test_a_client_within_his_proxy_header_is_waited_for(planes: list[Forwarder], serve: Serve) -> None:
    planes[0].shut_down()
    planes[0] = a_forwarder(trusted=("127.0.0.0/8",))
    port = planes[0].open(NAME)
    backend = Endpoint(*await serve(echo))
    planes[0].update(Snapshot(NAME, Verdict.SERVE, (backend,), accepts_proxy=ProxyProtocol.V1))
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    writer.write(b"PROXY TCP4 192.0.2.7 192.0")
    limit = planes[0]._tcp.introductions.limit
    await eventually(lambda: len(limit) == 1)
    deadlines = list(limit.deadlines.values())
    planes.append(await taken_over(planes[0], trusted=("127.0.0.0/8",)))
    assert list(planes[1]._tcp.introductions.limit.deadlines.values()) == deadlines
    writer.write(b".2.1 4000 80\r\nx")
    assert await reader.readexactly(1) == b"x"
    assert [each.peer for each in members(planes[1])] == [("192.0.2.7", 4000)]
    planes.append(await taken_over(planes[1], trusted=("127.0.0.0/8",)))
    writer.write(b"y")
    assert await reader.readexactly(1) == b"y"
    assert [each.peer for each in members(planes[2])] == [("192.0.2.7", 4000)]
    assert planes[2].statistics(NAME).accepted == 1
    writer.close()
    await eventually(lambda: planes[-1].active == 0)


async def test_a_client_whom_a_proxy_header_has_named_is_known_for_that(
    planes: list[Forwarder], black_hole: tuple[str, int]
) -> None:
    """It need not be of this node to be the address that an endpoint sees: see Sources.choose()."""
    trusted = ("127.0.0.0/8",)
    planes[0].shut_down()
    planes[0] = a_forwarder(trusted=trusted)
    port = planes[0].open(NAME)
    snapshot = Snapshot(NAME, Verdict.SERVE, (Endpoint(*black_hole),), accepts_proxy=ProxyProtocol.V1)
    planes[0].update(structs.replace(snapshot, client_address=ClientAddress.AUTO))
    _, writer = await asyncio.open_connection(LOOPBACK, port)
    writer.write(b"PROXY TCP4 192.0.2.7 192.0.2.1 4000 80\r\n")
    await eventually(lambda: any(map(len, planes[0]._tcp.dialer.limits)))
    for _ in range(2):
        planes.append(await taken_over(planes[-1], trusted=trusted))
        (dial,) = members(planes[-1])
        assert isinstance(dial, Dial)
        assert dial.address == "192.0.2.7"
        assert dial.state().introduced
    writer.close()


async def test_before_the_other_process_has_let_go_no_connection_is_reset_for_being_idle(
    planes: list[Forwarder], serve: Serve
) -> None:
    old, new = planes[0], a_forwarder()
    planes.append(new)
    port, backend = serving(old, await serve(echo)), await serve(echo)
    limited = Snapshot(NAME, Verdict.SERVE, (Endpoint(*backend),), limits=Limits(idle=0.2))
    old.update(limited)
    quiet = await Connected.to(port)
    giver, taker = old.hand_over(), new.take_over()
    await first(giver, taker)
    old.update(structs.replace(limited, limits=None))
    (relay,) = members(new)
    assert isinstance(relay, Relay)
    await eventually(lambda: min(quiet_seconds(relay.sockets[0])) > 0.4)
    assert await quiet.is_alive()
    old.update(limited)
    await eventually(lambda: old.active == 0)
    assert not await quiet.is_alive()
    rest(old, new, giver, taker)
    assert (new.active, new.statistics(NAME).ended) == (0, 1)
    following = await Connected.to(port)
    await eventually(lambda: new.active == 0)
    assert not await following.is_alive(), "afterwards it is ours to do so"


async def test_before_the_other_process_has_let_go_nobody_is_served_who_waits_for_descriptors(
    planes: list[Forwarder], serve: Serve
) -> None:
    old, new = planes[0], a_forwarder()
    planes.append(new)
    port = serving(old, await serve(echo))
    await eventually(lambda: old.is_open(NAME))
    listener = old._listeners[NAME]
    assert isinstance(listener, TcpListener)
    old._poller.forget(listener.socket)
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    assert listener._hold_next()
    giver, taker = old.hand_over(), new.take_over()
    await first(giver, taker)
    passed(taker, giver.rest())
    looked: list[None] = []
    new._budget.wait(lambda: looked.append(None))
    await eventually(lambda: bool(looked))
    assert new.active == 0
    taker.complete()
    taker.go_on()
    old.forsake()
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"
    writer.close()
    await eventually(lambda: new.active == 0)


async def test_faults_that_begin_while_it_is_handed_over_cost_a_connection_no_byte(
    planes: list[Forwarder], serve: Serve
) -> None:
    old, new = planes[0], a_forwarder()
    planes.append(new)
    port = serving(old, await serve(echo))
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    await eventually(lambda: any(isinstance(each, Relay) for each in members(old)))
    giver, taker = old.hand_over(), new.take_over()
    await first(giver, taker)
    now = time.monotonic()
    latency = Latency(3.0, direction=Direction.UP)
    old.steering.put_faults((Fault(1, NAME.service_port.service, latency, now, 0.0, now + 60.0),))
    await eventually(lambda: bool(old.faults.suffering))
    writer.write(b"x")
    await eventually(lambda: old.faults.waiting == 1)
    rest(old, new, giver, taker)
    assert await asyncio.wait_for(reader.readexactly(1), 20) == b"x"
    writer.close()
    await eventually(lambda: new.active == 0)


@pytest.mark.parametrize("in_between", [False, True])
async def test_what_ends_and_begins_in_between(planes: list[Forwarder], serve: Serve, *, in_between: bool) -> None:
    old = planes[0]
    port = serving(old, await serve(echo))
    clients = [await asyncio.open_connection(LOOPBACK, port) for _ in range(6)]
    await eventually(lambda: old.active == 6)
    new = a_forwarder()
    planes.append(new)
    giver, taker = old.hand_over(), new.take_over()
    await first(giver, taker)
    clients[0][1].close()
    clients[1][1].transport.abort()
    clients.append(await asyncio.open_connection(LOOPBACK, port))
    if in_between:
        await eventually(lambda: old.active == 5)
        for reader, writer in clients[2:]:
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
    rest(old, new, giver, taker)
    for reader, writer in clients[2:]:
        writer.write(b"y")
        assert await reader.readexactly(1) == b"y"
    await eventually(lambda: new.active == 5)
    ids = [each.id for each in members(new)]
    assert ids == sorted(ids)
    assert new.statistics(NAME).accepted == 7
    assert new.statistics(NAME).ended == 2
    for _, writer in clients[2:]:
        writer.close()
    await eventually(lambda: new.active == 0)


async def test_peers_hear_of_an_end_while_another_process_has_copies(planes: list[Forwarder], serve: Serve) -> None:
    heard: list[str] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            heard.append((await reader.read()).decode() + "FIN")
        except ConnectionResetError:
            heard.append("RST")

    old, new = planes[0], a_forwarder()
    planes.append(new)
    port = serving(old, await serve(listen))
    ended, reset = [await asyncio.open_connection(LOOPBACK, port) for _ in range(2)]
    await eventually(lambda: old.active == 2)
    giver, taker = old.hand_over(), new.take_over()
    await first(giver, taker)
    ended[1].close()
    await eventually(lambda: heard == ["FIN"])
    reset[1].transport.abort()
    old.reset_connections()
    await eventually(lambda: heard == ["FIN", "RST"])
    giver.cancel()
    new.forsake()


async def test_a_hand_over_that_comes_to_nothing_changes_nothing(planes: list[Forwarder], serve: Serve) -> None:
    old, new = planes[0], a_forwarder()
    planes.append(new)
    port = serving(old, await serve(echo))
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    await eventually(lambda: old.active == 1)
    old._tcp.poller.copied = False  # as in a data process
    now = time.monotonic()
    fault = Fault(1, NAME.service_port.service, Latency(0.01), now, 0.0, now + 60.0)
    old.steering.put_faults((fault,))
    giver, taker = old.hand_over(), new.take_over()
    assert (old.faults.current, old.steering.faults) == ((), (fault,))
    await first(giver, taker)
    for item, descriptors in giver.rest():
        taker.take(item, [os.dup(each) for each in descriptors])
    new.forsake()
    giver.cancel()
    assert type(old.statistics(NAME)) is TcpStatistics, "what it counts is not noted any more"
    assert old._tcp.poller.copied, "the other process has not closed its copies yet"
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"
    assert (old.faults.current, old.steering.faults) == ((fault,), (fault,)), "for the time that is left"
    other_reader, other = await asyncio.open_connection(LOOPBACK, port)
    other.write(b"y")
    assert await other_reader.readexactly(1) == b"y"
    other.close()
    writer.close()
    await eventually(lambda: old.active == 0)
    planes.append(await taken_over(old))
