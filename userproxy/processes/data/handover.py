"""A data process's part in take-overs: its connections and flows go to another userproxy, or come from one."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Final

import structlog
from msgspec import DecodeError, Raw

from userproxy.errors import UserproxyError
from userproxy.forwarding.handover.giving import Giver
from userproxy.forwarding.handover.taking import Taker
from userproxy.forwarding.sharing import SharingForwarder
from userproxy.model import ListenerName, PortalAddress
from userproxy.processes.channel import Channel, close_descriptors, encode
from userproxy.processes.loops import started
from userproxy.processes.messages import Pulse
from userproxy.processes.takeover.leaving import give_way
from userproxy.processes.takeover.packages import Package, packed, packed_slowly, unpacked
from userproxy.processes.takeover.successor import BACKLOG_SECONDS
from userproxy.processes.takeover.token import Token
from userproxy.processes.takeover.urgency import Urgency
from userproxy.processes.transfers import AllGiven, Arrived, Give, GiveChanged, Given, GoOn, Take

log = structlog.get_logger()

_WORD_SECONDS: Final = 15.0
"""How long the control process may take to say who goes on, while nobody is served: it takes half a second."""

_BOTH_ENDS: Final = 2
_PATIENCE_SECONDS: Final = 0.1
"""How long another data process of a control process that has died may take to leave word that all is ours again."""


class Handover:
    """Gives or takes what the control process asks for.

    `channel` is that to the control process, and `ended` is called once all of this process is another userproxy's.
    """

    def __init__(
        self,
        forwarder: SharingForwarder,
        channel: Callable[[], Channel[Any]],
        group: asyncio.TaskGroup,
        ended: Callable[[], None],
    ) -> None:
        self._forwarder = forwarder
        self._channel = channel
        self._group = group
        self._ended = ended
        self._giver: Giver | None = None
        self._attempt = 0
        self._task: asyncio.Task[None] | None = None
        self._wanted = asyncio.Semaphore(0)
        self._taker: Taker | None = None
        self._failure = ""
        self._has_word = False
        self._urgency = Urgency()
        self.waits = False
        """Whether nobody is served until the control process has said who goes on."""

    @property
    def is_taking(self) -> bool:
        """Whether what is here is still another process's."""
        return self._taker is not None

    # To another userproxy.

    def give(self, message: Give) -> None:
        """Tell of so many more parts of what is there."""
        if self._giver is None:
            self._attempt = message.attempt
            self._giver = self._forwarder.hand_over()
            self._wanted = asyncio.Semaphore(0)
            self._task = self._group.create_task(self._give_first(self._giver, message.attempt), name="hand over")
        for _ in range(message.count):
            self._wanted.release()

    def give_changed(self, message: GiveChanged) -> None:
        """Tell of so many parts of what is other than it was, and of further ones when :class:`Give` asks for them."""
        if self._giver is not None and message.attempt == self._attempt:
            self._wanted = asyncio.Semaphore(message.count)
            giving = self._give_all(packed_slowly(self._giver.changed()), message.attempt)
            self._task = self._group.create_task(giving, name="hand over what has changed")

    async def _give_first(self, giver: Giver, attempt: int) -> None:
        await self._give_all((Package(Raw(encode([item])), its) async for item, its in giver.first()), attempt)

    async def _give_all(self, packages: AsyncGenerator[Package, None], attempt: int) -> None:
        failure = ""
        try:
            async with aclosing(packages):
                async for package in packages:
                    self._channel().send(Given(package.items, attempt), package.descriptors)
                    await self._wanted.acquire()
        except Exception as error:  # noqa: BLE001 -- we serve on, whatever it is
            failure = _words(error)
        self._channel().send(AllGiven(attempt, failure=failure))
        self._urgency.begin()  # the rest is asked for soon, and until the last process has told it nobody is served

    def give_rest(self, attempt: int, descriptors: list[int]) -> bool:
        """Tell of the rest, and serve nobody until it is said who goes on; whether that is us, for want of a word."""
        if len(descriptors) != _BOTH_ENDS or self._giver is None:
            close_descriptors(descriptors)
            self._channel().send(AllGiven(attempt, failure="a data process has no descriptor left"))
            return False
        token = Token(*descriptors)
        self._has_word, self.waits = False, True
        try:
            self._give_all_of_rest(self._giver)
            self._channel().wait(lambda: self._has_word, _WORD_SECONDS)
            if self._has_word:
                return False
            if not token.take_back(_PATIENCE_SECONDS):
                self.forsake()
                return False
            self.serve_on(lingers=True)
            return True
        finally:
            self.waits = False
            self._urgency.end()
            token.close()

    def _give_all_of_rest(self, giver: Giver) -> None:
        try:
            for package in packed(giver.rest()):
                self._channel().send(Given(package.items, self._attempt), package.descriptors)
        except Exception as error:  # noqa: BLE001 -- as above
            self._channel().send(AllGiven(self._attempt, failure=_words(error)))
        else:
            self._channel().send(AllGiven(self._attempt, giver.last_id))

    def serve_on(self, *, lingers: bool) -> None:
        """It has come to nothing. The other userproxy may `linger`, as :meth:`Giver.cancel` has it."""
        self._has_word = True
        self._urgency.end()
        if self._task is not None:
            self._task.cancel()
        if self._giver is not None:
            self._giver.cancel(lingers=lingers)
        self._giver = self._task = None

    def forsake(self) -> None:
        """All is another userproxy's by now, or still: close our copies, and end, which may take its time."""
        self._has_word = True
        self._urgency.end()
        if self._task is not None:
            self._task.cancel()
        self._taker = None
        self._forwarder.forsake()
        give_way()
        self._ended()

    # From another userproxy.

    def take_over(self) -> None:
        """Take in what comes from now on, and touch no socket."""
        self._taker, self._failure = self._forwarder.take_over(), ""

    def opened(self, name: ListenerName, number: int) -> None:
        """A listener has been adopted."""
        if self._taker is not None:
            self._taker.know(number, self._forwarder.opened(name))

    def opened_portal(self, address: PortalAddress) -> None:
        """A portal has been adopted."""
        if self._taker is not None and (listener := self._forwarder.opened_portal(address)) is not None:
            self._taker.know_portal(address, listener)

    def take(self, message: Take, descriptors: list[int]) -> None:
        """Take in parts; what cannot be is told of by :meth:`arrived`."""
        if self._taker is None or self._failure:
            close_descriptors(descriptors)
            return
        try:
            for item, its in unpacked(message.items, descriptors):
                self._taker.take(item, its, message.plane)
        except (UserproxyError, DecodeError, OSError, ValueError) as error:
            self._failure = str(error)
        except Exception as error:
            log.exception("What is to be taken over cannot be")  # a bug: the predecessor is to serve on
            self._failure = repr(error)
        finally:
            close_descriptors(descriptors)

    def complete(self) -> None:
        """Nothing more comes: say whether all has arrived and could be put in order.

        What is here by now stays, and is not looked at by the garbage collector: 10,000 listeners take it 40 ms.
        """
        started(carries_traffic=False)
        self._put_in_order(lambda taker: taker.complete())
        self._tell_arrived()

    def arrived(self) -> None:
        """Say whether all has arrived that was sent. Once it has, the other process is about to serve nobody."""
        self._put_in_order(lambda taker: taker.arrived())
        self._tell_arrived()

    def _put_in_order(self, how: Callable[[Taker], None]) -> None:
        if self._taker is not None and not self._failure:
            try:
                how(self._taker)
            except Exception as error:
                log.exception("What is to be taken over does not fit together")
                self._failure = repr(error)

    def _tell_arrived(self) -> None:
        if self._taker is not None:
            self._urgency.begin()
        if not self._failure:
            self._channel().send(Pulse(self._forwarder.active, self._forwarder.flows))
        self._channel().send(Arrived(self._failure))

    def go_on(self, message: GoOn) -> None:
        """Begin: all is ours."""
        taker, self._taker = self._taker, None
        if taker is not None:
            self._forwarder.shares_sockets = True
            self._forwarder.number_from(message.first_id)
            asyncio.get_running_loop().call_later(BACKLOG_SECONDS, self._urgency.end)
            taker.go_on()


def _words(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) else None
    return f"a data process cannot describe what it has: {text or error!r}"
