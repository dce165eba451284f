"""Ejection over real data processes: what one of them finds out counts for all."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

from msgspec import structs

from tests.forwarding.conftest import LOOPBACK, NAME, eventually
from tests.processes.control.test_forwarding import all_ready, asked, backend, forwarding, heard, pids
from tests.processes.control.test_orphans import control, kill
from userproxy.forwarding.ejection.cells import EjectionMemory
from userproxy.model import Ejection, Endpoint, IPFamily, ListenerName, Snapshot, Verdict
from userproxy.model.reports import ALL, EndpointFigures, Outcome
from userproxy.processes.control.forwarding import ProcessForwarder
from userproxy.processes.control.observation.data_plane import _LISTENERS
from userproxy.processes.ejections.messages import KnowsEjected
from userproxy.processes.questions import AskListeners
from userproxy.routing.balancers.ejections import Ejected


@contextmanager
def refusing() -> Iterator[Endpoint]:
    """One whose port is bound, and at which nobody listens."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((LOOPBACK, 0))
        yield Endpoint(*sock.getsockname())


@asynccontextmanager
async def serving(ejection: Ejection | None) -> AsyncIterator[tuple[ProcessForwarder, int, Endpoint]]:
    """Two data processes, three endpoints, and one of these that refuses."""
    async with forwarding() as forwarder, backend() as one, backend() as two:
        with refusing() as bad:
            port = forwarder.open(NAME, verdict=Verdict.SERVE)
            forwarder.update(Snapshot(NAME, Verdict.SERVE, (one, two, bad), ejection=ejection))
            await all_ready(forwarder)
            await heard(forwarder)
            yield forwarder, port, bad


async def of_each(forwarder: ProcessForwarder, endpoint: Endpoint) -> list[EndpointFigures]:
    """What each data process says of an endpoint."""
    answers = await forwarder.data_plane._each(lambda number: AskListeners(number, ALL), _LISTENERS)
    return [
        each
        for answer in answers.values()
        for its in answer
        for each in its.figures.endpoints
        if each.endpoint == endpoint
    ]


async def is_ejected(forwarder: ProcessForwarder, endpoint: Endpoint) -> list[bool]:
    return [bool(each.ejected) for each in await of_each(forwarder, endpoint)]


async def failures(forwarder: ProcessForwarder, endpoint: Endpoint) -> int:
    return sum(each.failed for each in await of_each(forwarder, endpoint))


async def notes(forwarder: ProcessForwarder) -> list[str]:
    """What decisions say of ejections, of all data processes."""
    found = await forwarder.data_plane.decisions(ALL, 1000)
    texts = [attempt.reason for each in found if each.verdict is Outcome.RETRIED for attempt in each.tried]
    return [text.partition("; ")[2] for text in texts if "ejected" in text]


def has_replaced(forwarder: ProcessForwarder, victim: int) -> bool:
    return victim not in pids(forwarder) and len(pids(forwarder)) == 2


async def visit(forwarder: ProcessForwarder, port: int) -> None:
    """A client at each process: who has more clients leaves the next one to the other."""
    assert {await asked(port), await asked(port)} == {b"hello\n"}
    await heard(forwarder)


async def test_failures_in_a_row_count_together_and_all_eject_at_once() -> None:
    async with serving(Ejection(4, 3600.0)) as (forwarder, port, bad):
        async with asyncio.timeout(30):
            while not all(await is_ejected(forwarder, bad)):
                await visit(forwarder, port)
        first = await failures(forwarder, bad)
        assert first in {4, 5}, "not four of each: at most one more at the other, before it has heard"
        for _ in range(20):
            assert await asked(port) == b"hello\n"
        assert await failures(forwarder, bad) == first
        (figures,) = await forwarder.data_plane.listeners()
        assert figures.ejections == 1, "one episode is counted once"
        assert len(await forwarder.data_plane.ejected_endpoints()) == 1
        assert await notes(forwarder) == ["ejected for 3600 s"], "the connection by which it came says so"


async def test_a_success_in_another_process_ends_the_row() -> None:
    async with serving(Ejection(2, 3600.0)) as (forwarder, port, bad):
        cells = forwarder._pool.ejection_memory
        number = forwarder._briefing.ejections._numbers.of(NAME)[bad]
        for _ in range(3):
            before = await failures(forwarder, bad)
            async with asyncio.timeout(30):
                while await failures(forwarder, bad) == before:
                    await asked(port)
            EjectionMemory(forwarder._pool._tally, 2, 1).cell(number).count(total=1)
        assert cells.cell(number).row(by_reset=False)[0] == 1
        assert not any(await is_ejected(forwarder, bad))


async def test_connections_of_all_processes_are_seen_where_failures_are_counted() -> None:
    async with serving(Ejection(1, 3600.0)) as (forwarder, port, bad):
        for _ in range(12):
            await asked(port)
        numbers, memory = forwarder._briefing.ejections._numbers.of(NAME), forwarder._pool.ejection_memory
        assert sum(memory.cell(each).total for each in numbers.values()) == 12
        assert memory.cell(numbers[bad]).total == 0
        held = forwarder._listeners[NAME].snapshot
        assert held is not None
        forwarder.update(structs.replace(held, ejection=None))
        await heard(forwarder)
        await asked(port)
        assert sum(memory.cell(each).total for each in numbers.values()) == 12, "nothing is written any more"
        assert not forwarder._briefing.ejections._numbers.of(NAME)


async def test_what_a_process_that_was_killed_had_ejected_and_not_told_is_not() -> None:
    async with serving(Ejection(1, 3600.0)) as (forwarder, port, bad):
        deciding, memory = forwarder._briefing.ejections, forwarder._pool.ejection_memory
        numbers = deciding._numbers.of(NAME)

        async def one_is_killed() -> list[Endpoint]:
            for number in numbers.values():
                memory.cell(number).is_out = True
            victim = pids(forwarder)[0]
            os.kill(victim, signal.SIGKILL)
            await eventually(partial(has_replaced, forwarder, victim))
            return [each for each, number in numbers.items() if memory.is_out(number)]

        assert await one_is_killed() == []
        async with asyncio.timeout(30):
            while not all(await is_ejected(forwarder, bad)):
                await visit(forwarder, port)
        assert await one_is_killed() == [bad]


async def test_what_a_process_ejects_and_may_not_comes_back_at_once() -> None:
    """As far as it could see it might: who lets go of the lock late counts nothing of others."""
    async with serving(Ejection(1, 3600.0)) as (forwarder, port, bad):
        deciding, memory = forwarder._briefing.ejections, forwarder._pool.ejection_memory
        case, snapshot = deciding._case(NAME), forwarder._listeners[NAME].snapshot
        assert case is not None
        assert snapshot is not None
        other = snapshot.endpoints[0]
        assert case.eject(Ejected(other, 0.0, 1e9, "it was"))  # of which the data processes have heard nothing
        async with asyncio.timeout(30):
            while not await failures(forwarder, bad):
                await asked(port)
        number = deciding._numbers.of(NAME)[bad]
        await eventually(lambda: not memory.is_out(number))
        await heard(forwarder)
        assert not any(await is_ejected(forwarder, bad))


async def test_what_is_told_of_listeners_that_are_never_known_is_forgotten() -> None:
    async with serving(Ejection(1, 3600.0)) as (forwarder, _, bad):
        deciding, worker = forwarder._briefing.ejections, forwarder._pool.serving[0]
        others = [structs.replace(NAME, service_port=structs.replace(NAME.service_port, name=each)) for each in "ab"]
        knows = [KnowsEjected(each, (Ejected(bad, 0.0, 1e9, "it was"),)) for each in others]
        for each in knows:
            deciding._heard(worker, each)
        assert list(deciding._early) == others
        forwarder.open(others[0])
        forwarder.close(others[0])
        assert list(deciding._early) == others[1:], "it has closed before it was known"
        forwarder.close_unasked(IPFamily.IPV4)
        deciding._heard(worker, knows[0])
        assert not deciding._early, "nobody has asked for it, and nobody will"


async def test_a_process_that_takes_another_s_place_knows_what_is_ejected() -> None:
    async with serving(Ejection(1, 3600.0)) as (forwarder, port, bad):
        async with asyncio.timeout(30):
            while not all(await is_ejected(forwarder, bad)):
                await visit(forwarder, port)
        for victim in pids(forwarder):
            os.kill(victim, signal.SIGKILL)
            await eventually(partial(has_replaced, forwarder, victim))
            await heard(forwarder)
        async with asyncio.timeout(30):
            while await is_ejected(forwarder, bad) != [True, True]:
                await asyncio.sleep(0.02)


async def test_one_connection_tries_for_all_and_brings_back_for_all() -> None:
    async with serving(Ejection(1, 0.4)) as (forwarder, port, bad):
        told, deciding = [], forwarder._briefing.ejections
        eject = deciding._eject

        def ejected(listener: ListenerName, its: Ejected) -> None:
            told.append(its)
            eject(listener, its)

        deciding._eject = ejected  # type: ignore[method-assign, assignment]
        async with asyncio.timeout(30):
            while not all(await is_ejected(forwarder, bad)):
                await visit(forwarder, port)
        first = await failures(forwarder, bad)
        said: set[str] = set()
        async with asyncio.timeout(60):
            while len(told) < 4:
                await asyncio.gather(*(asked(port) for _ in range(4)))
                said.update(await notes(forwarder))  # of so many connections the oldest decisions are forgotten
        await heard(forwarder)
        assert await failures(forwarder, bad) - first == len(told) - 1, (
            "a failure for each time that it is ejected anew"
        )
        server = await asyncio.start_server(_echo, sock=_listening(bad))
        async with server, asyncio.timeout(60):
            while any(await is_ejected(forwarder, bad)):
                await asked(port)
        assert not await forwarder.data_plane.ejected_endpoints()
        assert said == {"ejected for 0.4 s"}, "trials that fail say so, too"


def _listening(endpoint: Endpoint) -> socket.socket:
    """A socket in the place of the one that only holds the port."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((endpoint.ip, endpoint.port))
    return sock


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.readline())
    writer.close()


async def test_by_default_what_one_could_not_reach_all_pass_over() -> None:
    async with serving(None) as (forwarder, port, bad):
        async with asyncio.timeout(30):
            while not await failures(forwarder, bad):
                await asked(port)
        async with asyncio.timeout(30):
            while not all(each.passed_over_seconds for each in await of_each(forwarder, bad)):
                await asyncio.sleep(0.005)


async def test_another_rule_or_none_ends_what_was_ejected() -> None:
    async with serving(Ejection(1, 3600.0)) as (forwarder, port, bad):
        async with asyncio.timeout(30):
            while not all(await is_ejected(forwarder, bad)):
                await visit(forwarder, port)
        held = forwarder._listeners[NAME].snapshot
        assert held is not None
        forwarder.update(Snapshot(NAME, Verdict.SERVE, held.endpoints[2:], ejection=held.ejection))
        await heard(forwarder)
        assert await forwarder.data_plane.ejected_endpoints() == (), "it is the only one"
        forwarder.update(Snapshot(NAME, Verdict.SERVE, held.endpoints))
        await heard(forwarder)
        assert not any(await is_ejected(forwarder, bad))
        assert not forwarder._briefing.ejections._cases


async def test_the_next_control_process_goes_on_with_what_is_ejected(tmp_path: Path) -> None:
    """Data processes know it, and tell one that adopts them."""
    path, rule = str(tmp_path / "admin.sock"), Ejection(1, 3600.0)
    async with backend() as one, backend() as two, control(path) as first:
        with refusing() as bad:
            snapshot = Snapshot(NAME, Verdict.SERVE, (one, two, bad), ejection=rule)
            port = first.open(NAME, verdict=Verdict.SERVE)
            first.update(snapshot)
            await all_ready(first)
            async with asyncio.timeout(30):
                while not all(await is_ejected(first, bad)):
                    await visit(first, port)
            before = await failures(first, bad)
            await kill(first, path)
            assert {await asked(port) for _ in range(6)} == {b"hello\n"}
            async with control(path) as second:
                second.open(NAME, verdict=Verdict.SERVE)
                second.update(snapshot)
                await heard(second)
                await eventually(lambda: bool(second._briefing.ejections._cases))
                (case,) = second._briefing.ejections._cases.values()
                assert [each.endpoint for each in case.ejected] == [bad]
                assert await is_ejected(second, bad) == [True, True]
                assert await failures(second, bad) == before, "nobody was sent there meanwhile"
                second.update(Snapshot(NAME, Verdict.SERVE, (bad,), ejection=rule))
                await heard(second)
                assert not any(await is_ejected(second, bad)), "it decides now"


async def test_who_ejects_where_nobody_may_takes_it_back() -> None:
    async with serving(Ejection(1, 3600.0)) as (forwarder, port, bad):
        deciding = forwarder._briefing.ejections
        deciding._case = lambda _: None  # type: ignore[method-assign, assignment]
        async with asyncio.timeout(30):
            while not await failures(forwarder, bad):
                await asked(port)
        async with asyncio.timeout(30):
            while any(await is_ejected(forwarder, bad)):
                await asyncio.sleep(0.02)


async def test_until_the_next_control_process_says_so_failures_are_counted_nowhere(tmp_path: Path) -> None:
    """It numbers cells anew: those of before may be another Service's by now."""
    path, rule = str(tmp_path / "admin.sock"), Ejection(1, 3600.0)
    first_name, second_name = (
        structs.replace(NAME, service_port=structs.replace(NAME.service_port, name=each)) for each in ("one", "two")
    )
    async with backend() as one, backend() as two, control(path) as first:
        with refusing() as bad, refusing() as worse:
            snapshots = {
                first_name: Snapshot(first_name, Verdict.SERVE, (bad, one, two), ejection=rule),
                second_name: Snapshot(second_name, Verdict.SERVE, (worse, one, two), ejection=rule),
            }
            ports = {name: first.open(name, verdict=Verdict.SERVE) for name in snapshots}
            for each in snapshots.values():
                first.update(each)
            await all_ready(first)
            await heard(first)
            number = first._briefing.ejections._numbers.of(first_name)[bad]
            await kill(first, path)
            async with control(path) as second:
                assert second.open(second_name, verdict=Verdict.SERVE) == ports[second_name]
                second.update(snapshots[second_name])
                await heard(second)
                numbers, memory = second._briefing.ejections._numbers.of(second_name), second._pool.ejection_memory
                assert numbers[worse] == number
                before = [memory.cell(each).total for each in numbers.values()]
                async with asyncio.timeout(30):
                    while not await failures(second, bad):
                        await asked(ports[first_name])
                assert {await asked(ports[first_name]) for _ in range(6)} == {b"hello\n"}
                await heard(second)
                assert not any(map(memory.is_out, numbers.values()))
                assert [memory.cell(each).total for each in numbers.values()] == before
                assert second.open(first_name, verdict=Verdict.SERVE) == ports[first_name]
                second.update(snapshots[first_name])
                await heard(second)
                for name, its in ((second_name, worse), (first_name, bad)):
                    async with asyncio.timeout(30):
                        while not all(await is_ejected(second, its)):
                            await visit(second, ports[name])


async def test_what_was_counted_in_a_cell_before_is_nothing_to_whom_it_is_given(tmp_path: Path) -> None:
    """The next control process has the memory of the one before."""
    path, rule = str(tmp_path / "admin.sock"), Ejection(1, 3600.0)
    async with backend() as one, backend() as two, control(path) as first:
        port = first.open(NAME, verdict=Verdict.SERVE)
        first.update(Snapshot(NAME, Verdict.SERVE, (one, two), ejection=rule))
        await all_ready(first)
        memory = first._pool.ejection_memory
        for number in range(4):
            memory.cell(number).is_out = True
            memory.cell(number).note_row(7, 1.0, 0, by_reset=True)
        await kill(first, path)
        async with control(path) as second:
            assert second.open(NAME, verdict=Verdict.SERVE) == port
            second.update(Snapshot(NAME, Verdict.SERVE, (one, two), ejection=rule))
            cells = [second._pool.ejection_memory.cell(number) for number in range(4)]
            assert [each.is_out for each in cells] == [False, False, True, True]
            assert [each.row(by_reset=True)[0] for each in cells] == [0, 0, 7, 7]
