"""Whether others have changed what we keep in nf_tables, told by the kernel; what we did ourselves does not count.

Every transaction begins a new generation of the ruleset, and both sides name it: the notification, and the kernel when
it is asked for the current one. So what a driver has looked at, or written itself, is known by its generations.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from typing import Final

import structlog

from userproxy.addresses import IPFamily
from userproxy.portals import netlink
from userproxy.portals.netlink.notifications import NFTABLES, Subscription
from userproxy.portals.netlink.transactions import (
    GET_GENERATION,
    Concerns,
    Transaction,
    TransactionReader,
    generation_in,
    is_later,
)

log = structlog.get_logger()

_MOST_UNJUDGED: Final = 1000
"""Foreign transactions that are kept while a sync goes on; beyond that the last ones say enough."""


def current_generation() -> int:
    """The generation of this thread's network namespace. Raises OSError where the kernel does not tell."""
    request = netlink.netfilter_header(IPFamily.IPV4)
    with closing(netlink.netlink_socket(netlink.NETFILTER)) as asking:
        asking.send(netlink.message(GET_GENERATION, netlink.REQUEST, request))
        data = asking.recv(netlink.CHUNK)
    for kind, begin, end in netlink.messages(data):
        if kind == netlink.ERROR:
            netlink.raise_for_code(data, begin)
        elif (generation := generation_in(data, begin, end)) is not None:
            return generation
    raise OSError("the kernel names no generation of nf_tables")


class Ruleset:
    """Tells the transactions of others from our own. `concerns` says what is of interest.

    The first three methods are the driver's, in whatever thread it works; the others are of the loop's.
    """

    def __init__(self, concerns: Concerns) -> None:
        self._reader = TransactionReader(concerns)
        self._looked = False
        self._verified: int | None = None
        self._own: set[int] = set()
        """Generations that we began ourselves since."""
        self._foreign: list[Transaction] = []
        self._lost = False
        self._news = asyncio.Event()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._authors: dict[str, None] = {}

    def generation(self) -> int | None:
        """The current one, to be given back as what was looked at or written; None where the kernel does not tell."""
        try:
            return current_generation()
        except OSError as error:
            log.debug("The generation of nf_tables cannot be read", v=2, reason=str(error))
            return None

    def verified(self, generation: int | None) -> None:
        """All that we keep was as it should be, read after the ruleset had this `generation`."""
        self._looked, self._verified = True, generation
        if generation is not None:
            self._own = {each for each in self._own if is_later(each, generation)}

    def wrote(self, before: int | None, transactions: int) -> None:
        """We have just written so many `transactions`, the first of them upon the generation `before`.

        If there have been more since then, some were not ours, and none counts as such.
        """
        after = self.generation()
        if before is not None and after is not None and (after - before) % (1 << 32) == transactions:
            self._own.update((before + number) % (1 << 32) for number in range(1, transactions + 1))

    @contextmanager
    def syncing(self) -> Iterator[None]:
        """Around a sync: what is told meanwhile is judged when it is known what the sync has looked at and written."""
        self._quiet.clear()
        try:
            yield
        finally:
            self._quiet.set()

    def take_authors(self) -> str:
        """The programs that disturbed us since the last call, as the kernel names them."""
        names, self._authors = self._authors, {}
        return ", ".join(names)

    async def watch(
        self, in_thread: Callable[[Callable[[], int | None]], Awaitable[int | None]], disturbed: Callable[[], None]
    ) -> None:
        """Call `disturbed` after each transaction of others that concerns us, until cancelled.

        To be called before the first sync: what happened before the call is not told.
        `in_thread` has something that blocks done by a thread of the network namespace that is meant. Raises OSError
        where the kernel does not tell.
        """
        with closing(Subscription(netlink.NETFILTER, [NFTABLES], self._received, self._missed)):
            while True:
                await self._news.wait()
                await self._quiet.wait()
                self._news.clear()
                lost, self._lost = self._lost, False
                foreign, self._foreign = [each for each in self._foreign if self._is_foreign(each.generation)], []
                if foreign:
                    self._authors |= dict.fromkeys(map(_author, foreign))
                for each in foreign:
                    log.debug("Rules changed by others", v=4, program=each.program, generation=each.generation)
                if foreign or (lost and self._is_foreign(await in_thread(self.generation))):
                    disturbed()

    def _received(self, data: bytes) -> None:
        for transaction in self._reader.read(data):
            if transaction.concerns:
                self._foreign.append(transaction)
                del self._foreign[:-_MOST_UNJUDGED]
                self._news.set()

    def _missed(self) -> None:
        self._reader.lost()
        self._lost = True
        self._news.set()

    def _is_foreign(self, generation: int | None) -> bool:
        if not self._looked:
            return False  # the first sync is still to come
        if generation is None or self._verified is None:
            return True
        return is_later(generation, self._verified) and generation not in self._own


def _author(transaction: Transaction) -> str:
    if not transaction.program:
        return "a program that the kernel does not name"
    return f"{transaction.program} (process {transaction.process})"
