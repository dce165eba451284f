"""Answers of a data process: a watch says first that it has begun."""

import asyncio
from typing import Any

from tests.forwarding.conftest import Serve, echo, eventually, open_bench
from userproxy.model.capture import CaptureRequest
from userproxy.model.reports import ALL
from userproxy.processes.data.answering import Answering
from userproxy.processes.questions import Answer, AskListeners, Capture, Question, WatchConnections, WatchDecisions


class Told:
    """A channel that keeps what is sent."""

    def __init__(self) -> None:
        self.messages: list[Answer] = []

    def send(self, message: Answer) -> None:
        self.messages.append(message)

    async def drained(self) -> None:
        pass


async def test_a_watch_says_first_that_it_has_begun_and_then_what_happens(serve: Serve) -> None:
    backend = await serve(echo)
    watches: list[Question] = [
        WatchDecisions(1, ALL, 10),
        WatchConnections(2, ALL, 10),
        Capture(3, CaptureRequest(), 100_000),
    ]
    async with open_bench() as bench, asyncio.TaskGroup() as group:
        bench.route_to(backend)
        told = Told()
        answering = Answering(bench.forwarder.data_plane, Any, lambda: told, group)  # type: ignore[arg-type, return-value]
        for each in watches:
            answering.ask(each)
        await eventually(lambda: len(told.messages) == len(watches))
        assert told.messages == [Answer(each.id) for each in watches]
        _, writer = await bench.connect()
        writer.close()
        await bench.eventually_idle()
        await eventually(lambda: {each.id for each in told.messages[3:] if each.parts} == {1, 2, 3})
        answering.stop()


async def test_what_is_no_watch_is_answered_as_a_whole(serve: Serve) -> None:
    async with open_bench() as bench, asyncio.TaskGroup() as group:
        told = Told()
        answering = Answering(bench.forwarder.data_plane, Any, lambda: told, group)  # type: ignore[arg-type, return-value]
        answering.ask(AskListeners(7, ALL))
        await eventually(lambda: bool(told.messages) and told.messages[-1].last)
        assert all(each.parts for each in told.messages[:-1])
