"""The control process's part: it ejects endpoints for all data processes, and has one of them try each again."""

import asyncio
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Final

from userproxy.model import Endpoint, IPFamily, ListenerName, Protocol, Snapshot
from userproxy.processes.control.held import HeldListener
from userproxy.processes.control.pool import Pool
from userproxy.processes.control.worker import Worker
from userproxy.processes.ejections.cell_numbers import CellNumbers
from userproxy.processes.ejections.messages import (
    Claimed,
    Eject,
    Failed,
    Failure,
    KnowsEjected,
    Load,
    Loads,
    PassOver,
    Suspect,
    TakeBack,
    TellsOfEjections,
    Tries,
    TriesNot,
    Try,
)
from userproxy.routing.balancers.ejections import TRIAL_SECONDS, Ejected
from userproxy.routing.balancers.shared.case import EjectionCase, usable_of

_USE_SECONDS: Final = 1.0
"""How long a data process has for a trial, whose clients may not come to that endpoint, until another one has."""

_GRAIN_SECONDS: Final = 0.005


class _Turn:
    """Which data process may try an ejected endpoint, if any, and when that is looked at next."""

    def __init__(self) -> None:
        self.worker: Worker | None = None
        self.last_place = 0
        self.timer: asyncio.TimerHandle | None = None


class EjectionDeciding:
    """Decides for all processes of `pool`, by what they tell of `listeners`. To be used on the loop's thread only.

    Failures are counted in memory that all of them share: the process that counts the last one says so here, and here
    it is seen to that every other one knows, and that one of them tries the endpoint again.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, pool: Pool, listeners: Mapping[ListenerName, HeldListener]
    ) -> None:
        self._loop = loop
        self._pool = pool
        self._listeners = listeners
        self._cases: dict[ListenerName, EjectionCase] = {}
        self._numbers = CellNumbers()
        self._all_known: set[IPFamily] = set()
        """Families of which no listener is still to come that another control process had."""
        self._early: dict[ListenerName, tuple[Ejected, ...]] = {}
        """What data processes have said that another control process has left, of listeners that are not known yet."""
        self._turns: dict[tuple[ListenerName, Endpoint], _Turn] = {}

    def close(self) -> None:
        """Cancel all timers."""
        for key in list(self._turns):
            self._forget(key)

    def begins(self, worker: Worker) -> None:
        """Another data process serves from now on."""
        worker.ejections = partial(self._heard, worker)

    def gone(self, worker: Worker) -> None:
        """A data process has ended."""
        for case in self._cases.values():
            case.gone(worker.place)
        for listener in self._numbers:
            self._renounce(listener)
        for key, turn in list(self._turns.items()):
            if turn.worker is worker:
                turn.worker = None
                self._look(key)

    def brief(self, worker: Worker, listener: ListenerName) -> None:
        """Tell a data process what is ejected, that has just been told of a listener."""
        early = self._early.pop(listener, None)
        if early is not None:
            self._restore(listener, early)
        case = self._cases.get(listener)
        if case is not None:
            for each in case.ejected:
                worker.send(Eject(listener, each))

    def follow(self, snapshot: Snapshot) -> None:
        """A listener has other endpoints, or another rule. Data processes know that by now."""
        if snapshot.ejection is None:
            self.forget(snapshot.listener)
            return
        case = self._cases.get(snapshot.listener)
        if case is None:
            return
        for endpoint in case.follow(usable_of(snapshot.endpoints, snapshot.weights), snapshot.ejection):
            self._take_back(snapshot.listener, endpoint)

    def forget(self, listener: ListenerName) -> None:
        """A listener is closed, or ejects no more."""
        self._early.pop(listener, None)
        self._numbers.forget(listener)
        case = self._cases.pop(listener, None)
        if case is not None:
            for each in case.ejected:
                self._forget((listener, each.endpoint))

    def all_known(self, family: IPFamily) -> None:
        """All listeners of a family are open that another control process had, or will never be."""
        self._all_known.add(family)
        for listener in [each for each in self._early if each.family is family]:
            del self._early[listener]

    def cells(self, snapshot: Snapshot) -> tuple[int, ...]:
        """Where data processes count failures of a snapshot's endpoints, each at its place: none where one serves."""
        if len(self._pool.places) == 1:
            return ()
        case = self._cases.get(snapshot.listener)

        def begin(endpoint: Endpoint, number: int) -> None:
            self._begin_cell(number, is_out=case is not None and case.get(endpoint) is not None)

        return self._numbers.follow(snapshot.listener, snapshot.endpoints, begin)

    def _heard(self, worker: Worker, message: TellsOfEjections) -> None:
        match message:
            case Failed(claimed, failures, suspects):
                self._pass_over(suspects, worker)
                for claim in claimed:
                    self._claimed(worker, claim)
                for failure in failures:
                    self._failed(worker, failure)
            case Loads(load):
                self._told(worker, load)
                self._look((load.listener, load.endpoint))
            case Tries(load):
                self._tries(worker, load)
            case TriesNot(listener, endpoint):
                turn = self._turns.get((listener, endpoint))
                if turn is not None and turn.worker is worker:
                    turn.worker = None
                    self._look((listener, endpoint))
            case KnowsEjected(listener, ejected):
                self._restore(listener, ejected)

    def _case(self, listener: ListenerName) -> EjectionCase | None:
        case, held = self._cases.get(listener), self._listeners.get(listener)
        if case is not None or held is None or held.snapshot is None or held.snapshot.ejection is None:
            return case
        snapshot = held.snapshot
        case = EjectionCase(accepting_counts=listener.service_port.protocol is Protocol.TCP)
        case.follow(usable_of(snapshot.endpoints, snapshot.weights), held.snapshot.ejection)
        self._cases[listener] = case
        return case

    def _serving(self, listener: ListenerName) -> list[Worker]:
        """The data processes that have clients of a listener."""
        held = self._listeners.get(listener)
        if held is None:
            return []
        return [each for each in self._pool.serving if listener in each.told and held.is_read_at(each.place)]

    def _told(self, worker: Worker, load: Load) -> EjectionCase | None:
        case = self._case(load.listener)
        if case is not None:
            case.tell(worker.place, load.endpoint, load.total, load.bytes_down)
        return case

    def _pass_over(self, suspects: Iterable[Suspect], teller: Worker | None = None) -> None:
        for worker in self._pool.serving:
            if worker is not teller:
                its = tuple(each for each in suspects if each.listener in worker.told)
                if its:
                    worker.send(PassOver(its))

    def _claimed(self, worker: Worker, claim: Claimed) -> None:
        """A data process has ejected an endpoint."""
        listener, ejected = claim.listener, claim.ejected
        case = self._case(listener)
        if case is None:
            worker.send(TakeBack(listener, ejected.endpoint))
            return
        before = case.get(ejected.endpoint)
        if before is not None:
            worker.send(Eject(listener, before))
        elif case.eject(ejected):
            self._eject(listener, ejected)
        else:
            self._take_back(listener, ejected.endpoint)

    def _failed(self, worker: Worker, failure: Failure) -> None:
        """An endpoint has failed that was ejected when that was told."""
        listener, endpoint = failure.load.listener, failure.load.endpoint
        case, now = self._told(worker, failure.load), self._loop.time()
        if case is None or case.get(endpoint) is None:
            return
        if not case.look(endpoint, now):
            self._take_back(listener, endpoint)
            return
        ejected = case.failed(endpoint, now, failure.reason, by_reset=failure.by_reset)
        if ejected is not None:
            self._eject(listener, ejected)

    def _renounce(self, listener: ListenerName) -> None:
        """A data process has ended: what it has ejected and not told is not."""
        case, memory = self._cases.get(listener), self._pool.ejection_memory
        for endpoint, number in self._numbers.of(listener).items():
            if memory.is_out(number) and (case is None or case.get(endpoint) is None):
                memory.cell(number).clear()

    def _eject(self, listener: ListenerName, ejected: Ejected) -> None:
        self._note_out(listener, ejected.endpoint, is_out=True)
        for worker in self._pool.serving:
            if listener in worker.told:
                worker.send(Eject(listener, ejected))
        turn = self._turns.setdefault((listener, ejected.endpoint), _Turn())
        turn.worker = None
        self._look_at((listener, ejected.endpoint), turn, ejected.until)

    def _take_back(self, listener: ListenerName, endpoint: Endpoint) -> None:
        self._forget((listener, endpoint))
        self._note_out(listener, endpoint, is_out=False)
        for worker in self._pool.serving:
            if listener in worker.told:
                worker.send(TakeBack(listener, endpoint))

    def _note_out(self, listener: ListenerName, endpoint: Endpoint, *, is_out: bool) -> None:
        """Have data processes see whether an endpoint is ejected; its failures in a row begin anew."""
        number = self._numbers.of(listener).get(endpoint, -1)
        if number >= 0:
            self._begin_cell(number, is_out=is_out)

    def _begin_cell(self, number: int, *, is_out: bool) -> None:
        cell = self._pool.ejection_memory.cell(number)
        cell.clear()
        cell.is_out = is_out

    def _forget(self, key: tuple[ListenerName, Endpoint]) -> None:
        turn = self._turns.pop(key, None)
        if turn is not None and turn.timer is not None:
            turn.timer.cancel()

    def _restore(self, listener: ListenerName, ejected: tuple[Ejected, ...]) -> None:
        held = self._listeners.get(listener)
        if held is None or held.snapshot is None:
            if listener.family not in self._all_known:
                self._early[listener] = ejected
            return
        case = self._case(listener)
        if case is not None:
            for each in case.restore(ejected):
                self._eject(listener, each)
            for each in ejected:
                if case.get(each.endpoint) is None:
                    self._take_back(listener, each.endpoint)

    def _tries(self, worker: Worker, load: Load) -> None:
        key = load.listener, load.endpoint
        case, turn = self._told(worker, load), self._turns.get(key)
        if case is not None and turn is not None:
            case.tries(load.endpoint, self._loop.time(), worker.place)
            if turn.worker is worker:
                turn.worker = None
            self._look_at(key, turn, self._loop.time() + TRIAL_SECONDS)

    def _look_at(self, key: tuple[ListenerName, Endpoint], turn: _Turn, when: float) -> None:
        if turn.timer is not None:
            turn.timer.cancel()
        turn.timer = self._loop.call_at(when + _GRAIN_SECONDS, self._look, key)

    def _look(self, key: tuple[ListenerName, Endpoint]) -> None:
        """See whether a trial has succeeded, or have one begun that is due."""
        (listener, endpoint), now = key, self._loop.time()
        case, turn = self._cases.get(listener), self._turns.get(key)
        if case is None or turn is None:
            return
        if not case.look(endpoint, now):
            self._take_back(listener, endpoint)
            return
        ejected = case.get(endpoint)
        if ejected is None or case.is_tried(endpoint, now):
            return  # the timer is set to its end
        if now < ejected.until:
            self._look_at(key, turn, ejected.until)
        elif turn.worker is not None:
            turn.worker.send(Try(listener, endpoint, here=False))
        else:
            self._have_tried(key, turn, now)

    def _have_tried(self, key: tuple[ListenerName, Endpoint], turn: _Turn, now: float) -> None:
        """Give a trial to the next data process in turn."""
        workers = sorted(self._serving(key[0]), key=lambda each: each.place)
        if workers:
            after = [each for each in workers if each.place > turn.last_place]
            turn.worker = (after or workers)[0]
            turn.last_place = turn.worker.place
            turn.worker.send(Try(*key, here=True))
        self._look_at(key, turn, now + _USE_SECONDS)
