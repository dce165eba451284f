"""What a data process has counted is known within seconds, though nobody asks: little goes with it when it dies."""

import asyncio
import os
import signal

from tests.forwarding.conftest import NAME, Bench, Serve, echo, eventually, open_bench
from tests.processes.control.test_forwarding import all_ready, asked, backend, forwarding, pids
from userproxy.model import Snapshot, Verdict
from userproxy.model.reports import ListenerFigures, Query
from userproxy.processes.data.counting import Counting
from userproxy.processes.messages import Counted


class Told:
    """A channel that keeps what is sent."""

    def __init__(self) -> None:
        self.messages: list[Counted] = []

    def send(self, message: Counted) -> None:
        self.messages.append(message)

    async def drained(self) -> None:
        pass


class Looking:
    """What a bench's forwarder tells of itself."""

    def __init__(self, bench: Bench) -> None:
        self._told = Told()
        loop, plane = asyncio.get_running_loop(), bench.forwarder.data_plane
        self._counting = Counting(loop, plane, lambda: self._told)  # type: ignore[arg-type, return-value]

    async def look(self) -> list[Counted]:
        """What is told now."""
        await self._counting.look()
        messages, self._told.messages = self._told.messages, []
        return messages

    async def open(self) -> list[ListenerFigures]:
        """The figures of open listeners that are told now."""
        return [figures for message in await self.look() for figures in message.open]


async def test_only_what_has_changed_is_told(serve: Serve) -> None:
    backend = await serve(echo)
    async with open_bench() as bench:
        bench.route_to(backend)
        looking = Looking(bench)
        assert await looking.look() == []
        reader, writer = await bench.connect()
        writer.write(b"x")
        assert await reader.read(1) == b"x"
        (figures,) = await looking.open()
        assert (figures.listener, figures.total, figures.bytes_up, figures.bytes_down) == (NAME, 1, 1, 1)
        assert await looking.look() == []
        writer.write(b"y")
        assert await reader.read(1) == b"y"
        assert [each.bytes_up for each in await looking.open()] == [2]
        writer.close()
        await bench.eventually_idle()
        assert [each.ended for each in await looking.open()] == [1]
        assert await looking.look() == []


async def test_counters_of_listeners_that_nobody_uses_are_not_compared_each_time(serve: Serve) -> None:
    """There may be 10,000. What is written to them is noted then."""
    backend = await serve(echo)
    async with open_bench() as bench:
        bench.route_to(backend)
        looking, statistics = Looking(bench), bench.forwarder.statistics(NAME)
        changes = looking._counting._changes
        for _ in range(2):
            assert await looking.look() == []
            assert changes.looks_at(statistics)
        _, writer = await bench.connect()
        await eventually(lambda: statistics.accepted == 1)
        assert not changes.looks_at(statistics)
        writer.close()
        await bench.eventually_idle()
        assert [each.total for each in await looking.open()] == [1]
        assert await looking.look() == []
        assert changes.looks_at(statistics)


async def test_a_listener_that_is_closed_is_told_once_more(serve: Serve) -> None:
    backend = await serve(echo)
    async with open_bench() as bench:
        bench.route_to(backend)
        looking = Looking(bench)
        _, writer = await bench.connect()
        writer.close()
        await bench.eventually_idle()
        (opened,) = await looking.open()
        bench.forwarder.close(NAME)
        ((closed,),) = [each.closed for each in await looking.look()]
        assert (closed.number, closed.total) == (opened.number, opened.total) == (opened.number, 1)
        assert await looking.look() == []


async def test_what_the_process_has_counted_is_told_when_it_changes(serve: Serve) -> None:
    async with open_bench() as bench:
        looking = Looking(bench)
        bench.forwarder._shares.evicted = 3
        (counted,) = await looking.look()
        assert counted.process is not None
        assert sum(counted.process.evicted.values()) == 3
        assert await looking.look() == []


async def test_a_process_that_is_killed_takes_nothing_along_that_was_told_though_nobody_has_ever_asked() -> None:
    async with forwarding(1) as forwarder, backend() as endpoint:
        port = forwarder.open(NAME, verdict=Verdict.SERVE)
        forwarder.update(Snapshot(NAME, Verdict.SERVE, (endpoint,)))
        await all_ready(forwarder)
        for _ in range(10):
            assert await asked(port) == b"hello\n"
        (worker,) = forwarder._pool.serving
        known = forwarder.data_plane._known
        await eventually(lambda: worker in known and any(each.ended == 10 for each in known[worker].open.values()))
        os.kill(worker.pid, signal.SIGKILL)
        await eventually(lambda: worker.pid not in pids(forwarder) and len(pids(forwarder)) == 1)
        (figures,) = await forwarder.data_plane.listeners(Query())
        assert (figures.total, figures.ended) == (10, 10)
        forwarder.close(NAME)
        (figures,) = await forwarder.data_plane.closed_listeners()
        assert (figures.total, figures.ended) == (10, 10), "also of a listener that is closed since"
