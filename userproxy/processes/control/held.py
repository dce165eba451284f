"""The sockets of listeners that the control process holds: it decides what they do with clients, and reads none."""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from userproxy.forwarding.tcp.sockets import ListeningSocket
from userproxy.forwarding.udp.groups.group import DatagramGroup
from userproxy.forwarding.udp.groups.spreading import member_of
from userproxy.model import ListenerName, Snapshot, Verdict

log = structlog.get_logger()

_RETRY_SECONDS: Final = 1.0


class HeldListener:
    """One listener. `sock` is None where only portals lead to it.

    `renewed` is called when its sockets have become others to the kernel, which must be handed out anew.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        name: ListenerName,
        number: int,
        sock: ListeningSocket | DatagramGroup | None,
        verdict: Verdict,
        renewed: Callable[["HeldListener"], None],
    ) -> None:
        self._loop = loop
        self._renewed = renewed
        self._retry: asyncio.TimerHandle | None = None
        self.name = name
        self.number = number
        self.sock = sock
        self.verdict = verdict
        """What the socket does with clients now. A UDP socket lets them wait until the first snapshot."""
        if isinstance(sock, DatagramGroup):
            self.verdict = Verdict.SERVE
        self.snapshot: Snapshot | None = None
        self.readers: tuple[int, ...] | None = None
        """The places of the data processes that read its sockets, one for each; None where all read the only one."""
        self.port = sock.port if sock is not None else 0

    def adopt(self, verdict: Verdict | None, snapshot: Snapshot | None) -> None:
        """Go on with a socket of another process, which treats clients by `verdict` and has had this snapshot."""
        self.verdict = verdict or self.verdict
        self.snapshot = snapshot

    @property
    def host(self) -> str:
        """The address that it is bound to, empty where it has no socket."""
        if isinstance(self.sock, DatagramGroup):
            return self.sock.host
        return "" if self.sock is None else str(self.sock.getsockname()[0])

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Those of its sockets, and of what keeps others from a group of them."""
        if isinstance(self.sock, DatagramGroup):
            return self.sock.descriptors
        return () if self.sock is None else (self.sock.fileno(),)

    @property
    def has_affinity(self) -> bool:
        """Whether a client is to meet always the same process, in whose table it stands."""
        return self.snapshot is not None and self.snapshot.affinity_timeout is not None

    @property
    def members(self) -> int:
        """How many processes can have clients of their own: its sockets, where each client keeps to one of them.

        0 where all processes share all clients, or have some each of every portal. A client of a service port with
        affinity must find the table in which it stands, and a client's datagrams the flow that they belong to.
        """
        if isinstance(self.sock, DatagramGroup):
            return len(self.sock.members)
        return 1 if self.has_affinity else 0

    def place_of(self, client: tuple[str, int]) -> int:
        """The place of the data process that has a client's datagrams."""
        places = self.readers or (1,)
        return places[member_of(client, len(places), by_address=self.has_affinity)]

    def is_read_at(self, place: int) -> bool:
        """Whether the data process at a place has clients of it."""
        return self.readers is None or place in self.readers

    def sockets_for(self, place: int) -> tuple[tuple[int, ...], list[int]]:
        """The numbers of the sockets that are read at a place, and their descriptors."""
        if self.sock is None:
            return (), []
        if not isinstance(self.sock, DatagramGroup):
            return (0,), [self.sock.fileno()]
        numbers = tuple(number for number, reader in enumerate(self.readers or ()) if reader == place)
        return numbers, [self.sock.members[number].fileno() for number in numbers]

    def follow(self, snapshot: Snapshot) -> None:
        """Have the kernel treat clients as a snapshot says."""
        self.snapshot = snapshot
        self._spread()
        if self._retry is None:
            self._switch()

    def close(self) -> None:
        """Close our copy of the socket."""
        if self._retry is not None:
            self._retry.cancel()
        if self.sock is not None:
            self.sock.close()

    def _spread(self) -> None:
        """Not while clients are refused: each of the sockets is connected then, and so of no group."""
        if isinstance(self.sock, DatagramGroup) and self.verdict is not Verdict.REJECT:
            try:
                self.sock.spread(by_address=self.has_affinity)
            except OSError as error:
                log.error(
                    "Clients of a UDP service port are not spread as its affinity wants",
                    service_port=str(self.name),
                    reason=error.strerror,
                )

    def _switch(self) -> None:
        self._retry = None
        wanted = self.snapshot.verdict if self.snapshot is not None else self.verdict
        if wanted is self.verdict or self.sock is None:
            return
        try:
            if isinstance(self.sock, DatagramGroup):
                self._switch_udp(self.sock, wanted)
            else:
                self.sock.set_verdict(wanted)
        except OSError as error:
            log.error(
                "New clients are not yet treated as they should be",
                service_port=str(self.name),
                verdict=wanted,
                reason=error.strerror,
            )
            self._retry = self._loop.call_later(_RETRY_SECONDS, self._switch)
        else:
            self.verdict = wanted

    def _switch_udp(self, sock: DatagramGroup, wanted: Verdict) -> None:
        if wanted is Verdict.REJECT:
            sock.refuse()
        elif self.verdict is Verdict.REJECT:
            sock.admit(by_address=self.has_affinity)
            self._renewed(self)
