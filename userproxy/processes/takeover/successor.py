"""Takes over from a running proxy."""

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import closing
from socket import socket
from typing import Final, Protocol

import structlog
from msgspec import DecodeError, Struct

from userproxy.errors import UserproxyError
from userproxy.forwarding.handover.values import Item, release
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
    ToSuccessor,
)
from userproxy.processes.takeover.packages import TOO_FEW, unpacked
from userproxy.processes.takeover.phases import Phases
from userproxy.processes.takeover.token import Token
from userproxy.processes.takeover.urgency import Urgency

log = structlog.get_logger()

_SILENCE_SECONDS: Final = 15.0
"""How long the predecessor may say nothing."""

_LAST_WORDS_SECONDS: Final = 1.0

BACKLOG_SECONDS: Final = 0.02
"""How long what has waited for a successor goes first. Other programs, clients among them, wait meanwhile."""


class NotTakenOverError(UserproxyError):
    """The predecessor serves on."""


class CannotServeError(UserproxyError):
    """The predecessor has let go of everything, and this process cannot serve it."""


class RefusedError(NotTakenOverError):
    """It has refused before anything was handed over. The text is its reason."""


class Taker(Protocol):
    """Takes the data plane over."""

    is_complete: bool

    def take(self, item: Item, descriptors: list[int], plane: int) -> None:
        """Take in a part of it, of one of the predecessor's processes."""

    def deal(self) -> None:
        """Give what was taken in since to whom it is for."""

    def arrived(self) -> None:
        """Return once all is where it belongs. Raises HandoverError if something is not."""

    def complete(self) -> None:
        """All has come: put in order what needs no socket. Raises HandoverError as :meth:`arrived` does."""

    def go_on(self) -> None:
        """Begin to serve."""


class Heir(Struct, frozen=True):
    """Who gets what the predecessor hands over.

    `taker` is made once it is known that there is a data plane to come; without one there are listeners alone.
    `listener` and `socket` get descriptors. `serves` is called in the very turn in which all becomes ours. It touches
    no socket; if it fails the predecessor serves on. `alone` is called once the predecessor has closed its copies.
    For `backlog_seconds` afterwards this process goes before others; 0 where it is not the one that serves.
    """

    version: str
    setup: str
    taker: Callable[[], Taker] | None
    listener: Callable[[PlainListener, int], None]
    socket: Callable[[str, int], None]
    serves: Callable[[], None]
    alone: Callable[[], None]
    backlog_seconds: float = BACKLOG_SECONDS


class Successor:
    """One attempt, over a connection to the predecessor."""

    def __init__(self, connection: socket, heir: Heir) -> None:
        self._loop = asyncio.get_running_loop()
        self._heir = heir
        self._taker: Taker | None = None
        self._done: asyncio.Future[bool] = self._loop.create_future()
        self._heard_at = time.monotonic()
        self._everything = False
        self._is_offered = False
        self._serves = False
        self._urgency = Urgency()
        """From when the predecessor is about to serve nobody."""
        decoder: Decoder[ToSuccessor] = Decoder(ToSuccessor)
        self._channel = Channel(self._loop, connection, decoder, self._heard, self._ended)

    async def take_over(self) -> bool:
        """Take over everything, or listeners alone: then returns False.

        Raises NotTakenOverError where the predecessor serves on; what has come from it is the caller's to forsake.
        Raises CannotServeError where it does not, and neither do we.
        """
        self._channel.send(
            Ask(PROTOCOL, release() if self._heir.taker is not None else 0, self._heir.version, self._heir.setup)
        )
        try:
            while not self._done.done():
                await asyncio.wait([self._done], timeout=1.0)
                if time.monotonic() - self._heard_at > _SILENCE_SECONDS:
                    self._fail(f"the predecessor has said nothing for {_SILENCE_SECONDS:g} s")
            return self._done.result()
        except BaseException:
            self._channel.close()
            raise

    def _heard(self, message: ToSuccessor, descriptors: list[int]) -> None:
        self._heard_at = time.monotonic()
        left = descriptors
        try:
            if self._done.done():
                return
            left = self._take(message, descriptors)
        except (UserproxyError, DecodeError, OSError, ValueError, TypeError) as error:
            self._fail(str(error))
        except Exception as error:
            log.exception("A take-over has failed")  # a bug: the predecessor is not to wait for us
            self._fail(repr(error))
        finally:
            for each in left:
                os.close(each)

    def _take(self, message: ToSuccessor, descriptors: list[int]) -> list[int]:
        """Act on a message; returns the descriptors that are nobody's."""
        match message:
            case Refusal(reason):
                self._fail(reason)
            case Offer(version, everything):
                self._is_offered, self._everything = True, everything
                if everything and self._heir.taker is not None:
                    self._taker = self._heir.taker()
                else:
                    text = "Connections and flows stay with the predecessor until they end: it hands over listeners"
                    log.info(text, its_version=version)
            case Things():
                self._take_things(message, descriptors)
            case PlainListeners(listeners):
                for listener in listeners:
                    self._heir.listener(listener, _next(descriptors))
            case Sockets(names):
                for name in names:
                    self._heir.socket(name, _next(descriptors))
            case Ready():
                if self._taker is not None:
                    self._taker.arrived()
                self._urgency.begin()
                self._channel.send(Ready())
            case Commit():
                self._commit(_next(descriptors))
        return descriptors

    def _take_things(self, things: Things, descriptors: list[int]) -> None:
        if self._taker is None:
            raise ValueError("parts of a data plane came without an offer")
        for item, its in unpacked(things.items, descriptors):
            self._taker.take(item, its, things.plane)
        self._taker.deal()

    def _commit(self, pipe: int) -> None:
        """Everything has come: go on with it, unless the predecessor has had enough of waiting."""
        phases = Phases()
        with closing(Token(pipe)) as token:
            if self._everything and not (self._taker is not None and self._taker.is_complete):
                raise ValueError("the predecessor has left before all had come")
            if self._taker is not None:
                self._taker.complete()
            is_ours = token.take()
        if not is_ours:
            self._fail("it took too long, and the predecessor serves on")
            return
        phases.reached("complete")
        self._heir.serves()
        # Before anything is touched: had we died until now, the predecessor could go on as if nothing had been. Right
        # before it: if we die between this and the next step, what nobody has touched is lost with us.
        self._channel.send(Serving())
        self._channel.flush(_LAST_WORDS_SECONDS)
        self._serves = True
        phases.reached("said")
        try:
            if self._taker is not None:
                self._taker.go_on()
            phases.reached("begun")
            log.debug("The successor's part of the pause", v=2, **phases.found)
        except Exception as error:
            log.exception("What was taken over cannot be served")
            self._done.set_exception(CannotServeError(f"what was taken over cannot be served: {error!r}"))
        else:
            self._done.set_result(self._everything)
        finally:
            self._loop.call_later(self._heir.backlog_seconds, self._urgency.end)

    def _fail(self, reason: str) -> None:
        if self._serves:
            return
        self._urgency.end()
        error = NotTakenOverError if self._is_offered else RefusedError
        if not self._done.done():
            self._channel.send(Refusal(reason))
            self._channel.flush(_LAST_WORDS_SECONDS)
            self._done.set_exception(error(reason))

    def _ended(self, reason: str) -> None:
        if self._serves:
            self._heir.alone()
        else:
            self._fail(f"the predecessor has gone: {reason}")


def _next(descriptors: list[int]) -> int:
    if not descriptors:
        raise ValueError(TOO_FEW)
    return descriptors.pop(0)
