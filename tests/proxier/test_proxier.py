"""The executor, between fakes of what stands around it."""

from collections.abc import Mapping, Sequence

import pytest
from structlog.testing import capture_logs

from userproxy.errors import KernelToolError, ObjectError, PortUnavailableError
from userproxy.model import (
    EndpointSlice,
    PortalBinding,
    PortSpec,
    Protocol,
    Service,
    ServiceName,
    ServicePortName,
    ServiceState,
    SliceEndpoint,
    SlicePort,
    Snapshot,
)
from userproxy.proxier.proxier import Proxier


class World:
    """Source, forwarding, portals and claims at once; keeps what it was told, fails where it is told to."""

    name = "fake"

    def __init__(self) -> None:
        self.changes: dict[ServiceName, ServiceState | None] = {}
        self.open_ports: dict[ServicePortName, int] = {}
        self.routes: dict[ServicePortName, Snapshot] = {}
        self.bindings: list[PortalBinding] | None = None
        self.syncs = 0
        self.held: set[int] = set()
        self.taken_by_others: set[int] = set()
        self.kernel_refuses = False
        self.left_behind: dict[ServicePortName, int] = {}

    def take_changes(self) -> Mapping[ServiceName, ServiceState | None]:
        changes, self.changes = self.changes, {}
        return changes

    def open(self, name: ServicePortName, preferred_port: int | None = None) -> int:
        if name.name == "unlucky":
            raise PortUnavailableError("cannot listen on 0.0.0.0:0: Cannot assign requested address")
        self.open_ports[name] = preferred_port or 40_000 + len(self.open_ports)
        return self.open_ports[name]

    def update(self, snapshot: Snapshot) -> None:
        self.routes[snapshot.name] = snapshot

    def close(self, name: ServicePortName) -> None:
        del self.open_ports[name]
        self.routes.pop(name, None)

    def recount_descriptors(self) -> None:
        pass

    def claim(self, protocol: Protocol, port: int) -> None:
        if port in self.taken_by_others:
            raise PortUnavailableError(f"port {port} is in use")
        self.held.add(port)

    def release(self, protocol: Protocol, port: int) -> None:
        self.held.remove(port)


class Portals:
    """The portal driver of a World."""

    name = "fake"

    def __init__(self, world: World) -> None:
        self._world = world
        self.rule_counts: dict[str, int] = {}

    async def sync(self, bindings: Sequence[PortalBinding]) -> None:
        self._world.syncs += 1
        if self._world.kernel_refuses:
            raise KernelToolError("iptables-restore ended with 4")
        self._world.bindings = list(bindings)

    async def local_ports(self) -> Mapping[ServicePortName, int]:
        if self._world.kernel_refuses:
            raise KernelToolError("iptables-save ended with 4")
        return self._world.left_behind

    async def remove(self) -> Sequence[str]:
        return []

    async def close(self) -> None:
        pass


def a_service(name: str, ip: str, node_port: int = 0, **changes: object) -> ServiceState:
    fields: dict[str, object] = {
        "cluster_ips": (ip,),
        "ports": (PortSpec("http", Protocol.TCP, 80, node_port),),
    } | changes
    service = Service("default", name, **fields)  # type: ignore[arg-type]
    endpoint = EndpointSlice(
        "default", f"{name}-1", name, "IPv4", (SlicePort("http", Protocol.TCP, 8080),), (SliceEndpoint("10.0.0.1"),)
    )
    return ServiceState(service, (endpoint,))


WEB = ServicePortName("default", "web", "http", Protocol.TCP)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def proxier(world: World) -> Proxier:
    return Proxier(world, world, Portals(world), world)


def put(world: World, *states: ServiceState) -> None:
    world.changes |= {state.service.key: state for state in states}


async def test_a_service_comes_and_goes(world: World, proxier: Proxier) -> None:
    put(world, a_service("web", "10.96.0.1", 30080))
    assert await proxier.sync(verify=False)
    assert list(world.open_ports) == [WEB]
    assert [str(endpoint) for endpoint in world.routes[WEB].endpoints] == ["10.0.0.1:8080"]
    assert world.held == {30080}
    assert [binding.name for binding in world.bindings or ()] == [WEB]
    assert proxier.programmed == tuple(world.bindings or ())
    world.changes[ServiceName("default", "web")] = None
    assert await proxier.sync(verify=False)
    assert (world.open_ports, world.held, world.bindings) == ({}, set(), [])


async def test_a_service_that_becomes_none_of_ours_is_let_go(world: World, proxier: Proxier) -> None:
    put(world, a_service("web", "10.96.0.1"))
    await proxier.sync(verify=False)
    put(world, a_service("web", "10.96.0.1", proxy_name="other"))
    await proxier.sync(verify=False)
    assert world.open_ports == {}


async def test_the_ports_of_an_earlier_process_are_taken_again(world: World, proxier: Proxier) -> None:
    world.left_behind = {WEB: 41234}
    put(world, a_service("web", "10.96.0.1"))
    await proxier.sync(verify=False)
    assert world.open_ports == {WEB: 41234}


async def test_a_node_port_that_another_program_holds_is_named_once_and_tried_again(
    world: World, proxier: Proxier
) -> None:
    world.taken_by_others = {30080}
    put(world, a_service("web", "10.96.0.1", 30080), a_service("other", "10.96.0.2", 30081))
    with capture_logs() as logs:
        assert await proxier.sync(verify=False)
        assert await proxier.sync(verify=True)
    problem = "default/web:http: node port 30080 (TCP) is not served: port 30080 is in use"
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
    assert world.held == {30080, 30081}


async def test_a_listener_that_cannot_be_opened_leaves_the_others_alone(world: World, proxier: Proxier) -> None:
    put(world, a_service("unlucky", "10.96.0.1"), a_service("web", "10.96.0.2"))
    assert await proxier.sync(verify=False)
    assert list(world.open_ports) == [WEB]
    assert [binding.name for binding in world.bindings or ()] == [WEB]
    (problem,) = proxier.problems
    assert problem.text.startswith("default/unlucky:http: not served: cannot listen on")


async def test_conflicts_and_unserved_ports_are_problems(world: World, proxier: Proxier) -> None:
    put(
        world,
        a_service("a", "10.96.0.1", 30080),
        a_service("b", "10.96.0.2", 30080),
        a_service("dns", "10.96.0.3", ports=(PortSpec("dns", Protocol.UDP, 53),)),
    )
    assert await proxier.sync(verify=False)
    assert sorted(problem.text.split(" ")[0] for problem in proxier.problems) == ["default/b:http:", "default/dns:dns:"]


async def test_when_the_kernel_refuses_nothing_old_is_taken_away(world: World, proxier: Proxier) -> None:
    put(world, a_service("web", "10.96.0.1", 30080))
    await proxier.sync(verify=False)
    world.kernel_refuses = True
    world.changes[ServiceName("default", "web")] = None
    with capture_logs() as logs:
        assert not await proxier.sync(verify=False)
    assert any("could not be synced" in entry["event"] and "ended with 4" in entry["reason"] for entry in logs)
    assert list(world.open_ports) == [WEB]
    assert world.held == {30080}
    world.kernel_refuses = False
    assert await proxier.sync(verify=True)
    assert (world.open_ports, world.held, world.bindings) == ({}, set(), [])


async def test_a_kernel_that_refuses_from_the_start_is_tried_again(world: World, proxier: Proxier) -> None:
    world.kernel_refuses = True
    put(world, a_service("web", "10.96.0.1"))
    assert not await proxier.sync(verify=False)
    world.kernel_refuses = False
    assert await proxier.sync(verify=True)
    assert list(world.open_ports) == [WEB]


async def test_endpoint_changes_do_not_sync_portals(world: World, proxier: Proxier) -> None:
    state = a_service("web", "10.96.0.1")
    put(world, state)
    await proxier.sync(verify=False)
    put(world, ServiceState(state.service, ()))
    await proxier.sync(verify=False)
    assert world.syncs == 1
    assert world.routes[WEB].endpoints == ()


async def test_a_name_that_no_rule_can_bear_does_not_end_the_proxier(
    world: World, proxier: Proxier, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_self: Portals, _bindings: Sequence[PortalBinding]) -> None:
        raise ObjectError("service port 'a b': its name cannot be the comment of an iptables rule")

    put(world, a_service("web", "10.96.0.1"))
    with monkeypatch.context() as patch:
        patch.setattr(Portals, "sync", refuse)
        assert not await proxier.sync(verify=False)
    assert await proxier.sync(verify=True)
    assert list(world.open_ports) == [WEB]
