"""A data process: a loop, a forwarder, and the messages of the control process that it follows."""

import asyncio
import socket
from collections.abc import Callable
from random import Random
from typing import Any, Final

import structlog
from msgspec import structs

from userproxy.errors import PortUnavailableError
from userproxy.forwarding.accept_turns import AcceptTurns
from userproxy.forwarding.descriptors import raise_limit
from userproxy.forwarding.ejection.cells import EjectionMemory
from userproxy.forwarding.limits.counts import LimitCounts
from userproxy.forwarding.sharing import SharingForwarder
from userproxy.model import ListenerName
from userproxy.processes.channel import Channel, Decoder, close_descriptors
from userproxy.processes.data.answering import Answering
from userproxy.processes.data.counting import Counting
from userproxy.processes.data.handover import Handover
from userproxy.processes.data.keeping import Keeping
from userproxy.processes.data.learning import Learning
from userproxy.processes.data.log_output import log_to_whoever_reads
from userproxy.processes.door import Door
from userproxy.processes.ejections.messages import Eject, PassOver, TakeBack, Try
from userproxy.processes.ejections.telling import EjectionTelling
from userproxy.processes.loops import name_process, started
from userproxy.processes.messages import (
    PROTOCOL,
    Adopt,
    AdoptPortal,
    AdoptSeveral,
    Claim,
    Close,
    CloseUnasked,
    Deliver,
    Drain,
    Drained,
    Elsewhere,
    Estate,
    FollowPortal,
    FollowReturnPath,
    Inherited,
    Keep,
    Learned,
    Leave,
    LeavePortal,
    LetGo,
    Logging,
    Look,
    NotServed,
    Outlive,
    PortalNotServed,
    Pulse,
    PutFaults,
    Ready,
    Refused,
    Reset,
    Resume,
    Retire,
    Settled,
    Start,
    ToData,
    Told,
    Update,
)
from userproxy.processes.questions import QUESTIONS, Enough
from userproxy.processes.scheduling import ask_for_short_turns
from userproxy.processes.transfers import (
    AskArrived,
    AskRead,
    Complete,
    Forsake,
    Give,
    GiveChanged,
    GiveRest,
    GoOn,
    HasRead,
    ServeOn,
    SharesSockets,
    Take,
    TakeOver,
)

log = structlog.get_logger()

_PULSE_SECONDS: Final = 0.1
_PULSES_ANYWAY: Final = 10
"""One of so many is told also if it is as the one before: the control process sees that this process does not hang."""

_ALONE_SECONDS: Final = 900.0
"""How long to serve without a control process: endpoints change meanwhile."""

_DRAIN_SECONDS: Final = 30.0
_TOLD: Final[Decoder[Told]] = Decoder(Told)
_NO_DESCRIPTOR: Final = "the limit of open files leaves none for its socket"


class DataProcess:
    """Serves what it is told to, until the control process says so or has gone."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, group: asyncio.TaskGroup, logging: Logging
    ) -> None:
        """Take over a connected socket. `group` is for the answers to questions."""
        self._loop = loop
        self._logging = logging
        self._group = group
        self._number = 0
        self._forwarder: SharingForwarder | None = None
        self._answering: Answering | None = None
        self._handover: Handover | None = None
        self._ejections: EjectionTelling | None = None
        self._pulse = Pulse(0, 0)
        self._pulses = 0
        self._pulse_timer: asyncio.TimerHandle | None = None
        self._start_message: Start | None = None
        self._tally = -1
        self._last_number = 0
        self._unasked: set[ListenerName] = set()
        """Listeners of the control process before, of which the present one has not told."""
        self._outlive = ""
        self._door: Door | None = None
        self._alone: asyncio.TimerHandle | None = None
        self.over = asyncio.Event()
        """Set once the process is to end."""
        self._deal: dict[type, Callable[[SharingForwarder, Any, list[int]], None]] = {
            Adopt: self._adopt,
            AdoptSeveral: self._adopt_several,
            Elsewhere: self._elsewhere,
            Update: self._update,
            Close: self._close,
            AdoptPortal: self._adopt_portal,
            FollowPortal: lambda forwarder, message, _: forwarder.follow_portal(message.address, message.admission),
            LeavePortal: lambda forwarder, message, _: forwarder.leave_portal(message.address),
            Deliver: lambda forwarder, message, _: forwarder.deliver(
                message.listener, message.portal, message.datagrams
            ),
            CloseUnasked: self._close_unasked,
            Settled: lambda *_: started(carries_traffic=False),
            Look: lambda forwarder, *_: forwarder.look(),
            Drain: self._drain,
            Retire: lambda _, message, __: self._retire(message.seconds),
            PutFaults: lambda forwarder, message, _: forwarder.steering.put_faults(message.faults),
            Reset: lambda forwarder, *_: forwarder.reset_connections(),
            SharesSockets: self._share_sockets,
        }
        self._hand: dict[type, Callable[[Handover, Any, list[int]], None]] = {
            Give: lambda handover, message, _: handover.give(message),
            GiveChanged: lambda handover, message, _: handover.give_changed(message),
            GiveRest: self._give_rest,
            ServeOn: lambda handover, message, _: handover.serve_on(lingers=message.lingers),
            Forsake: lambda handover, *_: handover.forsake(),
            TakeOver: lambda handover, *_: handover.take_over(),
            Take: lambda handover, message, descriptors: handover.take(message, descriptors),
            AskRead: lambda *_: self._channel.send(HasRead()),
            AskArrived: lambda handover, *_: handover.arrived(),
            Complete: lambda handover, *_: handover.complete(),
            GoOn: self._go_on,
        }
        self._decoder: Decoder[ToData] = Decoder(ToData)
        self._channel = Channel(loop, sock, self._decoder, self._received, self._ended)
        self._channel.send(Ready())

    def shut_down(self) -> None:
        """End all connections, and close all there is."""
        if self._pulse_timer is not None:
            self._pulse_timer.cancel()
        if self._ejections is not None:
            self._ejections.shut_down()
        if self._forwarder is not None:
            self._forwarder.shut_down()
        self._channel.close()
        self._leave_door()

    def _received(self, message: ToData, descriptors: list[int]) -> None:
        forwarder = self._forwarder
        match message:
            case Start():
                self._start(message, descriptors)
            case Logging():
                self._log_so(message)
            case Leave():
                self.over.set()
            case Outlive(path):
                self._outlive = path
            case Claim(protocol):
                self._claimed(protocol)
            case Resume():
                self._leave_door()
                self._unasked = set(forwarder.open_listeners) if forwarder is not None else set()
                self._tell_ejected()
            case Enough(number):
                if self._answering is not None:
                    self._answering.enough(number)
            case _ if forwarder is None or self._answering is None or self._handover is None:
                raise RuntimeError("the first message was not Start")
            case _ if isinstance(message, QUESTIONS):
                self._answering.ask(message)
            case _ if type(message) in self._hand:
                self._hand[type(message)](self._handover, message, descriptors)
            case _:
                self._deal[type(message)](forwarder, message, descriptors)

    def _start(self, message: Start, descriptors: list[int]) -> None:
        self._number = message.number
        self._log_so(self._logging)
        name_process(f"userproxy data{message.number}")
        if not descriptors:
            self._ended(_NO_DESCRIPTOR)
            return
        ask_for_short_turns()
        self._start_message = message
        self._tally = descriptors[0]
        turns = AcceptTurns(self._tally, message.of, message.number - 1)
        options = structs.replace(message.options, descriptor_limit=raise_limit(), processes=message.of)
        spread = Random()  # noqa: S311 -- spreads load, keeps no secret
        counts = LimitCounts(self._tally, message.of, message.number - 1)
        self._forwarder = SharingForwarder(self._loop, options, spread, turns, message.first_id, counts)
        self._forwarder.data_plane.loop_lag.start()
        plane, steering = self._forwarder.data_plane, self._forwarder.steering
        self._answering = Answering(plane, steering, lambda: self._channel, self._group)
        self._group.create_task(Counting(self._loop, plane, lambda: self._channel).run(), name="count")
        self._handover = Handover(self._forwarder, lambda: self._channel, self._group, self.over.set)
        if message.of > 1:
            cells = EjectionMemory(self._tally, message.of, message.number - 1)
            self._ejections = telling = EjectionTelling(self._loop, self._forwarder, lambda: self._channel, cells)
            for kind in (PassOver, Eject, TakeBack, Try):
                self._deal[kind] = lambda _, message, __: telling.heard(message)
        learning = Learning(self._forwarder.client_addresses, lambda: self._channel)
        self._deal[FollowReturnPath] = lambda _, followed, __: learning.follow(followed)
        self._deal[Learned] = lambda _, learned, __: learning.know(learned)
        keeping = Keeping(plane, self._group)
        self._deal[Keep] = lambda _, message, descriptors: keeping.keep(message.family, descriptors)
        self._deal[LetGo] = lambda _, message, __: keeping.let_go(message.family)
        self._tell_pulse()

    def _give_rest(self, handover: Handover, message: GiveRest, descriptors: list[int]) -> None:
        if handover.give_rest(message.attempt, descriptors):
            self._ended("it went while another userproxy was to take over")

    def _go_on(self, handover: Handover, message: GoOn, _descriptors: list[int]) -> None:
        if self._start_message is not None:
            self._start_message = structs.replace(self._start_message, first_id=message.first_id)
        handover.go_on(message)
        self._tell_ejected()

    def _tell_ejected(self) -> None:
        if self._ejections is not None:
            self._ejections.know()

    def _log_so(self, logging: Logging) -> None:
        self._logging = logging
        log_to_whoever_reads(logging, self._number or None)

    def _ended(self, reason: str) -> None:
        handover = self._handover
        if handover is not None and handover.waits:
            return  # who goes on is found out first
        if handover is not None and handover.is_taking:
            handover.forsake()
        if self._outlive and self._forwarder is not None and not self.over.is_set():
            self._wait_for_another(reason)
            return
        is_told = self.over.is_set()
        self.over.set()
        if not is_told and self._forwarder is not None:
            log.warning("A data process ends, because the control process has gone", reason=reason)

    def _wait_for_another(self, reason: str) -> None:
        """Serve on, and listen for the next control process."""
        log.warning("The control process has gone: its data processes serve on until another one comes", reason=reason)
        if self._answering is not None:
            self._answering.stop()
        if self._handover is not None:
            self._handover.serve_on(lingers=True)
        if self._forwarder is not None:
            self._forwarder.steering.put_faults(())
        if self._ejections is not None:
            self._ejections.forget_cells()
        try:
            self._door = self._door or Door(self._loop, self._outlive, self._found)
        except OSError as error:
            log.error("Another control process cannot find this data process", reason=error.strerror)
        if self._alone is None:
            self._alone = self._loop.call_later(_ALONE_SECONDS, self._retire, _DRAIN_SECONDS)

    def _found(self, sock: socket.socket) -> None:
        """A process asks for us."""
        self._channel.close()
        self._channel = Channel(self._loop, sock, self._decoder, self._received, self._ended)

    def _claimed(self, protocol: int) -> None:
        """Tell another control process all there is that it cannot have otherwise."""
        forwarder, start = self._forwarder, self._start_message
        if protocol != PROTOCOL or forwarder is None or start is None:
            self._channel.send(Refused(f"it speaks protocol {PROTOCOL}, not {protocol}"))
            return
        for name, host, member, descriptor in forwarder.shared_sockets():
            self._channel.send(Inherited(name, host, member), [descriptor])
        for name, portal, (member, size), descriptor in forwarder.shared_portals():
            self._channel.send(Inherited(name, portal.ip, member, portal, size), [descriptor])
        closed = (counters.number for _, counters in forwarder.data_plane.closed.current())  # also another userproxy's
        self._channel.send(Estate(start, max(self._last_number, *closed, 0)), [self._tally])

    def _leave_door(self) -> None:
        if self._alone is not None:
            self._alone.cancel()
            self._alone = None
        if self._door is not None:
            self._door.close()
            self._door = None

    def _retire(self, seconds: float) -> None:
        self._outlive = ""
        self._leave_door()
        self._group.create_task(self._retired(seconds), name="retire")

    async def _retired(self, seconds: float) -> None:
        if self._forwarder is not None:
            await self._forwarder.drain(seconds)
        self.over.set()

    def _adopt(self, forwarder: SharingForwarder, message: Adopt, descriptors: list[int]) -> None:
        name = message.listener
        self._unasked.discard(name)
        self._last_number = max(self._last_number, message.number)
        if len(descriptors) != len(message.members):
            close_descriptors(descriptors)
            self._channel.send(NotServed(name, _NO_DESCRIPTOR))
            return
        try:
            forwarder.adopt(name, message.number, message.members, descriptors)
        except OSError as error:
            self._channel.send(NotServed(name, f"its socket cannot be watched: {error.strerror}"))
        else:
            if self._handover is not None:
                self._handover.opened(name, message.number)

    def _adopt_several(self, forwarder: SharingForwarder, message: AdoptSeveral, descriptors: list[int]) -> None:
        failures = []
        for part in message.parts:
            try:
                self._adopt_part(forwarder, _TOLD.decode(part), descriptors)
            except Exception as error:  # noqa: BLE001 -- a bug that one listener meets is not to cost the others
                failures.append(error)
        close_descriptors(descriptors)
        if failures:
            raise failures[0]

    def _adopt_part(self, forwarder: SharingForwarder, told: Told, descriptors: list[int]) -> None:
        """Take the first descriptors, which are this listener's."""
        if isinstance(told.listener, Adopt):
            number = len(told.listener.members)
            its, descriptors[:number] = descriptors[:number], []
            self._adopt(forwarder, told.listener, its)
        else:
            self._elsewhere(forwarder, told.listener, [])
        self._update(forwarder, told.update, [])

    def _update(self, forwarder: SharingForwarder, message: Update, _descriptors: list[int]) -> None:
        snapshot = message.snapshot
        if snapshot.limits is not None or snapshot.hold is not None:
            forwarder.place_limits(snapshot.listener.service_port, message.slot)
        forwarder.update(snapshot)
        if self._ejections is not None:
            self._ejections.place(snapshot, message.cells)

    def _elsewhere(self, forwarder: SharingForwarder, message: Elsewhere, _descriptors: list[int]) -> None:
        self._unasked.discard(message.listener)
        forwarder.leave(message.listener)
        if message.port:
            forwarder.note_elsewhere(message.listener, message.host, message.port)

    def _close_unasked(self, forwarder: SharingForwarder, message: CloseUnasked, _descriptors: list[int]) -> None:
        for name in [name for name in self._unasked if name.family is message.family]:
            self._unasked.discard(name)
            if forwarder.is_open(name):
                forwarder.close(name)
        started(carries_traffic=False)  # nothing more is to come of this family

    def _close(self, forwarder: SharingForwarder, message: Close, _descriptors: list[int]) -> None:
        forwarder.forget_elsewhere(message.listener)
        if forwarder.is_open(message.listener):
            (forwarder.leave_to_successor if message.has_successor else forwarder.close)(message.listener)
        if self._ejections is not None:
            self._ejections.forget(message.listener)
        if message.frees_slot:
            forwarder.place_limits(message.listener.service_port, None)

    def _adopt_portal(self, forwarder: SharingForwarder, message: AdoptPortal, descriptors: list[int]) -> None:
        if len(descriptors) != len(message.members):
            close_descriptors(descriptors)
            self._channel.send(PortalNotServed(message.address, _NO_DESCRIPTOR))
            return
        try:
            forwarder.adopt_portal(message.address, message.admission, descriptors, message.members, message.size)
        except (PortUnavailableError, KeyError) as error:
            self._channel.send(PortalNotServed(message.address, str(error)))
        else:
            if self._handover is not None:
                self._handover.opened_portal(message.address)

    def _share_sockets(self, forwarder: SharingForwarder, message: SharesSockets, _descriptors: list[int]) -> None:
        forwarder.shares_sockets = message.shared

    def _drain(self, forwarder: SharingForwarder, message: Drain, _descriptors: list[int]) -> None:
        self._group.create_task(self._drained(forwarder, message.seconds), name="drain")

    async def _drained(self, forwarder: SharingForwarder, seconds: float) -> None:
        reset = await forwarder.drain(seconds)
        self._channel.send(Drained(reset))

    def _tell_pulse(self) -> None:
        self._pulse_timer = self._loop.call_later(_PULSE_SECONDS, self._tell_pulse)
        if self._forwarder is not None:
            pulse = Pulse(self._forwarder.active, self._forwarder.flows)
            self._pulses += 1
            if pulse != self._pulse or self._pulses % _PULSES_ANYWAY == 0:
                self._pulse = pulse
                self._channel.send(pulse)


async def serve(sock: socket.socket, logging: Logging) -> None:
    """Be a data process until its end. `logging` is how it logs until it is told otherwise."""
    try:
        async with asyncio.TaskGroup() as group:
            process = DataProcess(asyncio.get_running_loop(), sock, group, logging)
            await process.over.wait()
            process.shut_down()
            raise _Over  # which cancels the answers
    except* _Over:
        pass


class _Over(Exception):  # noqa: N818 -- it is the end, not an error
    pass
