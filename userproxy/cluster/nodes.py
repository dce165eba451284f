"""Our own Node, and which addresses are those of the cluster's Nodes.

A node port on any Node's address leads to a Service, so an endpoint with such an address may be a routing loop.
Manifests name all Nodes. Of an API server only our own Node is watched, since thousands of others report to it every
few seconds: whether an address is another Node's is looked up by listing all Nodes, once somebody needs to know.
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
from userproxy.cluster.listing import ANY_VERSION, LATEST_VERSION, fetch_items
from userproxy.cluster.objects.resources import all_nodes
from userproxy.cluster.store import Store
from userproxy.errors import UsageError
from userproxy.model import Node
from userproxy.pace import Pace

log = structlog.get_logger()

_ADDRESSES: Final = ("InternalIP", "ExternalIP")


_CHECK_EVERY: Final = 1.0


def own_node_name(override: str, host_name: str) -> str:
    """The name of our Node: ``--hostname-override``, else the host's name; trimmed and in lower case, as kubelet's.

    Raises UsageError where nothing is left.
    """
    name = (override.strip() or host_name.strip()).lower()
    if not name:
        raise UsageError("--hostname-override: the host has no name, so our Node's must be given")
    return name


async def wait_for_addresses(store: Store, name: str, listed: Callable[[], bool], limit: float = 30.0) -> Node | None:
    """Our Node as soon as it has addresses; after `limit` seconds a warning, and what there is of it.

    `listed` tells whether the API server has answered which Nodes there are. kube-proxy waits as long, and then serves
    without, too.
    """
    try:
        async with asyncio.timeout(limit):
            while True:
                if (found := store.nodes.get(name)) and found.addresses:
                    return found
                await asyncio.sleep(_CHECK_EVERY)
    except TimeoutError:
        if name in store.nodes:
            missing = "has no addresses"
        else:
            missing = "is not in the API" if listed() else "has not been read from the API server yet"
        log.warning(f"Our Node {missing}; serving without", node=name, waited_seconds=limit)
        return store.nodes.get(name)


_MOST_ANSWERED = 10_000
"""Most answers that are remembered: endpoints come and go for as long as the process lives."""


class NodeAddresses:
    """The addresses of Nodes: ``address in addresses``. Pure; addresses are canonical text.

    Without `looks_up` the Store's Nodes are all there are. With it an address that is not known becomes one of the
    `questions`, which a NodeLookup answers. Until the first answer unknown addresses count as Nodes' addresses
    (`presuming`), and from then on they do not.
    """

    def __init__(self, store: Store, *, looks_up: bool) -> None:
        self._store = store
        self._looks_up = looks_up
        self._presuming = looks_up
        self._stored: frozenset[str] = frozenset()
        self._store_version = -1
        self._listed: frozenset[str] = frozenset()
        self._answered: set[str] = set()
        self._asked: set[str] = set()
        self._version = 0
        self.on_question: Callable[[], None] = lambda: None
        """Called when a first question is asked, while there is no other."""

    @property
    def version(self) -> int:
        """A number that changes whenever an address may have become, or ceased to be, a Node's."""
        if self._store.events["Node"] != self._store_version:  # asked at each change
            self._follow_store()
        return self._version

    @property
    def presuming(self) -> bool:
        """Whether an unknown address counts as a Node's."""
        return self._presuming

    @property
    def questions(self) -> frozenset[str]:
        """The addresses that were asked for and are not known."""
        return frozenset(self._asked)

    def __contains__(self, address: object) -> bool:
        self._follow_store()
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
        """Take an answer: `listed` are the addresses of all Nodes, and so `questions` are known now."""
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
        """Let unknown addresses count as no Nodes' addresses, since no answer will come soon."""
        self._version += self._presuming
        self._presuming = False

    def forget_answers(self) -> None:
        """Make every address a question again, since Nodes come and go; known ones stay known until the next answer."""
        self._answered.clear()
        self._version += 1

    def _follow_store(self) -> None:
        changes = self._store.events["Node"]
        if changes != self._store_version:
            self._store_version = changes
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
    """When Nodes are listed, in seconds.

    The first list is requested up to `spread` after the first question, at random, so that nodes do not all ask at
    once. After `give_up_after` without an answer unknown addresses count as no Nodes' addresses. Between two lists
    there is a pause of `shortest_pause`, which doubles up to `longest_pause` while there are always new questions:
    whoever may write EndpointSlices can make every node ask. After `valid_for` without one answers are forgotten.
    """

    spread: float = 5.0
    give_up_after: float = 10.0
    shortest_pause: float = 60.0
    longest_pause: float = 1800.0
    valid_for: float = 3600.0


class NodeLookup:
    """Answers the questions of `addresses` by listing all Nodes.

    `on_change` is called on the loop's thread when an address may have become, or ceased to be, a Node's.
    """

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
        self._logged = ""
        addresses.on_question = self._asked.set

    async def run(self) -> None:
        """Answer questions until cancelled."""
        timing, loop = self._timing, asyncio.get_running_loop()
        pause = timing.shortest_pause
        await self._wait_for_question(None)
        give_up_timer = loop.call_later(timing.give_up_after, self._give_up, "the API server has not answered yet")
        try:
            await asyncio.sleep(self._random.uniform(0, timing.spread))
            await self._look_up()
        finally:
            give_up_timer.cancel()
        while True:
            await asyncio.sleep(pause * self._random.uniform(1, 1.5))
            began = loop.time()
            if not await self._wait_for_question(timing.valid_for):
                self._addresses.forget_answers()
                self._on_change()
                await self._wait_for_question(None)
            pause = timing.shortest_pause if loop.time() - began >= pause else min(2 * pause, timing.longest_pause)
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
        self._logged = ""
        self._addresses.answer(questions, listed)
        log.debug("Nodes looked up", v=2, addresses=len(listed), asked=len(questions))
        if self._addresses.version != before:
            self._on_change()

    def _give_up(self, reason: str) -> None:
        """Use endpoints though they may have Nodes' addresses: it matters more that Services of Pods work."""
        if self._logged != reason:
            self._logged = reason
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
        async for page in fetch_items(self._client, all_nodes(), version):
            for data in page:
                found.update(_addresses_of(decoder, data))
                await pace.keep()
        return found


def _addresses_of(decoder: "msgspec.json.Decoder[_Node]", data: msgspec.Raw) -> set[str]:
    """The addresses of a Node; none where it cannot be read."""
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
