"""Connections, flows and affinity go from data processes to data processes, of other numbers, or of none."""

import asyncio
import os
import signal
import socket
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any

import pytest
from msgspec import structs

from tests.forwarding.conftest import LOOPBACK, NAME, eventually
from tests.processes.control.test_briefing import note_messages
from tests.processes.control.test_forwarding import (
    UDP_NAME,
    Client,
    asked,
    backend,
    clients,
)
from tests.processes.takeover.conftest import Beside, Plane, hand_over
from tests.processes.takeover.planes import (
    NUMBERS,
    all_are_served,
    eventually_counted,
    figures,
    making,
    predecessor,
    served,
    successor,
)
from userproxy.forwarding.forwarder import Forwarder
from userproxy.forwarding.handover.values import ListenerChanged
from userproxy.model import (
    DirectNetwork,
    Endpoint,
    ListenerName,
    Protocol,
    ReturnPath,
    Snapshot,
    TrafficClass,
    Verdict,
)
from userproxy.processes.channel import socket_pair
from userproxy.processes.control.forwarding import ProcessForwarder
from userproxy.processes.messages import Adopt, AdoptSeveral, Update
from userproxy.processes.takeover.packages import unpacked
from userproxy.processes.transfers import AskArrived, AskRead, Take

pytestmark = pytest.mark.slow

CLIENTS = 40
"""Of UDP."""


@pytest.mark.parametrize(("before", "after"), NUMBERS)
async def test_connections_go_on_and_so_do_their_figures(before: int, after: int) -> None:
    async with backend() as endpoint, predecessor(before) as plane:
        port = plane.open(NAME, verdict=Verdict.SERVE)
        plane.update(Snapshot(NAME, Verdict.SERVE, (endpoint,)))
        assert await asked(port) == b"hello\n"
        async with clients(port, 12) as found:
            await eventually_counted(plane, (12, 13))
            async with successor(plane, after) as beside:
                assert beside.plane.active == 12, "known at once"
                for client in found:
                    assert await client.ask() == b"hello\n"
                assert await beside.ask(figures) == (12, 13)
                assert await asked(port) == b"hello\n"
                reports = await beside.ask(lambda its: its.data_plane.connections())
                ids = [report.id for report in reports.items]
                assert len(set(ids)) == len(ids) >= 12
                if after == 2:
                    assert isinstance(beside.plane, ProcessForwarder)
                    assert sorted(worker.pulse.connections for worker in beside.plane._pool.serving) != [0, 12]
                for client in found:
                    client._socket.close()
                await eventually_counted(beside, (0, 14))


async def test_whose_turn_it_is_is_told_by_who_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A control process has no balancers: what it hands over says nothing of 10,000 listeners, and is not passed on."""
    sent = note_messages(monkeypatch)
    async with backend() as endpoint, predecessor(2) as plane:
        port = plane.open(NAME, verdict=Verdict.SERVE)
        plane.update(Snapshot(NAME, Verdict.SERVE, (endpoint,)))
        assert await asked(port) == b"hello\n"
        async with successor(plane, 2):
            assert await asked(port) == b"hello\n"
    taken = [item for each in sent if isinstance(each, Take) for item, _ in unpacked(each.items, [])]
    changed = [item for item in taken if isinstance(item, ListenerChanged)]
    assert changed
    assert all(item.balancer.endpoints == (endpoint,) for item in changed)


async def test_of_a_listener_that_has_served_nobody_data_processes_tell_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Most of 10,000 are of those, and their control process hands them over."""
    sent = note_messages(monkeypatch)
    other = structs.replace(NAME, traffic=TrafficClass.EXTERNAL)
    async with backend() as endpoint, predecessor(2) as plane:
        ports = [plane.open(name, verdict=Verdict.SERVE) for name in (NAME, other)]
        for name in (NAME, other):
            plane.update(Snapshot(name, Verdict.SERVE, (endpoint,)))
        assert await asked(ports[0]) == b"hello\n"
        assert isinstance(plane, ProcessForwarder)
        number = plane._listeners[NAME].number
        async with successor(plane, 2):
            assert [await asked(port) for port in ports] == [b"hello\n"] * 2
    taken = [item for each in sent if isinstance(each, Take) for item, _ in unpacked(each.items, [])]
    assert {item.number for item in taken if isinstance(item, ListenerChanged)} == {number}


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 2), (2, 0)])
async def test_what_a_closed_listener_has_counted_is_not_taken_for_that_of_a_new_one(before: int, after: int) -> None:
    gone, new = (
        structs.replace(NAME, service_port=structs.replace(NAME.service_port, port=port)) for port in ("gone", "new")
    )
    async with backend() as endpoint, predecessor(before) as plane:
        ports = [plane.open(name, verdict=Verdict.SERVE) for name in (NAME, gone)]
        for name in (NAME, gone):
            plane.update(Snapshot(name, Verdict.SERVE, (endpoint,)))
        for _ in range(2):
            assert await asked(ports[1]) == b"hello\n"
        plane.close(gone)
        async with successor(plane, after) as beside:
            port = await beside.ask(partial(open_beside, Snapshot(new, Verdict.SERVE, (endpoint,))))
            assert await asked(port) == b"hello\n"
            totals = await beside.ask(totals_of)
    assert totals == {NAME: 0, gone: 2, new: 1}


async def open_beside(snapshot: Snapshot, plane: Plane) -> int:
    port = plane.open(snapshot.listener, verdict=Verdict.SERVE)
    plane.update(snapshot)
    return port


async def totals_of(plane: Plane) -> dict[ListenerName, int]:
    found = (*await plane.data_plane.listeners(), *await plane.data_plane.closed_listeners())
    return {each.listener: each.total for each in found}


async def test_listeners_come_several_in_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each message costs as much as what is in it, and there may be 10,000 listeners."""
    sent = note_messages(monkeypatch)
    async with backend() as endpoint, predecessor(2) as plane:
        names = [structs.replace(NAME, traffic=traffic) for traffic in TrafficClass]
        names += [
            structs.replace(NAME, service_port=structs.replace(NAME.service_port, port=f"p{n}")) for n in range(9)
        ]
        ports = [plane.open(name, verdict=Verdict.SERVE) for name in names]
        for number, name in enumerate(names):
            affinity = 60 if number % 2 else None  # then one process serves it
            plane.update(Snapshot(name, Verdict.SERVE, (endpoint,), affinity_timeout=affinity))
        for port in ports:
            assert await asked(port) == b"hello\n"
        sent.clear()
        async with successor(plane, 2):
            assert [await asked(port) for port in ports] == [b"hello\n"] * len(ports)
    assert sum(isinstance(each, AdoptSeveral) for each in sent) == 3 * 2, "four in each, to each of two"
    assert not any(isinstance(each, Adopt | Update) for each in sent)


async def test_one_process_at_a_time_takes_in_what_comes_until_nobody_is_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Clients of the predecessor would find all CPUs taken."""
    sent = note_messages(monkeypatch)
    async with served(2) as (plane, port, found):
        sent.clear()
        async with successor(plane, 2):
            await all_are_served(port, found)
    parts = [each for each in sent if isinstance(each, AdoptSeveral | Take | AskRead | AskArrived)]
    urgent = next(number for number, each in enumerate(parts) if isinstance(each, AskArrived))
    assert [isinstance(each, AskRead) for each in parts[:urgent]] == [False, True] * (urgent // 2)
    assert urgent >= 2 * (2 + 1), "a listener goes to both, and connections to one of them at least"
    assert not any(isinstance(each, AskRead) for each in parts[urgent:])


async def test_what_takes_long_is_taken_in_by_all_of_them_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Service changes meanwhile."""
    monkeypatch.setattr("userproxy.processes.control.taking._ONE_BY_ONE_SECONDS", 0.0)
    sent = note_messages(monkeypatch)
    async with served(2) as (plane, port, found), successor(plane, 2):
        await all_are_served(port, found)
    assert any(isinstance(each, Take) for each in sent)
    assert not any(isinstance(each, AskRead) for each in sent)


async def test_who_does_not_take_in_what_comes_is_not_waited_for_for_ever() -> None:
    async with predecessor(1) as plane:
        assert isinstance(plane, ProcessForwarder)
        (worker,) = plane._pool.serving
        assert worker.settle(10.0)
        os.kill(worker.pid, signal.SIGSTOP)
        assert not worker.settle(0.01)
        os.kill(worker.pid, signal.SIGKILL)
        assert not worker.settle(10.0)


class Echoes(asyncio.DatagramProtocol):
    """A UDP backend that answers with the port that it sees."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, _data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(b"%d" % addr[1], addr)


async def told(client: socket.socket) -> bytes:
    """The answer to a datagram."""
    client.send(b"x")
    async with asyncio.timeout(10):
        return await asyncio.get_running_loop().sock_recv(client, 100)


def udp_clients(plane: Plane, endpoint: Endpoint, stack: AsyncExitStack, count: int) -> list[socket.socket]:
    """So many of a UDP service port that is opened for them; they are closed with the stack."""
    port = plane.open(UDP_NAME, verdict=Verdict.SERVE)
    plane.update(Snapshot(UDP_NAME, Verdict.SERVE, (endpoint,)))
    made = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(count)]
    for client in made:
        client.setblocking(False)
        client.connect((LOOPBACK, port))
    return made


@pytest.mark.parametrize(("before", "after"), NUMBERS[:3])
async def test_flows_keep_their_sockets_and_belong_to_one_process(before: int, after: int) -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Echoes, local_addr=(LOOPBACK, 0))
    endpoint = Endpoint(LOOPBACK, transport.get_extra_info("sockname")[1])
    async with predecessor(before) as plane, AsyncExitStack() as stack:
        made = udp_clients(plane, endpoint, stack, 6)
        seen = [await told(client) for client in made]
        async with successor(plane, after) as beside:
            assert [await told(client) for client in made] == seen
            reports = (await beside.ask(lambda its: its.data_plane.connections())).items
            assert len(reports) == 6
    transport.close()


class Tells(Echoes):
    """A UDP backend that answers with the port that it sees, and the question."""

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(b"%d %b" % (addr[1], data), addr)


@pytest.mark.parametrize(("before", "after"), [(0, 2), (1, 2), (2, 3)])
async def test_more_processes_read_a_udp_listener_than_before_and_no_datagram_is_lost(before: int, after: int) -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Tells, local_addr=(LOOPBACK, 0))
    endpoint = Endpoint(LOOPBACK, transport.get_extra_info("sockname")[1])
    async with predecessor(before) as plane, AsyncExitStack() as stack:
        made = udp_clients(plane, endpoint, stack, CLIENTS)
        seen = [(await told(client)).split()[0] for client in made]

        def ask_all() -> None:
            """Nobody reads any socket now."""
            for number, client in enumerate(made):
                client.send(b"%d" % number)
                client.send(b"%d" % number)

        async with successor(plane, after, serves=ask_all) as beside:
            for number, client in enumerate(made):
                for _ in range(2):
                    async with asyncio.timeout(10):
                        assert (await loop.sock_recv(client, 100)).split() == [seen[number], b"%d" % number]
            reports = (await beside.ask(lambda its: its.data_plane.connections())).items
            assert len(reports) == CLIENTS, "nobody has got another flow"
            assert [(await told(client)).split()[0] for client in made] == seen
            assert isinstance(beside.plane, ProcessForwarder)
            workers = beside.plane._pool.serving
            async with asyncio.timeout(20):
                while sum(worker.pulse.flows for worker in workers) != CLIENTS:
                    await asyncio.sleep(0.02)
            assert len(workers) == after
            assert min(worker.pulse.flows for worker in workers) >= CLIENTS // (3 * after)
    transport.close()


class Counts(asyncio.Protocol):
    """A backend that answers each client with how many came before."""

    came = 0

    def __init__(self, counted: type["Counts"]) -> None:
        self._counted = counted

    def connection_made(self, transport: Any) -> None:
        self.transport, self.number = transport, self._counted.came
        self._counted.came += 1

    def data_received(self, _data: bytes) -> None:
        self.transport.write(b"%d" % self.number)


async def held(plane: Plane) -> int:
    """How many clients are held now, over all listeners."""
    return sum(each.held for each in await plane.data_plane.listeners())


async def eventually_held(of: Plane | Beside, wanted: int) -> None:
    async with asyncio.timeout(20):
        while (await (of.ask(held) if isinstance(of, Beside) else held(of))) != wanted:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(("before", "after"), [(0, 0), *NUMBERS])
async def test_held_clients_are_held_on_and_keep_their_order(before: int, after: int) -> None:
    """Those who came before the take-over, and those who come after it."""

    class Counted(Counts):
        came = 0

    server = await asyncio.get_running_loop().create_server(lambda: Counted(Counted), LOOPBACK, 0, backlog=1024)
    sleeping, endpoint = Snapshot(NAME, Verdict.SERVE, hold=600.0), Endpoint(*server.sockets[0].getsockname())
    async with predecessor(before) as plane, AsyncExitStack() as stack:
        port = plane.open(NAME, verdict=Verdict.SERVE)
        plane.update(sleeping)
        several = [await stack.enter_async_context(Client()) for _ in range(80)]
        for each in several[:60]:
            await each.connect(port)
        await eventually_held(plane, 60)
        async with successor(plane, after) as beside:
            await eventually_held(beside, 60)
            for each in several[60:]:
                await each.connect(port)
            await eventually_held(beside, 80)
            await beside.ask(lambda its: updated(its, structs.replace(sleeping, endpoints=(endpoint,), hold=None)))
            assert [int(await each.ask()) for each in several] == list(range(80))
            await eventually_held(beside, 0)
    server.close()


@pytest.mark.parametrize(("before", "after"), [(0, 0), *NUMBERS])
async def test_held_datagrams_are_held_on(before: int, after: int) -> None:
    sleeping = Snapshot(UDP_NAME, Verdict.SERVE, hold=600.0)
    async with predecessor(before) as plane, AsyncExitStack() as stack:
        port = plane.open(UDP_NAME, verdict=Verdict.SERVE)
        plane.update(sleeping)
        several = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(20)]
        for number, each in enumerate(several):
            each.setblocking(False)
            each.connect((LOOPBACK, port))
            each.send(b"too early")
            each.send(b"%d" % number + bytes(50 * number))
        sleeper = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sleeper.setblocking(False)
        sleeper.bind((LOOPBACK, 0))
        await eventually_held(plane, 20)
        async with successor(plane, after) as beside:
            await eventually_held(beside, 20)
            awake = structs.replace(sleeping, endpoints=(Endpoint(*sleeper.getsockname()),), hold=None)
            await beside.ask(lambda its: updated(its, awake))
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(20):
                heard = [await loop.sock_recv(sleeper, 100_000) for _ in several]
            assert sorted(heard, key=len) == [b"%d" % number + bytes(50 * number) for number in range(20)]
            await eventually_held(beside, 0)


@pytest.mark.parametrize(("before", "after"), NUMBERS[:3])
async def test_clients_with_affinity_meet_the_same_endpoint(before: int, after: int) -> None:
    async with backend(b"1") as one, backend(b"2") as two, predecessor(before) as plane:
        port = plane.open(NAME, verdict=Verdict.SERVE)
        snapshot = Snapshot(NAME, Verdict.SERVE, (one, two), affinity_timeout=100)
        plane.update(snapshot)
        first = await asked(port)
        if first == b"1":  # the one whose turn it is would be the other one next
            first = await asked(port)
        async with successor(plane, after) as beside:
            assert {await asked(port) for _ in range(6)} == {first}
            await beside.ask(lambda its: updated(its, structs.replace(snapshot, endpoints=(two, one))))
            assert {await asked(port) for _ in range(6)} == {first}
            if after == 2:
                assert isinstance(beside.plane, ProcessForwarder)
                assert beside.plane._listeners[NAME].readers in {(1,), (2,)}


async def updated(plane: Plane, snapshot: Snapshot) -> None:
    """The snapshot is known, as of a first sync."""
    assert plane.open(snapshot.listener) > 0
    plane.update(snapshot)
    await plane.data_plane.processes()


@pytest.mark.parametrize(("before", "after"), NUMBERS[:3])
async def test_a_slow_reader_gets_every_byte_and_who_has_closed_gets_the_answer(before: int, after: int) -> None:
    size = 8 << 20

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            asked_for = await reader.read()
            writer.write(b"." * size if asked_for == b"much" else b"answer")
            writer.close()

    server = await asyncio.start_server(serve, LOOPBACK, 0)
    endpoint = Endpoint(LOOPBACK, server.sockets[0].getsockname()[1])
    async with predecessor(before) as plane:
        port = plane.open(NAME, verdict=Verdict.SERVE)
        plane.update(Snapshot(NAME, Verdict.SERVE, (endpoint,)))
        slow, slow_writer = await asyncio.open_connection(LOOPBACK, port, limit=1024)
        slow_writer.write(b"much")
        slow_writer.write_eof()
        got = len(await slow.read(1000))
        halves = [await asyncio.open_connection(LOOPBACK, port) for _ in range(3)]
        async with successor(plane, after):
            for reader, writer in halves:
                writer.write_eof()
                assert await asyncio.wait_for(reader.read(), 10) == b"answer"
                writer.close()
            async with asyncio.timeout(20):
                while text := await slow.read(1 << 16):
                    got += len(text)
            assert got == size
            slow_writer.close()
    server.close()


@pytest.mark.parametrize(("before", "after"), NUMBERS[:3])
async def test_dials_under_way_are_answered_by_the_endpoint_they_went_to(before: int, after: int) -> None:
    with socket.socket() as full:
        full.bind((LOOPBACK, 0))
        full.listen(0)
        endpoint = Endpoint(LOOPBACK, full.getsockname()[1])
        with socket.create_connection((LOOPBACK, endpoint.port)):  # its queue is full now: it answers nobody
            async with predecessor(before) as plane:
                port = plane.open(NAME, verdict=Verdict.SERVE)
                plane.update(Snapshot(NAME, Verdict.SERVE, (endpoint,)))
                async with Client() as client:

                    async def dials() -> None:
                        """For less than four seconds."""
                        await client.connect(port)
                        await eventually_dialling(plane)

                    async with successor(plane, after, first=dials) as beside:
                        assert await beside.ask(dialling) == 1
                        client._socket.close()


async def dialling(plane: Plane) -> int:
    return len((await plane.data_plane.connections()).items)


async def eventually_dialling(plane: Plane) -> None:
    async with asyncio.timeout(10):
        while await dialling(plane) != 1:
            await asyncio.sleep(0.01)


async def test_processes_and_descriptors_of_the_predecessor_go() -> None:
    async with backend() as endpoint, predecessor(2) as plane:
        assert isinstance(plane, ProcessForwarder)
        port = plane.open(NAME, verdict=Verdict.SERVE)
        plane.update(Snapshot(NAME, Verdict.SERVE, (endpoint,)))
        async with clients(port, 4):
            pids = [worker.pid for worker in plane._pool.serving]
            async with successor(plane, 2):
                await eventually(lambda: not any(is_alive(pid) for pid in pids))
                assert all(worker.is_over for worker in plane._pool.serving)


def is_alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


@pytest.mark.parametrize(("before", "after"), [(2, 0), (2, 2), (2, 1)])
async def test_affinity_of_datagrams_is_kept_whichever_process_had_the_client(before: int, after: int) -> None:
    loop = asyncio.get_running_loop()
    endpoints = []
    transports = []
    for _ in range(2):
        transport, _ = await loop.create_datagram_endpoint(Named, local_addr=(LOOPBACK, 0))
        transports.append(transport)
        endpoints.append(Endpoint(LOOPBACK, transport.get_extra_info("sockname")[1]))
    async with predecessor(before) as plane:
        port = plane.open(UDP_NAME, verdict=Verdict.SERVE)
        plane.update(Snapshot(UDP_NAME, Verdict.SERVE, tuple(endpoints), affinity_timeout=100))

        async def answers(of: int) -> bytes:
            """That of the endpoint for a client at another address, which has another port each time."""
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.bind((f"127.0.1.{of}", 0))
                sock.connect((LOOPBACK, port))
                return await told(sock)

        seen = [await answers(of) for of in range(1, 13)]
        assert len(set(seen)) == 2
        async with successor(plane, after):
            assert [await answers(of) for of in range(1, 13)] == seen
    for transport in transports:
        transport.close()


class Named(asyncio.DatagramProtocol):
    """A UDP backend that answers with its own port."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, _data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(b"%d" % self.transport.get_extra_info("sockname")[1], addr)


async def test_what_was_learned_goes_through_data_processes() -> None:
    """From one process to two, and back to one."""
    tcp = (Protocol.TCP, NAME.family)
    path = ReturnPath(NAME.family, networks=(DirectNetwork("10.244.1.0/24", "cni0"),))
    async with predecessor(0) as plane:
        assert isinstance(plane, Forwarder)
        plane.follow_return_path(path)
        plane.client_addresses.pairs[tcp].of("cni0", "there", "shop").answer()
        endpoint = Endpoint("10.244.2.5", 80)
        for port in range(40_000, 40_010):
            plane._tcp.relays.source_ports.note(endpoint, port)
        async with successor(plane, 2) as between:
            ours, its = socket_pair()
            last = Beside(its, make=making(0))
            assert await between.ask(lambda middle: hand_over(middle, ours))
            await asyncio.to_thread(last.done.wait, 10)
            found = last.plane
            assert isinstance(found, Forwarder)
            assert found.client_addresses.paths == (path,)
            assert found.client_addresses.pairs[tcp].of("cni0", "there", "shop").answered
            ports = found._tcp.relays.source_ports
            assert sorted(ports.take(endpoint) or 0 for _ in range(10)) == list(range(40_000, 40_010))
            await asyncio.to_thread(last.end)
