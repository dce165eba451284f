"""Listeners and portals of another userproxy, which the control process holds from now on."""

import asyncio
from collections.abc import Callable, MutableMapping, Sequence

from userproxy.forwarding.handover.values import ListenerHandedOver, PairsHandedOver
from userproxy.forwarding.tcp.sockets import ListeningSocket
from userproxy.forwarding.udp.groups.group import DatagramGroup
from userproxy.forwarding.udp.sockets import DatagramSocket
from userproxy.model import Admission, ListenerName, PortalAddress, Protocol, ReturnPath, Snapshot, Verdict
from userproxy.processes.control.briefing import Briefing
from userproxy.processes.control.groups.growing import Growing, Grown
from userproxy.processes.control.held import HeldListener
from userproxy.processes.control.held_portals import HeldPortal, HeldPortals
from userproxy.processes.control.pool import Pool
from userproxy.processes.control.worker import Worker


class Adoption:
    """Adds them to `listeners` and `portals`, and tells data processes of them, which serve nobody yet."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pool: Pool,
        listeners: MutableMapping[ListenerName, HeldListener],
        portals: HeldPortals,
        briefing: Briefing,
        renewed: Callable[[HeldListener], None],
        follow_return_path: Callable[[ReturnPath], None],
        know_pairs: Callable[[PairsHandedOver], None],
        growing: Growing,
        adopted: Callable[[HeldListener], None],
        adopted_portal: Callable[[], None],
        note_number: Callable[[int], None],
        update: Callable[[Snapshot], None],
    ) -> None:
        """`follow_return_path` gets what was found out about this host, `know_pairs` what of ways back.

        `adopted` is called for each listener, and `adopted_portal` for each socket of a portal, to account for them.
        `note_number` gets the numbers of listeners, closed ones too, which no other listener is to have. `update` is
        called with another snapshot of a listener.
        """
        self._loop = loop
        self._pool = pool
        self._listeners = listeners
        self._portals = portals
        self._briefing = briefing
        self._renewed = renewed
        self.follow_return_path = follow_return_path
        self.know_pairs = know_pairs
        self._growing = growing
        self._adopted = adopted
        self._adopted_portal = adopted_portal
        self.note_number = note_number
        self._update = update
        self._untold: list[HeldListener] = []
        self.told: Callable[[Worker], None] = lambda _: None
        """Called with a data process that has just been told of listeners, before the next one is."""

    def adopt(self, item: ListenerHandedOver, descriptors: Sequence[int]) -> HeldListener:
        """Hold a listener with its sockets; data processes serve it from :meth:`tell` on. Raises OSError."""
        verdict = item.verdict or Verdict.REJECT
        sock: ListeningSocket | DatagramGroup | None = None
        if item.port and item.name.service_port.protocol is Protocol.TCP:
            sock = ListeningSocket.adopt(descriptors[0], verdict)
        elif item.port:
            first = DatagramSocket.adopt(descriptors[0], item.host, descriptors[1] if item.is_held else None)
            sock = DatagramGroup.of(first, descriptors[2 if item.is_held else 1 :])
        held = HeldListener(self._loop, item.name, item.number, sock, verdict, self._renewed)
        held.adopt(item.verdict, item.snapshot)
        self._listeners[item.name] = held
        self.note_number(item.number)
        # One that refuses its clients has other sockets once it takes them again.
        if isinstance(sock, DatagramGroup) and item.verdict is not Verdict.REJECT and self._growing.grow(sock):
            self._growing.note(Grown(item.name, None, sock, held.has_affinity, held.place_of))
        self._adopted(held)
        self._briefing.settle_readers(held)
        self._untold.append(held)
        return held

    def tell(self) -> None:
        """Tell data processes of the listeners that were adopted since."""
        if self._untold:
            untold, self._untold = self._untold, []
            self._briefing.tell_together(untold, lambda worker: self.told(worker))

    def update(self, snapshot: Snapshot) -> None:
        """Have a listener that was adopted follow another snapshot."""
        self.tell()
        self._update(snapshot)

    def adopt_portal(self, address: PortalAddress, admission: Admission, descriptors: Sequence[int]) -> None:
        """Hold a portal, and have data processes serve it. Raises OSError."""
        kind = ListeningSocket if address.protocol is Protocol.TCP else DatagramSocket
        portal = self._portals.adopt(address, admission, [kind(each) for each in descriptors])
        self._portals.further -= len(portal.sockets)
        self._growing.grow_portal(portal)
        self._portals.further += len(portal.sockets)
        for _ in portal.sockets:
            self._adopted_portal()
        self.tell()
        self._briefing.place_portal(portal)
        for worker in self._pool.serving:
            self._briefing.tell_portal(worker, portal)

    def portal(self, address: PortalAddress) -> HeldPortal:
        """A portal that is held. Raises KeyError."""
        return self._portals.portals[address]

    def begin(self, last_id: int) -> None:
        """Have data processes go on with what they have taken in, whose ids are `last_id` at most."""
        found = self._growing.settle()
        self._pool.go_on(last_id)
        workers = {worker.place: worker for worker in self._pool.serving}
        for place, message in found:
            if place in workers:
                workers[place].send(message)
