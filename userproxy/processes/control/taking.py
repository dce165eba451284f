"""Takes over into data processes: listeners are held here, and what belongs to them is spread."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

from msgspec import Raw, structs

from userproxy.forwarding.handover.taking import HandoverError
from userproxy.forwarding.handover.values import (
    AffinityEntries,
    AffinityHandedOver,
    ClientHandedOver,
    DatagramHandedOver,
    DecisionsHandedOver,
    DialHandedOver,
    Ended,
    FlowHandedOver,
    Item,
    Last,
    ListenerChanged,
    ListenerHandedOver,
    PairsHandedOver,
    PathHandedOver,
    PortalHandedOver,
    PortsHandedOver,
    RelayHandedOver,
    SnapshotChanged,
)
from userproxy.forwarding.observation.counters import NOTHING_COUNTED
from userproxy.model import Admission, PortalAddress, ServicePortName
from userproxy.processes.channel import close_descriptors, encode
from userproxy.processes.control.adoption import Adoption
from userproxy.processes.control.held import HeldListener
from userproxy.processes.control.worker import Worker
from userproxy.processes.transfers import AskArrived, Complete, Take, TakeOver
from userproxy.routing.balancers.state import NO_STATE

_ROOM_SECONDS: Final = 5.0
"""How long a data process may leave unread what it is sent."""

_ONE_BY_ONE_SECONDS: Final = 5.0
"""For how long data processes take in one after the other; then together. Each connection of a predecessor's data
process comes alone, and to wait for each takes 0.3 ms: no Service comes or goes meanwhile."""

_ARRIVED_SECONDS: Final = 8.0


class _Parcel:
    """What a data process is to be sent next."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.descriptors: list[int] = []


class ProcessesTaker:
    """Takes over into `workers`, which serve nobody yet. Raises HandoverError.

    Until :meth:`arrived`, for some seconds at most, they take in one after the other what has come: another userproxy
    serves meanwhile, and its clients are not to find all CPUs taken.

    What belongs to a listener that one process serves alone goes there. Other connections are spread by their ids, and
    what a process has counted and decided goes to one.
    """

    def __init__(self, workers: Sequence[Worker], adoption: Adoption) -> None:
        self._workers = workers
        self._adoption = adoption
        self._held: dict[int, HeldListener] = {}
        self._closed: set[int] = set()
        self._readers: dict[ServicePortName, set[int]] = {}
        """Who serves a service port, if not all of `workers` do."""
        self._admissions: dict[PortalAddress, Admission] = {}
        self._by_id: dict[int, int] = {}
        """To which of `workers` a connection or flow has gone."""
        self._parcels = [_Parcel() for _ in workers]
        self._plane = 0
        self._last_id = 0
        self.is_complete = False
        """Whether all has come."""
        self._deal: Mapping[type, Callable[..., None]] = {
            ListenerHandedOver: self._listener,
            ListenerChanged: self._listener_changed,
            SnapshotChanged: self._snapshot_changed,
            PortalHandedOver: self._portal,
            AffinityHandedOver: self._affinity,
            AffinityEntries: self._affinity,
            RelayHandedOver: self._relay,
            DialHandedOver: self._dial,
            ClientHandedOver: self._client,
            DatagramHandedOver: self._datagram,
            FlowHandedOver: self._flow,
            DecisionsHandedOver: self._decisions,
            PathHandedOver: lambda item, _: self._adoption.follow_return_path(item.path),
            PairsHandedOver: self._pairs,
            PortsHandedOver: self._ports,
            Ended: self._ended,
            Last: self._last,
        }
        self._hurries_at = time.monotonic() + _ONE_BY_ONE_SECONDS
        """From when on they take in together: the other userproxy is about to serve nobody, or it takes too long."""
        adoption.told = self._settle
        for worker in workers:
            worker.send(TakeOver())

    def take(self, item: Item, descriptors: list[int], plane: int = 0) -> None:
        """As :meth:`Taker.take`; it is on its way with :meth:`deal`."""
        if plane != self._plane:
            self.deal()
            self._plane = plane
        try:
            self._deal[type(item)](item, descriptors)
        except KeyError as error:
            raise HandoverError(f"{type(item).__name__} does not fit what came before") from error
        except OSError as error:
            raise HandoverError(f"{type(item).__name__} cannot be taken over: {error.strerror}") from error
        finally:
            close_descriptors(descriptors)

    def deal(self) -> None:
        """Send data processes what was taken in since."""
        self._adoption.tell()
        for worker, parcel in zip(self._workers, self._parcels, strict=True):
            if parcel.items:
                items, parcel.items = parcel.items, []
                worker.send(Take(Raw(encode(items)), self._plane), parcel.descriptors)
                close_descriptors(parcel.descriptors)
                self._settle(worker)
            if worker.channel.waiting:
                worker.channel.wait(_is_read(worker), _ROOM_SECONDS)
            if not worker.channel.open or worker.channel.waiting:
                raise HandoverError("a data process has ended, or does not take what is to be its own")

    def arrived(self) -> None:
        """Return once all data processes have what was sent to them. What comes from now on is urgent."""
        self._hurries_at = 0.0
        self._until_arrived(AskArrived())

    def complete(self) -> None:
        """As :meth:`arrived`, and nothing comes any more: data processes put in order what needs no socket."""
        self._until_arrived(Complete())

    def _settle(self, worker: Worker) -> None:
        if time.monotonic() < self._hurries_at and not worker.settle(_ROOM_SECONDS):
            raise HandoverError("a data process has ended, or does not take what is to be its own")

    def _until_arrived(self, question: AskArrived | Complete) -> None:
        self.deal()
        end = time.monotonic() + _ARRIVED_SECONDS
        for worker in self._workers:
            worker.arrived = None
            worker.send(question)
        for worker in self._workers:
            worker.channel.wait(_has_arrived(worker), end - time.monotonic())
            if worker.arrived is None:
                raise HandoverError("a data process has ended, or does not say that it has everything")
            if worker.arrived:
                raise HandoverError(worker.arrived)

    def go_on(self) -> None:
        """Begin: the other process has let go."""
        self._adoption.begin(self._last_id)

    def _listener(self, item: ListenerHandedOver, descriptors: list[int]) -> None:
        if not item.is_open:
            self._closed_listener(item)
            return
        held = self._adoption.adopt(item, descriptors)
        descriptors.clear()
        self._held[item.number] = held
        if held.readers is not None:
            self._readers.setdefault(held.name.service_port, set()).update(place - 1 for place in held.readers)
        if item.balancer == NO_STATE and item.counters == NOTHING_COUNTED:
            return
        changed = ListenerChanged(item.number, item.balancer, item.counters)
        self._listener_changed(changed, [])
        balancer = structs.replace(item.balancer, ejections=0)
        turn = structs.replace(changed, balancer=balancer, counters=NOTHING_COUNTED)
        for target in self._readers_of(held):
            if target != self._of_listener(item.number):
                self._send(target, turn)

    def _closed_listener(self, item: ListenerHandedOver) -> None:
        self._adoption.note_number(item.number)
        if item.number in self._held:
            self._send(self._of_listener(item.number), item)
            return
        if item.number not in self._closed:
            self._closed.add(item.number)
            for target in range(len(self._workers)):
                if target != self._of_plane:
                    self._send(target, structs.replace(item, counters=NOTHING_COUNTED))
        self._send(self._of_plane, item)

    def _listener_changed(self, item: ListenerChanged, _descriptors: list[int]) -> None:
        self._send(self._of_listener(item.number), item)

    def _snapshot_changed(self, item: SnapshotChanged, _descriptors: list[int]) -> None:
        self._adoption.update(item.snapshot)

    def _portal(self, item: PortalHandedOver, descriptors: list[int]) -> None:
        self._admissions[item.address] = item.admission
        self._adoption.adopt_portal(item.address, item.admission, descriptors)
        descriptors.clear()

    def _affinity(self, item: AffinityHandedOver | AffinityEntries, _descriptors: list[int]) -> None:
        for target in self._readers.get(item.service_port, ()):  # of nobody, if there is no affinity any more
            self._send(target, item)

    def _relay(self, item: RelayHandedOver, descriptors: list[int]) -> None:
        self._send(self._target(item.state.dial.id, item.owner), item, descriptors)

    def _dial(self, item: DialHandedOver, descriptors: list[int]) -> None:
        """Clients who are held go to one process, which keeps their order: the one that new ones go to."""
        held = self._held.get(item.owner)
        if held is not None and held.snapshot is not None and held.snapshot.hold is not None:
            self._by_id[item.state.id] = min(self._readers_of(held))
        self._send(self._target(item.state.id, item.owner), item, descriptors)

    def _datagram(self, item: DatagramHandedOver, _descriptors: list[int]) -> None:
        self._send(self._of_client(item, item.peer), item)

    def _flow(self, item: FlowHandedOver, descriptors: list[int]) -> None:
        target = self._by_id.get(item.state.id)
        if target is None:
            target = self._by_id[item.state.id] = self._of_client(item, item.state.peer)
        self._send(target, item, descriptors)

    def _client(self, item: ClientHandedOver, descriptors: list[int]) -> None:
        readers = self._readers_of(self._listener_of(item))
        self._send(self._of_plane if self._of_plane in readers else min(readers), item, descriptors)

    def _decisions(self, item: DecisionsHandedOver, _descriptors: list[int]) -> None:
        readers = self._readers.get(item.service_port)
        self._send(self._of_plane if readers is None or self._of_plane in readers else min(readers), item)

    def _pairs(self, item: PairsHandedOver, _descriptors: list[int]) -> None:
        self._adoption.know_pairs(item)
        for target in range(len(self._workers)):
            self._send(target, item)

    def _ports(self, item: PortsHandedOver, _descriptors: list[int]) -> None:
        for target, mine in enumerate(item.state.shared(len(self._workers))):
            self._send(target, PortsHandedOver(mine))

    def _ended(self, item: Ended, _descriptors: list[int]) -> None:
        ended: dict[int, list[int]] = {}
        for number in item.ids:
            target = self._by_id.pop(number, None)
            if target is not None:
                ended.setdefault(target, []).append(number)
        for target, numbers in ended.items():
            self._send(target, Ended(tuple(numbers)))

    def _last(self, item: Last, _descriptors: list[int]) -> None:
        self._last_id = max(self._last_id, item.last_id)
        self.is_complete = True

    @property
    def _of_plane(self) -> int:
        """Who gets what belongs to the other side's process as a whole."""
        return self._plane % len(self._workers)

    def _of_listener(self, number: int) -> int:
        """Who gets what one of the other side's processes has counted. Raises KeyError."""
        if number in self._closed:
            return self._of_plane
        readers = self._readers_of(self._held[number])
        return self._of_plane if self._of_plane in readers else min(readers)

    def _readers_of(self, held: HeldListener) -> Collection[int]:
        return range(len(self._workers)) if held.readers is None else {place - 1 for place in held.readers}

    def _of_client(self, item: FlowHandedOver | DatagramHandedOver, client: tuple[str, int]) -> int:
        """Who has a client's datagrams. Raises KeyError."""
        held = self._held[item.owner] if item.portal is None else self._adoption.portal(item.portal)
        return held.place_of(client) - 1

    def _listener_of(self, item: ClientHandedOver) -> HeldListener:
        """Whose a client is. Raises KeyError."""
        if item.portal is None:
            return self._held[item.owner]
        name = self._admissions[item.portal].listeners[0]
        return next(held for held in self._held.values() if held.name == name)

    def _target(self, number: int, listener: int) -> int:
        """Where a connection is, or is to be. Raises KeyError."""
        target = self._by_id.get(number)
        if target is None:
            target = number % len(self._workers)
            if listener not in self._closed and target not in (readers := self._readers_of(self._held[listener])):
                target = min(readers)
            self._by_id[number] = target
        return target

    def _send(self, target: int, item: Item, descriptors: list[int] | None = None) -> None:
        parcel = self._parcels[target]
        parcel.items.append(item)
        if descriptors:
            parcel.descriptors += descriptors
            descriptors.clear()


def _is_read(worker: Worker) -> Callable[[], bool]:
    return lambda: not worker.channel.waiting


def _has_arrived(worker: Worker) -> Callable[[], bool]:
    return lambda: worker.arrived is not None
