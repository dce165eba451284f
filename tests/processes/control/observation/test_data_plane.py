"""Answers for several data processes are as those of one."""

import os
import signal
from typing import Any

import pytest
from msgspec import structs

from tests.forwarding.conftest import NAME, eventually
from tests.processes.control.test_forwarding import UDP_NAME, all_ready, asked, backend, forwarding
from userproxy.model import Snapshot, Verdict
from userproxy.model.data_plane import HandedOverError
from userproxy.model.reports import Decision, DialTimes, ListenerFigures, Query
from userproxy.processes.control.forwarding import ProcessForwarder
from userproxy.processes.messages import Close


async def decided(forwarder: ProcessForwarder, count: int) -> tuple[Decision, ...]:
    """All decisions, once there are so many."""
    while len(found := await forwarder.data_plane.decisions(last=100)) < count:
        pass
    return found


async def test_the_last_decisions_are_the_last_of_all_processes_by_time() -> None:
    async with forwarding() as forwarder, backend() as endpoint:
        port = forwarder.open(NAME, verdict=Verdict.SERVE)
        forwarder.update(Snapshot(NAME, Verdict.SERVE, (endpoint,)))
        await all_ready(forwarder)
        for number in range(20):
            assert await asked(port) == b"hello\n"
            await decided(forwarder, number + 1)
        every = await forwarder.data_plane.decisions(last=100)
        assert len({each.id // 10**12 for each in every}) == 2, "both have decided"
        assert list(every) == sorted(every, key=lambda each: each.time)
        assert await forwarder.data_plane.decisions(last=5) == every[-5:]


async def test_a_process_that_ends_after_its_answer_counts_only_among_those_of_the_past(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with forwarding() as forwarder:
        await all_ready(forwarder)
        plane = forwarder.data_plane
        each, victim = plane._each, forwarder._pool.serving[0]

        async def with_an_end(*arguments: Any) -> Any:
            found = await each(*arguments)
            os.kill(victim.pid, signal.SIGKILL)
            await eventually(lambda: victim.is_over)
            return found

        monkeypatch.setattr(plane, "_each", with_an_end)
        first, *_ = await plane.processes()
        assert first.pid != victim.pid
        assert victim not in plane._last_process


async def test_a_listener_that_a_process_leaves_while_it_is_asked_is_counted_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with forwarding(1) as forwarder, backend() as endpoint:
        port = forwarder.open(NAME, verdict=Verdict.SERVE)
        forwarder.update(Snapshot(NAME, Verdict.SERVE, (endpoint,)))
        await all_ready(forwarder)
        for _ in range(3):
            assert await asked(port) == b"hello\n"
        plane = forwarder.data_plane
        each = plane._each

        async def and_leave(*arguments: Any) -> Any:
            found = await each(*arguments)
            for worker in forwarder._pool.serving:
                worker.send(Close(NAME))
            return found

        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(plane, "_each", and_leave)
            (figures,) = await plane.listeners()
        assert figures.total == 3
        (figures,) = await plane.listeners()
        assert figures.total == 3, "as it was, of the closed one"


@pytest.mark.parametrize("asked_before", [True, False])
async def test_who_has_handed_over_still_tells_what_data_processes_had_told(*, asked_before: bool) -> None:
    async with forwarding() as forwarder, backend() as endpoint:
        plane = forwarder.data_plane
        port = forwarder.open(NAME, verdict=Verdict.SERVE)
        forwarder.update(Snapshot(NAME, Verdict.SERVE, (endpoint,)))
        await all_ready(forwarder)
        for _ in range(6):
            assert await asked(port) == b"hello\n"
        workers = forwarder._pool.serving
        if asked_before:
            (before,) = await plane.listeners()
            processes = await plane.processes()
        else:
            known = plane._known
            await eventually(lambda: sum(each.open[1].total for each in known.values() if 1 in each.open) == 6, 10)
        forwarder.forsake()
        for _ in range(2):
            (figures,) = await plane.listeners(Query(service=NAME.service_port.name))
            assert figures.total == 6
            if asked_before:
                assert figures.endpoints == before.endpoints
                assert {each.pid for each in processes} >= {each.pid for each in await plane.processes()} - {0}
            for asked_for in (
                plane.connections(),
                plane.decisions(),
                plane.peek(NAME, "127.0.0.1"),
                forwarder.steering.close_connections(Query(), "asked for"),
            ):
                with pytest.raises(HandedOverError):
                    await asked_for
            await eventually(lambda: all(each.is_over for each in workers), 10)


def without_dials(figures: ListenerFigures) -> ListenerFigures:
    """The same but for how long dials took, of which there were none."""
    endpoints = tuple(structs.replace(each, dial=DialTimes()) for each in figures.endpoints)
    return structs.replace(figures, dial=DialTimes(), endpoints=endpoints)


async def test_who_has_handed_over_still_tells_of_listeners_that_nobody_has_used() -> None:
    async with forwarding() as forwarder, backend() as endpoint:
        plane = forwarder.data_plane
        for name in (NAME, UDP_NAME):
            forwarder.open(name, verdict=Verdict.SERVE)
            forwarder.update(Snapshot(name, Verdict.SERVE, (endpoint,)))
        await all_ready(forwarder)
        before = {each.listener: without_dials(each) for each in await plane.listeners()}
        forwarder.forsake()
        assert {each.listener: without_dials(each) for each in await plane.listeners()} == before
        assert [each.listener for each in await plane.listeners(Query(service=NAME.service_port.name))] == [NAME]
