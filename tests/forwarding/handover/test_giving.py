"""What is left for the turn in which nobody is served: only what has changed a moment ago."""

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack

import pytest

from tests.forwarding.conftest import LOOPBACK, NAME, Serve, echo, eventually
from tests.forwarding.handover.conftest import a_forwarder, changed, first, forwarders, passed, rest
from tests.forwarding.handover.test_listeners import DNS, Echoes, ask, udp_client
from tests.forwarding.handover.test_listeners import echoes as echoes
from userproxy.forwarding.forwarder import Forwarder
from userproxy.forwarding.handover.values import DecisionsHandedOver, Item
from userproxy.model import Endpoint, ListenerName, Protocol, ServicePortName, Snapshot, Verdict

OTHER = ListenerName(ServicePortName("default", "other", "", Protocol.TCP))

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def old() -> AsyncIterator[Forwarder]:
    async with forwarders() as found:
        found.append(a_forwarder())
        yield found[0]


@pytest.fixture
async def new() -> AsyncIterator[Forwarder]:
    async with forwarders() as found:
        found.append(a_forwarder())
        yield found[0]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


async def said(streams: Streams, text: bytes = b"x") -> None:
    streams[1].write(text)
    assert await streams[0].readexactly(len(text)) == text


def kinds(items: list[Item]) -> Counter[str]:
    return Counter(type(each).__name__ for each in items)


async def test_each_round_tells_what_has_changed_since_the_one_before(
    old: Forwarder, new: Forwarder, serve: Serve
) -> None:
    port = old.open(NAME)
    old.update(Snapshot(NAME, Verdict.SERVE, (Endpoint(*await serve(echo)),), affinity_timeout=600))
    talks = [await asyncio.open_connection(LOOPBACK, port) for _ in range(8)]
    for each in talks:
        await said(each)
    giver, taker = old.hand_over(), new.take_over()
    await first(giver, taker)
    assert await changed(giver, taker) == []
    for each in talks[:5]:
        await said(each)
    talks[7][1].close()
    talks.append(await asyncio.open_connection(LOOPBACK, port))
    await said(talks[8])
    await eventually(lambda: old.active == 8)
    found = kinds(await changed(giver, taker))
    assert found["RelayHandedOver"] == 6
    assert found["Ended"] == found["ListenerChanged"] == found["DecisionsHandedOver"] == 1
    await said(talks[0])
    assert kinds(await changed(giver, taker))["RelayHandedOver"] == 1
    await said(talks[1])
    left = kinds(rest(old, new, giver, taker))
    assert left["RelayHandedOver"] == 1, "of nine, one has said something"
    assert left["AffinityEntries"] == 1
    assert left["DecisionsHandedOver"] == 0
    for each in (*talks[:7], talks[8]):
        await said(each, b"hello")
        each[1].close()
    await eventually(lambda: new.active == 0)
    counted = new.statistics(NAME)
    assert (counted.accepted, counted.ended, counted.bytes_up) == (9, 9, 8 + 5 + 1 + 1 + 1 + 8 * 5)
    assert len(await new.data_plane.decisions()) == 9


async def test_a_half_closed_connection_and_one_whose_bytes_wait_are_for_the_rest(
    old: Forwarder, new: Forwarder, serve: Serve
) -> None:
    released = asyncio.Event()

    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.read() == b"question"
        await released.wait()
        writer.write(b"answer")
        writer.close()

    port = old.open(NAME)
    old.update(Snapshot(NAME, Verdict.SERVE, (Endpoint(*await serve(late)),)))
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    giver, taker = old.hand_over(), new.take_over()
    await eventually(lambda: old.active == 1)
    await first(giver, taker)
    writer.write(b"question")
    writer.write_eof()
    await eventually(lambda: old.statistics(NAME).active == 1 and bool(half_closed(old)))
    assert kinds(await changed(giver, taker))["RelayHandedOver"] == 0
    rest(old, new, giver, taker)
    released.set()
    assert await reader.read() == b"answer"
    writer.close()
    await eventually(lambda: new.active == 0)


async def tags(port: int, count: int, client: str = LOOPBACK) -> list[bytes]:
    """What that many new clients get from their endpoints, one after the other."""
    found = []
    for _ in range(count):
        reader, writer = await asyncio.open_connection(LOOPBACK, port, local_addr=(client, 0))
        found.append(await reader.read())
        writer.close()
    return found


async def tagged(serve: Serve, count: int) -> dict[bytes, Endpoint]:
    """Endpoints that say who they are."""
    found = {}
    for number in range(count):
        tag = b"%d" % number

        async def tell(_: asyncio.StreamReader, writer: asyncio.StreamWriter, tag: bytes = tag) -> None:
            writer.write(tag)
            writer.close()

        found[tag] = Endpoint(*await serve(tell))
    return found


@pytest.mark.parametrize("when", ["first", "rounds", "rest"])
@pytest.mark.parametrize("affinity", [None, 600])
async def test_endpoints_that_change_while_all_is_handed_over_are_those_of_the_successor(
    old: Forwarder, new: Forwarder, serve: Serve, when: str, affinity: int | None
) -> None:
    ends = await tagged(serve, 4)
    gone, *_ = ends.values()
    port, other = old.open(NAME), old.open(OTHER)
    for name in (NAME, OTHER):
        old.update(Snapshot(name, Verdict.SERVE, tuple(ends.values())[:3], affinity_timeout=affinity))
    stuck = {client: (await tags(port, 1, client))[0] for client in ("127.0.0.2", "127.0.0.3", "127.0.0.4")}
    now = Snapshot(NAME, Verdict.SERVE, tuple(ends.values())[1:], affinity_timeout=affinity)
    giver, taker = old.hand_over(), new.take_over()
    given = giver.first()
    passed(taker, iter([await anext(given)]))  # the listener as it was
    if when == "first":
        old.update(now)
    async for each in given:
        passed(taker, iter([each]))
    if when == "rounds":
        old.update(now)
    told = kinds(await changed(giver, taker))
    if when == "rest":
        old.update(now)
    turn = (await tags(port, 1))[0]
    told += kinds(rest(old, new, giver, taker))
    assert told["SnapshotChanged"] == 1, "the other listener is as it was"
    found = await tags(port, 3)
    assert set(found) == (set(ends) - {b"0"} if affinity is None else {turn})
    assert affinity is not None or found[-1] == turn, "the turns go on"
    for client, tag in stuck.items():
        assert affinity is None or ends[tag] == gone or await tags(port, 1, client) == [tag]
    assert set(await tags(other, 9)) <= set(ends) - {b"3"}


async def test_a_flow_moves_from_an_endpoint_that_has_gone_while_all_is_handed_over(
    old: Forwarder, new: Forwarder, echoes: list[tuple[str, int]], stack: ExitStack
) -> None:
    port = old.open(DNS)
    one, other = (Endpoint(*each) for each in echoes)
    old.update(Snapshot(DNS, Verdict.SERVE, (one,)))
    talks, waits = (udp_client(stack, (LOOPBACK, port)) for _ in range(2))
    before = [await ask(client) for client in (talks, waits)]
    giver, taker = old.hand_over(), new.take_over()
    await first(giver, taker)
    old.update(Snapshot(DNS, Verdict.SERVE, (other,)))
    moved = await ask(talks)
    assert moved != before[0]
    rest(old, new, giver, taker)
    assert await ask(talks) == moved
    assert await ask(waits) != before[1]
    counted = new.statistics(DNS)
    assert (counted.endpoints[other].active, new.flows) == (2, 2)


async def test_what_a_gone_endpoint_has_done_is_counted_once(old: Forwarder, new: Forwarder, serve: Serve) -> None:
    one, other, third = [Endpoint(*await serve(echo)) for _ in range(3)]
    port = old.open(NAME)
    old.update(Snapshot(NAME, Verdict.SERVE, (one,)))
    streams = await asyncio.open_connection(LOOPBACK, port)
    await said(streams)
    giver, taker = old.hand_over(), new.take_over()
    await first(giver, taker)
    old.update(Snapshot(NAME, Verdict.SERVE, (other,)))
    streams[1].close()
    await eventually(lambda: old.active == 0)
    now = Snapshot(NAME, Verdict.SERVE, (other, third))
    old.update(now)
    assert sum(old.statistics(NAME).endpoints.dial_times.counts) == 1
    rest(old, new, giver, taker)
    new.update(now)
    table = new.statistics(NAME).endpoints
    assert (sum(table.dial_times.counts), one in table) == (1, False)


async def test_a_listener_that_a_stop_closes_is_told_of_no_more(old: Forwarder, new: Forwarder) -> None:
    old.open(NAME)
    old.update(Snapshot(NAME, Verdict.SERVE, (Endpoint(LOOPBACK, 9),)))
    giver, taker = old.hand_over(), new.take_over()
    await first(giver, taker)
    old.update(Snapshot(NAME, Verdict.SERVE, (Endpoint(LOOPBACK, 10),)))
    await old.drain(0.0)
    assert kinds(await changed(giver, taker))["SnapshotChanged"] == 0


async def test_after_an_attempt_that_came_to_nothing_nobody_is_told_of_snapshots(
    old: Forwarder, new: Forwarder
) -> None:
    old.open(NAME)
    giver, taker = old.hand_over(), new.take_over()
    await first(giver, taker)
    assert old._snapshot_watches == [giver]
    giver.cancel()
    assert old._snapshot_watches == []


def half_closed(plane: Forwarder) -> list[object]:
    return [each for each in plane._listeners[NAME].connections.members.values() if getattr(each, "half_closed", False)]  # type: ignore[union-attr]


async def test_flows_that_talk_are_told_in_rounds_and_keep_their_sockets(
    old: Forwarder, new: Forwarder, stack: ExitStack
) -> None:
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Echoes, (LOOPBACK, 0))
    port = old.open(DNS)
    old.update(Snapshot(DNS, Verdict.SERVE, (Endpoint(*transport.get_extra_info("sockname")),)))
    clients: list[socket.socket] = [udp_client(stack, (LOOPBACK, port)) for _ in range(6)]
    before = [await ask(each) for each in clients]
    giver, taker = old.hand_over(), new.take_over()
    await first(giver, taker)
    for each in clients[:4]:
        await ask(each)
    clients.append(udp_client(stack, (LOOPBACK, port)))
    before.append(await ask(clients[6]))
    assert kinds(await changed(giver, taker))["FlowHandedOver"] == 5
    await ask(clients[0])
    assert kinds(rest(old, new, giver, taker))["FlowHandedOver"] == 1
    assert [await ask(each) for each in clients] == before
    assert new.flows == 7
    transport.close()


async def test_a_decision_that_is_told_with_those_before_it_is_not_told_again(serve: Serve) -> None:
    async with forwarders() as planes:
        old, new = a_forwarder(), a_forwarder()
        planes += [old, new]
        endpoint = Endpoint(*await serve(echo))
        other = ListenerName(ServicePortName("default", "other", "", Protocol.TCP))
        ports = {name.service_port: old.open(name) for name in (NAME, other)}
        for name, port in ((NAME, ports[NAME.service_port]), (other, ports[other.service_port])):
            old.update(Snapshot(name, Verdict.SERVE, (endpoint,)))
            await come_and_go(old, port)
        giver, taker = old.hand_over(), new.take_over()
        async for given in giver.first():
            passed(taker, iter([given]))
            if isinstance(given[0], DecisionsHandedOver) and ports:
                ports.pop(given[0].service_port, None)
                if ports:
                    await come_and_go(old, ports.popitem()[1])
        rest(old, new, giver, taker)
        assert len(await new.data_plane.decisions()) == 3


async def come_and_go(plane: Forwarder, port: int) -> None:
    """A client who is served and leaves."""
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    writer.write(b"x")
    await reader.readexactly(1)
    writer.close()
    await eventually(lambda: plane.active == 0)
