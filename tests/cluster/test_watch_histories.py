"""Five hundred Services of both families through histories drawn at random, from the lab's API server to the Store.

Whatever happens on the way, in the end the Store and those who follow it hold what the server holds, and a Service
that did not change was told of once in each family.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.cluster.following import until
from tests.lab.apiserver import FakeApiServer, endpointslice, service
from tests.lab.manifests import Port
from userproxy.cluster.api_source import ApiSource
from userproxy.cluster.backoff import BackoffFigures
from userproxy.cluster.client import open_client
from userproxy.cluster.credentials import ApiAccess
from userproxy.cluster.objects.keys import ObjectKey
from userproxy.cluster.store import Store
from userproxy.cluster.watch import Timing
from userproxy.cluster.watch_stream import WatchLimits
from userproxy.model import IPFamily, ServiceState

COUNT = 500
BUSY = range(0, COUNT, 50)
"""The Services that a history changes: few, so that its changes meet one another."""
PARTS = ("a", "b", "c")
"""The slices of a Service; the last is of IPv6."""
ALL = 2_000
"""More events than a history has."""
LAST = COUNT
"""One more Service than there are: when it is served, all that came before it has been."""
QUICK = Timing(BackoffFigures(first=0.01, longest=0.05, longest_asked=0.05), WatchLimits(idle_timeout=30.0))

Document = dict[str, Any]
Key = tuple[str, str, str]


def title(number: int) -> str:
    return f"s{number:03}"


def owner_of(document: Document) -> str:
    """The Service that an object is, or belongs to."""
    metadata = document["metadata"]
    name: str = metadata["name"] if document["kind"] == "Service" else metadata["labels"]["kubernetes.io/service-name"]
    return name


class Life:
    """What happens to the objects and to the server, one method a kind of step.

    `touched` are the Services of which something changed that a proxy could see.
    """

    def __init__(self, server: FakeApiServer) -> None:
        self.server = server
        self.touched: set[str] = set()
        self.keys: set[Key] = set()
        self.rounds = 0
        self._there: dict[Key, Document] = {}
        self._is_up = True

    def appear(self, number: int, port: int = 80, *, slices_first: bool = False) -> None:
        """A Service with an endpoint in each of its slices; what is there already is made anew."""
        order = [self._a_service(number, port), *(self._a_slice(number, part, [ord(part) % 8]) for part in PARTS)]
        self._put(*(reversed(order) if slices_first else order))

    def vanish(self, number: int, *, slices_first: bool) -> None:
        keys = self._keys_of(number)
        for key in reversed(keys) if slices_first else keys:
            self._delete(key)

    def vanish_alone(self, number: int) -> None:
        """The Service goes, its slices stay."""
        self._delete(self._keys_of(number)[0])

    def recreate(self, number: int, port: int) -> None:
        """A Service of the same name with another UID."""
        self.vanish_alone(number)
        self._put(self._a_service(number, port))

    def endpoints(self, number: int, part: str, hosts: list[int]) -> None:
        self._put(self._a_slice(number, part, hosts))

    def move(self, number: int, *, backwards: bool, overlapping: bool) -> None:
        """All endpoints of one slice go to the other; both have them for a while, or neither."""
        keys = self._keys_of(number)[1:3]
        if not all(key in self._there for key in keys):
            return
        source, target = (self._there[key] for key in (reversed(keys) if backwards else keys))
        emptied = {**source, "endpoints": []}
        filled = {**target, "endpoints": target["endpoints"] + source["endpoints"]}
        self._put(*([filled, emptied] if overlapping else [emptied, filled]))

    def hand_over(self, number: int, heir: int) -> None:
        """A slice gets the label of another Service."""
        document = self._a_slice(heir, "a", [7])
        document["metadata"]["name"] = f"{title(number)}-a"
        self._put(document)

    def annotate(self, number: int, text: str) -> None:
        """What no proxy reads changes in all objects of a Service."""
        for key in self._keys_of(number):
            if key in self._there:
                document = self._there[key]
                self._write(key, {**document, "metadata": {**document["metadata"], "annotations": {"note": text}}})

    def cut(self, at: Any, *, next_event: bool) -> None:
        self.server.cut_streams(at=at, next_event=next_event)

    def expire(self) -> None:
        self.server.cut_streams()
        self.server.compact()

    def stop(self) -> None:
        self.server.stop()
        self._is_up = False

    def start(self) -> None:
        self.server.start()
        self._is_up = True

    def fault(self, method: str, *arguments: Any) -> None:
        """Any other fault, by its name."""
        getattr(self.server, method)(*arguments)

    async def watched(self) -> None:
        """Go on when everything is watched (again)."""
        if self._is_up:
            await until(lambda: self.server.streams() == 3, 15.0)

    def _keys_of(self, number: int) -> list[Key]:
        slices = (("EndpointSlice", "shop", f"{title(number)}-{part}") for part in PARTS)
        return [("Service", "shop", title(number)), *slices]

    def _a_service(self, number: int, port: int) -> Document:
        ports = [Port(port, "http", node_port=30_000 + number), Port(9000, "metrics")]
        ips = [f"10.96.{number // 250}.{number % 250 + 1}", f"fd00::{number + 1:x}"]
        families: dict[str, Any] = {
            "clusterIPs": ips,
            "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "RequireDualStack",
        }
        return service(title(number), cluster_ip=ips[0], ports=ports, namespace="shop", **families)

    def _a_slice(self, number: int, part: str, hosts: list[int]) -> Document:
        ports = [Port(80, "http", target=8080), Port(9000, "metrics", target=9090)]
        kind = "IPv6" if part == "c" else "IPv4"
        net = f"fd00:{number + 1:x}::" if part == "c" else f"10.244.{number // 2}.{number % 2 + 1}"
        found = endpointslice(
            title(number), [f"{net}{host}" for host in hosts], ports=ports, namespace="shop", suffix=part
        )
        return {**found, "addressType": kind}

    def _put(self, *documents: Document) -> None:
        for document in documents:
            key = (document["kind"], "shop", document["metadata"]["name"])
            self._touch(key)
            self._write(key, document)
            self._touch(key)

    def _write(self, key: Key, document: Document) -> None:
        self.keys.add(key)
        self._there[key] = document
        self.server.put(document)

    def _delete(self, key: Key) -> None:
        self._touch(key)
        if self._there.pop(key, None):
            self.server.delete(*key)

    def _touch(self, key: Key) -> None:
        if key in self._there:
            self.touched.add(owner_of(self._there[key]))


Step = tuple[str, tuple[Any, ...], dict[str, Any]]


def step(name: str, *arguments: st.SearchStrategy[Any], **named: st.SearchStrategy[Any]) -> st.SearchStrategy[Step]:
    """A method of `Life` with arguments for it."""
    return st.tuples(st.just(name), st.tuples(*arguments), st.fixed_dictionaries(named))


busy, either, port = st.sampled_from(BUSY), st.booleans(), st.sampled_from([80, 81])
CHANGES = st.one_of(
    step("appear", busy, port, slices_first=either),
    step("vanish", busy, slices_first=either),
    step("vanish_alone", busy),
    step("recreate", busy, port),
    step("endpoints", busy, st.sampled_from(PARTS), st.lists(st.integers(1, 6), max_size=3)),
    step("move", busy, backwards=either, overlapping=either),
    step("hand_over", busy, busy),
    step("annotate", st.integers(0, COUNT - 1), st.sampled_from(["neu", "für alle", "网络"])),
)
FAULTS = st.one_of(
    step("cut", st.sampled_from(["line", "utf8", "chunk", "between", "end"]), next_event=either),
    step("expire"),
    step("stop"),
    step("start"),
    step("fault", st.just("replay"), st.just(ALL)),
    step("fault", st.just("duplicate"), st.integers(1, 5)),
    step("fault", st.just("fail_next"), st.integers(1, 3), st.sampled_from([429, 500, 503]), st.just(1)),
    step("fault", st.just("truncate_next"), st.just(1)),
    step("fault", st.just("hold"), st.sampled_from(["Service", "EndpointSlice"])),
    step("fault", st.sampled_from(["release", "bookmark"])),
    step("fault", st.just("gone_as"), st.sampled_from(["event", "http"])),
)
CHAPTER = st.lists(CHANGES | FAULTS | step("watched"), min_size=15, max_size=40)


class Followed:
    """What those who follow a Store know of each Service, and how often they were told of it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.state: dict[tuple[IPFamily, str], ServiceState] = {}
        self.told: dict[tuple[IPFamily, str], int] = {}
        self._changes = {family: store.subscribe(family) for family in IPFamily}

    def take(self) -> None:
        for family, changes in self._changes.items():
            for name, state in changes.take_changes().items():
                self._take((family, name.name), state)

    def _take(self, key: tuple[IPFamily, str], state: ServiceState | None) -> None:
        self.told[key] = self.told.get(key, 0) + 1
        if state is None:
            del self.state[key]
        else:
            self.state[key] = state


@asynccontextmanager
async def following(server: FakeApiServer) -> AsyncIterator[Followed]:
    """A Store that is kept as the server wants it, and is followed."""
    world = Followed(Store())
    client = await open_client(ApiAccess(master=server.url))
    try:
        async with asyncio.TaskGroup() as group:
            source = ApiSource(client, world.store, world.take, "worker-1", None, QUICK)
            task = group.create_task(source.run(), name="source")
            try:
                yield world
            finally:
                task.cancel()
    finally:
        await client.close()


Known = tuple[list[str], list[tuple[str, int, int]], list[tuple[str, list[str]]]]
"""A Service's cluster IPs, its ports with their node ports, and its slices of one family with their addresses."""


def known(state: ServiceState) -> Known:
    return (
        list(state.service.cluster_ips),
        [(port.name, port.port, port.node_port) for port in state.service.ports],
        [(part.name, [each.address for each in part.endpoints]) for part in state.slices],
    )


def held(objects: Mapping[Key, Document]) -> dict[tuple[IPFamily, str], Known]:
    """What is known of each Service in each family, when the Store is as the server is."""
    parts: dict[tuple[str, str], list[tuple[str, list[str]]]] = {}
    for kind, _, name in sorted(objects):
        document = objects[kind, "shop", name]
        if kind == "EndpointSlice":
            addresses = [endpoint["addresses"][0] for endpoint in document["endpoints"]]
            parts.setdefault((document["addressType"], owner_of(document)), []).append((name, addresses))
    return {
        (family, name): (
            found["spec"]["clusterIPs"],
            [(port["name"], port["port"], port.get("nodePort", 0)) for port in found["spec"]["ports"]],
            parts.get((family, name), []),
        )
        for (kind, _, name), found in objects.items()
        if kind == "Service"
        for family in IPFamily
    }


async def end_of_chapter(life: Life, world: Followed) -> None:
    """Faults end, and then everything is as the server has it, however late old events still come."""
    life.fault("release")
    life.start()
    await catch_up(life, world)
    before = others_than_last(world)
    await life.watched()
    life.fault("replay", ALL)
    await catch_up(life, world)
    assert others_than_last(world) == before


async def catch_up(life: Life, world: Followed) -> None:
    """See one more change through to its end: all before it have then been seen, too."""
    life.rounds += 1
    life.appear(LAST, port=1000 + life.rounds)
    life.endpoints(LAST, "b", [10 + life.rounds])  # an address that no slice had before
    objects = life.server.objects
    wanted = held(objects)
    last = (IPFamily.IPV4, title(LAST))
    await until(lambda: last in world.state and known(world.state[last]) == wanted[last], 20.0)
    assert {key: known(state) for key, state in world.state.items()} == wanted
    assert {key for key in life.keys if world.store.get(ObjectKey(*key))} == objects.keys()
    assert not world.store.has_changes


def others_than_last(world: Followed) -> dict[tuple[IPFamily, str], int]:
    return {key: count for key, count in world.told.items() if key[1] != title(LAST)}


async def live_through(chapters: list[list[Step]], early: int) -> None:
    with FakeApiServer() as server:
        life = Life(server)
        for number in range(early):
            life.appear(number)
        async with following(server) as world:
            await until(lambda: len(world.state) == 2 * early, 20.0)
            life.touched.clear()
            for number in range(early, COUNT):
                life.appear(number, slices_first=bool(number % 2))
            for chapter in chapters:
                for name, arguments, named in chapter:
                    done = getattr(life, name)(*arguments, **named)
                    await (done if name == "watched" else asyncio.sleep(0))
                await end_of_chapter(life, world)
            untouched = {key: count for key, count in world.told.items() if key[1] not in life.touched}
            assert len(untouched) >= 2 * (early - len(BUSY))
            assert set(untouched.values()) == {1}, untouched


@settings(
    max_examples=4,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.reuse, Phase.generate],  # an example takes too long to be shrunk
)
@given(st.lists(CHAPTER, min_size=2, max_size=3), st.sampled_from([COUNT // 2, COUNT]))
def test_whatever_happens_the_end_is_right_and_the_rest_untouched(chapters: list[list[Step]], early: int) -> None:
    asyncio.run(live_through(chapters, early))
