"""The control process's interface to the data processes: that of :class:`~userproxy.forwarding.forwarder.Forwarder`."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from random import Random
from typing import Final

from userproxy.errors import PortUnavailableError
from userproxy.forwarding.assembly.options import ForwardingOptions
from userproxy.forwarding.descriptors import DescriptorBudget
from userproxy.forwarding.handover.noting import SnapshotWatch
from userproxy.model import (
    Admission,
    IPFamily,
    ListenerName,
    PortalAddress,
    Problem,
    Protocol,
    ReturnPath,
    Snapshot,
    Verdict,
)
from userproxy.processes.control.adoption import Adoption
from userproxy.processes.control.briefing import Briefing
from userproxy.processes.control.giving import ProcessesGiver
from userproxy.processes.control.groups.growing import Growing
from userproxy.processes.control.groups.listener_sockets import ListenerSockets
from userproxy.processes.control.held import HeldListener
from userproxy.processes.control.held_portals import HeldPortals
from userproxy.processes.control.observation.data_plane import ProcessesDataPlane
from userproxy.processes.control.pool import Pool
from userproxy.processes.control.return_paths import ReturnPaths
from userproxy.processes.control.spawning import Spawning
from userproxy.processes.control.steering import ProcessesSteering
from userproxy.processes.control.taking import ProcessesTaker
from userproxy.processes.control.worker import Worker
from userproxy.processes.messages import CloseUnasked, Drain, FollowPortal, Reset
from userproxy.processes.transfers import SharesSockets

_DRAIN_GRACE_SECONDS: Final = 5.0
_LAST_WORDS_SECONDS: Final = 2.0


class ProcessForwarder:
    """All listeners and connections of `processes` data processes. To be used on the loop's thread only.

    A TCP listener is served by all of them, one with affinity by one of them. A UDP one has a socket for each, and each
    client keeps to one of these. Raises OSError where data processes cannot be started.

    Data processes that another control process has left are found at `path`, if that is not empty, and adopted. Others
    are started `at_once`, or with :meth:`ready` or :meth:`start`.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        options: ForwardingOptions,
        random: Random,
        processes: int,
        spawning: Spawning,
        path: str = "",
        *,
        at_once: bool = True,
    ) -> None:
        self._loop = loop
        self._bind_addresses = options.bind_addresses
        self._budget = DescriptorBudget(loop, options.descriptor_limit, options.kept_descriptors)
        self._numbers = count(1)
        self._last_number = 0
        """The highest of another userproxy's."""
        self._listeners: dict[ListenerName, HeldListener] = {}
        self._sockets = ListenerSockets(options, self._budget, random, processes, lambda: self._portals.further)
        self._portals = HeldPortals(
            self.take_for_port,
            self.give_port,
            lambda address: self._briefing.portal_left(address),
            self._sockets.width,
        )
        self._return_paths = ReturnPaths(lambda: self._pool.serving)
        self._unasked: dict[ListenerName, None] = {}
        """Listeners of another userproxy that nobody has asked for since."""
        self._snapshot_watches: list[SnapshotWatch] = []
        self._shares_sockets = False
        self._is_forsaken = False
        self._changed: Callable[[], None] = lambda: None
        self._pool = Pool(loop, processes, spawning, options, self._begins, self._gone, lambda: self._changed())
        self._briefing = Briefing(loop, self._pool, self._listeners, self._portals)
        self.data_plane = ProcessesDataPlane(loop, self._pool, options.descriptor_limit, self._listeners)
        """Answers for all data processes."""
        self.steering = ProcessesSteering(self._pool, self.data_plane)
        """Tells all data processes what to do with connections."""
        if path:
            for each, descriptor in self._pool.adopt(path):
                if each.portal is None:
                    self.inherit(each.listener, each.host, descriptor)
                else:
                    self._portals.inherit(each.portal, each.size, descriptor)
            self._numbers = count(self._pool.last_number + 1)
        self._path = path
        self._pool.begin()
        if at_once:
            self._pool.start()

    def outlive(self, *, us: bool) -> None:
        """Whether data processes are to serve on if this process goes without a word, until another one adopts them."""
        self._pool.outlive(self._path if us else "")
        if not us:
            self._return_paths.release()

    def keep(self, owners: Callable[[IPFamily], Sequence[int]]) -> None:
        """As :meth:`ReturnPaths.keep`."""
        self._return_paths.keep(owners)

    def watch_processes(self, changed: Callable[[], None]) -> None:
        """Call `changed` when `problems` may be others."""
        self._changed = changed

    @property
    def problems(self) -> frozenset[Problem]:
        """Data processes that have ended within the last minute."""
        return self._pool.problems

    @property
    def warnings(self) -> tuple[str, ...]:
        """One sentence for each data process that cannot be kept alive."""
        return self._pool.failing

    @property
    def is_down(self) -> bool:
        """Whether nobody serves, because all data processes die."""
        return self._pool.is_down

    @property
    def active(self) -> int:
        """Connections, those still being dialled included, as of a tenth of a second ago."""
        return 0 if self._is_forsaken else sum(worker.pulse.connections for worker in self._pool.serving)

    @property
    def flows(self) -> int:
        """UDP flows, as of a tenth of a second ago."""
        return 0 if self._is_forsaken else sum(worker.pulse.flows for worker in self._pool.serving)

    def open(self, listener: ListenerName, preferred_port: int | None = None, verdict: Verdict = Verdict.REJECT) -> int:
        """As :meth:`Forwarder.open`. Data processes are told with the first snapshot."""
        if listener in self._unasked:
            del self._unasked[listener]
            return self._listeners[listener].port
        if listener.service_port.protocol not in {Protocol.TCP, Protocol.UDP}:
            raise PortUnavailableError(f"{listener.service_port.protocol} is not forwarded")
        sock = self._sockets.open(listener, preferred_port, verdict)
        held = HeldListener(self._loop, listener, next(self._numbers), sock, verdict, self._renewed)
        self._listeners[listener] = held
        return held.port

    @property
    def room_for_ports(self) -> int:
        """How many more listeners and claims there may be, which have two thirds of all descriptors."""
        return self._budget.room_for_ports

    def take_for_port(self) -> None:
        """As :meth:`Forwarder.take_for_port`."""
        self._budget.hold_port()

    def adopt_port(self) -> None:
        """As :meth:`Forwarder.adopt_port`."""
        self._budget.adopt_port()

    def inherit(self, name: ListenerName, host: str, descriptor: int) -> None:
        """As :meth:`Forwarder.inherit`."""
        self._sockets.inherit(name, host, descriptor)

    def close_unasked(self, family: IPFamily) -> None:
        """As :meth:`Forwarder.close_unasked`. All that is asked for is served now, so a process may wait in reserve."""
        self._pool.keep_spare()
        self._sockets.close_inherited(family)
        self._portals.leave_unasked(family)
        for name in [each for each in self._unasked if each.family is family]:
            self.close(name)
        self._briefing.ejections.all_known(family)
        self._briefing.is_settled = True
        for worker in self._pool.serving:
            worker.send(CloseUnasked(family))
        self._return_paths.settled(family)

    def listening(self) -> Iterator[tuple[ListenerName, str, int]]:
        """As :meth:`Forwarder.listening`."""
        for name, held in self._listeners.items():
            if held.sock is not None and held.snapshot is not None and held.snapshot.verdict is Verdict.SERVE:
                for descriptor in held.descriptors:
                    yield name, self._bind_addresses[name.family], descriptor

    def leave_listeners(self) -> None:
        """As :meth:`Forwarder.leave_listeners`, but that flows end once those who have just asked are answered.

        They have no other socket for that, and as long as a copy is open a successor cannot refuse clients.
        """
        for name in list(self._listeners):
            self._close(name, has_successor=True)

    @property
    def process_ids(self) -> list[int]:
        """Those of the data processes that serve, are about to, or may replace another."""
        return [worker.pid for worker in self._pool.running]

    def start(self) -> None:
        """As :meth:`Pool.start`."""
        self._pool.start()

    async def ready(self) -> None:
        """As :meth:`Pool.ready`: what data processes are told is read at once then."""
        await self._pool.ready()

    def hand_over(self) -> ProcessesGiver:
        """As :meth:`Forwarder.hand_over`."""
        held = (self._listeners, self._portals, self._return_paths.paths)
        told = (self._bind_addresses, self.data_plane.past, self._snapshot_watches)
        return ProcessesGiver(self._pool.serving, *held, *told)

    def take_over(self) -> ProcessesTaker:
        """As :meth:`Forwarder.take_over`. Raises HandoverError where a data process is not there."""
        held = (self._listeners, self._portals, self._briefing, self._renewed)
        paths = (self.follow_return_path, self._return_paths.know)
        growing = Growing(len(self._pool.places), self._sockets.room_in_groups)
        adoption = Adoption(
            self._loop,
            self._pool,
            *held,
            *paths,
            growing,
            self._adopted,
            self.adopt_port,
            self._note_number,
            self.update,
        )
        return ProcessesTaker(self._pool.all_serving(), adoption)

    def _adopted(self, held: HeldListener) -> None:
        """Account for a listener of another userproxy as it comes: nobody is served while all becomes ours."""
        self._unasked[held.name] = None
        self._sockets.adopted(held)

    def _note_number(self, number: int) -> None:
        """What one with this number has counted is nobody else's, even if it is closed."""
        self._last_number = max(self._last_number, number)

    def went_on(self) -> None:
        """As :meth:`Forwarder.went_on`."""
        self._numbers = count(self._last_number + 1)

    @property
    def shares_sockets(self) -> bool:
        """As :attr:`Forwarder.shares_sockets`."""
        return self._shares_sockets

    @shares_sockets.setter
    def shares_sockets(self, shared: bool) -> None:
        self._shares_sockets = shared
        for worker in self._pool.serving:
            worker.send(SharesSockets(shared))

    def forsake(self) -> None:
        """As :meth:`Forwarder.forsake`; data processes end."""
        self._is_forsaken = True
        self.data_plane.leave()
        self._briefing.close()
        self._pool.forsake()
        self._portals.forsake()
        for held in self._listeners.values():
            held.close()
        self._listeners.clear()

    def give_port(self) -> None:
        """A port is no longer held."""
        self._budget.give_port()

    def keep_off(self, port: int) -> None:
        """Open no listener on a port that a Service has as a node port, from now on."""
        self._sockets.ports.keep_off(port)

    def recount_descriptors(self) -> None:
        """Count descriptors anew, because the rest of the process has opened or closed some."""
        self._budget.recount()

    def update(self, snapshot: Snapshot) -> None:
        """As :meth:`Forwarder.update`."""
        held = self._listeners.get(snapshot.listener)
        is_known = held is not None and held.snapshot == snapshot and _stands_alone(snapshot)
        if held is not None:
            held.follow(snapshot)
            for watch in self._snapshot_watches:
                watch.renewed(held.name)
            self._briefing.settle_readers(held)
            if snapshot.hold is not None:
                self.data_plane.holding.add(held.name)
            else:
                self.data_plane.holding.discard(held.name)
        for worker in self._pool.serving:
            if held is None or held.name in worker.told:
                if not is_known:  # as after a take-over, which brings the snapshots of all listeners
                    worker.send(self._briefing.update(snapshot))
            else:
                self._briefing.introduce(worker, held.name)
        self._briefing.ejections.follow(snapshot)

    def close(self, listener: ListenerName) -> None:
        """Stop listening; established connections go on."""
        self._close(listener)

    def _close(self, listener: ListenerName, *, has_successor: bool = False) -> None:
        self._unasked.pop(listener, None)
        held = self._listeners.pop(listener)
        self.data_plane.holding.discard(listener)
        closing = self._briefing.closing(listener, has_successor=has_successor)
        for worker in self._pool.serving:
            if listener in worker.told:
                worker.told.discard(listener)
                worker.send(closing)
        self._sockets.ports.release(held.port)
        self._sockets.close(held)

    def serve_portal(self, address: PortalAddress, admission: Admission) -> None:
        """As :meth:`Forwarder.serve_portal`."""
        portal, is_new = self._portals.serve(address, admission)
        if is_new:
            self._briefing.place_portal(portal)
        else:
            self._briefing.settle_portal(portal)
        for worker in self._pool.serving:
            if is_new or address not in worker.told:
                worker.told.discard(address)
                self._briefing.introduce(worker, address)
            else:
                self._briefing.tell_all(worker, self._briefing.listeners_of(portal))
                worker.send(FollowPortal(address, admission))

    def leave_portal(self, address: PortalAddress) -> None:
        """As :meth:`Forwarder.leave_portal`."""
        self._portals.leave(address)

    def stand_aside(self, family: IPFamily) -> None:
        """As :meth:`Forwarder.stand_aside`."""
        self._portals.stand_aside(family)

    def follow_return_path(self, path: ReturnPath) -> None:
        """As :meth:`Forwarder.follow_return_path`."""
        self._return_paths.follow(path)

    def log_as(self, spawning: Spawning) -> None:
        """Have data processes log as this says, also those that are started later."""
        self._pool.log_so(spawning)

    async def drain(self, seconds: float) -> int:
        """As :meth:`Forwarder.drain`."""
        self._briefing.stop()
        endings = [worker.drain(Drain(seconds)) for worker in self._pool.serving]
        self._portals.close(Protocol.TCP)
        for name in [name for name in self._listeners if name.service_port.protocol is Protocol.TCP]:
            self._sockets.close(self._listeners.pop(name))
        if endings:
            await asyncio.wait(endings, timeout=seconds + _DRAIN_GRACE_SECONDS)
        self._portals.close(Protocol.UDP)
        for name in list(self._listeners):
            self.close(name)
        return sum(ending.result() for ending in endings if ending.done())

    def reset_connections(self) -> int:
        """End all connections with a RST; returns how many they were."""
        for worker in self._pool.serving:
            worker.send(Reset())
        return self.active

    def shut_down(self) -> None:
        """End all data processes and close all sockets. The forwarder cannot be used afterwards."""
        self._briefing.close()
        self.data_plane.loop_lag.stop()
        self._pool.shut_down(time.monotonic() + _LAST_WORDS_SECONDS)
        for protocol in Protocol:
            self._portals.close(protocol)
        for held in self._listeners.values():
            held.close()
        self._listeners.clear()
        self._budget.shut_down()

    def _renewed(self, held: HeldListener) -> None:
        self._briefing.renewed(held)

    def _gone(self, worker: Worker) -> None:
        self.data_plane.gone(worker)
        self._briefing.gone(worker)

    def _begins(self, worker: Worker) -> None:
        self._return_paths.begins(worker)
        self.steering.begins(worker)
        self._briefing.begin(worker)
        self.data_plane.begins(worker)


def _stands_alone(snapshot: Snapshot) -> bool:
    """Whether data processes need to know nothing beside it, such as where they count together."""
    return snapshot.limits is None and snapshot.hold is None and snapshot.ejection is None
