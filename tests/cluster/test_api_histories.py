"""Five hundred Services through histories drawn at random, from the lab's API server down to the listeners.

Whatever happens on the way, in the end the Store and the proxier hold what the server holds, and a service port that
did not change was never touched.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.cluster.following import until
from tests.lab.apiserver import FakeApiServer, endpointslice, service
from tests.lab.manifests import Port
from tests.proxier.test_proxier import Portals, World
from userproxy.cluster.api import ApiSource, Timing
from userproxy.cluster.backoff import BackoffFigures
from userproxy.cluster.client import open_client
from userproxy.cluster.credentials import ApiAccess
from userproxy.cluster.store import ObjectKey, Store
from userproxy.cluster.watching import WatchLimits
from userproxy.model import ServiceName, ServicePortName, ServiceState, Snapshot
from userproxy.proxier.proxier import Proxier
from userproxy.proxier.runner import SyncRunner

COUNT = 500
BUSY = range(0, COUNT, 50)
"""The Services that a history changes: few, so that its changes meet one another."""
PARTS = ("a", "b")
ALL = 2_000
"""More events than a history has."""
LAST = COUNT
"""One more Service than there are: when it is served, all that came before it has been."""
QUICK = Timing(BackoffFigures(first=0.01, longest=0.05, longest_asked=0.05), WatchLimits(silence=30.0))

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
        keys = self._keys_of(number)[1:]
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
        ip = f"10.96.{number // 250}.{number % 250 + 1}"
        return service(title(number), cluster_ip=ip, ports=ports, namespace="shop")

    def _a_slice(self, number: int, part: str, hosts: list[int]) -> Document:
        ports = [Port(80, "http", target=8080), Port(9000, "metrics", target=9090)]
        addresses = [f"10.244.{number // 2}.{number % 2 * 100 + host}" for host in hosts]
        return endpointslice(title(number), addresses, ports=ports, namespace="shop", suffix=part)

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


class CountingWorld(World):
    """Counts what is done to each listener, and takes its changes from a Store."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store
        self.state: dict[ServiceName, ServiceState] = {}
        self.done: dict[ServicePortName, Counter[str]] = {}

    def take_changes(self) -> Mapping[ServiceName, ServiceState | None]:
        changes = self.store.take_changes()
        self.state |= {name: state for name, state in changes.items() if state is not None}
        for name in (name for name, state in changes.items() if state is None):
            del self.state[name]
        return changes

    def open(self, name: ServicePortName, preferred_port: int | None = None) -> int:
        self._count(name, "open")
        return super().open(name, preferred_port)

    def update(self, snapshot: Snapshot) -> None:
        self._count(snapshot.name, "update")
        super().update(snapshot)

    def close(self, name: ServicePortName) -> None:
        self._count(name, "close")
        super().close(name)

    def _count(self, name: ServicePortName, what: str) -> None:
        self.done.setdefault(name, Counter())[what] += 1


@asynccontextmanager
async def proxying(server: FakeApiServer) -> AsyncIterator[CountingWorld]:
    """A world that is kept as the server wants it."""
    world = CountingWorld(Store())
    proxier, runner = Proxier(world, world, Portals(world), world), SyncRunner(0.0, 3600.0)
    client = await open_client(ApiAccess(master=server.url))
    try:
        async with asyncio.TaskGroup() as group:
            source = ApiSource(client, world.store, runner.request, "worker-1", None, QUICK)
            tasks = [
                group.create_task(source.run(), name="source"),
                group.create_task(runner.run(lambda verify: proxier.sync(verify=verify)), name="proxier"),
            ]
            try:
                yield world
            finally:
                for task in tasks:
                    task.cancel()
    finally:
        await client.close()


def wanted_of(objects: Mapping[Key, Document]) -> dict[str, tuple[list[str], list[str]]]:
    """By service port its portals and its endpoints, read straight from the server's objects."""
    parts: dict[str, list[Document]] = {}
    for document in objects.values():
        parts.setdefault(owner_of(document), []).append(document)
    return {
        f"shop/{name}:{port['name']}": (
            sorted(
                [f"{found['spec']['clusterIP']}:{port['port']}"]
                + [f":{port[key]}" for key in ["nodePort"] if key in port]
            ),
            sorted(
                {
                    f"{endpoint['addresses'][0]}:{target['port']}"
                    for part in parts[name]
                    if part["kind"] == "EndpointSlice"
                    for target in part["ports"]
                    if target["name"] == port["name"]
                    for endpoint in part["endpoints"]
                }
            ),
        )
        for (kind, _, name), found in objects.items()
        if kind == "Service"
        for port in found["spec"]["ports"]
    }


def served(world: CountingWorld) -> dict[str, tuple[list[str], list[str]]]:
    """The same, as the proxier has told those around it."""
    assert world.open_ports.keys() == world.routes.keys()
    return {
        str(binding.name): (
            sorted(f"{portal.ip}:{portal.port}" for portal in binding.portals),
            sorted(str(endpoint) for endpoint in world.routes[binding.name].endpoints),
        )
        for binding in world.bindings or ()
    }


def stored(world: CountingWorld) -> dict[str, list[tuple[str, list[str]]]]:
    """By Service its slices and their addresses, as the Store has told."""
    return {
        name.name: [(part.name, [each.address for each in part.endpoints]) for part in state.slices]
        for name, state in world.state.items()
    }


def held(objects: Mapping[Key, Document]) -> dict[str, list[tuple[str, list[str]]]]:
    """The same, as the server has it."""
    slices = sorted((name, found) for (kind, _, name), found in objects.items() if kind == "EndpointSlice")
    return {
        service_name: [
            (name, [endpoint["addresses"][0] for endpoint in found["endpoints"]])
            for name, found in slices
            if owner_of(found) == service_name
        ]
        for kind, _, service_name in objects
        if kind == "Service"
    }


async def end_of_chapter(life: Life, world: CountingWorld) -> None:
    """Faults end, and then everything is as the server has it, however late old events still come."""
    life.fault("release")
    life.start()
    await catch_up(life, world)
    before = others_than_last(world)
    await life.watched()
    life.fault("replay", ALL)
    await catch_up(life, world)
    assert others_than_last(world) == before


async def catch_up(life: Life, world: CountingWorld) -> None:
    """See one more change through to its end: all before it have then been seen, too."""
    life.rounds += 1
    life.appear(LAST, port=1000 + life.rounds)
    life.endpoints(LAST, "b", [10 + life.rounds])  # an address that no slice had before
    objects = life.server.objects
    wanted = wanted_of(objects)
    last = f"shop/{title(LAST)}:http"
    await until(lambda: served(world).get(last) == wanted[last], 20.0)
    assert served(world) == wanted
    assert stored(world) == held(objects)
    assert {key for key in life.keys if world.store.get(ObjectKey(*key))} == objects.keys()
    assert not world.store.has_changes
    assert len(world.held) == len([key for key in objects if key[0] == "Service"])  # one node port each


def others_than_last(world: CountingWorld) -> dict[ServicePortName, Counter[str]]:
    return {name: counts.copy() for name, counts in world.done.items() if name.name != title(LAST)}


async def live_through(chapters: list[list[Step]], early: int) -> None:
    with FakeApiServer() as server:
        life = Life(server)
        for number in range(early):
            life.appear(number)
        async with proxying(server) as world:
            await until(lambda: len(world.routes) == 2 * early, 20.0)
            life.touched.clear()
            for number in range(early, COUNT):
                life.appear(number, slices_first=bool(number % 2))
            for chapter in chapters:
                for name, arguments, named in chapter:
                    done = getattr(life, name)(*arguments, **named)
                    await (done if name == "watched" else asyncio.sleep(0))
                await end_of_chapter(life, world)
            untouched = {name: done for name, done in world.done.items() if name.name not in life.touched}
            assert len(untouched) >= 2 * (early - len(BUSY))
            assert all(done == {"open": 1, "update": 1} for done in untouched.values()), untouched


@settings(
    max_examples=4,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.reuse, Phase.generate],  # an example takes too long to be shrunk
)
@given(st.lists(CHAPTER, min_size=2, max_size=3), st.sampled_from([COUNT // 2, COUNT]))
def test_whatever_happens_the_end_is_right_and_the_rest_untouched(chapters: list[list[Step]], early: int) -> None:
    asyncio.run(live_through(chapters, early))
