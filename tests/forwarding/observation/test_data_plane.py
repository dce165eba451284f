"""What the data plane says of its work agrees with what clients and backends have seen."""

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from msgspec import structs

from tests.forwarding.conftest import LOOPBACK, NAME, RESET, Bench, Serve, echo, eventually, open_bench
from tests.forwarding.udp.bench import received, received_from
from userproxy import pace
from userproxy.forwarding.observation.data_plane import LocalDataPlane
from userproxy.forwarding.observation.recorder import MOST_OF_ONE
from userproxy.model import (
    ClientAddress,
    DirectNetwork,
    Endpoint,
    IPFamily,
    ListenerName,
    Protocol,
    ReturnPath,
    ServicePortName,
    Snapshot,
    TrafficClass,
    Verdict,
)
from userproxy.model.data_plane import DataPlane, HandedOverError
from userproxy.model.reports import (
    ChangeKind,
    ConnectionState,
    DialFailure,
    ListenerFigures,
    Outcome,
    Query,
    SocketAddress,
    Source,
)

AT_ONCE = 20


@pytest.fixture
def plane(bench: Bench) -> LocalDataPlane:
    return bench.forwarder.data_plane


class Counting:
    """A backend that answers a request of known size, and counts."""

    def __init__(self) -> None:
        self.connections = 0
        self.read = 0
        self.written = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while data := await reader.read(65536):
            self.read += len(data)
        writer.write(b"y" * 300)
        self.written += 300


async def figures_of(plane: DataPlane) -> ListenerFigures:
    (figures,) = await plane.listeners()
    return figures


async def test_figures_agree_with_backends_and_decisions_after_1000_connections(
    serve: Serve, refusing: tuple[str, int]
) -> None:
    first, second = Counting(), Counting()
    async with open_bench() as bench:
        plane = bench.forwarder.data_plane
        addresses = [await serve(first), await serve(second), refusing]
        bench.route_to(*addresses)
        async with plane.watch_decisions(room=5000) as watch:

            async def client(count: int) -> None:
                for _ in range(count):
                    reader, writer = await bench.connect()
                    writer.write(b"x" * 100)
                    writer.write_eof()
                    assert len(await reader.read()) == 300
                    writer.close()

            await asyncio.gather(*(client(1000 // AT_ONCE) for _ in range(AT_ONCE)))
            await bench.eventually_idle()
            batch = await watch.read()
        figures = await figures_of(plane)
        remembered = await plane.decisions(last=1000)
    by_endpoint = {each.endpoint: each for each in figures.endpoints}
    for backend, address in zip((first, second), addresses, strict=False):
        counted = by_endpoint[Endpoint(*address)]
        assert (counted.total, counted.bytes_up, counted.bytes_down) == (
            backend.connections,
            backend.read,
            backend.written,
        )
        assert (counted.active, counted.failed, counted.dial.count) == (0, 0, backend.connections)
    bad = by_endpoint[Endpoint(*refusing)]
    assert (bad.total, bad.active, bad.dial.count) == (0, 0, 0)
    assert bad.failed >= 1
    assert bad.passed_over_seconds > 0
    assert (figures.total, figures.ended, figures.active, figures.failed) == (1000, 1000, 0, 0)
    assert (figures.bytes_up, figures.bytes_down) == (100_000, 300_000)
    assert figures.retries == {DialFailure.REFUSED: bad.failed}
    assert figures.retried == bad.failed
    assert figures.dial.count == 1000
    verdicts = Counter(decision.verdict for decision in batch.items)
    assert verdicts == {Outcome.SERVED: 1000, Outcome.RETRIED: figures.retried}
    retried = [decision for decision in batch.items if decision.verdict is Outcome.RETRIED]
    served = {decision.id: decision for decision in batch.items if decision.verdict is Outcome.SERVED}
    assert len(served) == 1000
    for decision in retried:
        (attempt,) = decision.tried
        assert (attempt.endpoint, attempt.reason) == (Endpoint(*refusing), "Connection refused")
        assert served[decision.id].tried == decision.tried
        assert served[decision.id].endpoint == decision.endpoint
    assert {(each.bytes_up, each.bytes_down) for each in served.values()} == {(100, 300)}
    assert {each.source for each in batch.items} == {Source.NODE}
    assert remembered == batch.items[-MOST_OF_ONE:], "the past is bounded"


async def test_a_live_connection_and_its_bytes(plane: LocalDataPlane, bench: Bench, serve: Serve) -> None:
    backend = await serve(echo)
    bench.route_to(backend)
    reader, writer = await bench.connect()
    mine = SocketAddress(*writer.get_extra_info("sockname"))
    for said in (1, 2, 3):
        writer.write(b"x" * 10)
        await reader.readexactly(10)
        (report,) = (await plane.connections()).items
        assert (report.client, report.portal) == (mine, SocketAddress(*bench.address))
        assert report.source is Source.NODE
        assert (report.endpoint, report.state) == (Endpoint(*backend), ConnectionState.OPEN)
        assert (report.bytes_up, report.bytes_down) == (10 * said, 10 * said)
        figures = await figures_of(plane)
        assert (figures.bytes_up, figures.endpoints[0].bytes_down, figures.active) == (10 * said, 10 * said, 1)
    bench.route_to((LOOPBACK, 1))
    assert (await plane.connections()).items[0].state is ConnectionState.DRAINING
    writer.write_eof()
    await reader.read()
    writer.close()
    await bench.eventually_idle()
    assert (await plane.connections()).items == ()
    figures = await figures_of(plane)
    assert (figures.bytes_up, figures.bytes_down, figures.active) == (30, 30, 0)
    left = next(each for each in figures.endpoints if each.endpoint == Endpoint(*backend))
    assert (left.bytes_up, left.bytes_down, left.active, left.usable) == (30, 30, 0, False)
    (decision,) = await plane.decisions()
    assert (decision.verdict, decision.bytes_up, decision.client) == (Outcome.SERVED, 30, mine)
    bench.route_to((LOOPBACK, 1))
    assert [each.endpoint.port for each in (await figures_of(plane)).endpoints] == [1], "what is gone is forgotten"
    assert (await figures_of(plane)).dial.count == 1, "and how long it took to dial is not"


async def test_a_half_closed_connection_and_one_that_is_reset(
    plane: LocalDataPlane, bench: Bench, serve: Serve
) -> None:
    released = asyncio.Event()

    async def late(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()
        await released.wait()

    bench.route_to(await serve(late))
    _, writer = await bench.connect()
    writer.write_eof()
    query = Query(states=(ConnectionState.HALF_CLOSED,))
    while not (await plane.connections(query)).items:
        await asyncio.sleep(0.005)
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.close()
    await bench.eventually_idle()
    (decision,) = await plane.decisions(Query(outcomes=(Outcome.RESET,)))
    assert decision.reason == "reset by the client"
    released.set()


async def test_who_cannot_be_served(
    plane: LocalDataPlane, bench: Bench, refusing: tuple[str, int], black_hole: tuple[str, int]
) -> None:
    for address, outcome in ((refusing, Outcome.REFUSED), (black_hole, Outcome.TIMED_OUT)):
        bench.route_to(address)
        reader, writer = await bench.connect()
        dialing = (await plane.connections()).items
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        (decision,) = await plane.decisions(Query(outcomes=(outcome,)))
        assert (decision.endpoint, len(decision.tried)) == (None, 4)
        assert all(each.endpoint == Endpoint(*address) for each in decision.tried)
        if dialing:
            assert (dialing[0].id, dialing[0].state) == (decision.id, ConnectionState.DIALING)
    figures = await figures_of(plane)
    assert (figures.failed, figures.ended, figures.retried) == (2, 0, 0)
    assert figures.retries == {DialFailure.REFUSED: 4, DialFailure.TIMED_OUT: 4}


async def test_connections_come_in_pages_by_id(plane: LocalDataPlane, bench: Bench, serve: Serve) -> None:
    bench.route_to(await serve(echo), await serve(echo))
    other = ListenerName(ServicePortName("default", "other", "", Protocol.TCP))
    port = bench.forwarder.open(other)
    bench.forwarder.update(Snapshot(other, Verdict.SERVE, (Endpoint(*await serve(echo)),)))
    writers = []
    for number in range(30):
        _, writer = await asyncio.open_connection(LOOPBACK, port if number % 3 else bench.address[1])
        writers.append(writer)
    await eventually(lambda: bench.forwarder.active == 30)
    found: list[int] = []
    after: int | None = 0
    while after is not None:
        page = await plane.connections(limit=7, after=after)
        assert len(page.items) <= 7
        found += [each.id for each in page.items]
        after = page.next
    assert found == sorted(set(found))
    assert len(found) == 30
    of_other = (await plane.connections(Query(service="other"))).items
    assert len(of_other) == 20
    client = Query("default", "web", client="127.0.0.2")
    assert (await plane.connections(client)).items == ()
    for writer in writers:
        writer.close()


@pytest.mark.parametrize("what", ["connections", "listeners", "decisions"])
async def test_long_answers_let_traffic_go_first(
    plane: LocalDataPlane, bench: Bench, serve: Serve, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.route_to(await serve(echo))
    writers = [(await bench.connect())[1] for _ in range(50)]
    await eventually(lambda: bench.forwarder.active == 50)
    if what == "decisions":
        for writer in writers:
            writer.close()
        await bench.eventually_idle()
    monkeypatch.setattr(pace, "SLICE_SECONDS", 0.0)  # then each step takes a turn of the loop
    turns, answered = 0, False

    async def count_turns() -> None:
        nonlocal turns
        while not answered:
            turns += 1
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(count_turns(), name="turns")
        await getattr(plane, what)()
        answered = True
    assert turns >= 50
    for writer in writers:
        writer.close()


async def test_a_slow_reader_is_cut_off_and_told_how_much_it_lost(
    plane: LocalDataPlane, bench: Bench, serve: Serve
) -> None:
    bench.route_to(await serve(echo))
    async with plane.watch_decisions(room=3) as slow, plane.watch_decisions() as quick:
        for _ in range(10):
            _, writer = await bench.connect()
            writer.close()
        await eventually(lambda: bench.forwarder.statistics(NAME).accepted == 10)
        await bench.eventually_idle()
        batch = await slow.read()
        assert (len(batch.items), batch.lost) == (3, 7)
        batch = await quick.read()
        assert (len(batch.items), batch.lost) == (10, 0)
    assert bench.forwarder._recorder.decision_watches == []


async def test_what_becomes_of_connections_is_told(plane: LocalDataPlane, bench: Bench, serve: Serve) -> None:
    bench.route_to(await serve(echo))
    async with plane.watch_connections() as watch:
        reader, writer = await bench.connect()
        writer.write(b"x")
        await reader.readexactly(1)
        (added,) = (await watch.read()).items
        assert (added.kind, added.connection.state) == (ChangeKind.ADDED, ConnectionState.OPEN)
        writer.close()
        await bench.eventually_idle()
        (removed,) = (await watch.read()).items
        assert (removed.kind, removed.connection.id) == (ChangeKind.REMOVED, added.connection.id)
        assert removed.connection.bytes_up == 1
        for _ in range(5):
            _, writer = await bench.connect()
            writer.close()
        await eventually(lambda: bench.forwarder.statistics(NAME).accepted == 6)
        await bench.eventually_idle()
        batch = await watch.read()
        assert [each.kind for each in batch.items] == [ChangeKind.REMOVED] * 5, "brief ones are told of once"


async def test_what_becomes_of_one_connection_is_told(plane: LocalDataPlane, bench: Bench, serve: Serve) -> None:
    bench.route_to(await serve(echo))
    writers = [(await bench.connect())[1] for _ in range(2)]
    await eventually(lambda: bench.forwarder.statistics(NAME).accepted == 2)
    first, _ = (await plane.connections()).items
    async with plane.watch_connections(Query(connection=first.id)) as watch:
        for writer in writers:
            writer.close()
        await bench.eventually_idle()
        assert [each.connection.id for each in (await watch.read()).items] == [first.id]


async def test_a_slow_reader_of_connections_is_cut_off(plane: LocalDataPlane, bench: Bench, serve: Serve) -> None:
    bench.route_to(await serve(echo))
    async with plane.watch_connections(room=2) as watch:
        for _ in range(5):
            _, writer = await bench.connect()
            writer.close()
        await eventually(lambda: bench.forwarder.statistics(NAME).accepted == 5)
        await bench.eventually_idle()
        batch = await watch.read()
    assert len(batch.items) == 2
    assert batch.lost >= 3


async def test_peek_names_the_endpoint_that_the_next_connection_gets(
    plane: LocalDataPlane, bench: Bench, serve: Serve
) -> None:
    bench.route_to(await serve(echo), await serve(echo), await serve(echo))
    for _ in range(4):
        choice = await plane.peek(NAME, LOOPBACK)
        assert choice == await plane.peek(NAME, LOOPBACK)
        reader, writer = await bench.connect()
        writer.write(b"x")
        await reader.readexactly(1)
        (newest,) = (await plane.connections()).items[-1:]
        assert newest.endpoint == choice.endpoint
        assert (newest.source, newest.dialled_from and newest.dialled_from.ip) == (choice.source, choice.source_address)
        assert choice.source_reason == "the node's address is asked for"
        writer.close()


async def test_peek_says_why_an_endpoint_would_see_the_nodes_address(plane: LocalDataPlane, bench: Bench) -> None:
    bench.forwarder.update(
        Snapshot(NAME, Verdict.SERVE, (Endpoint(LOOPBACK, 80),), client_address=ClientAddress.AUTO, nodes=("node-1",))
    )
    for path, reason in (
        (None, "it is not known yet whether answers to the client's address come back"),
        (ReturnPath(IPFamily.IPV4, "there is no module"), "there is no module"),
        (ReturnPath(IPFamily.IPV4), "the endpoint has the node's own address, so its answers never leave the node"),
    ):
        if path is not None:
            bench.forwarder.follow_return_path(path)
        choice = await plane.peek(NAME, "192.0.2.9")
        assert (choice.source, choice.source_address, choice.source_reason) == (Source.NODE, LOOPBACK, reason)


async def test_peek_says_why_an_endpoint_would_see_the_clients_address(plane: LocalDataPlane, bench: Bench) -> None:
    pods = DirectNetwork("192.0.2.0/24", "cali1", of_pods=True)
    bench.forwarder.follow_return_path(ReturnPath(IPFamily.IPV4, networks=(pods,)))
    endpoint = Endpoint("198.51.100.9", 80)
    bench.forwarder.update(
        Snapshot(NAME, Verdict.SERVE, (endpoint,), client_address=ClientAddress.AUTO, nodes=("node-1",))
    )
    choice = await plane.peek(NAME, "192.0.2.9")
    assert (choice.source, choice.source_address) == (Source.CLIENT, "192.0.2.9")
    assert choice.source_reason == "the client is a Pod of this node, so answers to it come by this node"


async def test_the_process(plane: LocalDataPlane, bench: Bench) -> None:
    (process,) = await plane.processes()
    assert 0 < process.descriptors < process.descriptor_limit == 10_000
    assert process.connections == process.flows == 0


@pytest.fixture
async def dns() -> AsyncIterator[tuple[Bench, ListenerName]]:
    async with open_bench() as bench:
        name = ListenerName(ServicePortName("default", "dns", "", Protocol.UDP))
        port = bench.forwarder.open(name)
        bench.address = (LOOPBACK, port)
        yield bench, name


async def test_datagrams_that_are_refused_and_answered(dns: tuple[Bench, ListenerName]) -> None:
    bench, name = dns
    plane = bench.forwarder.data_plane
    with (
        socket.socket(type=socket.SOCK_DGRAM) as backend,
        socket.socket(type=socket.SOCK_DGRAM) as dead,
        socket.socket(type=socket.SOCK_DGRAM) as client,
    ):
        for sock in (backend, dead):
            sock.bind((LOOPBACK, 0))
            sock.setblocking(False)
        client.setblocking(False)
        alive, gone = Endpoint(*backend.getsockname()), Endpoint(*dead.getsockname())
        dead.close()
        client.connect(bench.address)
        for endpoints in ((gone,), (gone, alive)):
            bench.forwarder.update(Snapshot(name, Verdict.SERVE, endpoints))
            client.send(b"hello")
            if alive not in endpoints:
                while not await plane.decisions():
                    await asyncio.sleep(0.005)
        asked, address = await received_from(backend)
        backend.sendto(b"answer", address)
        assert await received(client) == b"answer"
        (flow,) = (await plane.connections(Query(protocol=Protocol.UDP))).items
        assert (flow.client, flow.endpoint) == (SocketAddress(*client.getsockname()), alive)
        assert flow.portal == SocketAddress(*bench.address)
        assert flow.bytes_down == 6
        (figures,) = await plane.listeners(Query(service="dns"))
        assert figures.datagrams is not None
        assert (figures.datagrams.datagrams_down, figures.bytes_down) == (1, 6)
        by_endpoint = {each.endpoint: each for each in figures.endpoints}
        assert (by_endpoint[alive].active, by_endpoint[alive].bytes_down) == (1, 6)
        assert by_endpoint[gone].active == 0
        assert by_endpoint[gone].failed >= 1
        assert len(asked) == 5
    bench.forwarder.close(name)


async def test_who_has_handed_over_still_tells_what_it_had_counted(serve: Serve) -> None:
    """An answer that is being made when all goes has everything in it, too."""
    async with open_bench() as bench:
        plane = bench.forwarder.data_plane
        bench.forwarder.open(structs.replace(NAME, traffic=TrafficClass.EXTERNAL))
        bench.route_to(await serve(echo))
        reader, writer = await bench.connect()
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        before = await plane.listeners()
        under_way = plane.figures(lambda *_: True)
        told = [await anext(under_way)]
        bench.forwarder.forsake()
        told += [each async for each in under_way]
        assert tuple(told) == before
        assert await plane.listeners() == before
        assert sorted((each.total, each.active, each.bytes_up) for each in before) == [(0, 0, 0), (1, 1, 5)]
        with pytest.raises(HandedOverError):
            await plane.connections()
        writer.close()
