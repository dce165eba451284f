"""Changes, syncs and failures in any order and at any step of one another, against a proxier that starts at the end."""

import asyncio
from collections.abc import Collection, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct
from structlog.testing import capture_logs

from tests.proxier.test_following import settled
from tests.proxier.test_proxier import HERE, Nodes, Portals, World
from userproxy.errors import KernelToolError
from userproxy.model import (
    EndpointSlice,
    Hints,
    LocalTraffic,
    PortalBinding,
    PortalSync,
    PortSpec,
    Protocol,
    Service,
    ServiceName,
    ServicePortName,
    ServiceState,
    SliceEndpoint,
    SlicePort,
    Verdict,
)
from userproxy.proxier.local_addresses import NodePortAddresses
from userproxy.proxier.proxier import Proxier
from userproxy.routing.reserved_ports import ReservedPorts
from userproxy.routing.selection import Locality
from userproxy.routing.services import Scope


class Stepwise(Portals):
    """A driver that goes on when it is told to, and may fail before or after it has written."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.standing: dict[ServicePortName, list[PortalBinding]] = {}
        """What rules there may be of each service port: after a failure those of before and those of after."""
        self.gates: dict[str, asyncio.Event] = {"look": asyncio.Event(), "write": asyncio.Event()}
        self.fails = ""
        for gate in self.gates.values():
            gate.set()

    async def local_addresses(self) -> frozenset[str]:
        await self.gates["look"].wait()
        if self.fails == "look":
            raise KernelToolError("addresses cannot be read")
        return await super().local_addresses()

    async def sync(
        self, bindings: Sequence[PortalBinding], gone: Collection[ServicePortName] = (), *, verify: bool = True
    ) -> PortalSync:
        self._wanted = {name: each for name, each in self._wanted.items() if name not in gone}
        self._wanted |= {each.name: each for each in bindings}
        refused = {name: reason for name, reason in self._world.refused.items() if name in self._wanted}
        written = {name: each for name, each in self._wanted.items() if name not in refused}
        await self.gates["write"].wait()
        if self.fails == "before":
            raise KernelToolError("iptables-save ended with 4")
        if self.fails == "after":
            for name, each in written.items():
                self.standing.setdefault(name, []).append(each)
            raise KernelToolError("iptables-restore ended with 4")
        self.standing = {name: [each] for name, each in written.items()}
        self._world.bindings = list(written.values())
        return PortalSync(verify and self._world.differs, refused)


class Strict(World):
    """Tells claims of TCP from those of UDP, and minds one that is made twice."""

    def claim(self, ip: str, protocol: Protocol, port: int) -> None:
        assert (f"{protocol} {ip}", port) not in self.held
        super().claim(f"{protocol} {ip}", protocol, port)

    def release(self, ip: str, protocol: Protocol, port: int) -> None:
        super().release(f"{protocol} {ip}", protocol, port)


class Put(Struct, frozen=True):
    """A Service that is new or changed, with the one or the other of two slices."""

    service: Service
    slices: tuple[EndpointSlice, EndpointSlice]


NAMES = ("a", "b", "c")
ADDRESSES = ("10.0.0.1", "10.0.0.2", "10.96.0.1", "10.96.0.2", "192.0.2.10", "192.0.2.11", "203.0.113.9")
ENDPOINTS = st.builds(
    SliceEndpoint,
    address=st.sampled_from(ADDRESSES),
    ready=st.booleans(),
    terminating=st.booleans(),
    node=st.sampled_from((None, "node-1", "node-2")),
    hints=st.sampled_from((None, None, Hints(zones=("a",)), Hints(zones=("b",)))),
)
PORTS = st.lists(
    st.builds(
        PortSpec,
        name=st.sampled_from(("x", "y")),
        protocol=st.sampled_from((Protocol.TCP, Protocol.TCP, Protocol.TCP, Protocol.UDP)),
        port=st.sampled_from((80, 30001)),
        node_port=st.sampled_from((0, 30001, 30002)),
    ),
    min_size=1,
    max_size=2,
    unique_by=lambda each: each.name,
).map(tuple)


@st.composite
def puts(draw: st.DrawFn) -> Put:
    name = draw(st.sampled_from(NAMES))
    ports = draw(PORTS)
    service = Service(
        "default",
        name,
        type=draw(st.sampled_from(("ClusterIP", "NodePort", "LoadBalancer"))),
        cluster_ips=draw(st.sampled_from((("10.96.0.1",), ("10.96.0.2",), ("10.96.0.2", "fd00::1"), ("fd00::1",)))),
        external_ips=draw(st.sampled_from(((), ("192.0.2.10",), ("198.51.100.7",)))),
        load_balancer_ips=draw(st.sampled_from(((), (), ("192.0.2.10",), ("198.51.100.8",)))),
        balancer_ips=draw(st.sampled_from(((), (), ("203.0.113.9",)))),
        ports=ports,
        created=draw(st.sampled_from(("", "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"))),
        internal_local=draw(st.sampled_from((False, False, True))),
        external_local=draw(st.booleans()),
        affinity_timeout=draw(st.sampled_from((None, None, 10))),
        health_check_node_port=draw(st.sampled_from((0, 32000))),
        close_removed_after=draw(st.sampled_from([None, 0.0])),
        proxy_name=draw(st.sampled_from((None, None, None, None, None, "other"))),
    )
    numbers = [SlicePort(each.name, each.protocol, draw(st.sampled_from((80, 80, 30001)))) for each in ports]
    several = st.lists(ENDPOINTS, max_size=3, unique_by=lambda each: each.address).map(tuple)
    one, other = (EndpointSlice("default", f"{name}-1", name, "IPv4", tuple(numbers), draw(several)) for _ in range(2))
    return Put(service, (one, other))


SCOPES = (
    HERE,
    Scope(locality=Locality("node-1", "a"), node_ips=("192.0.2.10",)),
    Scope(locality=Locality("node-1", "b")),
    Scope(locality=Locality("node-1", "a"), node_known=False),
)
CHANGES = st.one_of(
    st.tuples(st.integers(0, 5), st.integers(0, 1)),
    st.tuples(st.integers(0, 5), st.integers(0, 1)),
    st.sampled_from([f"drop {name}" for name in NAMES]),
    st.sampled_from([f"refuse {name}" for name in NAMES] + ["accept"]),
    st.sampled_from(("30001 taken", "30001 free", "address", "no address", "listening", "quiet", "node", "no node")),
    st.sampled_from(SCOPES),
)
WORK = st.sampled_from(
    (
        "follow",
        "follow at once",
        "follow at once",
        "sync",
        "sync",
        "verify",
        "sync that stops at look",
        "sync that stops at write",
        "sync that fails before",
        "sync that fails after",
        "sync that fails look",
        "go on",
        "go on",
    )
)
EVENTS = st.lists(st.tuples(st.lists(CHANGES, max_size=2), WORK), max_size=12)
"""What happens, numbers being one of a few Services and one of its slices; and what is done then."""


class Run:
    """A proxier in a world to which things happen; what overlaps is tasks of `group`."""

    def __init__(self, group: asyncio.TaskGroup, services: Sequence[Put], cidrs: tuple[str, ...]) -> None:
        self.group = group
        self.services = services
        self.world, self.nodes = Strict(), Nodes()
        self.world.addresses = frozenset({"192.0.2.10", "127.0.0.1"})
        self.driver = Stepwise(self.world)
        self.scope = HERE
        self.asked = NodePortAddresses(cidrs, reserved=ReservedPorts(((1, 79),)))
        self.proxier = Proxier(self.world, self.world, self.driver, self.world, HERE, self.asked, nodes=self.nodes)
        self.task: asyncio.Task[bool] | None = None

    def happen(self, event: object) -> None:
        world = self.world
        match event:
            case (int(number), int(which)):
                put = self.services[number % len(self.services)]
                world.put(ServiceState(put.service, (put.slices[which],)))
            case Scope():
                self.scope = event
                self.proxier.set_node(event, LocalTraffic())
            case "accept":
                world.refused = {}
            case "30001 taken" | "30001 free":
                world.taken_by_others = {30001} if event == "30001 taken" else set()
            case "address" | "no address":
                world.addresses = frozenset({"192.0.2.10", "127.0.0.1"}) if event == "address" else frozenset()
            case "listening" | "quiet":
                world.listening = {("192.0.2.10", Protocol.TCP, 80)} if event == "listening" else set()
            case "node" | "no node":
                self.nodes.clear()
                self.nodes.learn(*(["192.0.2.11"] if event == "node" else []))
            case str() if event.startswith("drop "):
                if ServiceName("default", event[5:]) in world.states:
                    world.drop(event[5:])
            case str() if event.startswith("refuse "):
                world.refused = {
                    ServicePortName("default", event[7:], port, protocol): "line 5 failed"
                    for port in ("x", "y")
                    for protocol in (Protocol.TCP, Protocol.UDP)
                }

    async def work(self, what: str) -> None:
        match what.split():
            case ["follow", "at", "once"]:
                if self.proxier.follow_at_once():
                    assert not self.world.changes
            case ["follow"]:
                await self.until_idle(self.group.create_task(self.proxier.follow(), name="follow"))
            case ["sync", "that", "stops", "at", gate]:
                self.driver.gates[gate].clear()
                await self.begin(verify=False)
            case ["sync", "that", "fails", when]:
                self.driver.fails = when
                await self.begin(verify=False)
                await self.go_on()
                self.driver.fails = ""
            case ["go", "on"]:
                await self.go_on()
            case _:
                await self.begin(verify=what == "verify")
        self.check()

    async def begin(self, *, verify: bool) -> None:
        if self.task is None or self.task.done():
            self.task = self.group.create_task(self.proxier.sync(verify=verify), name="sync")
        await self.until_idle(self.task)

    async def go_on(self) -> None:
        for gate in self.driver.gates.values():
            gate.set()
        if self.task is not None:
            await self.task

    @staticmethod
    async def until_idle(task: "asyncio.Task[bool]") -> None:
        for _ in range(100):
            if task.done():
                task.result()
                return
            await asyncio.sleep(0)

    def check(self) -> None:
        """Whatever rules there may be lead to listeners that are open, and node ports in them are held."""
        for name, bindings in self.driver.standing.items():
            for binding in bindings:
                for traffic, local_port in self.local_ports(binding):
                    if local_port:
                        assert local_port in self.world.open_ports.values(), (name, traffic, binding)

    @staticmethod
    def local_ports(binding: PortalBinding) -> list[tuple[str, int]]:
        by = {"internal": binding.internal, "external": binding.external, "on node": binding.on_node}
        return [(what, target.local_port) for what, target in by.items() if target.verdict is Verdict.SERVE]


@settings(deadline=None, max_examples=100)
@given(EVENTS, st.lists(puts(), min_size=3, max_size=4), st.sampled_from(((), ("192.0.2.0/24",))))
def test_whatever_overlaps_it_ends_as_if_started_now(
    events: list[tuple[list[object], str]], services: list[Put], cidrs: tuple[str, ...]
) -> None:
    async def scenario(group: asyncio.TaskGroup) -> None:
        run = Run(group, services, cidrs)
        for changes, work in events:
            for change in changes:
                run.happen(change)
            await run.work(work)
        await run.go_on()
        world = run.world
        world.refused = {}
        world.taken_by_others -= {port for _, port in world.held}
        assert await run.proxier.sync(verify=True)
        if not await run.proxier.follow():
            assert await run.proxier.sync(verify=False)
        run.check()
        assert await run.proxier.follow(), "nothing is left to do"
        fresh = Run(group, services, cidrs)
        fresh.nodes = run.nodes
        fresh.proxier = Proxier(
            fresh.world, fresh.world, fresh.driver, fresh.world, run.scope, fresh.asked, nodes=run.nodes
        )
        fresh.world.put(*world.states.values())
        fresh.world.addresses, fresh.world.listening = world.addresses, world.listening
        fresh.world.taken_by_others = world.taken_by_others
        assert await fresh.proxier.sync(verify=True)
        assert settled(world, run.proxier) == settled(fresh.world, fresh.proxier)
        assert run.proxier.no_local == fresh.proxier.no_local
        assert set(run.proxier.health_checks) == set(fresh.proxier.health_checks)
        assert run.proxier.node_port_ips == fresh.proxier.node_port_ips

    async def grouped() -> None:
        async with asyncio.TaskGroup() as group:
            await scenario(group)

    with capture_logs():
        asyncio.run(grouped())
