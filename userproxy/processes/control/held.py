"""The sockets of listeners that the control process holds: it decides what they do with clients, and reads none."""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from userproxy.forwarding.tcp.sockets import ListeningSocket
from userproxy.forwarding.udp.sockets import DatagramSocket
from userproxy.model import ListenerName, Protocol, Snapshot, Verdict

log = structlog.get_logger()

_RETRY_SECONDS: Final = 1.0


class HeldListener:
    """One listener. `sock` is None where only portals lead to it.

    `renewed` is called when its socket has become another one to the kernel, which must be handed out anew.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        name: ListenerName,
        number: int,
        sock: ListeningSocket | DatagramSocket | None,
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
        if isinstance(sock, DatagramSocket):
            self.verdict = Verdict.SERVE
        self.snapshot: Snapshot | None = None
        self.owner: int | None = None
        """The number of the only data process that serves it; None for all."""
        self.port = sock.port if sock is not None else 0

    @property
    def host(self) -> str:
        """The address that it is bound to, empty where it has no socket."""
        return "" if self.sock is None else str(self.sock.getsockname()[0])

    @property
    def needs_one_process(self) -> bool:
        """Whether its clients are to meet one process only.

        A client of a service port with affinity must find the table in which it stands, and a client's datagrams the
        flow that they belong to.
        """
        is_sticky = self.snapshot is not None and self.snapshot.affinity_timeout is not None
        return is_sticky or self.name.service_port.protocol is Protocol.UDP

    def follow(self, snapshot: Snapshot) -> None:
        """Have the kernel treat clients as a snapshot says."""
        self.snapshot = snapshot
        if self._retry is None:
            self._switch()

    def close(self) -> None:
        """Close our copy of the socket."""
        if self._retry is not None:
            self._retry.cancel()
        if self.sock is not None:
            self.sock.close()

    def _switch(self) -> None:
        self._retry = None
        wanted = self.snapshot.verdict if self.snapshot is not None else self.verdict
        if wanted is self.verdict or self.sock is None:
            return
        try:
            if isinstance(self.sock, DatagramSocket):
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

    def _switch_udp(self, sock: DatagramSocket, wanted: Verdict) -> None:
        if wanted is Verdict.REJECT:
            sock.refuse()
        elif self.verdict is Verdict.REJECT:
            sock.admit()
            self._renewed(self)
