"""Keeps the way back of one address family: before it is first used, after others have changed it, until a stop."""

import asyncio
import socket
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Final

import structlog

from userproxy.addresses import IPFamily
from userproxy.errors import KernelToolError
from userproxy.model import LocalTraffic, ReturnPath
from userproxy.portals import netlink
from userproxy.portals.netlink.network_changes import Route, concerns
from userproxy.portals.netlink.notifications import (
    IPV4_ADDRESS,
    IPV4_ROUTE,
    IPV4_RULE,
    IPV6_ADDRESS,
    IPV6_ROUTE,
    IPV6_RULE,
    LINK,
    NFTABLES,
    Subscription,
)
from userproxy.portals.netlink.rtnetlink import MAIN_TABLE
from userproxy.portals.netlink.transactions import Touched, TransactionReader
from userproxy.portals.return_path.cleanup import clean_up
from userproxy.portals.return_path.marks import Mark
from userproxy.portals.return_path.policy_routing import DELETE_RULE, NEW_RULE, TABLES
from userproxy.portals.return_path.rules import NAME
from userproxy.portals.return_path.standing import Standing

log = structlog.get_logger()

_GROUPS: Final = {
    IPFamily.IPV4: (LINK, IPV4_ADDRESS, IPV4_ROUTE, IPV4_RULE),
    IPFamily.IPV6: (LINK, IPV6_ADDRESS, IPV6_ROUTE, IPV6_RULE),
}
_NEW_LINK: Final = 16
_SETTLE_SECONDS: Final = 0.05
"""What changes together is looked at once: a new Pod is a dozen messages."""
_PAUSE_SECONDS: Final = 0.25
_LOOK_EVERY: Final = 30.0
"""Seconds after which it is looked at in any case, and after which what could not be had is tried again."""


_LOOK_OFTEN: Final = 5.0
"""Seconds after which rules are looked at of which the kernel tells nobody. It takes four programs."""


class ReturnPathKeeper:
    """Has the way back stand once it is both needed and permitted, and tells of it by `tell`.

    `guard` is whether it is to outlive a flush of all rules by others.
    All methods are called on the running loop. Nothing is raised: what cannot be had is a problem of the path, and one
    line of the log.
    """

    def __init__(self, family: IPFamily, mark: Mark, tell: Callable[[ReturnPath], None], *, guard: bool = True) -> None:
        self._family = family
        self._mark = mark
        self._tell = tell
        self._standing = Standing(family, mark, guard=guard)
        self._view: tuple[LocalTraffic, frozenset[str]] = (LocalTraffic(), frozenset())
        self._path: ReturnPath | None = None
        self._permitted = False
        self._needed = False
        self._news = asyncio.Event()
        self._turn = asyncio.Lock()
        self._transactions = TransactionReader(_touches)

    def follow(self, local_traffic: LocalTraffic, node_addresses: Collection[str]) -> None:
        """Tell Pods of this node from other hosts so, from now on."""
        view = (local_traffic, frozenset(node_addresses))
        if view != self._view:
            self._view = view
            self._news.set()

    @property
    def needed(self) -> bool:
        """Whether it was asked for."""
        return self._needed

    @property
    def owner(self) -> socket.socket | None:
        """The socket with which the rules go, where they belong to one."""
        return self._standing.owner

    async def permit(self) -> None:
        """The portals of this node are this process's, so what is written for them may be, too."""
        self._permitted = True
        await self._begin()

    async def stand(self) -> None:
        """Have it stand from now on, or from when that is permitted; it does when this returns, as far as it can."""
        self._needed = True
        await self._begin()

    async def _begin(self) -> None:
        if self._permitted and self._needed and self._path is None:
            await self._make()

    async def missing(self) -> tuple[str, ...]:
        """What is missing of it now, in a line of text each; nothing where it cannot be had. Raises KernelToolError."""
        if not self._permitted or self._path is None or self._path.problem:
            return ()
        async with self._turn:
            try:
                return tuple(await asyncio.to_thread(self._standing.missing))
            except OSError as error:
                raise KernelToolError(f"policy routing cannot be read: {error.strerror or error}") from error

    def retire(self) -> None:
        """Leave it as it is, for a successor, or until it is removed."""
        self._permitted = False

    async def remove(self) -> bool:
        """Remove all of it; whether nothing is left. What stays is logged."""
        self.retire()
        async with self._turn:
            self._standing.close()
            cleaned = await asyncio.to_thread(clean_up, self._family)
        for text in cleaned.failed:
            log.error("The way back for clients' addresses stays until `userproxy cleanup`", reason=text)
        return not cleaned.failed

    def close(self) -> None:
        """Let go of it: what belongs to this process goes, the rest stays."""
        self.retire()
        self._standing.close()

    async def watch(self) -> None:
        """Keep it, until cancelled: look at it after changes of the network, and after those that others make of it."""
        with self._listening():
            while True:
                try:
                    async with asyncio.timeout(_LOOK_EVERY if self._standing.announced else _LOOK_OFTEN):
                        await self._news.wait()
                except TimeoutError:
                    pass
                await asyncio.sleep(_SETTLE_SECONDS)
                self._news.clear()
                await self._make()
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _make(self) -> None:
        async with self._turn:
            if self._permitted and self._needed:
                self._note(await asyncio.to_thread(self._standing.make, *self._view))

    def _note(self, path: ReturnPath) -> None:
        before, self._path = self._path, path
        if path == before:
            return
        if path.problem and (before is None or path.problem != before.problem):
            text = "Backends see the node's address instead of the client's: no answer to the latter comes back"
            log.warning(text, family=self._family, reason=path.problem)
        elif not path.problem and (before is None or before.problem):
            log.info("Answers to clients' addresses come back here", family=self._family, mark=str(self._mark))
        self._tell(path)

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Be told of changes; of those that the kernel does not tell of, `_LOOK_EVERY` is when they show."""
        with ExitStack() as stack:
            for protocol, groups, received in (
                (netlink.ROUTE, _GROUPS[self._family], self._heard_of_network),
                (netlink.NETFILTER, (NFTABLES,), self._heard_of_rules),
            ):
                try:
                    stack.enter_context(closing(Subscription(protocol, groups, received, self._lost)))
                except OSError as error:
                    log.debug("Not told of changes", v=1, family=self._family, reason=str(error))
            yield

    def _heard_of_network(self, data: bytes) -> None:
        if matters(data, self._family):
            self._news.set()

    def _heard_of_rules(self, data: bytes) -> None:
        if any(transaction.concerns for transaction in self._transactions.read(data)):
            self._news.set()

    def _lost(self) -> None:
        self._transactions.lost()
        self._news.set()


def matters(data: bytes, family: IPFamily) -> bool:
    """Whether messages of rtnetlink may be about something that the way back depends on. Pure."""
    kinds = {kind for kind, _, _ in netlink.messages(data)}
    # A bridge that gets another hardware address says so in a message that names no flag as changed.
    return bool(kinds & {_NEW_LINK, NEW_RULE, DELETE_RULE}) or concerns(data, family, _is_of_interest)


def _is_of_interest(route: Route) -> bool:
    return route.table == MAIN_TABLE or route.table in TABLES


def _touches(touched: Touched) -> bool:
    return touched.table.startswith(NAME)
