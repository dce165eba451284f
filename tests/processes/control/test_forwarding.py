"""Data processes carry the traffic: real ones, real sockets on loopback, real kill -9."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random
from typing import Any, Self

import pytest
from msgspec import structs

from tests.forwarding.conftest import LOOPBACK, LOOPBACK_6, NAME, eventually
from userproxy.forwarding.assembly.options import ForwardingOptions
from userproxy.forwarding.ports.ranges import PortRange
from userproxy.model import (
    Admission,
    AdmissionRule,
    Endpoint,
    IPFamily,
    ListenerName,
    PortalAddress,
    Protocol,
    ServicePortName,
    Snapshot,
    Verdict,
)
from userproxy.processes.control import pool
from userproxy.processes.control.forwarding import ProcessForwarder
from userproxy.processes.control.spawning import Spawning, spawn
from userproxy.processes.messages import Logging
from userproxy.processes.scheduling import SHORT_TURN, ask_for_short_turns, turn

UDP_NAME = ListenerName(ServicePortName("default", "dns", "dns", Protocol.UDP))
OPTIONS = ForwardingOptions(
    {IPFamily.IPV4: LOOPBACK, IPFamily.IPV6: LOOPBACK_6},
    PortRange(),
    portals_only=False,
    half_open_timeout=60.0,
    descriptor_limit=10_000,
)


@asynccontextmanager
async def forwarding(
    processes: int = 2, options: ForwardingOptions = OPTIONS, *, at_once: bool = True
) -> AsyncIterator[ProcessForwarder]:
    loop = asyncio.get_running_loop()
    kind = "uvloop" if "uvloop" in type(loop).__module__ else "asyncio"
    spawning = Spawning(kind, Logging(0, "text"))
    forwarder = ProcessForwarder(loop, options, Random(1), processes, spawning, at_once=at_once)
    try:
        yield forwarder
    finally:
        forwarder.shut_down()


@asynccontextmanager
async def backend(answer: bytes = b"") -> AsyncIterator[Endpoint]:
    """One that answers each line with itself, or with `answer`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(answer or line)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, LOOPBACK, 0, backlog=4096)
    try:
        yield Endpoint(LOOPBACK, server.sockets[0].getsockname()[1])
    finally:
        server.close()


class Client:
    """A connection to a local port."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket()
        self._socket.setblocking(False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._socket.close()

    async def connect(self, port: int) -> None:
        async with asyncio.timeout(10):
            await self._loop.sock_connect(self._socket, (LOOPBACK, port))

    async def ask(self, text: bytes = b"hello\n") -> bytes:
        """The answer to a line, within ten seconds."""
        async with asyncio.timeout(10):
            await self._loop.sock_sendall(self._socket, text)
            return await self._loop.sock_recv(self._socket, 1000)


@asynccontextmanager
async def clients(port: int, number: int) -> AsyncIterator[list[Client]]:
    """So many connections, each of which has been answered."""
    async with AsyncExitStack() as stack:
        found = [await stack.enter_async_context(Client()) for _ in range(number)]
        for client in found:
            await client.connect(port)
            assert await client.ask() == b"hello\n"
        yield found


async def asked(port: int) -> bytes:
    """The answer that a new connection gets."""
    async with Client() as client:
        await client.connect(port)
        return await client.ask()


async def all_ready(forwarder: ProcessForwarder) -> None:
    await eventually(lambda: all(worker.is_ready for worker in forwarder._pool.serving))


async def heard(forwarder: ProcessForwarder) -> None:
    """All processes have dealt with what they were told so far."""
    await forwarder.data_plane.processes()


def is_refused(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex((LOOPBACK, port)) != 0


async def is_alive(client: Client) -> bool:
    try:
        return await client.ask() == b"hello\n"
    except ConnectionError:
        return False


def pids(forwarder: ProcessForwarder) -> list[int]:
    return [worker.pid for worker in forwarder._pool.serving]


@pytest.mark.parametrize("processes", [1, 2])
async def test_clients_are_served_by_data_processes(processes: int) -> None:
    async with forwarding(processes) as forwarder, backend() as endpoint:
        port = forwarder.open(NAME, verdict=Verdict.SERVE)
        forwarder.update(Snapshot(NAME, Verdict.SERVE, (endpoint,)))
        assert await asked(port) == b"hello\n"
        assert set(pids(forwarder)).isdisjoint({os.getpid()})
        processes_of = await forwarder.data_plane.processes()
        assert [each.role for each in processes_of] == [f"data {n + 1}" for n in range(processes)] + ["control"]


async def test_a_verdict_counts_at_once_and_a_listener_keeps_its_port() -> None:
    async with forwarding() as forwarder, backend() as endpoint:
        port = forwarder.open(NAME, verdict=Verdict.SERVE)
        forwarder.update(Snapshot(NAME, Verdict.SERVE, (endpoint,)))
        assert await asked(port) == b"hello\n"
        forwarder.update(Snapshot(NAME, Verdict.REJECT))
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((LOOPBACK, port), 5)
        forwarder.update(Snapshot(NAME, Verdict.SERVE, (endpoint,)))
        for _ in range(10):
            assert await asked(port) == b"hello\n"


async def test_a_closed_listener_keeps_its_connections_and_refuses_new_ones() -> None:
    async with forwarding() as forwarder, backend() as endpoint:
        port = forwarder.open(NAME, verdict=Verdict.SERVE)
        forwarder.update(Snapshot(NAME, Verdict.SERVE, (endpoint,)))
        async with clients(port, 1) as (client,):
            forwarder.close(NAME)
            assert await client.ask(b"two\n") == b"two\n"
            await eventually(lambda: is_refused(port))


async def test_killed_one_of_two_costs_its_own_connections_and_nothing_else() -> None:
    async with forwarding() as forwarder, backend() as endpoint:
        port = forwarder.open(NAME, verdict=Verdict.SERVE)
        forwarder.update(Snapshot(NAME, Verdict.SERVE, (endpoint,)))
        await all_ready(forwarder)
        async with clients(port, 20) as connected, AsyncExitStack() as stack:
            while len({each.id // 10**12 for each in (await forwarder.data_plane.connections()).items}) < 2:
                connected += await stack.enter_async_context(clients(port, 1))  # one had no CPU so far
            reports = (await forwarder.data_plane.connections()).items
            before = await forwarder.data_plane.listeners()
            victim, survivor = pids(forwarder)
            os.kill(victim, signal.SIGKILL)
            assert await asyncio.gather(*(asked(port) for _ in range(50))) == [b"hello\n"] * 50
            alive = sum([await is_alive(client) for client in connected])
            assert alive == sum(report.id > 10**12 for report in reports)
            assert 0 < alive < len(reports) == len(connected)
            await eventually(lambda: len(pids(forwarder)) == 2)
            assert victim not in pids(forwarder)
            assert survivor in pids(forwarder)
            (after,) = await forwarder.data_plane.listeners()
            assert after.total >= before[0].total
            assert after.active == alive
        processes = await forwarder.data_plane.processes()
        assert [each.restarts for each in processes] == [1, 0, 0]


async def test_a_client_in_the_queue_is_served_when_the_only_process_is_killed() -> None:
    async with forwarding(1) as forwarder, backend() as endpoint:
        port = forwarder.open(NAME, verdict=Verdict.SERVE)
        forwarder.update(Snapshot(NAME, Verdict.SERVE, (endpoint,)))
        assert await asked(port) == b"hello\n"
        (pid,) = pids(forwarder)
        os.kill(pid, signal.SIGSTOP)
        async with AsyncExitStack() as stack:
            waiting = [await stack.enter_async_context(Client()) for _ in range(5)]
            for client in waiting:
                await client.connect(port)  # by the kernel: nobody can accept
            os.kill(pid, signal.SIGKILL)
            assert await asyncio.gather(*(client.ask() for client in waiting)) == [b"hello\n"] * 5


async def test_datagrams_of_a_client_meet_one_process_and_its_flow_stays() -> None:
    loop = asyncio.get_running_loop()

    class Echo(asyncio.DatagramProtocol):
        def __init__(self) -> None:
            self.peers: set[tuple[str, int]] = set()

        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            self.peers.add(addr)
            self.transport.sendto(data, addr)

    transport, echo = await loop.create_datagram_endpoint(Echo, local_addr=(LOOPBACK, 0))
    endpoint = Endpoint(LOOPBACK, transport.get_extra_info("sockname")[1])
    async with forwarding() as forwarder:
        port = forwarder.open(UDP_NAME, verdict=Verdict.SERVE)
        forwarder.update(Snapshot(UDP_NAME, Verdict.SERVE, (endpoint,)))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            client.connect((LOOPBACK, port))
            for number in range(20):
                client.send(b"%d" % number)
                assert await asyncio.wait_for(loop.sock_recv(client, 100), 10) == b"%d" % number
            assert len(echo.peers) == 1
            # Refused and admitted again: another socket to the kernel, the same port to clients.
            forwarder.update(Snapshot(UDP_NAME, Verdict.REJECT))
            client.send(b"x")
            with pytest.raises(ConnectionRefusedError):
                await asyncio.wait_for(loop.sock_recv(client, 100), 10)
            forwarder.update(Snapshot(UDP_NAME, Verdict.SERVE, (endpoint,)))
            client.send(b"again")
            assert await asyncio.wait_for(loop.sock_recv(client, 100), 10) == b"again"
            await eventually(lambda: forwarder.flows == 1)
    transport.close()


async def test_affinity_holds_over_processes_and_is_one_process_s() -> None:
    async with forwarding() as forwarder, backend(b"1") as one, backend(b"2") as two:
        port = forwarder.open(NAME, verdict=Verdict.SERVE)
        forwarder.update(Snapshot(NAME, Verdict.SERVE, (one, two)))
        assert {await asked(port) for _ in range(16)} == {b"1", b"2"}
        forwarder.update(Snapshot(NAME, Verdict.SERVE, (one, two), affinity_timeout=100))
        await heard(forwarder)
        first = await asked(port)
        assert {await asked(port) for _ in range(16)} == {first}
        forwarder.update(Snapshot(NAME, Verdict.SERVE, (one, two)))
        await heard(forwarder)
        assert {await asked(port) for _ in range(16)} == {b"1", b"2"}


async def test_a_drain_waits_for_connections_of_all_processes_and_resets_the_rest() -> None:
    async with forwarding() as forwarder, backend() as endpoint:
        port = forwarder.open(NAME, verdict=Verdict.SERVE)
        forwarder.update(Snapshot(NAME, Verdict.SERVE, (endpoint,)))
        async with clients(port, 4), asyncio.TaskGroup() as group:
            async with clients(port, 4):
                draining = group.create_task(forwarder.drain(1.0))
                await asyncio.sleep(0)
            assert await draining == 4
        assert is_refused(port)


async def test_processes_run_for_short_turns_where_the_kernel_grants_it() -> None:
    with ThreadPoolExecutor(1) as threads:
        if not threads.submit(ask_for_short_turns).result():
            pytest.skip("this kernel has turns of one length")
    async with forwarding() as forwarder:
        await eventually(lambda: {turn(pid) for pid in pids(forwarder)} == {SHORT_TURN})


def reserve(forwarder: ProcessForwarder) -> list[int]:
    """The process that waits to replace another."""
    spare = forwarder._pool._spare
    return [] if spare is None else [spare.pid]


async def test_processes_end_with_their_forwarder() -> None:
    async with forwarding() as forwarder:
        assert reserve(forwarder) == [], "the start comes first"
        forwarder.close_unasked(NAME.family)
        assert reserve(forwarder) == [], "nor right at its end"
        forwarder.close_unasked(NAME.family)
        await eventually(lambda: bool(reserve(forwarder)))
        running = [*pids(forwarder), *reserve(forwarder)]
        assert len(running) == len(pids(forwarder)) + 1
    for pid in running:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_processes_are_started_one_after_the_other_where_there_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[list[bool]] = []
    started = spawn

    def note(spawning: Spawning, words: str) -> tuple[int, socket.socket]:
        loads.append([worker.is_ready for worker in forwarder._pool.serving])
        return started(spawning, words)

    monkeypatch.setattr(pool, "spawn", note)
    async with forwarding(3, at_once=False) as forwarder, backend() as endpoint:
        assert pids(forwarder) == []
        await forwarder.ready()
        assert loads == [[], [True], [True, True]]
        await forwarder.ready()
        forwarder.start()
        assert len(pids(forwarder)) == 3
        port = forwarder.open(NAME, verdict=Verdict.SERVE)
        forwarder.update(Snapshot(NAME, Verdict.SERVE, (endpoint,)))
        assert await asked(port) == b"hello\n"


class Clock:
    """A loop whose clock goes as fast as is said."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.ahead = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def time(self) -> float:
        return self._loop.time() + self.ahead


async def test_one_that_takes_long_to_load_takes_nothing_of_the_time_of_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where a node is busy, or its CPUs are limited. A predecessor that is asked gives up after ten seconds."""
    loads: list[list[bool]] = []
    clock, started = Clock(asyncio.get_running_loop()), spawn

    def note(spawning: Spawning, words: str) -> tuple[int, socket.socket]:
        loads.append([worker.is_ready for worker in forwarder._pool.serving])
        clock.ahead += 20
        return started(spawning, words)

    monkeypatch.setattr(pool, "spawn", note)
    async with forwarding(3, at_once=False) as forwarder:
        monkeypatch.setattr(forwarder._pool, "_loop", clock)
        await forwarder.ready()
        assert loads == [[], [True], [True, True]]
        assert all(worker.is_ready for worker in forwarder._pool.serving)


async def test_what_all_data_processes_are_told_of_by_their_ids_is_for_the_one_in_reserve_too() -> None:
    """When one is killed while a successor starts, the one in reserve begins at once, with the priority of a start."""
    async with forwarding(at_once=False) as forwarder:
        await forwarder.ready()
        os.kill(pids(forwarder)[0], signal.SIGKILL)
        await eventually(lambda: bool(reserve(forwarder)))
        assert forwarder.process_ids == [*pids(forwarder), *reserve(forwarder)]


async def test_they_may_be_started_together_after_all() -> None:
    async with forwarding(at_once=False) as forwarder, backend() as endpoint:
        port = forwarder.open(NAME, verdict=Verdict.SERVE)
        forwarder.update(Snapshot(NAME, Verdict.SERVE, (endpoint,)))
        forwarder.start()
        assert len(pids(forwarder)) == 2
        assert await asked(port) == b"hello\n"


async def test_portals_are_bound_by_the_control_process_and_served_by_data_processes() -> None:
    """As the driver `local` has it; a change of who is let in keeps the socket."""
    everybody = (AdmissionRule("", NAME),)
    options = structs.replace(OPTIONS, bind_portals=True)
    async with forwarding(options=options) as forwarder, backend() as endpoint:
        assert forwarder.open(NAME, verdict=Verdict.SERVE) == 0
        forwarder.update(Snapshot(NAME, Verdict.SERVE, (endpoint,)))
        with socket.socket() as probe:
            probe.bind((LOOPBACK, 0))
            portal = PortalAddress(LOOPBACK, Protocol.TCP, probe.getsockname()[1])
        forwarder.serve_portal(portal, Admission(everybody, everybody))
        assert [await asked(portal.port) for _ in range(8)] == [b"hello\n"] * 8
        forwarder.serve_portal(portal, Admission((AdmissionRule("127.0.0.0/8", NAME),), everybody))
        assert await asked(portal.port) == b"hello\n"
        victim = pids(forwarder)[0]
        os.kill(victim, signal.SIGKILL)
        assert await asyncio.gather(*(asked(portal.port) for _ in range(20))) == [b"hello\n"] * 20
        await eventually(lambda: len(pids(forwarder)) == 2 and victim not in pids(forwarder))
        # With affinity it is one process's.
        forwarder.update(Snapshot(NAME, Verdict.SERVE, (endpoint,), affinity_timeout=60))
        await heard(forwarder)
        before = {report.id for report in (await forwarder.data_plane.connections()).items}
        async with clients(portal.port, 8):
            reports = (await forwarder.data_plane.connections()).items
            assert len({report.id // 10**12 for report in reports if report.id not in before}) == 1
        forwarder.leave_portal(portal)
        await eventually(lambda: is_refused(portal.port))


async def test_what_a_slow_process_is_still_to_be_told_takes_no_descriptors() -> None:
    """Copies of those that wait in a channel would be as many again, for each process."""
    async with forwarding(1) as forwarder, backend() as endpoint:
        await all_ready(forwarder)
        (pid,) = pids(forwarder)
        os.kill(pid, signal.SIGSTOP)
        names = [
            structs.replace(NAME, service_port=structs.replace(NAME.service_port, name=f"s{n}")) for n in range(700)
        ]
        before = len(os.listdir("/proc/self/fd"))
        for name in names:
            forwarder.open(name, verdict=Verdict.SERVE)
            forwarder.update(Snapshot(name, Verdict.SERVE, (endpoint,)))
        assert len(os.listdir("/proc/self/fd")) <= before + 710
        os.kill(pid, signal.SIGCONT)
        port = forwarder._listeners[names[-1]].port
        assert await asked(port) == b"hello\n"


async def test_what_a_client_would_get_next_names_what_each_process_would_choose() -> None:
    async with forwarding() as forwarder, backend(b"1") as one, backend(b"2") as two:
        port = forwarder.open(NAME, verdict=Verdict.SERVE)
        forwarder.update(Snapshot(NAME, Verdict.SERVE, (one,)))
        choice = await forwarder.data_plane.peek(NAME, "10.0.0.9")
        assert (choice.endpoint, choice.alternatives) == (one, ())
        assert "data processes" not in choice.reason
        forwarder.update(Snapshot(NAME, Verdict.SERVE, (one, two)))
        seen = set()
        for _ in range(8):
            choice = await forwarder.data_plane.peek(NAME, "10.0.0.9")
            answers = {{one: b"1", two: b"2"}[each] for each in (choice.endpoint, *choice.alternatives) if each}
            assert ("at one of 2 data processes" in choice.reason) == bool(choice.alternatives)
            assert await asked(port) in answers
            seen.add(len(answers))
        assert 2 in seen, "after one client the processes choose differently"
        forwarder.update(Snapshot(NAME, Verdict.SERVE, (one, two), affinity_timeout=60))
        choice = await forwarder.data_plane.peek(NAME, "10.0.0.9")
        assert (choice.alternatives, "data processes" in choice.reason) == ((), False)
        with pytest.raises(KeyError):
            await forwarder.data_plane.peek(UDP_NAME, "10.0.0.9")
