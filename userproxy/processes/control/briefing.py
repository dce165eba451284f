"""What data processes are told of listeners and portals: each once, and no more at a time than they take."""

import asyncio
import select
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Final, TypeAlias

from msgspec import Raw

from userproxy.model import ListenerName, PortalAddress, Protocol, Snapshot
from userproxy.pace import SLICE_SECONDS
from userproxy.processes.channel import encode
from userproxy.processes.control.held import HeldListener
from userproxy.processes.control.held_portals import HeldPortal, HeldPortals
from userproxy.processes.control.pool import Pool
from userproxy.processes.control.slots import Slots
from userproxy.processes.control.worker import Worker
from userproxy.processes.ejections.deciding import EjectionDeciding
from userproxy.processes.messages import (
    Adopt,
    AdoptPortal,
    AdoptSeveral,
    Close,
    Elsewhere,
    LeavePortal,
    Settled,
    Told,
    Update,
)

_WAIT_SECONDS: Final = 0.005
_WATCHED_AT_ONCE: Final = 32
"""To begin to watch so many sockets takes as long as a slice."""

_MOST_WAITED_AT: Final = 8

_Name: TypeAlias = ListenerName | PortalAddress


class _Unread:
    """Sockets that nobody reads, and which of them clients wait at. They may be closed meanwhile.

    `names` are those of the listeners and portals that they belong to, and `sockets` the descriptors of one, as it is
    by then. Where the kernel can watch no more, the others are told of in turn.
    """

    def __init__(self, names: Iterable[_Name], sockets: Callable[[_Name], Iterable[int]]) -> None:
        self._left = iter(names)
        self._sockets = sockets
        self._epoll = select.epoll()
        self._names: dict[int, _Name] = {}

    def waited_at(self) -> list[_Name]:
        """Where a client waits, as far as was not said before; no more than are told of in one slice."""
        for name in islice(self._left, _WATCHED_AT_ONCE):
            for descriptor in self._sockets(name):
                with suppress(OSError):
                    self._epoll.register(descriptor, select.EPOLLIN | select.EPOLLONESHOT)
                    self._names[descriptor] = name
        return [self._names[descriptor] for descriptor, _ in self._epoll.poll(0, _MOST_WAITED_AT)]

    def close(self) -> None:
        """Watch none any more."""
        self._epoll.close()


class Briefing:
    """Tells the data processes of `pool` of `listeners` and `portals`, which are read as they are by then.

    It decides which of them reads which socket of a listener, where each client is to meet one process only.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pool: Pool,
        listeners: Mapping[ListenerName, HeldListener],
        portals: HeldPortals,
    ) -> None:
        self._loop = loop
        self._pool = pool
        self._listeners = listeners
        self._portals = portals
        self._behind: dict[Worker, asyncio.Handle] = {}
        """Data processes that are still to be told something."""
        self._unread: dict[Worker, _Unread] = {}
        """What data processes are still to be told of that nobody else serves."""
        self._stopped = False
        self.is_settled = False
        """Whether all that is asked for was served once."""
        self._slots = Slots()
        self.ejections = EjectionDeciding(loop, pool, listeners)
        """What ejects endpoints for all data processes."""

    def stop(self) -> None:
        """Tell nobody anything that has to wait."""
        self._stopped = True

    def close(self) -> None:
        """Forget who is still to be told something."""
        self.ejections.close()
        for handle in self._behind.values():
            handle.cancel()
        for unread in self._unread.values():
            unread.close()
        self._unread.clear()

    def settle_readers(self, held: HeldListener) -> None:
        """Decide which data processes read a listener's sockets; those for which that changes are told anew."""
        readers = _readers(held, self._pool.usable, len(self._pool.places))
        before, held.readers = held.readers, readers
        if readers == before:
            return
        if held.name.service_port.protocol is Protocol.UDP:
            for portal in self._portals_of(held):
                portal.readers = self._portal_readers(portal)
        for worker in self._pool.serving:
            if _share(before, worker.place) != _share(readers, worker.place):
                self._tell_anew(worker, held)

    def place_portal(self, portal: HeldPortal) -> None:
        """Decide which data processes read the sockets of a portal that none of them knows yet."""
        portal.readers = self._portal_readers(portal)

    def settle_portal(self, portal: HeldPortal) -> None:
        """Decide which data processes read a portal's sockets; those for which that changes are told anew."""
        readers = self._portal_readers(portal)
        before, portal.readers = portal.readers, readers
        if readers == before:
            return
        for worker in self._pool.serving:
            if _share(before, worker.place) != _share(readers, worker.place) and worker.told.issuperset(
                each.name for each in self.listeners_of(portal)
            ):
                self._leave(worker, portal)
                self.tell_portal(worker, portal)

    def _portal_readers(self, portal: HeldPortal) -> tuple[int, ...] | None:
        """As of a listener. Of a service port with affinity all are read where its clients are."""
        listeners = self.listeners_of(portal)
        if portal.address.protocol is not Protocol.UDP or not listeners:
            return None
        alone = next((held.readers for held in listeners if held.readers is not None), None)
        if alone is not None:
            return alone * len(portal.sockets)
        words = str(listeners[0].name.service_port)
        return _spread(words, len(portal.sockets), self._pool.usable, len(self._pool.places))

    def _tell_anew(self, worker: Worker, held: HeldListener) -> None:
        if held.name not in worker.told:
            return  # it will be told as it is by then
        worker.told.discard(held.name)
        for portal in self._portals_of(held):
            self._leave(worker, portal)
        self._tell(worker, held)
        for portal in self._portals_of(held):
            self.tell_portal(worker, portal)

    def _leave(self, worker: Worker, portal: HeldPortal) -> None:
        """Have a data process leave a portal, or know nothing of it where it is about to be told anew."""
        if portal.address in worker.told:
            worker.told.discard(portal.address)
            if not self._is_served_at(worker.place, portal):
                worker.send(LeavePortal(portal.address))

    def _is_served_at(self, place: int, portal: HeldPortal) -> bool:
        listeners = self.listeners_of(portal)
        is_known = bool(listeners) and all(held.snapshot and held.is_read_at(place) for held in listeners)
        return is_known and bool(portal.descriptors_for(place))

    def _tell(self, worker: Worker, held: HeldListener) -> None:
        """Tell a data process of a listener and its snapshot, the first time."""
        if held.snapshot is None:
            return
        worker.told.add(held.name)
        worker.send(*_opening(held, worker.place))
        worker.send(self.update(held.snapshot))
        self.ejections.brief(worker, held.name)

    def tell_together(self, listeners: Sequence[HeldListener], told: Callable[[Worker], None]) -> None:
        """Tell all data processes, which serve nobody yet, of listeners that are new, in one message for each.

        `told` is called with each one before the next is told.
        """
        described = [(held, self.update(held.snapshot)) for held in listeners if held.snapshot is not None]
        workers = self._pool.serving
        alike = {held.name: _part(held, 0, update) for held, update in described if held.readers is None}
        for worker in workers:
            parts = [alike.get(held.name) or _part(held, worker.place, update) for held, update in described]
            worker.told.update(held.name for held, _ in described)
            worker.send(
                AdoptSeveral(tuple(part for part, _ in parts)), [number for _, numbers in parts for number in numbers]
            )
            for held, _ in described:
                self.ejections.brief(worker, held.name)
            told(worker)

    def update(self, snapshot: Snapshot) -> Update:
        """What says that a snapshot counts from now on."""
        has_slot = snapshot.limits is not None or snapshot.hold is not None
        slot = self._slots.of(snapshot.listener) if has_slot else None
        cells = () if snapshot.ejection is None else self.ejections.cells(snapshot)
        return Update(snapshot, slot, cells)

    def closing(self, listener: ListenerName, *, has_successor: bool) -> Close:
        """What says that a listener is closed, here alone where it `has_successor`."""
        self.ejections.forget(listener)
        return Close(listener, self._slots.leave(listener), has_successor)

    def tell_all(self, worker: Worker, listeners: Iterable[HeldListener]) -> None:
        """Tell a data process of those of the listeners that it does not know."""
        for held in listeners:
            if held.name not in worker.told:
                self._tell(worker, held)

    def tell_portal(self, worker: Worker, portal: HeldPortal) -> None:
        """Tell a data process of a portal and its listeners, the first time, if it serves these."""
        self.tell_all(worker, self.listeners_of(portal))
        if self._is_served_at(worker.place, portal):
            members, size = portal.members_for(worker.place), len(portal.sockets)
            worker.told.add(portal.address)
            worker.send(
                AdoptPortal(portal.address, portal.admission, members, size), portal.descriptors_for(worker.place)
            )

    def portal_left(self, address: PortalAddress) -> None:
        """A portal is listened on no longer."""
        for worker in self._pool.serving:
            if address in worker.told:
                worker.told.discard(address)
                worker.send(LeavePortal(address))

    def renewed(self, held: HeldListener) -> None:
        """A listener has other sockets than before."""
        for worker in self._pool.serving:
            if held.is_read_at(worker.place):
                self._tell_anew(worker, held)

    def listeners_of(self, portal: HeldPortal) -> list[HeldListener]:
        """Those whose clients come by a portal."""
        found = (self._listeners.get(name) for name in portal.admission.listeners)
        return [held for held in found if held is not None]

    def _portals_of(self, held: HeldListener) -> list[HeldPortal]:
        return self._portals.of(held.name) if held.sock is None else []

    def gone(self, worker: Worker) -> None:
        """A data process has ended: others serve alone what it did."""
        self.ejections.gone(worker)
        handle = self._behind.pop(worker, None)
        if handle is not None:
            handle.cancel()
        self._all_read(worker)
        for held in list(self._listeners.values()):
            if held.readers is not None:
                self.settle_readers(held)
        for portal in list(self._portals.portals.values()):
            if portal.readers is not None:
                self.settle_portal(portal)

    def begin(self, worker: Worker) -> None:
        """Tell a data process of all there is, beginning with what nobody else serves meanwhile.

        There may be thousands of these. Those come first at which a client waits, also one that comes meanwhile.
        """
        self.ejections.begins(worker)
        alone = self._served_alone(worker.place)
        worker.untold.update(dict.fromkeys([*alone, *self._listeners, *self._portals.portals]))
        worker.is_new = bool(worker.untold) or self.is_settled  # else there is nothing yet, and nothing is settled
        if alone:
            with suppress(OSError):  # without descriptors they are told of in turn
                self._unread[worker] = _Unread(alone, lambda name: self._unread_sockets(worker, name))
        self._catch_up(worker)

    def _served_alone(self, place: int) -> list[_Name]:
        """Listeners that one data process serves, or some sockets of them, and the portals that lead to such alone.

        Also portals of which it reads some sockets.
        """
        names = [name for name, held in self._listeners.items() if place in (held.readers or ())]
        known = set(names)
        portals = (
            address
            for address, each in self._portals.portals.items()
            if place in (each.readers or ()) or known.issuperset(each.admission.listeners)
        )
        return [*names, *portals]

    def _unread_sockets(self, worker: Worker, name: _Name) -> list[int]:
        if name in worker.told:
            return []
        if isinstance(name, ListenerName):
            held = self._listeners.get(name)
            return [] if held is None else held.sockets_for(worker.place)[1]
        portal = self._portals.portals.get(name)
        return [] if portal is None else portal.descriptors_for(worker.place)

    def _all_read(self, worker: Worker) -> None:
        unread = self._unread.pop(worker, None)
        if unread is not None:
            unread.close()

    def introduce(self, worker: Worker, name: ListenerName | PortalAddress) -> None:
        """Tell a data process of a listener or portal as soon as it takes what it was told before."""
        worker.untold[name] = None
        if worker not in self._behind:
            self._catch_up(worker)

    def _catch_up(self, worker: Worker) -> None:
        """Tell a data process what it does not know yet, in slices, and no more than it takes.

        What waits in the channel has copies of its descriptors, which are ours.
        """
        self._behind.pop(worker, None)
        if worker.is_over or self._stopped:
            return
        end = time.monotonic() + SLICE_SECONDS
        unread = self._unread.get(worker)
        for name in unread.waited_at() if unread is not None else ():
            worker.untold.pop(name, None)
            self._tell_now(worker, name)
        while worker.untold and not worker.channel.waiting and time.monotonic() < end:
            name, _ = worker.untold.popitem(last=False)
            self._tell_now(worker, name)
        if worker.untold:
            wait = _WAIT_SECONDS if worker.channel.waiting else 0.0
            self._behind[worker] = self._loop.call_later(wait, self._catch_up, worker)
            return
        self._all_read(worker)
        if worker.is_new:
            worker.is_new = False
            worker.send(Settled())

    def _tell_now(self, worker: Worker, name: ListenerName | PortalAddress) -> None:
        if name in worker.told:
            return
        if isinstance(name, ListenerName):
            held = self._listeners.get(name)
            if held is not None:
                self._tell(worker, held)
        else:
            portal = self._portals.portals.get(name)
            if portal is not None:
                self.tell_portal(worker, portal)


def _opening(held: HeldListener, place: int) -> tuple[Adopt | Elsewhere, list[int]]:
    """What the data process at a place is told of a listener's sockets, and those that it reads."""
    if not held.is_read_at(place):
        return Elsewhere(held.name, held.host, held.port), []
    members, descriptors = held.sockets_for(place)
    return Adopt(held.name, held.number, members), descriptors


def _part(held: HeldListener, place: int, update: Update) -> tuple[Raw, list[int]]:
    opening, descriptors = _opening(held, place)
    return Raw(encode(Told(opening, update))), descriptors


def _readers(held: HeldListener, usable: Collection[int], places: int) -> tuple[int, ...] | None:
    """The places at which a listener's sockets are read; None where all read the only one.

    Where there are several sockets the first is the first place's, and so on. What a place would read that cannot be
    used is another's.
    """
    if not held.members:
        return None
    return _spread(str(held.name.service_port), held.members, usable, places)


def _spread(words: str, count: int, usable: Collection[int], places: int) -> tuple[int, ...]:
    """The places at which the sockets of a group are read, or the only one."""
    if count == 1:
        return (_place_of(words, usable),)
    own = ((number % places + 1, f"{words} {number}") for number in range(count))
    return tuple(place if place in usable else _place_of(more, usable) for place, more in own)


def _place_of(words: str, places: Iterable[int]) -> int:
    """The place, of those, that goes with some words: few move when a place comes or goes."""
    return max(places, key=lambda place: zlib.crc32(f"{place} {words}".encode()))


def _share(readers: tuple[int, ...] | None, place: int) -> tuple[int, ...] | None:
    """The numbers of the sockets that are read at a place; None for the one that is read everywhere."""
    return None if readers is None else tuple(number for number, reader in enumerate(readers) if reader == place)
