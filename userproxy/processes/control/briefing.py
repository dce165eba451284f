"""What data processes are told of listeners and portals: each once, and no more at a time than they take."""

import asyncio
import time
import zlib
from collections.abc import Iterable, Mapping
from typing import Final

from userproxy.model import ListenerName, PortalAddress
from userproxy.processes.control.held import HeldListener
from userproxy.processes.control.held_portals import HeldPortal, HeldPortals
from userproxy.processes.control.pool import Pool
from userproxy.processes.control.worker import Worker
from userproxy.processes.messages import Adopt, AdoptPortal, Elsewhere, LeavePortal, Renew, Settled, Update

_SLICE_SECONDS: Final = 0.002
_WAIT_SECONDS: Final = 0.005


class Briefing:
    """Tells the data processes of `pool` of `listeners` and `portals`, which are read as they are by then.

    It decides which of them serves a listener that is to be served by one.
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
        self._stopped = False

    def stop(self) -> None:
        """Tell nobody anything that has to wait."""
        self._stopped = True

    def close(self) -> None:
        """Forget who is still to be told something."""
        for handle in self._behind.values():
            handle.cancel()

    def settle_owner(self, held: HeldListener) -> None:
        """Decide which data process serves a listener alone, if one does; those that know of it are told anew."""
        owner = _owner(held, self._pool.usable) if held.needs_one_process else None
        if owner == held.owner:
            return
        held.owner = owner
        for worker in self._pool.serving:
            if held.name not in worker.told:
                continue  # it will be told as it is by then
            worker.told.discard(held.name)
            for portal in self._portals_of(held):
                if portal.address in worker.told:
                    worker.told.discard(portal.address)
                    worker.send(LeavePortal(portal.address))
            self._tell(worker, held)
            for portal in self._portals_of(held):
                self._tell_portal(worker, portal)

    def _tell(self, worker: Worker, held: HeldListener) -> None:
        """Tell a data process of a listener and its snapshot, the first time."""
        if held.snapshot is None:
            return
        worker.told.add(held.name)
        if held.owner in {None, worker.place}:
            descriptors = [held.sock.fileno()] if held.sock is not None else []
            worker.send(Adopt(held.name, held.number, bool(descriptors)), descriptors)
        else:
            worker.send(Elsewhere(held.name, held.host, held.port))
        worker.send(Update(held.snapshot))

    def tell_all(self, worker: Worker, listeners: Iterable[HeldListener]) -> None:
        """Tell a data process of those of the listeners that it does not know."""
        for held in listeners:
            if held.name not in worker.told:
                self._tell(worker, held)

    def _tell_portal(self, worker: Worker, portal: HeldPortal) -> None:
        """Tell a data process of a portal and its listeners, the first time, if it serves these."""
        listeners = self.listeners_of(portal)
        self.tell_all(worker, listeners)
        if listeners and all(held.snapshot and held.owner in {None, worker.place} for held in listeners):
            worker.told.add(portal.address)
            worker.send(AdoptPortal(portal.address, portal.admission), [portal.sock.fileno()])

    def portal_left(self, address: PortalAddress) -> None:
        """A portal is listened on no longer."""
        for worker in self._pool.serving:
            if address in worker.told:
                worker.told.discard(address)
                worker.send(LeavePortal(address))

    def renewed(self, held: HeldListener) -> None:
        """A listener has another socket than before."""
        for worker in self._pool.serving:
            if held.name in worker.told and worker.place == held.owner and held.sock is not None:
                worker.send(Renew(held.name), [held.sock.fileno()])

    def listeners_of(self, portal: HeldPortal) -> list[HeldListener]:
        """Those whose clients come by a portal."""
        found = (self._listeners.get(name) for name in portal.admission.listeners)
        return [held for held in found if held is not None]

    def _portals_of(self, held: HeldListener) -> list[HeldPortal]:
        if held.sock is not None:
            return []
        return [portal for portal in self._portals.portals.values() if held.name in portal.admission.listeners]

    def gone(self, worker: Worker) -> None:
        """A data process has ended: others serve alone what it did."""
        handle = self._behind.pop(worker, None)
        if handle is not None:
            handle.cancel()
        for held in list(self._listeners.values()):
            if held.owner is not None:
                self.settle_owner(held)

    def begin(self, worker: Worker) -> None:
        """Tell a data process of all there is, beginning with what nobody else serves meanwhile."""
        alone = [held.name for held in self._listeners.values() if held.owner == worker.place]
        worker.untold.update(dict.fromkeys([*alone, *self._listeners, *self._portals.portals]))
        worker.is_new = True
        self._catch_up(worker)

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
        end = time.monotonic() + _SLICE_SECONDS
        while worker.untold and not worker.channel.waiting and time.monotonic() < end:
            name = next(iter(worker.untold))
            del worker.untold[name]
            self._tell_now(worker, name)
        if worker.untold:
            wait = _WAIT_SECONDS if worker.channel.waiting else 0.0
            self._behind[worker] = self._loop.call_later(wait, self._catch_up, worker)
        elif worker.is_new:
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
                self._tell_portal(worker, portal)


def _owner(held: HeldListener, places: Iterable[int]) -> int:
    """The place, of those, at which a listener's service port is served: few move when a place comes or goes."""
    name = str(held.name.service_port)
    return max(places, key=lambda place: zlib.crc32(f"{place} {name}".encode()))
