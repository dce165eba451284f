"""Changes as they come, in whatever order, and while rules are being written."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from structlog.testing import capture_logs

from tests.proxier.test_proxier import HERE, WEB, WEB_LISTENER, Nodes, Portals, World, a_service, served
from userproxy.model import (
    EndpointSlice,
    ListenerName,
    PortSpec,
    Protocol,
    ServiceName,
    ServicePortName,
    ServiceState,
    SliceEndpoint,
    Verdict,
)
from userproxy.proxier.proxier import Proxier


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def proxier(world: World) -> Proxier:
    return Proxier(world, world, Portals(world), world, HERE)


def with_endpoints(state: ServiceState, *addresses: str) -> ServiceState:
    (slice_,) = state.slices
    endpoints = tuple(SliceEndpoint(address) for address in addresses)
    return ServiceState(state.service, (structs.replace(slice_, endpoints=endpoints),))


def routed(world: World, listener: ListenerName = WEB_LISTENER) -> list[str]:
    return [str(endpoint) for endpoint in world.routes[listener].endpoints]


@asynccontextmanager
async def syncing(world: World, proxier: Proxier) -> AsyncIterator[None]:
    """A sync whose rules are being written for as long as the context lasts."""
    world.may_write.clear()
    before = world.syncs
    async with asyncio.TaskGroup() as group:
        task = group.create_task(proxier.sync(verify=False), name="sync")
        while world.syncs == before:
            await asyncio.sleep(0)
        yield
        world.may_write.set()
    assert task.result()


async def test_other_endpoints_need_no_sync(world: World, proxier: Proxier) -> None:
    web = a_service("web", "10.96.0.1")
    world.put(web)
    assert not await proxier.follow(), "rules are to be written"
    assert world.open_ports == {}
    await proxier.sync(verify=False)
    world.put(with_endpoints(web, "10.0.0.2", "10.0.0.3"))
    assert await proxier.follow()
    assert routed(world) == ["10.0.0.2:8080", "10.0.0.3:8080"]
    world.put(a_service("other", "10.96.0.2"), with_endpoints(web, "10.0.0.4"))
    assert not await proxier.follow()
    assert routed(world) == ["10.0.0.4:8080"], "it does not wait for the other's rules"
    assert world.syncs == 1
    assert await proxier.sync(verify=False)
    assert len(world.open_ports) == 2


async def test_other_endpoints_do_not_wait_for_a_sync_that_is_under_way(world: World, proxier: Proxier) -> None:
    web, dns = a_service("web", "10.96.0.1"), a_service("dns", "10.96.0.2")
    world.put(web)
    await proxier.sync(verify=False)
    world.put(dns)
    async with syncing(world, proxier):
        world.put(with_endpoints(web, "10.0.0.2"))
        assert not await proxier.follow(), "the sync has not ended"
        assert routed(world) == ["10.0.0.2:8080"]
        world.drop("dns")
        assert not await proxier.follow()
    assert len(world.open_ports) == 2, "rules lead to what was dropped meanwhile"
    assert await proxier.sync(verify=False)
    assert list(world.open_ports) == [WEB_LISTENER]
    assert [binding.name for binding in world.bindings or ()] == [WEB]


async def test_what_comes_back_while_its_rules_go_keeps_its_listener(world: World, proxier: Proxier) -> None:
    web = a_service("web", "10.96.0.1", 30080)
    world.put(web)
    await proxier.sync(verify=False)
    ports = dict(world.open_ports)
    world.drop("web")
    async with syncing(world, proxier):
        world.put(web)
        await proxier.follow()
    assert world.bindings == []
    assert await proxier.sync(verify=False)
    assert world.open_ports == ports
    assert world.held == {("", 30080)}
    assert [binding.name for binding in world.bindings or ()] == [WEB]


async def test_a_change_that_was_undone_after_a_failure_is_undone_in_the_driver(world: World, proxier: Proxier) -> None:
    web = a_service("web", "10.96.0.1")
    world.put(web)
    await proxier.sync(verify=False)
    world.kernel_refuses = True
    world.put(a_service("web", "10.96.0.9"))
    assert not await proxier.sync(verify=False)
    world.kernel_refuses = False
    world.put(web)
    assert await proxier.sync(verify=False)
    assert served(world) == {"10.96.0.1:80"}


async def test_a_portal_that_appears_cuts_the_circle_of_another_service(world: World, proxier: Proxier) -> None:
    leading = with_endpoints(a_service("web", "10.96.0.1"), "10.96.0.2", "10.0.0.1")
    world.put(structs.replace(leading, slices=tuple(_on_port(80, each) for each in leading.slices)))
    await proxier.sync(verify=False)
    assert routed(world) == ["10.0.0.1:80", "10.96.0.2:80"]
    back = with_endpoints(a_service("back", "10.96.0.2"), "10.96.0.1")
    world.put(structs.replace(back, slices=tuple(_on_port(80, each) for each in back.slices)))
    await proxier.sync(verify=False)
    assert routed(world) == ["10.0.0.1:80"], "its endpoint is a portal now that leads on to a portal"
    world.drop("back")
    assert not await proxier.follow()
    assert routed(world) == ["10.0.0.1:80", "10.96.0.2:80"]


async def test_a_service_that_begins_to_lead_on_to_a_portal_is_no_endpoint_of_others(
    world: World, proxier: Proxier
) -> None:
    def leading(name: str, ip: str, to: str) -> ServiceState:
        state = with_endpoints(a_service(name, ip), to)
        return structs.replace(state, slices=tuple(_on_port(80, each) for each in state.slices))

    world.put(leading("web", "10.96.0.1", "10.96.0.2"), leading("back", "10.96.0.2", "10.0.0.1"))
    world.put(leading("far", "10.96.0.3", "10.0.0.2"))
    await proxier.sync(verify=False)
    assert routed(world) == ["10.96.0.2:80"]
    world.put(leading("back", "10.96.0.2", "10.96.0.3"))
    assert await proxier.follow()
    assert routed(world) == []
    world.put(leading("back", "10.96.0.2", "10.0.0.1"))
    assert await proxier.follow()
    assert routed(world) == ["10.96.0.2:80"]


def _on_port(number: int, slice_: EndpointSlice) -> EndpointSlice:
    return structs.replace(slice_, ports=tuple(structs.replace(port, port=number) for port in slice_.ports))


async def test_what_the_driver_refuses_is_forgotten_with_its_service(world: World, proxier: Proxier) -> None:
    world.put(a_service("web", "10.96.0.1"), a_service("b", "10.96.0.2"))
    world.refused = {B: "line 5 failed"}
    assert await proxier.sync(verify=False)
    assert proxier.problems
    world.drop("b")
    assert await proxier.sync(verify=False)
    assert [binding.name for binding in world.bindings or ()] == [WEB], "its listener is closed"
    assert not proxier.problems


B = ServicePortName("default", "b", "http", Protocol.TCP)
STATES = st.builds(
    lambda name, ip, port, node_port, further, external, balancers, created, addresses: with_endpoints(
        a_service(
            name,
            ip,
            ports=(PortSpec("http", Protocol.TCP, port, node_port), *further),
            external_ips=external,
            balancer_ips=balancers,
            created=created,
        ),
        *addresses,
    ),
    st.sampled_from(("a", "b", "c", "d")),
    st.sampled_from(("10.96.0.1", "10.96.0.2", "10.96.0.3")),
    st.sampled_from((80, 30001)),
    st.sampled_from((0, 30001, 30002)),
    st.sampled_from(((), (PortSpec("dns", Protocol.UDP, 53),), (PortSpec("www", Protocol.TCP, 30001, 30003),))),
    st.sampled_from(((), ("192.0.2.10",), ("198.51.100.7",))),
    st.sampled_from(((), (), ("203.0.113.9",))),
    st.sampled_from(("", "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z")),
    st.lists(
        st.sampled_from(("10.0.0.1", "10.0.0.2", "10.96.0.1", "10.96.0.2", "192.0.2.10", "192.0.2.11", "203.0.113.9")),
        unique=True,
    ),
)
EVENTS = st.one_of(
    STATES,
    STATES,
    STATES,
    st.sampled_from(("drop a", "drop b", "drop c", "follow", "sync", "sync", "verify")),
    st.sampled_from(
        (
            "fail",
            "work",
            "address",
            "refuse b",
            "accept b",
            "30001 taken",
            "30001 free",
            "address",
            "no address",
            "node",
            "no node",
            "listening",
            "quiet",
        )
    ),
)


def happen(world: World, nodes: Nodes, event: ServiceState | str) -> None:
    match event:
        case "node" | "no node":
            nodes.clear()
            nodes.learn(*(["192.0.2.11"] if event == "node" else []))
        case ServiceState():
            number = event.service.ports[0].node_port or 80
            world.put(structs.replace(event, slices=tuple(_on_port(number, each) for each in event.slices)))
        case "refuse b" | "accept b":
            world.refused = {B: "line 5 failed"} if event == "refuse b" else {}
        case "fail" | "work":
            world.kernel_refuses = event == "fail"
        case "30001 taken" | "30001 free":
            world.taken_by_others = {30001} if event == "30001 taken" else set()
        case "address" | "no address":
            world.addresses = frozenset({"192.0.2.10"}) if event == "address" else frozenset()
        case "listening" | "quiet":
            world.listening = {("192.0.2.10", Protocol.TCP, 80)} if event == "listening" else set()
        case str() if event.startswith("drop "):
            if ServiceName("default", event[5:]) in world.states:
                world.drop(event[5:])


@settings(deadline=None)
@given(st.lists(EVENTS, max_size=30))
def test_whatever_has_happened_it_ends_as_if_started_now(events: list[ServiceState | str]) -> None:
    async def scenario() -> None:
        world = World()
        nodes = Nodes()
        proxier = Proxier(world, world, Portals(world), world, HERE, nodes=nodes)
        for event in events:
            happen(world, nodes, event)
            if event == "follow":
                await proxier.follow()
            elif event in {"sync", "verify"}:
                await proxier.sync(verify=event == "verify")
        world.kernel_refuses = False
        world.refused = {}
        world.taken_by_others -= {port for _, port in world.held}
        assert await proxier.sync(verify=True)
        fresh = World()
        fresh.put(*world.states.values())
        fresh.addresses, fresh.listening, fresh.taken_by_others = (
            world.addresses,
            world.listening,
            world.taken_by_others,
        )
        other = Proxier(fresh, fresh, Portals(fresh), fresh, HERE, nodes=nodes)
        assert await other.sync(verify=True)
        assert settled(world, proxier) == settled(fresh, other)

    with capture_logs():
        asyncio.run(scenario())


def settled(world: World, proxier: Proxier) -> tuple[object, ...]:
    """All that there is, but for the numbers of local ports."""
    return (
        world.open_ports.keys(),
        world.routes,
        world.held,
        {
            each.name: (set(each.portals), each.internal.verdict, each.external.verdict, each.source_ranges)
            for each in world.bindings or ()
        },
        proxier.problems,
        proxier.programmed.keys(),
    )


async def test_once_retired_it_hands_out_routes_and_nothing_else(world: World, proxier: Proxier) -> None:
    web = a_service("web", "10.96.0.1", 30080)
    world.put(web)
    await proxier.sync(verify=False)
    ports, syncs = dict(world.open_ports), world.syncs
    proxier.retire()
    world.put(with_endpoints(web), a_service("other", "10.96.0.2"))
    assert await proxier.follow(), "the rest is a successor's"
    assert world.routes[WEB_LISTENER].verdict is Verdict.REJECT
    world.put(with_endpoints(web, "10.0.0.9"))
    assert await proxier.sync(verify=True)
    assert routed(world) == ["10.0.0.9:8080"]
    assert (world.open_ports, world.syncs) == (ports, syncs)


async def test_a_sync_that_is_retired_while_it_looks_at_the_node_leaves_all_to_the_successor(world: World) -> None:
    class Slow(Portals):
        async def local_addresses(self) -> frozenset[str]:
            retiring.retire()
            return await super().local_addresses()

    retiring = Proxier(world, world, Slow(world), world, HERE)
    world.put(a_service("web", "10.96.0.1", 30080))
    await retiring.sync(verify=False)
    assert (world.syncs, world.held, world.open_ports) == (0, set(), {})


async def test_a_sync_that_is_retired_while_rules_are_written_keeps_the_listeners(
    world: World, proxier: Proxier
) -> None:
    world.put(a_service("web", "10.96.0.1", 30080))
    await proxier.sync(verify=False)
    ports = dict(world.open_ports)
    world.drop("web")
    with capture_logs() as logs:
        async with syncing(world, proxier):
            proxier.retire()
            world.kernel_refuses = True
    assert world.open_ports == ports
    assert [each for each in logs if each["log_level"] == "error"] == []
