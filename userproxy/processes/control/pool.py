"""Keeps as many data processes as are asked for, and one more that waits to take the place of one that dies."""

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from userproxy.forwarding.accept_turns import AcceptTurns, open_tally
from userproxy.forwarding.assembly.options import ForwardingOptions
from userproxy.forwarding.ejection.cells import EjectionMemory
from userproxy.forwarding.handover.taking import HandoverError
from userproxy.forwarding.limits.counts import LimitCounts
from userproxy.model import Problem, ProblemKind
from userproxy.processes.control.heartbeats import Heartbeats
from userproxy.processes.control.orphans import Orphans
from userproxy.processes.control.spawning import Spawning, spawn
from userproxy.processes.control.worker import Worker
from userproxy.processes.messages import Inherited, Leave, Look, Outlive, Resume, Start
from userproxy.processes.transfers import Forsake, GoOn

log = structlog.get_logger()

_IDS: Final = 10**12
"""How many connections a data process may have until its ids are the next one's."""

_STABLE_SECONDS: Final = 60.0
"""A data process that has lived for so long has not died of what it was started with."""

_AT_ONCE: Final = 3
"""So many deaths in quick succession, in one place, are replaced without a pause."""

_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 30.0
_RESERVE_SECONDS: Final = 2.0
"""After a start: the rest of it wants the CPU, and so does who leaves after a take-over."""

_LAST_WORDS_SECONDS: Final = 2.0
_READY_SECONDS: Final = 10.0
_LOOK_EVERY: Final = 0.01


class Place:
    """Where one data process is, and after it another one. `number` counts from 1."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.worker: Worker | None = None
        self.restarts = 0
        self.quick_deaths = 0
        self.last_end = ""
        self.timer: asyncio.TimerHandle | None = None

    def cancel(self) -> None:
        """Cancel what is to be done here later."""
        if self.timer is not None:
            self.timer.cancel()

    @property
    def is_loading(self) -> bool:
        """Whether a process has been started here that does not run yet."""
        return self.worker is not None and not self.worker.is_ready

    @property
    def problem(self) -> Problem | None:
        """What is to be said of it: that a process has ended here within the last minute."""
        if not self.quick_deaths:
            return None
        times = f"{self.restarts} times, last" if self.restarts > 1 else "once,"
        what = "it is replaced after ever longer pauses" if self.failing else "it was replaced at once"
        text = f"data process {self.number} has ended {times} by {self.last_end}: its connections were cut, and {what}"
        return Problem(None, ProblemKind.DATA_PROCESS_ENDED, text, here=True)

    @property
    def failing(self) -> bool:
        """Whether data processes die here one after the other."""
        return self.quick_deaths > _AT_ONCE

    @property
    def pause(self) -> float:
        """How long to wait, in seconds, before the next one takes the place."""
        if not self.failing:
            return 0.0
        doublings: int = self.quick_deaths - _AT_ONCE - 1
        return min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0**doublings)


class Pool:
    """All data processes.

    `begins` is called with a process that takes a place, to be told all there is. `gone` is called when one has left
    its place, before another takes it. `changed` is called when problems may be others.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        count: int,
        spawning: Spawning,
        options: ForwardingOptions,
        begins: Callable[[Worker], None],
        gone: Callable[[Worker], None],
        changed: Callable[[], None],
    ) -> None:
        """Nothing runs before :meth:`begin`. Raises OSError where there is no memory to share."""
        self._loop = loop
        self._spawning = spawning
        self._options = options
        self._begins = begins
        self._gone = gone
        self._changed = changed
        self._outlive = Outlive("")
        self._share(open_tally(), count)
        self.places = [Place(number) for number in range(1, count + 1)]
        self._incarnations = 0
        self._unstarted: list[Place] = []
        """Where no process has been started yet."""
        self._spare: Worker | None = None
        self._spare_timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._heartbeats = Heartbeats(loop, lambda: self.serving)
        self._retiring: list[Worker] = []
        """Processes of another control process that are of no use to us, and end with their last client."""
        self.last_number = 0
        """The highest number that a listener has had whose figures adopted processes have."""

    @property
    def serving(self) -> list[Worker]:
        """The processes that serve."""
        return [place.worker for place in self.places if place.worker is not None]

    @property
    def running(self) -> list[Worker]:
        """The processes that serve, and the one in reserve."""
        return [*self.serving, *([self._spare] if self._spare is not None else [])]

    def all_serving(self) -> list[Worker]:
        """The processes of all places. Raises HandoverError where there is none at one."""
        if len(self.serving) < len(self.places):
            raise HandoverError("a data process has ended")
        return self.serving

    @property
    def problems(self) -> frozenset[Problem]:
        """One for each place where a process has ended within the last minute."""
        return frozenset(place.problem for place in self.places if place.problem is not None)

    @property
    def failing(self) -> tuple[str, ...]:
        """A sentence for each place where processes die one after the other."""
        return tuple(place.problem.text for place in self.places if place.failing and place.problem is not None)

    @property
    def is_down(self) -> bool:
        """Whether no data process serves, and none is about to."""
        return all(place.worker is None and place.failing for place in self.places)

    @property
    def usable(self) -> list[int]:
        """The places, by number, whose processes serve or soon will."""
        return [place.number for place in self.places if not place.failing] or [1]

    def adopt(self, path: str) -> list[tuple[Inherited, int]]:
        """Adopt the data processes that another control process has left; returns their sockets, by member, each once.

        `path` is where :class:`Outlive` told them to be found. What cannot be adopted serves its clients to their end.
        To be called before :meth:`begin`. Blocking, for as long as they need to say what they have.
        """
        orphans = Orphans(self._loop, path, self._ready, self._ended)
        adopted = orphans.adopted(len(self.places), self._options)
        self._retiring = orphans.others
        if orphans.tally is not None:
            os.close(self._tally)
            self._turns.close()
            self._share(orphans.tally, len(self.places), fresh=False)
        for number in range(1, len(self.places) + 1):
            if number in adopted:
                self.places[number - 1].worker = adopted[number]
                adopted[number].place = number
                adopted[number].is_ready = True
                adopted[number].send(Resume())
                adopted[number].send(self._spawning.logging)
            else:
                self._turns.absent(number - 1)
                self._counts.clear(number - 1)
        self._incarnations = orphans.last_id // _IDS + 1 if adopted else 0
        self.last_number = orphans.last_number
        return sorted(orphans.sockets, key=lambda each: each[0].member)

    def outlive(self, path: str) -> None:
        """Have data processes serve on if we go without a word, to be found at `path`; not, if that is empty."""
        self._outlive = Outlive(path)
        for worker in self.serving:
            worker.send(self._outlive)

    def _share(self, tally: int, count: int, *, fresh: bool = True) -> None:
        self._tally = tally
        self._turns = AcceptTurns(tally, count)
        self._counts = LimitCounts(tally, count)
        self.ejection_memory = EjectionMemory(tally, count)
        """Where data processes count failures of endpoints."""
        if fresh:
            for number in range(count):
                self._turns.absent(number)

    def begin(self) -> None:
        """Have the processes that were adopted follow us. The others are not started yet."""
        self._unstarted = [place for place in self.places if place.worker is None]
        for worker in self.serving:
            self._begins(worker)
        self._heartbeats.start()

    def start(self) -> None:
        """Start all processes that are not. Raises OSError.

        The one in reserve comes later (:meth:`keep_spare`): a start has better uses for the CPU.
        """
        unstarted, self._unstarted = self._unstarted, []
        for place in unstarted:
            self._start(place)

    def keep_spare(self) -> None:
        """From now on have a process wait to take the place of one that dies; it is started in a moment."""
        if self._spare_timer is None:
            self._spare_timer = self._loop.call_later(_RESERVE_SECONDS, self._spawn_spare)

    def log_so(self, spawning: Spawning) -> None:
        """Start processes so from now on, and have those that there are log so."""
        self._spawning = spawning
        for worker in self.running:
            worker.send(spawning.logging)

    def shut_down(self, end: float) -> None:
        """End all processes, blocking until they have ended, at most until `end` on the monotonic clock."""
        self._closed = True
        self._heartbeats.stop()
        workers = self.running
        for place in self.places:
            place.cancel()
        for worker in workers:
            worker.send(Leave())
            worker.end()
        for worker in workers:
            worker.wait(end)
        self._turns.close()

    async def ready(self) -> None:
        """Wait until all processes run, for some seconds at most. Raises OSError where one cannot be started.

        Those that are not started yet are started one after the other, and each has as long: to load a program takes a
        CPU for a third of a second, which clients of another userproxy would have to share.
        """
        await self._ready_at(self.places)
        while self._unstarted:
            place = self._unstarted.pop(0)
            self._start(place)
            await self._ready_at([place])

    async def _ready_at(self, places: Sequence[Place]) -> None:
        end = self._loop.time() + _READY_SECONDS
        while self._loop.time() < end and any(place.is_loading for place in places):  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_EVERY)

    def _start(self, place: Place) -> None:
        self._take(place, self._spawn(f"data process {place.number} of {len(self.places)}"))

    def forsake(self) -> None:
        """Have all processes end without a word to any peer: what they have is another userproxy's now, or still."""
        self._closed = True
        for place in self.places:
            place.cancel()
        for worker in self.serving:
            worker.send(Forsake())
            worker.channel.flush(0.0)
        if self._spare is not None:
            self._spare.send(Leave())

    def go_on(self, last_id: int) -> None:
        """Have all processes begin with what they have taken in, whose ids are `last_id` at most."""
        first = last_id // _IDS + 1
        for place in self.places:
            if place.worker is not None:
                place.worker.send(GoOn((first + place.number - 1) * _IDS))
                place.worker.channel.flush(_LAST_WORDS_SECONDS)
        self._incarnations = first + len(self.places)

    def _spawn(self, words: str) -> Worker:
        return Worker(self._loop, *spawn(self._spawning, words), self._ready, self._ended)

    def _ready(self, worker: Worker) -> None:
        if worker.place:
            self._turns.present(worker.place - 1)

    def _spawn_spare(self) -> None:
        if self._spare is None and not self._closed:
            try:
                self._spare = self._spawn("data process, to replace another")
            except OSError as error:
                log.warning("No data process waits to replace another", reason=error.strerror)

    def _take(self, place: Place, worker: Worker) -> None:
        """Have a process serve at a place."""
        self._incarnations += 1
        place.worker = worker
        worker.place = place.number
        place.timer = self._loop.call_later(_STABLE_SECONDS, self._settled, place)
        if worker.is_ready:
            self._ready(worker)
        start = Start(place.number, len(self.places), self._options, (self._incarnations - 1) * _IDS)
        worker.send(start, [self._tally])
        worker.send(self._outlive)
        self._begins(worker)

    def _settled(self, place: Place) -> None:
        place.quick_deaths = 0
        self._changed()

    def _ended(self, worker: Worker, how: str) -> None:
        if self._closed or not (worker.place or worker is self._spare):
            return
        if worker is self._spare:
            self._spare = None
            log.warning("The data process that was to replace another has ended", pid=worker.pid, reason=how)
            self._loop.call_later(_FIRST_PAUSE, self._spawn_spare)
            return
        place = self.places[worker.place - 1]
        place.worker = None
        place.restarts += 1
        place.last_end = how
        place.quick_deaths += 1
        place.cancel()
        self._turns.absent(worker.place - 1)
        self._counts.clear(worker.place - 1)
        for other in self.serving:
            other.send(Look())
        log.error(
            "A data process has ended: its connections are cut, the others serve",
            number=place.number,
            pid=worker.pid,
            reason=how,
            connections=worker.pulse.connections,
            udp_flows=worker.pulse.flows,
            replaced_after_seconds=place.pause,
        )
        self._gone(worker)
        self._changed()
        if place.pause:
            place.timer = self._loop.call_later(place.pause, self._replace, place)
        else:
            self._replace(place)

    def _replace(self, place: Place) -> None:
        worker, self._spare = self._spare, None
        try:
            if worker is None:
                worker = self._spawn(f"data process {place.number} of {len(self.places)}")
        except OSError as error:
            log.error("A data process cannot be started", number=place.number, reason=error.strerror)
            place.timer = self._loop.call_later(_FIRST_PAUSE, self._replace, place)
            return
        self._take(place, worker)
        self._spawn_spare()
