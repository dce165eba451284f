"""Looks up at the API server which addresses are those of Nodes: all Nodes are listed once somebody needs to know.

Whoever may write EndpointSlices may make every node ask. So they do not ask all at once, and each of them ever more
seldom while there are ever new questions.
"""

import asyncio
from collections.abc import Callable
from ipaddress import ip_address
from random import Random
from typing import Final

import msgspec
import structlog
from msgspec import Struct

from userproxy.cluster.client import ApiClient
from userproxy.cluster.failures import ApiError, ExpiredError
from userproxy.cluster.listing import ANY_VERSION, LATEST_VERSION, items
from userproxy.cluster.node_addresses import NodeAddresses
from userproxy.cluster.resources import all_nodes
from userproxy.pace import Pace

log = structlog.get_logger()

_ADDRESSES: Final = ("InternalIP", "ExternalIP")


class _Address(Struct):
    type: str | None = None
    address: str | None = None


class _Status(Struct):
    addresses: list[_Address] | None = None


class _Node(Struct):
    status: _Status | None = None


class LookupTiming(Struct, frozen=True):
    """All in seconds. The first list comes within `spread` after the first question, at random.

    After `patience` without an answer, nobody waits for one any longer. Lists are at least `least` apart, twice as long
    each time up to `longest`, and `least` again after as long without a question. After `validity` answers are old.
    """

    spread: float = 5.0
    patience: float = 10.0
    least: float = 60.0
    longest: float = 1800.0
    validity: float = 3600.0


class NodeLookup:
    """Answers what `addresses` is asked; `on_change` is called on the loop's thread when answers may be others."""

    def __init__(
        self,
        client: ApiClient,
        addresses: NodeAddresses,
        on_change: Callable[[], None],
        random: Random,
        timing: LookupTiming = LookupTiming(),  # noqa: B008 -- a frozen value
    ) -> None:
        self._client = client
        self._addresses = addresses
        self._on_change = on_change
        self._random = random
        self._timing = timing
        self._asked = asyncio.Event()
        self._told = ""
        addresses.on_question = self._asked.set

    async def run(self) -> None:
        """Look up what is asked for, until cancelled."""
        timing, loop = self._timing, asyncio.get_running_loop()
        pause = timing.least
        await self._wait_for_question(None)
        out_of_patience = loop.call_later(timing.patience, self._give_up, "the API server has not answered yet")
        try:
            await asyncio.sleep(self._random.uniform(0, timing.spread))
            await self._look_up()
        finally:
            out_of_patience.cancel()
        while True:
            await asyncio.sleep(pause * self._random.uniform(1, 1.5))
            began = loop.time()
            if not await self._wait_for_question(timing.validity):
                self._addresses.forget_answers()
                self._on_change()
                await self._wait_for_question(None)
            pause = timing.least if loop.time() - began >= pause else min(2 * pause, timing.longest)
            await self._look_up()

    async def _wait_for_question(self, seconds: float | None) -> bool:
        self._asked.clear()
        if self._addresses.questions:
            return True
        try:
            async with asyncio.timeout(seconds):
                await self._asked.wait()
        except TimeoutError:
            return False
        return True

    async def _look_up(self) -> None:
        questions, before = self._addresses.questions, self._addresses.version
        try:
            listed = await self._list()
        except ApiError as error:
            self._give_up(str(error))
            return
        self._told = ""
        self._addresses.answer(questions, listed)
        log.debug("Nodes looked up", v=2, addresses=len(listed), asked=len(questions))
        if self._addresses.version != before:
            self._on_change()

    def _give_up(self, reason: str) -> None:
        """Endpoints are used though they may be Nodes' addresses: that a Service of Pods works counts for more."""
        if self._told != reason:
            self._told = reason
            log.warning(
                "Nodes cannot be looked up: endpoints at a node port's number are used, though they may lead in a loop",
                reason=reason,
            )
        before = self._addresses.version
        self._addresses.stop_presuming()
        if self._addresses.version != before:
            self._on_change()

    async def _list(self) -> set[str]:
        try:
            return await self._list_since(ANY_VERSION)
        except ExpiredError:
            return await self._list_since(LATEST_VERSION)

    async def _list_since(self, version: str) -> set[str]:
        decoder = msgspec.json.Decoder(_Node)
        found: set[str] = set()
        pace = Pace()
        async for page in items(self._client, all_nodes(), version):
            for data in page:
                found.update(_addresses_of(decoder, data))
                await pace.keep()
        return found


def _addresses_of(decoder: "msgspec.json.Decoder[_Node]", data: msgspec.Raw) -> set[str]:
    """The addresses of a Node; none of one that cannot be read."""
    try:
        status = decoder.decode(data).status
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return set()
    found = set()
    for each in (status.addresses or ()) if status else ():
        if each.type in _ADDRESSES and each.address:
            try:
                found.add(str(ip_address(each.address)))
            except ValueError:
                continue
    return found
