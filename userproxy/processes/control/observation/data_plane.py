"""Answers for all data processes together: :class:`~userproxy.model.data_plane.DataPlane`."""

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Final, TypeVar

from msgspec import structs

from userproxy.forwarding.descriptors import count_descriptors
from userproxy.forwarding.observation.closed import KEPT_SECONDS, MOST
from userproxy.forwarding.observation.loop_lag import LoopLag
from userproxy.model import Endpoint, ListenerName, Protocol, ServicePortName, Verdict
from userproxy.model.balancer_reports import BalancerFault, EjectedEndpoint
from userproxy.model.capture import CAPTURE_ROOM, CaptureEvent, CaptureRequest, Segment
from userproxy.model.data_plane import WATCH_ROOM, HandedOverError, Watch
from userproxy.model.holding import HeldClients
from userproxy.model.reports import (
    ALL,
    Choice,
    ConnectionChange,
    ConnectionPage,
    ConnectionReport,
    DatagramFigures,
    Decision,
    EndpointFigures,
    ListenerFigures,
    LostAnswers,
    ProcessFigures,
    Query,
)
from userproxy.pace import Pace
from userproxy.processes.channel import Decoder
from userproxy.processes.control.held import HeldListener
from userproxy.processes.control.observation.connection_watch import changes
from userproxy.processes.control.observation.figures import bequest, merged, one_of, with_past
from userproxy.processes.control.observation.merged_watch import Watches, answers
from userproxy.processes.control.pool import Pool
from userproxy.processes.control.worker import Worker, WorkerGoneError
from userproxy.processes.messages import Counted
from userproxy.processes.questions import (
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
    ListenerAnswer,
    Question,
    WatchDecisions,
)

Item = TypeVar("Item")

_LISTENERS: Final[Decoder[ListenerAnswer]] = Decoder(ListenerAnswer)
_CONNECTIONS: Final[Decoder[ConnectionReport]] = Decoder(ConnectionReport)
_DECISIONS: Final[Decoder[Decision]] = Decoder(Decision)
_CHOICES: Final[Decoder[Choice]] = Decoder(Choice)
_PROCESSES: Final[Decoder[ProcessFigures]] = Decoder(ProcessFigures)
_FAULTS: Final[Decoder[BalancerFault]] = Decoder(BalancerFault)
_EJECTED: Final[Decoder[EjectedEndpoint]] = Decoder(EjectedEndpoint)
_HELD: Final[Decoder[HeldClients]] = Decoder(HeldClients)
_LOST_ANSWERS: Final[Decoder[LostAnswers]] = Decoder(LostAnswers)
_EVENTS: Final[Decoder[CaptureEvent]] = Decoder(CaptureEvent)

_EVENT_BYTES: Final = 256
"""What an event of a capture takes beside its payload, about."""


class _Known:
    """What a data process has said last of its listeners, by their numbers: open ones, and closed ones."""

    __slots__ = ("closed", "open")

    def __init__(self) -> None:
        self.open: dict[int, ListenerFigures] = {}
        self.closed: dict[int, ListenerFigures] = {}

    def note(self, opened: Iterable[ListenerFigures], closed: Iterable[ListenerFigures]) -> None:
        """The figures of listeners are these now."""
        self.open |= {each.number: each for each in opened if _has_counted(each)}
        for each in closed:
            self.open.pop(each.number, None)
            self.closed[each.number] = each
        while len(self.closed) > MOST:
            del self.closed[next(iter(self.closed))]


class ProcessesDataPlane:
    """Asks all data processes, and adds up what they answer.

    What a process has counted that has ended is kept as of when it was last asked, so that no counter goes back.
    `listeners` are those that are open now.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pool: Pool,
        descriptor_limit: int,
        listeners: Mapping[ListenerName, HeldListener],
    ) -> None:
        self._loop = loop
        self._pool = pool
        self._descriptor_limit = descriptor_limit
        self._listeners = listeners
        self._known: dict[Worker, _Known] = {}
        self._past: dict[int, ListenerFigures] = {}
        self._closed_past: dict[int, float] = {}
        """Since when listeners are closed of which only processes that have ended had counted something."""
        self._last_process: dict[Worker, ProcessFigures] = {}
        self._past_process: dict[int, ProcessFigures] = {}
        self._is_left = False
        self._watches = Watches(lambda: pool.serving)
        self.loop_lag = LoopLag(loop)
        self.holding: set[ListenerName] = set()
        """Listeners whose clients are to be held, because there is no endpoint."""

    @property
    def past(self) -> Mapping[int, ListenerFigures]:
        """What data processes have counted that have ended, by the numbers of listeners."""
        return dict(self._past)

    def begins(self, worker: Worker) -> None:
        """Another data process serves from now on."""
        worker.counted = partial(self._noted, worker)
        self._watches.begins(worker)

    def _noted(self, worker: Worker, counted: Counted) -> None:
        """A data process tells what it has counted of late."""
        known = self._known.setdefault(worker, _Known())
        known.note(counted.open, counted.closed)
        if counted.process is not None:
            self._last_process[worker] = counted.process

    def gone(self, worker: Worker) -> None:
        """A data process has ended: keep what it has counted."""
        known = self._known.pop(worker, _Known())
        for each in (known.open, known.closed):
            for number, figures in each.items():
                self._past[number] = bequest(figures, self._past.get(number))
        process = self._last_process.pop(worker, None)
        if process is not None:
            self._past_process[worker.place] = with_past(process, self._past_process.get(worker.place))

    def leave(self) -> None:
        """As :meth:`LocalDataPlane.leave`. What was told before is told again, and nothing that is newer."""
        self._is_left = True
        self._listeners = dict(self._listeners)

    async def listeners(self, query: Query = ALL) -> tuple[ListenerFigures, ...]:
        """See :class:`~userproxy.model.data_plane.DataPlane`."""
        figures, past = await self._figures(query)
        pace = Pace()
        found = []
        for name, held in list(self._listeners.items()):
            every = figures.get(held.number, ())
            verdict = held.snapshot.verdict if held.snapshot is not None else Verdict.REJECT
            if every or (held.number in past and query.admits_listener(name)):
                one = merged(every, past.get(held.number)) if every else past[held.number]
                found.append(structs.replace(one, listener=name, verdict=verdict, local_port=held.port))
            elif self._is_left and query.admits_listener(name):
                found.append(_unused(held, verdict))
            await pace.keep()
        return tuple(found)

    async def closed_listeners(self) -> tuple[ListenerFigures, ...]:
        """See :class:`~userproxy.model.data_plane.DataPlane`."""
        figures, past = await self._figures(None)
        still_open = {held.number for held in self._listeners.values()}
        found = [merged(every, past.get(number)) for number, every in figures.items() if number not in still_open]
        orphaned = past.keys() - figures.keys() - still_open
        now = self._loop.time()
        self._closed_past = {number: self._closed_past.get(number, now) for number in orphaned}
        for number, since in self._closed_past.items():
            if now - since < KEPT_SECONDS:
                found.append(past[number])
            else:
                self._past.pop(number, None)
        return tuple(found)

    async def _figures(
        self, query: Query | None
    ) -> tuple[Mapping[int, Sequence[ListenerFigures]], Mapping[int, ListenerFigures]]:
        """The figures of all processes by the numbers of listeners, and those of the processes that have ended.

        `query` is for open listeners; None asks for closed ones alone.
        """
        answers = await self._each(lambda number: AskListeners(number, query), _LISTENERS)
        # From here on without a pause: who has ended is among those of the past already, and counts only there.
        found: dict[int, list[ListenerFigures]] = {}
        for worker, answer in answers.items():
            if not worker.is_over:
                known = self._known.setdefault(worker, _Known())
                if self._is_left:
                    for each in answer:
                        known.closed.pop(each.figures.number, None)
                else:
                    if query == ALL:
                        known.open.clear()
                    known.closed.clear()
                opened = [each.figures for each in answer if each.is_open]
                known.note(opened, [each.figures for each in answer if not each.is_open])
                for each in answer:
                    found.setdefault(each.figures.number, []).append(each.figures)
        return self._last_told(query) if self._is_left else found, dict(self._past)

    def _last_told(self, query: Query | None) -> dict[int, list[ListenerFigures]]:
        """As of when data processes told it last: who has let go may have answered less, or nothing."""
        found: dict[int, list[ListenerFigures]] = {}
        for known in self._known.values():
            opened = [
                each for each in known.open.values() if query is not None and query.admits_listener(each.listener)
            ]
            for each in (*opened, *known.closed.values()):
                found.setdefault(each.number, []).append(each)
        return found

    async def connections(self, query: Query = ALL, limit: int = 1000, after: int = 0) -> ConnectionPage:
        """See :class:`~userproxy.model.data_plane.DataPlane`."""
        found = await self.answers_unless_left(
            lambda number: AskConnections(number, query, limit + 1, after), _CONNECTIONS
        )
        found.sort(key=lambda report: report.id)
        if len(found) <= limit:
            return ConnectionPage(tuple(found))
        return ConnectionPage(tuple(found[:limit]), found[limit - 1].id if limit else after)

    async def decisions(self, query: Query = ALL, last: int = 100) -> tuple[Decision, ...]:
        """See :class:`~userproxy.model.data_plane.DataPlane`."""
        found = await self.answers_unless_left(lambda number: AskDecisions(number, query, last), _DECISIONS)
        found.sort(key=lambda decision: decision.time)
        return tuple(found[-last:] if last else ())

    def watch_decisions(
        self, query: Query = ALL, room: int = WATCH_ROOM
    ) -> AbstractAsyncContextManager[Watch[Decision]]:
        """See :class:`~userproxy.model.data_plane.DataPlane`."""
        return self._watches.watch(answers(lambda number: WatchDecisions(number, query, room), _DECISIONS), room)

    def watch_connections(
        self, query: Query = ALL, room: int = WATCH_ROOM
    ) -> AbstractAsyncContextManager[Watch[ConnectionChange]]:
        """See :class:`~userproxy.model.data_plane.DataPlane`."""
        return self._watches.watch(changes(query, room), room)

    def capture(
        self, request: CaptureRequest, room: int = CAPTURE_ROOM
    ) -> AbstractAsyncContextManager[Watch[CaptureEvent]]:
        """See :class:`~userproxy.model.data_plane.DataPlane`."""
        reading = answers(lambda number: Capture(number, request, room), _EVENTS)
        return self._watches.watch(reading, room, _event_bytes)

    async def peek(self, listener: ListenerName, client: str, tried: tuple[Endpoint, ...] = ()) -> Choice:
        """See :class:`~userproxy.model.data_plane.DataPlane`. Every process that may accept the client answers."""
        held = self._listeners[listener]
        workers = [worker for worker in self._pool.serving if held.is_read_at(worker.place)]
        found = await self._each(lambda number: AskChoice(number, listener, client, tried), _CHOICES, workers)
        if self._is_left:
            raise HandedOverError
        choices = [choice for answer in found.values() for choice in answer]
        if not choices:
            raise KeyError(listener)
        return one_of(choices)

    async def processes(self) -> tuple[ProcessFigures, ...]:
        """See :class:`~userproxy.model.data_plane.DataPlane`. The data processes, and then the control process."""
        workers = {worker.place: worker for worker in self._pool.serving}
        answers = await self._each(AskProcess, _PROCESSES)
        # From here on without a pause: who has ended is among those of the past already.
        found = []
        for place in self._pool.places:
            worker = workers.get(place.number)
            answer = answers.get(worker, []) if worker is not None and not worker.is_over else []
            figures = answer[0] if answer else ProcessFigures(0, 0, 0)
            if worker is not None and answer:
                self._last_process[worker] = figures
            elif worker is not None and self._is_left:
                figures = self._last_process.get(worker, figures)
            figures = with_past(figures, self._past_process.get(place.number))
            found.append(structs.replace(figures, role=f"data {place.number}", restarts=place.restarts))
        return (*found, self._control())

    async def lost_answers(self) -> tuple[LostAnswers, ...]:
        """See :class:`~userproxy.model.data_plane.DataPlane`. Several processes may have found the same."""
        found: dict[object, LostAnswers] = {}
        for each in await self.answers(AskLostAnswers, _LOST_ANSWERS):
            before = found.setdefault((each.protocol, each.family, each.interface, each.node), each)
            if each.since < before.since:
                found[each.protocol, each.family, each.interface, each.node] = each
        return tuple(found.values())

    async def ejected_endpoints(self) -> tuple[EjectedEndpoint, ...]:
        """See :class:`~userproxy.model.data_plane.DataPlane`."""
        found: dict[object, EjectedEndpoint] = {}
        for each in sorted(await self.answers(AskEjectedEndpoints, _EJECTED), key=lambda each: each.since):
            found.setdefault((each.listener, each.endpoint), each)
        return tuple(found.values())

    async def balancer_faults(self) -> tuple[BalancerFault, ...]:
        """See :class:`~userproxy.model.data_plane.DataPlane`."""
        return tuple(await self.answers(AskBalancerFaults, _FAULTS))

    async def held_clients(self) -> tuple[HeldClients, ...]:
        """See :class:`~userproxy.model.data_plane.DataPlane`. Nobody is asked as long as nobody holds clients."""
        if not self.holding:
            return ()
        found: dict[ServicePortName, HeldClients] = {}
        for each in await self.answers(AskHeldClients, _HELD):
            before = found.get(each.service_port, HeldClients(each.service_port, 0, 0))
            found[each.service_port] = HeldClients(each.service_port, before.now + each.now, before.ever + each.ever)
        return tuple(found.values())

    def _control(self) -> ProcessFigures:
        return ProcessFigures(
            pid=os.getpid(),
            descriptors=count_descriptors(),
            descriptor_limit=self._descriptor_limit,
            loop_lag_seconds=self.loop_lag.worst,
            role="control",
        )

    async def answers_unless_left(self, question: Callable[[int], Question], decoder: Decoder[Item]) -> list[Item]:
        """As :meth:`answers`, of what is another process's after :meth:`leave`. Raises HandedOverError then."""
        found = [] if self._is_left else await self.answers(question, decoder)
        if self._is_left:
            raise HandedOverError
        return found

    async def answers(self, question: Callable[[int], Question], decoder: Decoder[Item]) -> list[Item]:
        """What all data processes answer; one that ends meanwhile answers nothing."""
        return [item for answer in (await self._each(question, decoder)).values() for item in answer]

    async def _each(
        self, question: Callable[[int], Question], decoder: Decoder[Item], some: Sequence[Worker] | None = None
    ) -> dict[Worker, Sequence[Item]]:
        """What each data process answers, or each of some; one that ends meanwhile answers nothing."""
        workers = self._pool.serving if some is None else some

        async def whole(worker: Worker) -> Sequence[Item]:
            try:
                return await worker.whole(question, decoder)
            except WorkerGoneError:
                return ()

        asking: list[Coroutine[Any, Any, Sequence[Item]]] = [whole(worker) for worker in workers]
        return dict(zip(workers, await asyncio.gather(*asking), strict=True))


def _unused(held: HeldListener, verdict: Verdict) -> ListenerFigures:
    """The figures of a listener that has had no client."""
    endpoints = held.snapshot.endpoints if held.snapshot is not None else ()
    return ListenerFigures(
        held.name,
        verdict,
        held.port,
        datagrams=DatagramFigures() if held.name.service_port.protocol is Protocol.UDP else None,
        endpoints=tuple(map(EndpointFigures, endpoints)),
        number=held.number,
    )


def _has_counted(figures: ListenerFigures) -> bool:
    return bool(figures.total or figures.refused or figures.failed)


def _event_bytes(event: CaptureEvent) -> int:
    return _EVENT_BYTES + (len(event.data) if isinstance(event, Segment) else 0)
