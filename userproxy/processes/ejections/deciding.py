"""The control process's part: it ejects endpoints for all data processes, and has one of them try each again."""

import asyncio
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import count
from typing import Final

from userproxy.model import Endpoint, ListenerName, Protocol, Snapshot
from userproxy.processes.control.held import HeldListener
from userproxy.processes.control.pool import Pool
from userproxy.processes.control.worker import Worker
from userproxy.processes.ejections.messages import (
    AskLoad,
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
from userproxy.routing.balancer import SUSPECT_SECONDS
from userproxy.routing.balancers.ejections import TRIAL_SECONDS, Ejected
from userproxy.routing.balancers.shared.case import EjectionCase, usable_of

_ANSWER_SECONDS: Final = 0.5
"""How long to wait for what an endpoint has done for other processes."""

_USE_SECONDS: Final = 1.0
"""How long a data process has for a trial, whose clients may not come to that endpoint, until another one has."""

_GRAIN_SECONDS: Final = 0.005


class _Question:
    """A failure, and who has still to say what the endpoint has done for it."""

    def __init__(self, failure: Failure, waiting: set[Worker], timer: asyncio.TimerHandle) -> None:
        self.failure = failure
        self.waiting = waiting
        self.timer = timer


class _Turn:
    """Which data process may try an ejected endpoint, if any, and when that is looked at next."""

    def __init__(self) -> None:
        self.worker: Worker | None = None
        self.last_place = 0
        self.timer: asyncio.TimerHandle | None = None


class EjectionDeciding:
    """Decides for all processes of `pool`, by what they tell of `listeners`. To be used on the loop's thread only."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, pool: Pool, listeners: Mapping[ListenerName, HeldListener]
    ) -> None:
        self._loop = loop
        self._pool = pool
        self._listeners = listeners
        self._cases: dict[ListenerName, EjectionCase] = {}
        self._questions: dict[int, _Question] = {}
        self._numbers = count(1)
        self._early: dict[ListenerName, tuple[Ejected, ...]] = {}
        """What data processes have said that another control process has left, of listeners that are not known yet."""
        self._turns: dict[tuple[ListenerName, Endpoint], _Turn] = {}

    def close(self) -> None:
        """Cancel all timers."""
        for question in self._questions.values():
            question.timer.cancel()
        for key in list(self._turns):
            self._forget(key)

    def begins(self, worker: Worker) -> None:
        """Another data process serves from now on."""
        worker.ejections = partial(self._heard, worker)

    def gone(self, worker: Worker) -> None:
        """A data process has ended."""
        for case in self._cases.values():
            case.gone(worker.place)
        for number in [each for each, question in self._questions.items() if worker in question.waiting]:
            self._answered(number, worker)
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
        case = self._cases.get(snapshot.listener)
        if case is None:
            return
        if snapshot.ejection is None:
            self.forget(snapshot.listener)
            return
        for endpoint in case.follow(usable_of(snapshot.endpoints, snapshot.weights), snapshot.ejection):
            self._take_back(snapshot.listener, endpoint)

    def forget(self, listener: ListenerName) -> None:
        """A listener is closed, or ejects no more."""
        case = self._cases.pop(listener, None)
        if case is not None:
            for each in case.ejected:
                self._forget((listener, each.endpoint))

    def _heard(self, worker: Worker, message: TellsOfEjections) -> None:
        match message:
            case Failed(failures, suspects):
                self._pass_over(suspects, worker)
                for failure in failures:
                    self._failed(worker, failure)
            case Loads(number, load):
                self._told(worker, load)
                if number:
                    self._answered(number, worker)
                else:
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

    def _failed(self, worker: Worker, failure: Failure) -> None:
        load = failure.load
        case = self._told(worker, load)
        if case is None:
            return
        others = [each for each in self._serving(load.listener) if each is not worker]
        if not others or not case.needs_others(load.endpoint):
            self._judge(case, failure)
            return
        number = next(self._numbers)
        timer = self._loop.call_later(_ANSWER_SECONDS, self._answered, number)
        self._questions[number] = _Question(failure, set(others), timer)
        for other in others:
            other.send(AskLoad(number, load.listener, load.endpoint))

    def _answered(self, number: int, worker: Worker | None = None) -> None:
        """A data process has answered, or None does any more."""
        question = self._questions.get(number)
        if question is None:
            return
        question.waiting.discard(worker) if worker is not None else question.waiting.clear()
        if not question.waiting:
            del self._questions[number]
            question.timer.cancel()
            case = self._case(question.failure.load.listener)
            if case is not None:
                self._judge(case, question.failure)

    def _judge(self, case: EjectionCase, failure: Failure) -> None:
        listener, endpoint, now = failure.load.listener, failure.load.endpoint, self._loop.time()
        before = case.get(endpoint)
        ejected = case.failed(endpoint, now, failure.reason, failure.times, by_reset=failure.by_reset)
        if ejected is not None:
            self._eject(listener, ejected, is_new=before is None)
        elif before is not None and case.get(endpoint) is None:
            self._take_back(listener, endpoint)
        elif before is None and case.is_spent(endpoint):  # half of all are ejected already
            self._pass_over([Suspect(listener, endpoint, now + SUSPECT_SECONDS)])

    def _eject(self, listener: ListenerName, ejected: Ejected, *, is_new: bool) -> None:
        counts = is_new
        for worker in self._pool.serving:
            if listener in worker.told:
                worker.send(Eject(listener, ejected, counts))
                counts = False
        turn = self._turns.setdefault((listener, ejected.endpoint), _Turn())
        turn.worker = None
        self._look_at((listener, ejected.endpoint), turn, ejected.until)

    def _take_back(self, listener: ListenerName, endpoint: Endpoint) -> None:
        self._forget((listener, endpoint))
        for worker in self._pool.serving:
            if listener in worker.told:
                worker.send(TakeBack(listener, endpoint))

    def _forget(self, key: tuple[ListenerName, Endpoint]) -> None:
        turn = self._turns.pop(key, None)
        if turn is not None and turn.timer is not None:
            turn.timer.cancel()

    def _restore(self, listener: ListenerName, ejected: tuple[Ejected, ...]) -> None:
        held = self._listeners.get(listener)
        if held is None or held.snapshot is None:
            self._early[listener] = ejected
            return
        case = self._case(listener)
        if case is not None:
            for each in case.restore(ejected):
                self._eject(listener, each, is_new=False)
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
