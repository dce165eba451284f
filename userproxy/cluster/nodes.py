"""Looks up at the API server which addresses are those of Nodes: all Nodes are listed once somebody needs to know.

Whoever may write EndpointSlices may make every node ask. So they do not ask all at once, and each of them ever more
seldom while there are ever new questions.
"""

import asyncio
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from random import Random
from typing import Final

import msgspec
import structlog
from msgspec import Struct

from userproxy.cluster.api_errors import ApiError, ExpiredError
from userproxy.cluster.client import ApiClient
from userproxy.cluster.listing import ANY_VERSION, LATEST_VERSION, items
from userproxy.cluster.objects.resources import all_nodes
from userproxy.cluster.store import Store
from userproxy.errors import UsageError
from userproxy.model import Node
from userproxy.pace import Pace

log = structlog.get_logger()

_ADDRESSES: Final = ("InternalIP", "ExternalIP")


_LOOK_EVERY: Final = 1.0


def own_node_name(override: str, host_name: str) -> str:
    """The name of our Node: ``--hostname-override``, else the host's name; trimmed and in lower case, as kubelet's.

    Raises UsageError where nothing is left.
    """
    name = (override.strip() or host_name.strip()).lower()
    if not name:
        raise UsageError("--hostname-override: the host has no name, so our Node's must be given")
    return name


async def wait_for_addresses(store: Store, name: str, listed: Callable[[], bool], limit: float = 30.0) -> Node | None:
    """Our Node once it has addresses; after `limit` seconds what there is of it, and a line in the log.

    `listed` says whether the API server has told of Nodes at all. kube-proxy waits as long, and serves all the same.
    """
    try:
        async with asyncio.timeout(limit):
            while True:
                if (found := store.nodes.get(name)) and found.addresses:
                    return found
                await asyncio.sleep(_LOOK_EVERY)
    except TimeoutError:
        if name in store.nodes:
            missing = "has no addresses"
        else:
            missing = "is not in the API" if listed() else "has not been read from the API server yet"
        log.warning(f"Our Node {missing}; serving without", node=name, waited_seconds=limit)
        return store.nodes.get(name)


_MOST_ANSWERED = 10_000
"""Answers that are remembered: endpoints may come and go for as long as the process lives."""


class NodeAddresses:
    """A container of addresses, which notes what it is asked for. Addresses are canonical text.

    With `looks_up` there is somebody who takes `questions` and brings answers; else the Store's Nodes are all. Until
    the first answer what is not known counts as a Node's address, and from then on it does not.
    """

    def __init__(self, store: Store, *, looks_up: bool) -> None:
        self._store = store
        self._looks_up = looks_up
        self._presuming = looks_up
        self._stored: frozenset[str] = frozenset()
        self._seen_of_store = -1
        self._listed: frozenset[str] = frozenset()
        self._answered: set[str] = set()
        self._asked: set[str] = set()
        self._version = 0
        self.on_question: Callable[[], None] = lambda: None
        """Called when there is a question again after there was none."""

    @property
    def version(self) -> int:
        """Another number once an answer may be another one."""
        self._look_into_store()
        return self._version

    @property
    def presuming(self) -> bool:
        """Whether an address that is not known counts as a Node's."""
        return self._presuming

    @property
    def questions(self) -> frozenset[str]:
        """What was asked for and is not known."""
        return frozenset(self._asked)

    def __contains__(self, address: object) -> bool:
        self._look_into_store()
        if address in self._stored:
            return True
        if not self._looks_up or address in self._answered:
            return address in self._listed
        first = not self._asked
        self._asked.add(str(address))
        if first:
            self.on_question()
        return self._presuming or address in self._listed

    def answer(self, questions: Iterable[str], listed: Iterable[str]) -> None:
        """All Nodes have these addresses, and so it is known of `questions` whether they are among them."""
        found = frozenset(listed)
        answered = frozenset(questions)
        if len(self._answered) > _MOST_ANSWERED:
            self._answered.clear()
        self._answered |= answered
        self._asked -= answered
        if self._presuming or found != self._listed:
            self._version += 1
        self._listed, self._presuming = found, False

    def stop_presuming(self) -> None:
        """What is not known counts as no Node's address, since nobody will say it soon."""
        self._version += self._presuming
        self._presuming = False

    def forget_answers(self) -> None:
        """Nodes come and go: have everything asked for again. What was a Node's address stays one until then."""
        self._answered.clear()
        self._version += 1

    def _look_into_store(self) -> None:
        changes = self._store.events["Node"]
        if changes != self._seen_of_store:
            self._seen_of_store = changes
            stored = frozenset(address for node in self._store.nodes.values() for address in node.addresses)
            self._version += stored != self._stored
            self._stored = stored


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
