"""Hands over what all data processes have: each describes its own, and the control process passes that on."""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from itertools import islice
from typing import Final

from msgspec import Raw

from userproxy.forwarding.handover.noting import SnapshotWatch
from userproxy.forwarding.handover.values import (
    Item,
    Last,
    ListenerHandedOver,
    PathHandedOver,
    PortalHandedOver,
    SnapshotChanged,
)
from userproxy.forwarding.observation.counters import NOTHING_COUNTED
from userproxy.forwarding.observation.figures import counted
from userproxy.forwarding.udp.groups.group import DatagramGroup
from userproxy.model import IPFamily, ListenerName, ReturnPath
from userproxy.model.reports import ListenerFigures
from userproxy.pace import UnhurriedPace
from userproxy.processes.channel import close_descriptors, encode
from userproxy.processes.control.held import HeldListener
from userproxy.processes.control.held_portals import HeldPortals
from userproxy.processes.control.worker import Worker
from userproxy.processes.takeover.packages import GivenUpError, Package
from userproxy.processes.takeover.token import Token
from userproxy.processes.transfers import AllGiven, Give, GiveChanged, Given, GiveRest, ServeOn
from userproxy.routing.balancers.state import NO_STATE

_AHEAD: Final = 32
"""Parts that a data process may have told of before the first of them is passed on: their descriptors are ours, too."""

_TOGETHER: Final = 4
"""So many listeners are one message: a process has most to do for each message, and little for each listener in it. One
after the other this process and all of the successor's then take a CPU for a fifth of a millisecond each: with twice as
many clients wait twice as long, and with half of it the hand-over takes too long."""

_ANSWER_SECONDS: Final = 10.0
"""How long a data process may say nothing, while it serves."""

_ATTEMPTS: Final = itertools.count(1)

_ENDED: Final = "a data process has ended meanwhile"


class ProcessesGiver:
    """Hands over listeners and portals, which the control process holds, and what is told of by `workers`.

    `paths` are what was found out about this host, and `hosts` the addresses that listeners are opened at.
    `past` are the figures of data processes that have ended. Use one for each attempt.

    The control process is the first one, 0, to the other side, and its data processes follow.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        listeners: Mapping[ListenerName, HeldListener],
        portals: HeldPortals,
        paths: Mapping[IPFamily, ReturnPath],
        hosts: Mapping[IPFamily, str],
        past: Mapping[int, ListenerFigures],
        watches: list[SnapshotWatch],
    ) -> None:
        """From now on it is told of changed snapshots, as one of `watches`."""
        self.attempt = next(_ATTEMPTS)
        """Its number, by which late answers to an earlier one are known."""
        self._workers = workers
        self._listeners = listeners
        self._portals = portals
        self._hosts = hosts
        self._past = past
        self._paths = paths
        self._renewed: dict[ListenerName, None] = {}
        """Listeners that have had another snapshot since they were handed over."""
        self._watches = watches
        watches.append(self)
        self._told: dict[Worker, deque[tuple[Given | AllGiven, list[int]]]] = {each: deque() for each in workers}
        self._news = asyncio.Event()

    async def first(self) -> AsyncGenerator[Package, None]:
        """See :class:`GivesPackages`."""
        pace = UnhurriedPace()
        for package in _together(self._held()):
            yield package
            await pace.rest()
        for plane, worker in enumerate(self._workers, 1):
            worker.gives_to = self
            worker.send(Give(_AHEAD, self.attempt))
            async with aclosing(self._told_by(worker, plane)) as told:
                async for package in told:
                    yield package

    async def changed(self) -> AsyncGenerator[Package, None]:
        """See :class:`GivesPackages`. All begin at the same time: nobody's is older than it must be."""
        for package in self._changed_snapshots():
            yield package
        for worker in self._workers:
            worker.send(GiveChanged(_AHEAD, self.attempt))
        for plane, worker in enumerate(self._workers, 1):
            async with aclosing(self._told_by(worker, plane)) as told:
                async for package in told:
                    yield package

    async def _told_by(self, worker: Worker, plane: int) -> AsyncGenerator[Package, None]:
        while True:
            message, descriptors = await self._next(worker)
            with closing(_Copies(descriptors)):
                if isinstance(message, AllGiven):
                    _check(message)
                    return
                yield Package(message.items, descriptors, plane)
            worker.send(Give(1, self.attempt))

    def rest(self, token: Token, end: float) -> Generator[Package, None, None]:
        """See :class:`GivesPackages`."""
        last_id = 0
        yield from self._changed_snapshots()
        for worker in self._workers:
            worker.send(GiveRest(self.attempt), [token.reading, token.writing])
        for plane, worker in enumerate(self._workers, 1):
            while True:
                message, descriptors = self._next_now(worker, end)
                with closing(_Copies(descriptors)):
                    if isinstance(message, AllGiven):
                        _check(message)
                        last_id = max(last_id, message.last_id)
                        break
                    yield Package(message.items, descriptors, plane)
        yield Package(Raw(encode([Last(last_id)])), ())

    def cancel(self, *, lingers: bool = False) -> None:
        """See :class:`GivesPackages`."""
        self._watches.remove(self)
        for worker in self._workers:
            worker.gives_to = None
            worker.send(ServeOn(lingers))
        for told in self._told.values():
            for _, descriptors in told:
                close_descriptors(descriptors)
            told.clear()

    def renewed(self, listener: ListenerName) -> None:
        """See :class:`~userproxy.forwarding.handover.noting.SnapshotWatch`."""
        self._renewed[listener] = None

    def heard(self, worker: Worker, message: Given | AllGiven, descriptors: list[int]) -> None:
        """See :class:`TellsWhatItHas`."""
        if message.attempt != self.attempt:
            close_descriptors(descriptors)
            return
        self._told[worker].append((message, descriptors))
        self._news.set()

    def gone(self, _worker: Worker) -> None:
        """See :class:`TellsWhatItHas`."""
        self._news.set()

    def _held(self) -> Iterator[tuple[Item, list[int]]]:
        for path in list(self._paths.values()):
            yield PathHandedOver(path), []
        for name, held in list(self._listeners.items()):
            yield self._listener(name, held)
        opened = {held.number for held in self._listeners.values()}
        for number, figures in self._past.items():
            if number not in opened:
                state = counted(figures)
                yield (
                    ListenerHandedOver(number, figures.listener, is_open=False, balancer=NO_STATE, counters=state),
                    [],
                )
        for address, portal in list(self._portals.portals.items()):
            yield PortalHandedOver(address, portal.admission, len(portal.sockets) - 1), portal.descriptors

    def _changed_snapshots(self) -> Iterator[Package]:
        renewed, self._renewed = self._renewed, {}
        held = [self._listeners[name] for name in renewed if name in self._listeners]  # a stop may close them
        changed = [SnapshotChanged(each.number, each.snapshot) for each in held if each.snapshot is not None]
        return _together((each, []) for each in changed)

    def _listener(self, name: ListenerName, held: HeldListener) -> tuple[ListenerHandedOver, list[int]]:
        first, further = list(held.descriptors[:1]), held.descriptors[1:]
        holder = held.sock.members[0].holder if isinstance(held.sock, DatagramGroup) else None
        if holder is not None:
            first.append(holder.fileno())
        item = ListenerHandedOver(
            held.number,
            name,
            is_open=True,
            balancer=NO_STATE,
            counters=counted(self._past[held.number]) if held.number in self._past else NOTHING_COUNTED,
            port=held.port,
            host=self._hosts[name.family] if isinstance(held.sock, DatagramGroup) else "",
            verdict=held.verdict,
            is_held=holder is not None,
            further=len(further),
            snapshot=held.snapshot,
        )
        return item, [*first, *further]

    async def _next(self, worker: Worker) -> tuple[Given | AllGiven, list[int]]:
        told = self._told[worker]
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                while not told:
                    if worker.is_over:
                        raise GivenUpError(_ENDED)
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise GivenUpError(f"a data process has said nothing for {_ANSWER_SECONDS:g} s") from None
        return told.popleft()

    def _next_now(self, worker: Worker, end: float) -> tuple[Given | AllGiven, list[int]]:
        told = self._told[worker]
        if not told:
            worker.channel.wait(lambda: bool(told), end - time.monotonic())
        if not told:
            raise GivenUpError(
                _ENDED if not worker.channel.open else "a data process takes too long to describe the rest"
            )
        return told.popleft()


def _together(given: Iterator[tuple[Item, list[int]]]) -> Iterator[Package]:
    """Several values in each package. Those of one are asked for at the same time: descriptors stay whose they are."""
    while some := list(islice(given, _TOGETHER)):
        items = [item for item, _ in some]
        yield Package(Raw(encode(items)), [descriptor for _, its in some for descriptor in its])


class _Copies:
    """Descriptors that are ours until they have been passed on."""

    def __init__(self, descriptors: list[int]) -> None:
        self._descriptors = descriptors

    def close(self) -> None:
        close_descriptors(self._descriptors)


def _check(message: AllGiven) -> None:
    if message.failure:
        raise GivenUpError(message.failure)
