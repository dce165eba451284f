"""What only one process of a node may have for a family, and predecessors hand over or give up for successors."""

import os
import time
from collections.abc import Awaitable, Callable
from typing import Final

from userproxy.addresses import IPFamily
from userproxy.model import LocalTraffic, Protocol
from userproxy.portals.interface import PortalDriver
from userproxy.portals.return_path.keeper import ReturnPathKeeper
from userproxy.proxier.interfaces import ClosableClaims

_PREDECESSOR_SECONDS: Final = 5.0
"""For this long after the rules have become ours, the process that had them before may still hold ports."""


class Holdings:
    """The lease, the claims of portals, and the way back for clients' addresses, which is None without such clients.

    The lease is that of `driver`, which is replaced when another one serves. `until_turn` returns when a predecessor
    serves no more.
    """

    def __init__(
        self,
        family: IPFamily,
        driver: PortalDriver,
        claims: ClosableClaims,
        return_path: ReturnPathKeeper | None,
        until_turn: Callable[[], Awaitable[None]],
    ) -> None:
        self.family = family
        self.driver = driver
        self.return_path = return_path
        self._claims = claims
        self._until_turn = until_turn
        self._made = time.monotonic()
        self._since: float | None = None
        self.are_given_up = False

    @property
    def have_been_ours(self) -> bool:
        """Whether :meth:`acquire` has returned, even if they have been given up since."""
        return self._since is not None

    @property
    def contended(self) -> bool:
        """Whether another userproxy is ready to serve this family and waits for us."""
        return self.driver.lease is not None and self.driver.lease.contended

    def may_have_predecessor(self, *, usable: bool) -> bool:
        """Whether ports may still be held by the process whose place we take. `usable`: the driver's tools work."""
        if self.driver.lease is None:
            return False
        since = self._since
        if since is None:
            if usable:
                return True
            since = self._made  # a family whose tools never work takes nobody's place
        return time.monotonic() - since < _PREDECESSOR_SECONDS

    async def acquire(self) -> None:
        """Return once all of it is ours; at once if it has been before."""
        if self._since is not None:
            return
        await self._until_turn()
        if self.driver.lease is not None:
            await self.driver.lease.acquire()
            if self.return_path is not None:
                await self.return_path.permit()
        self._since = time.monotonic()

    def follow(self, traffic: LocalTraffic, node_ips: tuple[str, ...]) -> None:
        """Keep the way back for this node: what tells its Pods' packets from others, and its addresses."""
        if self.return_path is not None:
            self.return_path.follow(traffic, node_ips)

    def announce(self) -> None:
        """Tell others that we serve, if we still do."""
        if not self.are_given_up and self.driver.lease is not None:
            self.driver.lease.announce()

    def sockets(self) -> dict[str, int]:
        """What holds ports and the lease, by names that a successor knows them by.

        So does what owns the way back for clients' addresses: it stays until the successor has closed its copy.
        """
        found = {
            " ".join(("claim", self.family, protocol, str(port), ip)): sock.fileno()
            for (ip, protocol, port), sock in self._claims.sockets()
        }
        lease = self.driver.lease
        if lease is not None and lease.socket is not None:
            found[f"lease {self.family}"] = lease.socket.fileno()
        if self.return_path is not None and (owner := self.return_path.owner) is not None:
            found[f"return path {self.family}"] = owner.fileno()
        return found

    def adopt_lease(self, descriptor: int) -> None:
        """Have the lease that a predecessor has handed over."""
        if self.driver.lease is not None:
            self.driver.lease.adopt(descriptor)
        else:
            os.close(descriptor)

    def adopt_claim(self, ip: str, protocol: Protocol, port: int, descriptor: int) -> None:
        """Have a claim that a predecessor has handed over."""
        self._claims.adopt(ip, protocol, port, descriptor)

    def release_unasked(self) -> None:
        """Release the claims of a predecessor that nobody has needed."""
        self._claims.release_unasked()

    def give_up(self) -> None:
        """Let a successor have all of it."""
        self.are_given_up = True
        self._claims.close()  # the successor needs these ports; the rules send clients to us all the same
        if self.return_path is not None:
            self.return_path.retire()
        if self.driver.lease is not None:
            self.driver.lease.release()

    async def close(self) -> None:
        """Release ports, and the driver's threads. Portals stay as they are."""
        self._claims.close()
        if self.return_path is not None:
            self.return_path.close()
        await self.driver.close()
