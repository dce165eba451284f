"""The executor, between fakes of what stands around it."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress

import pytest
from msgspec import structs
from structlog.testing import capture_logs

from userproxy.errors import KernelToolError, OutOfDescriptorsError, PortUnavailableError
from userproxy.model import (
    EndpointSlice,
    HealthCheck,
    IPFamily,
    ListenerName,
    LocalTraffic,
    PortalBinding,
    PortalSync,
    PortSpec,
    ProblemKind,
    Protocol,
    Service,
    ServiceName,
    ServicePortName,
    ServiceState,
    SliceEndpoint,
    SlicePort,
    Snapshot,
    Target,
    TrafficClass,
    Verdict,
)
from userproxy.portals.interface import Cleaned, PortalDriver, Traits
from userproxy.portals.netlink.conntrack import ConntrackEntry
from userproxy.proxier.conntrack.cleanup import ConntrackCleanup
from userproxy.proxier.conntrack.entries import FlowEntry
from userproxy.proxier.local_addresses import NodePortAddresses
from userproxy.proxier.proxier import Proxier
from userproxy.routing.selection import Locality
from userproxy.routing.services import NoLocalEndpoints, Scope


class World:
    """Source, forwarding, portals and claims at once; keeps what it was told, fails where it is told to."""

    name = "fake"

    def __init__(self) -> None:
        self.states: dict[ServiceName, ServiceState] = {}
        self.changes: dict[ServiceName, ServiceState | None] = {}
        self.open_ports: dict[ListenerName, int] = {}
        self.routes: dict[ListenerName, Snapshot] = {}
        self.bindings: list[PortalBinding] | None = None
        self.opened_as: dict[ListenerName, Verdict] = {}
        self.syncs = 0
        self.asked: list[tuple[tuple[ServicePortName, ...], bool]] = []
        """What each sync of the driver was told: names of bindings, and whether to verify."""
        self.held: set[tuple[str, int]] = set()
        self.kept_off: list[int] = []
        self.room_for_ports = 1_000_000
        self.openings = 0
        self.taken_by_others: set[int] = set()
        self.listening: set[tuple[str, Protocol, int]] = set()
        self.kernel_refuses = False
        self.may_write = asyncio.Event()
        self.may_write.set()
        self.differs = False
        self.refused: dict[ServicePortName, str] = {}
        self.left_behind: dict[ServicePortName, tuple[int, ...]] = {}
        self.addresses: frozenset[str] = frozenset()
        self.local_traffic = LocalTraffic()
        self.during_sync: list[Callable[[], None]] = []

    def put(self, *states: ServiceState) -> None:
        self.states |= {state.service.key: state for state in states}
        self.changes |= {state.service.key: state for state in states}

    def drop(self, name: str) -> None:
        del self.states[ServiceName("default", name)]
        self.changes[ServiceName("default", name)] = None

    def take_changes(self) -> Mapping[ServiceName, ServiceState | None]:
        changes, self.changes = self.changes, {}
        return changes

    @property
    def waiting(self) -> Collection[ServiceName]:
        return self.changes.keys()

    def state(self, name: ServiceName) -> ServiceState | None:
        return self.states.get(name)

    def take(self, name: ServiceName) -> None:
        del self.changes[name]

    def everything(self) -> Mapping[ServiceName, ServiceState]:
        self.changes = {}
        return dict(self.states)

    def open(self, listener: ListenerName, preferred_port: int | None = None, verdict: Verdict = Verdict.REJECT) -> int:
        self.opened_as[listener] = verdict
        if not self.room_for_ports:
            raise OutOfDescriptorsError("the limit of open files, 100, leaves 3 to listeners and node ports")
        self.room_for_ports -= 1
        self.openings += 1
        if listener.service_port.name == "unlucky":
            raise PortUnavailableError("cannot listen on 0.0.0.0:0: Cannot assign requested address")
        self.open_ports[listener] = preferred_port or max(self.open_ports.values(), default=40_000) + 1
        return self.open_ports[listener]

    def keep_off(self, port: int) -> None:
        self.kept_off.append(port)

    def update(self, snapshot: Snapshot) -> None:
        self.routes[snapshot.listener] = snapshot

    def close(self, listener: ListenerName) -> None:
        del self.open_ports[listener]
        self.routes.pop(listener, None)

    def recount_descriptors(self) -> None:
        pass

    def claim(self, ip: str, protocol: Protocol, port: int) -> None:
        if port in self.taken_by_others:
            raise PortUnavailableError(f"port {port} is in use")
        self.held.add((ip, port))

    def release(self, ip: str, protocol: Protocol, port: int) -> None:
        self.held.remove((ip, port))

    async def taken(self, ports: Collection[tuple[str, Protocol, int]]) -> Collection[tuple[str, Protocol, int]]:
        return self.listening.intersection(ports)


class Portals(PortalDriver):
    """The portal driver of a World."""

    name = "fake"
    traits = Traits(translates=True)

    def __init__(self, world: World) -> None:
        self._world = world
        self._wanted: dict[ServicePortName, PortalBinding] = {}

    @staticmethod
    def unusable(family: IPFamily) -> None:
        return None

    @staticmethod
    def clean_up(family: IPFamily, *, sparing: bool = False) -> Cleaned:
        return Cleaned()

    @property
    def rule_counts(self) -> Mapping[str, int]:
        return {}

    async def sync(
        self, bindings: Sequence[PortalBinding], gone: Collection[ServicePortName] = (), *, verify: bool = True
    ) -> PortalSync:
        self._world.syncs += 1
        self._world.asked.append((tuple(each.name for each in bindings), verify))
        self._wanted = {name: each for name, each in self._wanted.items() if name not in gone}
        self._wanted |= {each.name: each for each in bindings}
        await self._world.may_write.wait()
        if self._world.kernel_refuses:
            raise KernelToolError("iptables-restore ended with 4")
        if self._world.during_sync:
            self._world.during_sync.pop()()
        self._world.bindings = list(self._wanted.values())
        refused = {name: reason for name, reason in self._world.refused.items() if name in self._wanted}
        return PortalSync(verify and self._world.differs, refused)

    async def local_ports(self) -> Mapping[ServicePortName, Sequence[int]]:
        if self._world.kernel_refuses:
            raise KernelToolError("iptables-save ended with 4")
        return self._world.left_behind

    async def local_addresses(self) -> frozenset[str]:
        return self._world.addresses

    def set_local_traffic(self, local_traffic: LocalTraffic) -> None:
        self._world.local_traffic = local_traffic

    async def remove(self) -> Sequence[str]:
        return []

    async def close(self) -> None:
        pass


def a_service(name: str, ip: str, node_port: int = 0, *, node: str | None = None, **changes: object) -> ServiceState:
    fields: dict[str, object] = {
        "cluster_ips": (ip,),
        "ports": (PortSpec("http", Protocol.TCP, 80, node_port),),
    } | changes
    service = Service("default", name, **fields)  # type: ignore[arg-type]
    endpoint = SliceEndpoint("10.0.0.1", node=node)
    ports = tuple(SlicePort(spec.name, spec.protocol, 8080) for spec in service.ports)
    return ServiceState(service, (EndpointSlice("default", f"{name}-1", name, "IPv4", ports, (endpoint,)),))


WEB = ServicePortName("default", "web", "http", Protocol.TCP)
WEB_LISTENER = ListenerName(WEB)
HERE = Scope(locality=Locality("node-1", "a"))


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def proxier(world: World) -> Proxier:
    return Proxier(world, world, Portals(world), world, HERE)


async def test_a_service_comes_and_goes(world: World, proxier: Proxier) -> None:
    world.put(a_service("web", "10.96.0.1", 30080))
    assert await proxier.sync(verify=False)
    assert list(world.open_ports) == [WEB_LISTENER]
    assert world.opened_as == {WEB_LISTENER: Verdict.SERVE}
    assert [str(endpoint) for endpoint in world.routes[WEB_LISTENER].endpoints] == ["10.0.0.1:8080"]
    assert world.held == {("", 30080)}
    assert [binding.name for binding in world.bindings or ()] == [WEB]
    assert list(proxier.programmed.values()) == world.bindings
    world.drop("web")
    assert await proxier.sync(verify=False)
    assert (world.open_ports, world.held, world.bindings) == ({}, set(), [])


async def test_a_service_that_becomes_none_of_ours_is_let_go(world: World, proxier: Proxier) -> None:
    world.put(a_service("web", "10.96.0.1"))
    await proxier.sync(verify=False)
    world.put(a_service("web", "10.96.0.1", proxy_name="other"))
    await proxier.sync(verify=False)
    assert world.open_ports == {}


async def test_the_ports_of_an_earlier_process_are_taken_again(world: World, proxier: Proxier) -> None:
    world.left_behind = {WEB: (41234,)}
    world.put(a_service("web", "10.96.0.1"))
    await proxier.sync(verify=False)
    assert world.open_ports == {WEB_LISTENER: 41234}


async def test_where_rules_lead_is_not_read_where_a_process_before_has_handed_over_its_listeners(world: World) -> None:
    world.left_behind = {WEB: (41234,)}
    world.put(a_service("web", "10.96.0.1"))
    proxier = Proxier(world, world, Portals(world), world, HERE)
    proxier.has_ports()
    assert await proxier.sync(verify=False)
    assert list(world.open_ports.values()) != [41234]


async def test_listeners_are_told_to_keep_off_node_ports_before_they_open(world: World, proxier: Proxier) -> None:
    health_checked = a_service("web", "10.96.0.1", 40_080, type="LoadBalancer", external_local=True)
    service = structs.replace(health_checked.service, health_check_node_port=40_081)
    world.put(structs.replace(health_checked, service=service))
    world.put(a_service("unlucky", "10.96.0.2", 40_082))
    assert await proxier.sync(verify=False)
    assert sorted(world.kept_off) == [40_080, 40_081, 40_082]


async def test_more_service_ports_than_descriptors_are_told_of_briefly_and_tried_again_as_there_is_room(
    world: World, proxier: Proxier
) -> None:
    world.room_for_ports = 3
    for number in range(100):
        world.put(a_service(f"s{number:02}", f"10.96.1.{number}"))
    with capture_logs() as logs:
        assert await proxier.sync(verify=False)
        assert await proxier.sync(verify=False)
    assert (len(world.open_ports), world.openings) == (3, 3)
    assert {problem.kind for problem in proxier.problems} == {ProblemKind.OUT_OF_DESCRIPTORS}
    assert len(proxier.problems) == 97
    warnings = [entry for entry in logs if entry["log_level"] == "warning"]
    assert len(warnings) == 6
    assert warnings[0]["event"].endswith(
        "not served: the limit of open files, 100, leaves 3 to listeners and node ports"
    )
    assert warnings[-1]["more"] == 92
    world.room_for_ports = 50
    with capture_logs() as logs:
        assert await proxier.sync(verify=False)
    assert (len(world.open_ports), len(proxier.problems)) == (53, 47)
    served = [binding for binding in world.bindings or () if binding.internal.verdict is Verdict.SERVE]
    assert (len(served), len(world.bindings or ())) == (53, 100), "the others are refused at once"
    assert len([entry for entry in logs if entry["log_level"] == "info" and "more" in entry]) == 1


async def test_a_node_port_that_another_program_holds_is_named_once_and_tried_again(
    world: World, proxier: Proxier
) -> None:
    world.taken_by_others = {30080}
    world.put(a_service("web", "10.96.0.1", 30080), a_service("other", "10.96.0.2", 30081))
    with capture_logs() as logs:
        assert await proxier.sync(verify=False)
        assert await proxier.sync(verify=True)
    problem = "default/web:http: node port 30080 (TCP) is not served over IPv4: port 30080 is in use"
    assert {each.text for each in proxier.problems} == {problem}
    assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == [problem]
    portals = {str(b.name): [str(p) for p in b.portals] for b in world.bindings or ()}
    assert portals == {
        "default/web:http": ["cluster IP 10.96.0.1:80"],
        "default/other:http": ["cluster IP 10.96.0.2:80", "node port 30081"],
    }
    world.taken_by_others = set()
    with capture_logs() as logs:
        assert await proxier.sync(verify=True)
    assert proxier.problems == set()
    assert [entry.get("problem") for entry in logs if entry["log_level"] == "info"] == [problem]
    assert world.held == {("", 30080), ("", 30081)}


async def test_a_listener_that_cannot_be_opened_leaves_the_others_alone(world: World, proxier: Proxier) -> None:
    world.put(a_service("unlucky", "10.96.0.1"), a_service("web", "10.96.0.2"))
    assert await proxier.sync(verify=False)
    assert list(world.open_ports) == [WEB_LISTENER]
    verdicts = {binding.name.name: binding.internal.verdict for binding in world.bindings or ()}
    assert verdicts == {"unlucky": Verdict.REJECT, "web": Verdict.SERVE}
    (problem,) = proxier.problems
    assert problem.text.startswith("default/unlucky:http: not served: cannot listen on")


async def test_conflicts_and_unserved_ports_are_problems(world: World, proxier: Proxier) -> None:
    world.put(
        a_service("a", "10.96.0.1", 30080),
        a_service("b", "10.96.0.2", 30080),
        a_service("sctp", "10.96.0.3", ports=(PortSpec("sctp", Protocol.SCTP, 53),)),
    )
    assert await proxier.sync(verify=False)
    assert sorted(problem.text.split(" ")[0] for problem in proxier.problems) == [
        "default/b:http:",
        "default/sctp:sctp:",
    ]


async def test_when_the_kernel_refuses_nothing_old_is_taken_away(world: World, proxier: Proxier) -> None:
    world.put(a_service("web", "10.96.0.1", 30080))
    await proxier.sync(verify=False)
    world.kernel_refuses = True
    world.drop("web")
    with capture_logs() as logs:
        assert not await proxier.sync(verify=False)
    assert any("could not be synced" in entry["event"] and "ended with 4" in entry["reason"] for entry in logs)
    assert list(world.open_ports) == [WEB_LISTENER]
    assert world.held == {("", 30080)}
    world.kernel_refuses = False
    assert await proxier.sync(verify=True)
    assert (world.open_ports, world.held, world.bindings) == ({}, set(), [])


async def test_a_kernel_that_refuses_from_the_start_is_tried_again(world: World, proxier: Proxier) -> None:
    world.kernel_refuses = True
    world.put(a_service("web", "10.96.0.1"))
    assert not await proxier.sync(verify=False)
    world.kernel_refuses = False
    assert await proxier.sync(verify=True)
    assert list(world.open_ports) == [WEB_LISTENER]


async def test_other_endpoints_do_not_sync_portals_but_having_none_does(world: World, proxier: Proxier) -> None:
    state = a_service("web", "10.96.0.1")
    world.put(state)
    await proxier.sync(verify=False)
    (slice_,) = state.slices
    world.put(ServiceState(state.service, (structs.replace(slice_, endpoints=(SliceEndpoint("10.0.0.2"),)),)))
    await proxier.sync(verify=False)
    assert world.syncs == 1
    assert [str(endpoint) for endpoint in world.routes[WEB_LISTENER].endpoints] == ["10.0.0.2:8080"]
    world.put(ServiceState(state.service, ()))
    await proxier.sync(verify=False)
    assert world.syncs == 2
    assert world.routes[WEB_LISTENER].verdict is Verdict.REJECT
    assert [binding.internal for binding in world.bindings or ()] == [Target(Verdict.REJECT)]
    assert list(world.open_ports) == [WEB_LISTENER], "it keeps its port for when endpoints come back"


async def test_a_local_policy_has_a_listener_of_its_own(world: World, proxier: Proxier) -> None:
    world.put(a_service("web", "10.96.0.1", 30080, type="NodePort", external_local=True, node="node-2"))
    assert await proxier.sync(verify=False)
    external = ListenerName(WEB, traffic=TrafficClass.EXTERNAL)
    assert list(world.open_ports) == [WEB_LISTENER, external]
    assert (world.routes[WEB_LISTENER].verdict, world.routes[external].verdict) == (Verdict.SERVE, Verdict.DROP)
    assert proxier.no_local == NoLocalEndpoints(external=1)
    assert world.bindings is not None
    (binding,) = world.bindings
    assert (binding.external, binding.on_node) == (Target(Verdict.DROP), binding.internal)
    world.put(a_service("web", "10.96.0.1", 30080, type="NodePort", node="node-2"))
    assert await proxier.sync(verify=False)
    assert proxier.no_local == NoLocalEndpoints()


async def test_what_our_node_is_decides_and_may_change(world: World, proxier: Proxier) -> None:
    web = a_service(
        "web",
        "10.96.0.1",
        30080,
        type="LoadBalancer",
        external_local=True,
        health_check_node_port=32000,
        node="node-2",
    )
    world.put(web, a_service("gone-meanwhile", "10.96.0.2"))
    await proxier.sync(verify=False)
    assert proxier.health_checks == (HealthCheck(web.service.key, 32000, 0),)
    world.drop("gone-meanwhile")
    proxier.set_node(Scope(locality=Locality("node-2")), LocalTraffic(("10.244.0.0/16",)))
    assert world.local_traffic.networks == ("10.244.0.0/16",)
    assert await proxier.sync(verify=False)
    external = ListenerName(WEB, traffic=TrafficClass.EXTERNAL)
    assert world.routes.keys() == {WEB_LISTENER, external}
    assert world.routes[external].verdict is Verdict.SERVE
    assert proxier.health_checks == (HealthCheck(web.service.key, 32000, 1),)
    assert world.syncs == 2
    proxier.set_node(Scope(locality=Locality("node-2")), LocalTraffic(("10.245.0.0/16",)))
    assert await proxier.sync(verify=False)
    assert world.syncs == 3, "the bindings are the same, and the rules are not"
    assert await proxier.sync(verify=False)
    assert world.syncs == 3
    world.drop("web")
    assert await proxier.sync(verify=False)
    assert not proxier.health_checks


async def test_what_is_said_of_the_node_while_a_sync_runs_counts_for_the_next_one(
    world: World, proxier: Proxier
) -> None:
    world.put(a_service("web", "10.96.0.1"))
    world.during_sync = [lambda: proxier.set_node(HERE, LocalTraffic(("10.244.0.0/16",)))]
    assert await proxier.sync(verify=False)
    assert await proxier.sync(verify=False)
    assert world.syncs == 2, "the rules of the first sync are those of what was known when it began"
    assert await proxier.sync(verify=False)
    assert world.syncs == 2


class Tracked:
    """The kernel's connection tracking: what it was asked to forget."""

    def __init__(self) -> None:
        self.asked: list[tuple[Collection[Protocol], Callable[[FlowEntry], bool]]] = []

    async def delete(self, protocols: Collection[Protocol], is_stale: Callable[[FlowEntry], bool]) -> int:
        self.asked.append((protocols, is_stale))
        return 0


def translated(port: int, local_port: int) -> ConntrackEntry:
    return ConntrackEntry("10.244.1.2", 40000, "10.96.0.1", port, "192.0.2.10", local_port, reply_local=True)


async def test_a_change_is_in_force_before_everything_is_read_back(world: World, proxier: Proxier) -> None:
    assert await proxier.sync(verify=False)
    world.asked.clear()
    world.put(a_service("web", "10.96.0.1"))
    assert await proxier.sync(verify=True)
    assert world.asked == [((WEB,), False), ((), True)]
    world.asked.clear()
    assert await proxier.sync(verify=True)
    assert world.asked == [((), True)]


async def test_clients_that_were_led_elsewhere_are_forgotten_once_rules_are_others(world: World) -> None:
    tracked = Tracked()
    flows = ConntrackCleanup(tracked, pause=0)
    proxier = Proxier(world, world, Portals(world), world, HERE, conntrack=flows)

    async def sync(*, verify: bool = False) -> None:
        """Returns once whatever has become stale by it has been looked for."""
        await proxier.sync(verify=verify)
        with suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await flows.run()

    ports = (PortSpec("dns", Protocol.UDP, 53),)
    world.put(a_service("dns", "10.96.0.1", ports=ports))
    await sync()
    ((protocols, first),) = tracked.asked
    assert protocols == {Protocol.UDP}
    (local_port,) = world.open_ports.values()
    assert (first(translated(53, local_port)), first(translated(53, 999))) == (False, True)
    world.put(a_service("web", "10.96.0.2"))
    await sync()
    await sync(verify=True)
    ((protocols, second),) = tracked.asked[1:]
    assert protocols == {Protocol.TCP}, "a sync that changes nothing is none of its business"
    early = ConntrackEntry("10.244.1.2", 40000, "10.96.0.2", 80, "10.96.0.2", 80, protocol=Protocol.TCP)
    assert second(early), "whoever dialled the new Service a moment too early"
    world.differs = True
    await sync(verify=True)
    ((protocols, third),) = tracked.asked[2:]
    assert protocols == {Protocol.TCP, Protocol.UDP}, "rules that had to be repaired may have let clients past"
    assert third(ConntrackEntry("10.244.1.2", 40000, "10.96.0.1", 53, "10.96.0.1", 53))
    assert third(early)
    world.differs = False
    world.drop("dns")
    await sync()
    assert tracked.asked[-1][1](translated(53, local_port))
    world.drop("web")
    await sync()
    world.differs = True
    await sync(verify=True)
    assert len(tracked.asked) == 5, "without portals there is nothing to forget"


async def test_node_ports_are_claimed_and_served_on_the_addresses_that_are_asked_for(world: World) -> None:
    proxier = Proxier(world, world, Portals(world), world, HERE, NodePortAddresses(("192.0.2.0/24",)))
    world.addresses = frozenset({"127.0.0.1", "192.0.2.10", "198.51.100.7"})
    world.put(a_service("web", "10.96.0.1", 30080, external_ips=("198.51.100.7",)))
    assert await proxier.sync(verify=False)
    assert world.held == {("192.0.2.10", 30080)}
    assert [str(portal) for binding in world.bindings or () for portal in binding.portals] == [
        "cluster IP 10.96.0.1:80",
        "external IP 198.51.100.7:80",
        "node port 192.0.2.10:30080",
    ]
    world.addresses = frozenset({"127.0.0.1", "192.0.2.11"})
    assert await proxier.sync(verify=True)
    assert world.held == {("192.0.2.11", 30080)}


async def test_a_portal_on_an_address_of_the_node_gives_way_to_the_nodes_programs(
    world: World, proxier: Proxier
) -> None:
    world.addresses = frozenset({"127.0.0.1", "192.0.2.10"})
    web = {"": 80, "kubelet": 10250}
    specs = tuple(PortSpec(name, Protocol.TCP, port) for name, port in web.items())
    world.put(a_service("web", "10.96.0.1", ports=specs, external_ips=("192.0.2.10", "198.51.100.7")))
    assert await proxier.sync(verify=False)
    assert world.held == set(), "a program can always start"
    kept = (
        "default/web:kubelet: external IP 192.0.2.10:10250 (TCP) is not served: port 10250 of this node is kept for its"
        " own services (--reserved-node-ports)"
    )
    assert served(world) == {
        "10.96.0.1:80",
        "192.0.2.10:80",
        "198.51.100.7:80",
        "10.96.0.1:10250",
        "198.51.100.7:10250",
    }
    assert {problem.text for problem in proxier.problems} == {kept}
    world.listening = {("192.0.2.10", Protocol.TCP, 80)}
    assert await proxier.sync(verify=True)
    assert "192.0.2.10:80" not in served(world)
    taken = "default/web: external IP 192.0.2.10:80 (TCP) is not served: a program of this node listens there"
    assert {problem.text for problem in proxier.problems} == {kept, taken}
    world.listening = set()
    assert await proxier.sync(verify=True)
    assert "192.0.2.10:80" in served(world)
    assert {problem.text for problem in proxier.problems} == {kept}


class Nodes(set[str]):
    """Addresses of Nodes, as they become known."""

    def __init__(self) -> None:
        super().__init__()
        self.version = 0
        self.presuming = False

    def learn(self, *addresses: str) -> None:
        self.update(addresses)
        self.version += 1


async def test_an_address_that_turns_out_to_be_a_nodes_is_no_endpoint_any_longer(world: World) -> None:
    nodes = Nodes()
    proxier = Proxier(world, world, Portals(world), world, HERE, nodes=nodes)
    state = a_service("web", "10.96.0.1", 8080)
    addresses = tuple(SliceEndpoint(f"192.0.2.{number}") for number in range(20, 28))
    world.put(ServiceState(state.service, (structs.replace(state.slices[0], endpoints=addresses),)))
    with capture_logs() as logs:
        assert await proxier.sync(verify=False)
        assert len(world.routes[WEB_LISTENER].endpoints) == 8
        syncs = world.syncs
        nodes.learn(*(f"192.0.2.{number}" for number in range(20, 27)))
        assert await proxier.sync(verify=False)
        assert [endpoint.ip for endpoint in world.routes[WEB_LISTENER].endpoints] == ["192.0.2.27"]
        assert world.syncs == syncs, "no rule is another one"
        assert await proxier.sync(verify=True)
        more = (*addresses, SliceEndpoint("192.0.2.28"))
        world.put(ServiceState(state.service, (structs.replace(state.slices[0], endpoints=more),)))
        assert await proxier.sync(verify=False)
        assert [endpoint.ip for endpoint in world.routes[WEB_LISTENER].endpoints] == ["192.0.2.27", "192.0.2.28"]
    (warning,) = [entry["event"] for entry in logs if entry["log_level"] == "warning"]
    listed = ", ".join(f"192.0.2.{number}:8080" for number in range(20, 25))
    assert warning == f"default/web:http: not used as an endpoint: {listed} and 2 more; a portal, it leads back here"
    nodes.clear()
    nodes.learn()
    assert await proxier.sync(verify=False)
    assert len(world.routes[WEB_LISTENER].endpoints) == 9


def served(world: World) -> set[str]:
    return {f"{portal.ip}:{portal.port}" for binding in world.bindings or () for portal in binding.portals}


async def test_a_service_whose_rules_are_refused_is_named_and_no_other_is_the_worse_for_it(
    world: World, proxier: Proxier
) -> None:
    world.put(a_service("web", "10.96.0.1"), a_service("cursed", "10.96.0.2"))
    cursed = ServicePortName("default", "cursed", "http", Protocol.TCP)
    world.refused = {cursed: "line 5 failed"}
    assert await proxier.sync(verify=False), "it is no fault of the proxy's"
    assert [name.name for name in proxier.programmed] == ["web"]
    assert len(world.open_ports) == 2, "its listener waits for it"
    (problem,) = proxier.problems
    assert problem.service is not None
    assert (problem.service.name, problem.kind) == ("cursed", ProblemKind.PORTALS_REFUSED)
    assert problem.text == (
        "default/cursed:http: its portals are not served over IPv4, because their rules are refused: line 5 failed"
    )
    world.refused = {}
    assert await proxier.sync(verify=True)
    assert proxier.problems == frozenset()
    assert len(proxier.programmed) == 2
