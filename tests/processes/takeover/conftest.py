"""A predecessor in the test's loop, a successor in a thread with a loop of its own, and what passes between them."""

import array
import asyncio
import os
import select
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeAlias, TypeVar

from tests.forwarding.handover.conftest import a_forwarder
from userproxy.forwarding.forwarder import Forwarder
from userproxy.processes.channel import socket_pair
from userproxy.processes.control.forwarding import ProcessForwarder
from userproxy.processes.takeover.packages import GivesPackages, LocalPackages
from userproxy.processes.takeover.predecessor import Possessions, Predecessor
from userproxy.processes.takeover.successor import (
    BACKLOG_SECONDS,
    CannotServeError,
    Heir,
    NotTakenOverError,
    Successor,
)

SETUP = "as in the tests"

Plane: TypeAlias = Forwarder | ProcessForwarder
Answer = TypeVar("Answer")

Packet = tuple[bytes, list[int]]
Meddle = Callable[[int, bool, Packet], Packet | None]
"""Called with the number of a packet, whether it goes to the successor, and the packet: what goes on, None to cut."""


class Middle(threading.Thread):
    """Passes packets and descriptors on between two sockets, unless somebody meddles."""

    def __init__(self, meddle: Meddle) -> None:
        super().__init__(daemon=True)
        self.for_predecessor, ours = socket_pair()
        self.for_successor, its = socket_pair()
        self._ends = (ours, its)
        self._meddle = meddle
        self.count = 0

    def run(self) -> None:
        ours, its = self._ends
        with ours, its, suppress(OSError):
            while True:
                for source in select.select(self._ends, [], [])[0]:
                    packet = received(source)
                    passed = self._meddle(self.count, source is ours, packet) if packet[0] else None
                    self.count += 1
                    if passed is None:
                        for each in packet[1]:
                            socket.close(each)
                        return
                    send(its if source is ours else ours, passed)
                    for each in packet[1]:
                        socket.close(each)


def received(sock: socket.socket) -> Packet:
    data, ancillary, _, _ = sock.recvmsg(1 << 17, socket.CMSG_SPACE(4 * 253), socket.MSG_CMSG_CLOEXEC)
    found = array.array("i")
    for _, _, each in ancillary:
        found.frombytes(each)
    return data, list(found)


def send(sock: socket.socket, packet: Packet) -> None:
    data, descriptors = packet
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    sock.sendmsg([data], rights)


class Beside(threading.Thread):
    """A successor: `plane` is what it serves with. `failure` is why it does not."""

    def __init__(
        self,
        connection: socket.socket,
        setup: str = SETUP,
        version: str = "new",
        make: Callable[[], Plane] = a_forwarder,
        serves: Callable[[], None] = lambda: None,
        backlog_seconds: float = BACKLOG_SECONDS,
    ) -> None:
        super().__init__(daemon=True)
        self._make = make
        self._serves = serves
        self._backlog_seconds = backlog_seconds
        self.nice: int | None = None
        """Of its thread, right after the take-over."""
        self._connection = connection
        self._setup = setup
        self._version = version
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over = asyncio.Event()
        self.done = threading.Event()
        self.ready = threading.Event()
        """Set once its processes run, and it asks."""
        self.failure: NotTakenOverError | CannotServeError | None = None
        self.everything: bool | None = None
        self.sockets: dict[str, int] = {}
        self.listeners: list[str] = []
        self.active = -1
        self.start()

    def run(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.plane = plane = self._make()
        if isinstance(plane, ProcessForwarder):
            await plane.ready()
        self.ready.set()

        def serves() -> None:
            self._serves()
            plane.shares_sockets = True
            plane.went_on()

        def alone() -> None:
            plane.shares_sockets = False

        def listener(each: object, descriptor: int) -> None:
            self.listeners.append(str(each))
            socket.close(descriptor)

        sockets = self.sockets.__setitem__
        heir = Heir(
            self._version, self._setup, plane.take_over, listener, sockets, serves, alone, self._backlog_seconds
        )
        try:
            self.everything = await Successor(self._connection, heir).take_over()
            self.nice = os.getpriority(os.PRIO_PROCESS, 0)
            self.active = plane.active
        except (NotTakenOverError, CannotServeError) as error:
            self.failure = error
            plane.forsake()
        self.done.set()
        await self._over.wait()
        plane.shut_down()
        for descriptor in self.sockets.values():
            socket.close(descriptor)

    async def ask(self, question: Callable[[Plane], Coroutine[Any, Any, Answer]]) -> Answer:
        """What its plane answers, in its loop."""
        assert self._loop is not None
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(question(self.plane), self._loop))

    def end(self) -> None:
        self.done.wait(20)
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._over.set)
        self.join(20)
        assert not self.is_alive()


def possessions(
    plane: Plane, sockets: Iterable[tuple[str, int]] = (), giver: Callable[[], GivesPackages] | None = None
) -> Possessions:
    """What a process has to hand over that has nothing but a data plane, and these sockets."""

    @asynccontextmanager
    async def held() -> AsyncIterator[None]:
        yield

    return Possessions(
        version="old",
        setup=SETUP,
        reluctance=lambda: "",
        held=held,
        giver=giver or (lambda: giver_of(plane)),
        listeners=lambda: (),
        sockets=lambda: dict(sockets),
        given=lambda _everything: plane.forsake(),
    )


def giver_of(plane: Plane) -> GivesPackages:
    return LocalPackages(plane.hand_over()) if isinstance(plane, Forwarder) else plane.hand_over()


async def hand_over(plane: Plane, connection: socket.socket, given: Possessions | None = None) -> bool:
    return await Predecessor(connection, given or possessions(plane)).hand_over()
