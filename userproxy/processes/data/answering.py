"""Answers of a data process to what the control process asks, in parts that hold up no traffic."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from msgspec import Raw

from userproxy.forwarding.observation.data_plane import LocalDataPlane
from userproxy.model.data_plane import Watch
from userproxy.model.steering import Steering
from userproxy.pace import Pace
from userproxy.processes.channel import Channel, encode
from userproxy.processes.messages import ToData
from userproxy.processes.questions import (
    Answer,
    AskBalancerFaults,
    AskChoice,
    AskConnections,
    AskDecisions,
    AskEjectedEndpoints,
    AskHeldClients,
    AskListeners,
    AskLostAnswers,
    AskProcess,
    Capture,
    CloseConnections,
    ListenerAnswer,
    Question,
    WatchConnections,
    WatchDecisions,
)

_PART_BYTES: Final = 64 * 1024


class Answering:
    """Answers questions, each in a task of `group`. `channel` is the one to answer by."""

    def __init__(
        self,
        plane: LocalDataPlane,
        steering: Steering,
        channel: Callable[[], Channel[ToData]],
        group: asyncio.TaskGroup,
    ) -> None:
        self._plane = plane
        self._steering = steering
        self._channel = channel
        self._group = group
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def ask(self, question: Question) -> None:
        """Answer a question."""
        name = f"answer {type(question).__name__} {question.id}"
        task = self._tasks[question.id] = self._group.create_task(self._answer(question), name=name)
        task.add_done_callback(lambda _: self._tasks.pop(question.id, None))

    def stop(self) -> None:
        """Answer nothing any longer that was asked so far: who asked has gone."""
        for task in tuple(self._tasks.values()):
            task.cancel()

    def enough(self, number: int) -> None:
        """Answer a question no longer."""
        task = self._tasks.get(number)
        if task is not None:
            task.cancel()

    async def _answer(self, question: Question) -> None:
        try:
            async for items, lost in self._batches(question):
                await self._send(question.id, items)
                if lost:
                    self._channel().send(Answer(question.id, lost=lost))
        except Exception as error:  # noqa: BLE001 -- it is the asker's to deal with
            self._channel().send(Answer(question.id, last=True, failure=f"{type(error).__name__}: {error}"))
        else:
            self._channel().send(Answer(question.id, last=True))

    async def _batches(self, question: Question) -> AsyncIterator[tuple[Iterable[object], int]]:
        """What there is to say, and how many events were lost in between."""
        watching = self._watching(question)
        if watching is None:
            yield await self._whole(question), 0
            return
        async with watching as watch:
            self._channel().send(Answer(question.id))
            while True:
                batch = await watch.read()
                yield batch.items, batch.lost
                if batch.lost:
                    return

    def _watching(self, question: Question) -> AbstractAsyncContextManager[Watch[Any]] | None:
        match question:
            case WatchDecisions(query=query, room=room):
                return self._plane.watch_decisions(query, room)
            case WatchConnections(query=query, room=room):
                return self._plane.watch_connections(query, room)
            case Capture(request=request, room=room):
                return self._plane.capture(request, room)
        return None

    async def _whole(self, question: Question) -> Iterable[object]:
        plane = self._plane
        match question:
            case AskListeners(query=query):
                return [ListenerAnswer(*each) for each in await plane.every_listener(query)]
            case AskConnections(query=query, limit=limit, after=after):
                return (await plane.connections(query, limit, after)).items
            case AskDecisions(query=query, last=last):
                return await plane.decisions(query, last)
            case AskChoice(listener=listener, client=client, tried=tried):
                return (await plane.peek(listener, client, tried),)
            case AskProcess():
                return await plane.processes()
            case AskLostAnswers():
                return await plane.lost_answers()
            case AskEjectedEndpoints():
                return await plane.ejected_endpoints()
            case AskBalancerFaults():
                return await plane.balancer_faults()
            case AskHeldClients():
                return await plane.held_clients()
            case CloseConnections(query=query, reason=reason):
                return (await self._steering.close_connections(query, reason),)
        return ()

    async def _send(self, number: int, items: Iterable[object]) -> None:
        pace = Pace()
        parts: list[Raw] = []
        size = 0
        for item in items:
            part = encode(item)
            parts.append(Raw(part))
            size += len(part)
            if size >= _PART_BYTES:
                self._channel().send(Answer(number, tuple(parts)))
                parts, size = [], 0
                await self._channel().drained()
            await pace.keep()
        if parts:
            self._channel().send(Answer(number, tuple(parts)))
            await self._channel().drained()
