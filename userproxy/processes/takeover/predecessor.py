"""Hands a running proxy over to a successor that asks for it."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, closing
from socket import socket
from typing import Final, TypeVar

import structlog
from msgspec import Struct

from userproxy.forwarding.handover.values import release
from userproxy.processes.channel import Channel, Decoder
from userproxy.processes.takeover.messages import (
    PROTOCOL,
    Ask,
    Commit,
    Offer,
    PlainListener,
    PlainListeners,
    Ready,
    Refusal,
    Serving,
    Sockets,
    Things,
    ToPredecessor,
)
from userproxy.processes.takeover.packages import GivenUpError, GivesPackages, Package
from userproxy.processes.takeover.phases import Phases
from userproxy.processes.takeover.token import Token
from userproxy.processes.takeover.urgency import Urgency

log = structlog.get_logger()

Expected = TypeVar("Expected", Ask, Ready, Serving)

ANSWER_SECONDS: Final = 10.0
"""How long a successor may take for what it has to say, while we serve on."""

PAUSE_SECONDS: Final = 0.5
"""For how long nobody is served at most, before the successor is given up."""

_ROUNDS: Final = 4
_FEW: Final = 8_000
"""Bytes: some fifty connections and flows. Where so little has changed another round would find no less."""

_LOW_WATER: Final = 0
"""Bytes that may wait while more is made. What waits has copies of its descriptors made, and closed again."""

_LAST_SECONDS: Final = 5.0
"""How long to wait for a successor that has read the byte and does not say so; it is about to."""


class Possessions(Struct, frozen=True):
    """What a proxy has to hand over.

    `setup` is to be the same in the successor. `reluctance` says why nothing can be handed over now, empty if it can.
    Without a `giver` listeners alone are handed over. In the context of `held` listeners and claims stay as they are.
    `given` is called in the very turn in which all is the successor's, with whether that is everything, or listeners
    alone.
    """

    version: str
    setup: str
    reluctance: Callable[[], str]
    held: Callable[[], AbstractAsyncContextManager[None]]
    giver: Callable[[], GivesPackages] | None
    listeners: Callable[[], Iterable[tuple[PlainListener, int]]]
    sockets: Callable[[], Mapping[str, int]]
    given: Callable[[bool], None]


class Predecessor:
    """One attempt, with one successor that has connected."""

    def __init__(self, connection: socket, possessions: Possessions) -> None:
        self._possessions = possessions
        self._said: list[ToPredecessor] = []
        self._news = asyncio.Event()
        self._end = ""
        self._is_given = False
        decoder: Decoder[ToPredecessor] = Decoder(ToPredecessor)
        self._channel = Channel(
            asyncio.get_running_loop(), connection, decoder, self._heard, self._ended, low_water=_LOW_WATER
        )

    async def hand_over(self) -> bool:
        """Whether all is the successor's now. Whatever goes wrong before is logged, and changes nothing."""
        began = time.monotonic()
        try:
            pause = await self._hand_over()
        except Exception as error:  # whatever it is: our clients are to be served on
            if self._is_given:
                raise
            if not isinstance(error, GivenUpError | OSError):
                log.exception("A hand-over has failed")
            reason = str(error)
            log.warning("A successor could not take over: serving on", reason=reason)
            self._channel.send(Refusal(reason))
            return False
        finally:
            self._channel.close()
        seconds = round(time.monotonic() - began, 3)
        log.info("Handed over to a successor", seconds=seconds, pause_seconds=round(pause, 4))
        return True

    async def _hand_over(self) -> float:
        """For how many seconds nobody was served."""
        asked = await self._answer(Ask)
        if asked.protocol != PROTOCOL:
            raise GivenUpError(f"it speaks protocol {asked.protocol}, and this release {PROTOCOL}")
        if asked.setup != self._possessions.setup:
            raise GivenUpError(f"it is to serve otherwise: {asked.setup}, and not {self._possessions.setup}")
        if reluctance := self._possessions.reluctance():
            raise GivenUpError(reluctance)
        make_giver = self._possessions.giver if asked.values == release() else None
        everything = make_giver is not None
        if not everything:
            log.info("A successor cannot have connections and flows: it gets listeners", its_version=asked.version)
        self._channel.send(Offer(self._possessions.version, everything))
        async with self._possessions.held():
            giver = make_giver() if make_giver is not None else None
            try:
                if giver is not None:
                    await self._send_first(giver)
                else:
                    self._send_listeners()
                await self._send_sockets()
                await self._until_ready()
                if giver is not None:
                    await self._send_changed(giver)
                pause = self._switch(giver)
            finally:
                if giver is not None and not self._is_given:
                    giver.cancel(lingers=not self._has_let_go)
        return pause

    async def _send_first(self, giver: GivesPackages) -> None:
        await self._send_all(giver.first())

    async def _send_changed(self, giver: GivesPackages) -> None:
        """Send what has changed while the rest was sent, in ever shorter rounds: little is left for the pause then."""
        for _ in range(_ROUNDS):
            size = await self._send_all(giver.changed())
            await self._until_ready()
            if size <= _FEW:
                break

    async def _send_all(self, packages: AsyncGenerator[Package, None]) -> int:
        """How many bytes they were."""
        size = 0
        async with aclosing(packages):
            async for package in packages:
                self._channel.send(Things(package.items, package.plane), package.descriptors)
                size += memoryview(package.items).nbytes
                if not self._channel.has_room:
                    await self._drained()
                self._check()
        return size

    async def _until_ready(self) -> None:
        """Wait until the successor has put everything that was sent where it belongs."""
        await self._drained()
        self._channel.send(Ready())
        await self._answer(Ready)

    async def _drained(self) -> None:
        """Wait until the successor has read nearly everything; while it does not, no Service comes or goes."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._channel.drained()
        except TimeoutError:
            raise GivenUpError(f"it has read nothing for {ANSWER_SECONDS:g} s") from None

    def _send_listeners(self) -> None:
        listeners = list(self._possessions.listeners())
        if not listeners:
            raise GivenUpError("connections cannot be handed over to it, and there is no listener that could be")
        self._channel.send(PlainListeners(tuple(each for each, _ in listeners)), [number for _, number in listeners])

    async def _send_sockets(self) -> None:
        sockets = self._possessions.sockets()
        self._channel.send(Sockets(tuple(sockets)), list(sockets.values()))

    def _switch(self, giver: GivesPackages | None) -> float:
        """Leave everything to the successor in this turn of the loop, or raise GivenUpError and have all as before."""
        phases = Phases()
        began = phases.began
        with closing(Token.make()) as token, Urgency():
            if giver is not None:
                self._send_rest(giver, token, began + PAUSE_SECONDS)
            phases.reached("described")
            self._channel.send(Commit(), [token.reading])
            left = began + PAUSE_SECONDS - time.monotonic()
            self._channel.wait(self._has_answered, left)
            if not self._is_serving():
                self._take_back(token)
        phases.reached("taken")
        self._is_given = True
        self._possessions.given(giver is not None)
        log.debug("The predecessor's part of the pause", v=2, **phases.found)
        return phases.seconds

    def _send_rest(self, giver: GivesPackages, token: Token, end: float) -> None:
        with closing(giver.rest(token, end)) as packages:
            for package in packages:
                self._channel.send(Things(package.items, package.plane), package.descriptors)
                if time.monotonic() > end:
                    raise GivenUpError(f"it takes longer than {PAUSE_SECONDS:g} s, in which nobody is served")

    @property
    def _has_let_go(self) -> bool:
        """Whether the successor closes its copies of sockets: it has gone, or says that it does not go on."""
        return bool(self._end) or any(isinstance(each, Refusal) for each in self._said)

    def _has_answered(self) -> bool:
        return bool(self._said) or bool(self._end)

    def _is_serving(self) -> bool:
        return bool(self._said) and isinstance(self._said[0], Serving)

    def _take_back(self, token: Token) -> None:
        """Raise GivenUpError, with all in our hands; or return, if the successor has read the byte and lives."""
        if self._end or self._said:  # it says that it serves before it touches anything
            token.take_back()  # else it could still go on, if it is only the connection that has broken
            raise GivenUpError(self._reason())
        if token.take_back():
            raise GivenUpError(f"it has not taken over within {PAUSE_SECONDS:g} s")
        self._channel.wait(self._has_answered, _LAST_SECONDS)
        if self._has_answered() and not self._is_serving():
            raise GivenUpError(self._reason())

    async def _answer(self, kind: type[Expected]) -> Expected:
        """The next message, which is to be of this kind."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                while not self._said:
                    self._check()
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise GivenUpError(f"it has said nothing for {ANSWER_SECONDS:g} s") from None
        said = self._said.pop(0)
        if not isinstance(said, kind):
            self._said.insert(0, said)
            raise GivenUpError(self._reason())
        return said

    def _check(self) -> None:
        if self._end or (self._said and isinstance(self._said[0], Refusal)):
            raise GivenUpError(self._reason())

    def _reason(self) -> str:
        if self._said:
            said = self._said[0]
            return said.reason if isinstance(said, Refusal) else f"it has said {type(said).__name__} out of turn"
        return self._end

    def _heard(self, message: ToPredecessor, descriptors: list[int]) -> None:
        for each in descriptors:
            os.close(each)
        self._said.append(message)
        self._news.set()

    def _ended(self, reason: str) -> None:
        self._end = reason
        self._news.set()
