"""The control process's end of one data process: its channel, its answers, and what it has been told."""

import asyncio
import itertools
import os
import socket
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, Generic, Protocol, TypeVar

import structlog
from msgspec import Struct

from userproxy.model import ListenerName, PortalAddress
from userproxy.processes.channel import Channel, Decoder
from userproxy.processes.control.spawning import Child
from userproxy.processes.ejections.messages import Failed, KnowsEjected, Loads, TellsOfEjections, Tries, TriesNot
from userproxy.processes.messages import (
    Counted,
    Drained,
    Estate,
    FromData,
    Inherited,
    Learned,
    NotServed,
    PortalNotServed,
    Pulse,
    Ready,
    Refused,
)
from userproxy.processes.questions import Answer, Enough, Question
from userproxy.processes.transfers import AllGiven, Arrived, AskRead, Given, HasRead

log = structlog.get_logger()

Item = TypeVar("Item")

_LAST_WORDS_SECONDS: Final = 0.05
"""How long what a data process has said before its end is read, as what it has counted, and which endpoints failed."""


class Part(Struct, Generic[Item], frozen=True):
    """Part of an answer, empty where a watch has begun. `lost` are events that the data process has thrown away."""

    items: Sequence[Item]
    lost: int = 0


class WorkerGoneError(Exception):
    """The data process has ended before it had answered."""


class TellsWhatItHas(Protocol):
    """Who gets what a data process has for another userproxy."""

    def heard(self, worker: "Worker", message: Given | AllGiven, descriptors: list[int]) -> None:
        """It has told something. The descriptors are for whoever gets this."""

    def gone(self, worker: "Worker") -> None:
        """It has ended."""


class Worker:
    """One data process. `ready` and `ended` are called once each, the latter with the reason.

    `told` are the listeners and portals that it knows of.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pid: int,
        sock: socket.socket,
        ready: Callable[["Worker"], None],
        ended: Callable[["Worker", str], None],
    ) -> None:
        """Take over a connection to a process that runs. Raises OSError, with the connection closed."""
        self._loop = loop
        self._ready = ready
        self._ended = ended
        self._answers: dict[int, asyncio.Queue[Answer | None]] = {}
        self._numbers = itertools.count(1)
        self.pid = pid
        try:
            self._child = Child(loop, self.pid, self._child_ended)
        except OSError:
            sock.close()  # which ends it
            raise
        decoder: Decoder[FromData] = Decoder(FromData)
        self.channel = Channel(loop, sock, decoder, self._received, self._lost)
        self.place = 0
        """The number of its place, 0 while it waits for one."""
        self.is_ready = False
        self.is_over = False
        self.pulse = Pulse(0, 0)
        self.messages = 0
        """How many it has sent."""
        self.counted: Callable[[Counted], None] = lambda _: None
        """Called with what it has counted."""
        self.ejections: Callable[[TellsOfEjections], None] = lambda _: None
        """Called with what it tells of endpoints that fail."""
        self.learned: Callable[[Learned], None] = lambda _: None
        """Called with what it has found out of answers to clients' addresses."""
        self._why_killed = ""
        self.told: set[ListenerName | PortalAddress] = set()
        self.untold: OrderedDict[ListenerName | PortalAddress, None] = OrderedDict()
        """What it is to be told of. To take the first one out of a dict takes the longer the more have been taken."""
        self.is_new = False
        """Whether it is still to be told what there was when it began."""
        self.drained: asyncio.Future[int] | None = None
        self.inherited: list[tuple[Inherited, int]] = []
        """What it has had from a control process before us, with descriptors."""
        self.estate: tuple[Estate, int] | None = None
        self.refusal = ""
        self.gives_to: TellsWhatItHas | None = None
        """Who gets what it has, if another userproxy is to."""
        self._has_read = False
        self.arrived: str | None = None
        """What it has said last of what it was to take in: an empty string that all was, or why not."""

    def send(self, message: object, descriptors: Sequence[int] = ()) -> None:
        """Tell it something. A data process that cannot be told is ended."""
        try:
            self.channel.send(message, descriptors)
        except OSError as error:
            self._lost(f"it cannot be sent a descriptor: {error.strerror}")

    def drain(self, message: object) -> "asyncio.Future[int]":
        """Have it drain; the future is how many connections were reset, 0 where it ends before it says so."""
        self.drained = self._loop.create_future()
        self.send(message)
        return self.drained

    @asynccontextmanager
    async def ask(
        self, question: Callable[[int], Question], decoder: Decoder[Item]
    ) -> AsyncIterator[AsyncIterator[Part[Item]]]:
        """Ask something, and within this get the parts of the answer. Its iterator raises WorkerGoneError."""
        number = next(self._numbers)
        queue = self._answers[number] = asyncio.Queue[Answer | None]()
        if self.is_over:
            queue.put_nowait(None)
        self.send(question(number))
        try:
            yield self._parts(queue, decoder)
        finally:
            del self._answers[number]
            self.send(Enough(number))

    async def whole(self, question: Callable[[int], Question], decoder: Decoder[Item]) -> list[Item]:
        """The whole answer to a question. Raises WorkerGoneError."""
        found: list[Item] = []
        async with self.ask(question, decoder) as parts:
            async for part in parts:
                found += part.items
        return found

    def settle(self, seconds: float) -> bool:
        """Wait until it has dealt with all that was sent so far, blocking; whether it has, within so many seconds."""
        self._has_read = False
        self.send(AskRead())
        return self.channel.wait(lambda: self._has_read, seconds)

    def end(self) -> None:
        """Close the channel, which ends it, as soon as it has dealt with what it was told before."""
        self.channel.flush(0.0)
        self.channel.close()

    def kill(self, why: str) -> None:
        """End it at once, with all its connections; `why` is a clause for people."""
        self._why_killed = why
        self._child.kill()

    def wait(self, end: float) -> None:
        """Wait for its end, blocking; at `end`, on the monotonic clock, it is killed."""
        self._child.wait(end)

    async def _parts(self, queue: "asyncio.Queue[Answer | None]", decoder: Decoder[Item]) -> AsyncIterator[Part[Item]]:
        while True:
            answer = await queue.get()
            if answer is None:
                raise WorkerGoneError
            if answer.failure:
                log.debug("A data process has not answered", v=1, pid=self.pid, reason=answer.failure)
            if answer.parts or not answer.last:
                yield Part([decoder.decode(part) for part in answer.parts], answer.lost)
            if answer.last:
                return

    def _received(self, message: FromData, descriptors: list[int]) -> None:
        self.messages += 1
        self._take(message, descriptors)
        match message:
            case Ready():
                self.is_ready = True
                self._ready(self)
            case Answer():
                queue = self._answers.get(message.id)
                if queue is not None:
                    queue.put_nowait(message)
            case Pulse():
                self.pulse = message
            case Counted():
                self.counted(message)
            case Failed() | Loads() | Tries() | TriesNot() | KnowsEjected():
                self.ejections(message)
            case Learned():
                self.learned(message)
            case NotServed() | PortalNotServed():
                self._not_served(message)
            case Refused(reason):
                self.refusal = reason
            case HasRead() | Arrived():
                self._has_come_so_far(message)
            case Drained(reset):
                self._has_drained(reset)

    def _has_come_so_far(self, message: HasRead | Arrived) -> None:
        if isinstance(message, Arrived):
            self.arrived = message.failure
        else:
            self._has_read = True

    def _has_drained(self, reset: int) -> None:
        if self.drained is not None and not self.drained.done():
            self.drained.set_result(reset)

    def _not_served(self, message: NotServed | PortalNotServed) -> None:
        name = message.listener if isinstance(message, NotServed) else message.address
        self.told.discard(name)
        what = "listener" if isinstance(message, NotServed) else "portal"
        log.error(f"A data process does not serve a {what}", pid=self.pid, reason=message.reason, **{what: str(name)})

    def _take(self, message: FromData, descriptors: list[int]) -> None:
        """Keep the descriptor that belongs to a message, and no other."""
        if descriptors and isinstance(message, Inherited):
            self.inherited.append((message, descriptors.pop()))
        elif descriptors and isinstance(message, Estate):
            self.estate = message, descriptors.pop()
        elif self.gives_to is not None and isinstance(message, Given | AllGiven):
            self.gives_to.heard(self, message, descriptors)
            return
        for descriptor in descriptors:
            os.close(descriptor)

    def _lost(self, reason: str) -> None:
        """The channel has ended: nothing can be said to the process any more."""
        if not self._child.is_over:
            log.debug("A data process is ended", v=1, pid=self.pid, reason=reason)
            self._child.kill()

    def leave_alone(self) -> None:
        """Close the channel, and leave the process to itself."""
        self.channel.close()
        self.give_back()

    def give_back(self) -> None:
        """Close our copies of the sockets that it has had from a control process before us."""
        for _, descriptor in self.inherited:
            os.close(descriptor)
        self.inherited.clear()
        if self.estate is not None:
            os.close(self.estate[1])
            self.estate = None

    def _child_ended(self, how: str) -> None:
        self.channel.finish(_LAST_WORDS_SECONDS)
        self.is_over = True
        for queue in self._answers.values():
            queue.put_nowait(None)
        self._has_drained(0)
        if self.gives_to is not None:
            self.gives_to.gone(self)
        self._ended(self, f"{how}, because {self._why_killed}" if self._why_killed else how)
