"""Ejection over real data processes: what one of them finds out counts for all."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

from tests.forwarding.conftest import LOOPBACK, NAME, eventually
from tests.processes.control.test_forwarding import all_ready, asked, backend, forwarding, heard, pids
from tests.processes.control.test_orphans import control, kill
from userproxy.model import Ejection, Endpoint, ListenerName, Snapshot, Verdict
from userproxy.model.reports import ALL, EndpointFigures
from userproxy.processes.control.data_plane import _LISTENERS
from userproxy.processes.control.forwarding import ProcessForwarder
from userproxy.processes.ejections.messages import Failure
from userproxy.processes.questions import AskListeners
from userproxy.routing.balancers.ejections import Ejected
from userproxy.routing.balancers.shared.case import EjectionCase


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


def has_replaced(forwarder: ProcessForwarder, victim: int) -> bool:
    return victim not in pids(forwarder) and len(pids(forwarder)) == 2


async def visit(forwarder: ProcessForwarder, port: int) -> None:
    """A client at each process: who has more clients leaves the next one to the other."""
    assert {await asked(port), await asked(port)} == {b"hello\n"}
    await heard(forwarder)


async def test_failures_in_a_row_count_together_and_all_eject_at_once() -> None:
    async with serving(Ejection(4, 3600.0)) as (forwarder, port, bad):
        counted, deciding = [], forwarder._briefing.ejections
        judge = deciding._judge

        def judged(case: EjectionCase, failure: Failure) -> None:
            if not case.ejected:
                counted.append(failure.times)
            judge(case, failure)

        deciding._judge = judged  # type: ignore[method-assign]
        async with asyncio.timeout(30):
            while not all(await is_ejected(forwarder, bad)):
                await visit(forwarder, port)
        assert sum(counted[:-1]) < 4 <= sum(counted), "not four of each"
        before = await failures(forwarder, bad)
        for _ in range(20):
            assert await asked(port) == b"hello\n"
        assert await failures(forwarder, bad) == before
        (figures,) = await forwarder.data_plane.listeners()
        assert figures.ejections == 1, "one episode is counted once"
        assert len(await forwarder.data_plane.ejected_endpoints()) == 1


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

        def ejected(listener: ListenerName, its: Ejected, *, is_new: bool) -> None:
            told.append(its)
            eject(listener, its, is_new=is_new)

        deciding._eject = ejected  # type: ignore[method-assign, assignment]
        async with asyncio.timeout(30):
            while not all(await is_ejected(forwarder, bad)):
                await visit(forwarder, port)
        first = await failures(forwarder, bad)
        async with asyncio.timeout(60):
            while len(told) < 4:
                await asyncio.gather(*(asked(port) for _ in range(4)))
        await heard(forwarder)
        assert await failures(forwarder, bad) - first == len(told) - 1, (
            "a failure for each time that it is ejected anew"
        )
        server = await asyncio.start_server(_echo, sock=_listening(bad))
        async with server, asyncio.timeout(60):
            while any(await is_ejected(forwarder, bad)):
                await asked(port)
        assert not await forwarder.data_plane.ejected_endpoints()


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
