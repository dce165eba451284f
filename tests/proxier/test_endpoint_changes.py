"""Changes of endpoints that are taken over in the call that tells of them, and which ones are left to others."""

import asyncio
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import structlog
from msgspec import structs

import userproxy
from tests.proxier.test_following import routed, syncing, with_endpoints
from tests.proxier.test_proxier import HERE, WEB, WEB_LISTENER, Nodes, Portals, World, a_service
from userproxy.model import Endpoint, LocalTraffic, PortSpec, Protocol, ServiceState, SliceEndpoint
from userproxy.model.steering import Drain
from userproxy.proxier.drains.family import FamilyDrains
from userproxy.proxier.drains.table import DrainTable
from userproxy.proxier.proxier import Proxier
from userproxy.routing.selection import Locality
from userproxy.routing.services import Scope

SOURCE = str(Path(userproxy.__file__).parent)
WEB_STATE = a_service("web", "10.96.0.1")


class Served:
    """A proxier that serves `states`."""

    def __init__(self, *states: ServiceState) -> None:
        self.world, self.nodes = World(), Nodes()
        self.table = DrainTable(asyncio.get_running_loop())
        drains = FamilyDrains(self.table)
        self.proxier = Proxier(
            self.world, self.world, Portals(self.world), self.world, HERE, nodes=self.nodes, drains=drains
        )
        self.world.put(*states)

    async def begin(self) -> "Served":
        assert await self.proxier.sync(verify=False)
        return self

    def takes(self, *states: ServiceState) -> bool:
        self.world.put(*states)
        return self.proxier.follow_at_once()


@pytest.fixture
async def served() -> Served:
    return await Served(WEB_STATE, a_service("other", "10.96.0.2")).begin()


async def test_other_endpoints_are_in_force_when_the_call_returns(served: Served) -> None:
    assert served.takes(with_endpoints(WEB_STATE, "10.0.0.2", "10.0.0.3"))
    assert routed(served.world) == ["10.0.0.2:8080", "10.0.0.3:8080"]
    assert not served.world.changes
    assert served.world.syncs == 1
    assert await served.proxier.follow(), "nothing is left"


async def test_a_change_that_came_to_nothing_is_taken_and_told_to_nobody(served: Served) -> None:
    served.world.routes.clear()
    assert served.takes(WEB_STATE)
    assert not served.world.routes


async def test_of_several_those_are_taken_that_are_no_more_than_endpoints(served: Served) -> None:
    more = a_service("more", "10.96.0.3")
    assert not served.takes(more, with_endpoints(WEB_STATE, "10.0.0.4"))
    assert routed(served.world) == ["10.0.0.4:8080"]
    assert list(served.world.changes) == [more.service.key]
    assert await served.proxier.sync(verify=False)
    assert len(served.world.open_ports) == 3


async def test_many_are_left_to_what_works_in_slices() -> None:
    states = [a_service(f"s{number}", f"10.96.1.{number}") for number in range(9)]
    served = await Served(*states).begin()
    assert not served.takes(*(with_endpoints(each, "10.0.0.9") for each in states))
    assert len(served.world.changes) == 9
    assert await served.proxier.follow()
    assert served.takes(*(with_endpoints(each, "10.0.0.8") for each in states[:8]))


async def test_a_few_of_many_ports_are_left_to_it_too() -> None:
    ports = tuple(PortSpec(f"p{number}", Protocol.TCP, 80 + number) for number in range(4))
    states = [a_service(f"s{number}", f"10.96.1.{number}", ports=ports) for number in range(3)]
    served = await Served(*states).begin()
    assert not served.takes(*(with_endpoints(each, "10.0.0.9") for each in states))
    assert len(served.world.changes) == 3
    assert await served.proxier.follow()
    assert served.takes(*(with_endpoints(each, "10.0.0.8") for each in states[:2]))


@pytest.mark.parametrize(
    "change",
    [
        lambda web: with_endpoints(web),
        lambda web: structs.replace(web, service=structs.replace(web.service, affinity_timeout=10)),
        lambda web: structs.replace(web, service=structs.replace(web.service, close_removed_after=0.0)),
        lambda web: structs.replace(web, slices=(structs.replace(web.slices[0], weighted=True),)),
        lambda web: with_endpoints(web, "10.96.0.2"),
    ],
    ids=["none left", "affinity", "closes removed", "weights", "maybe a portal"],
)
async def test_what_is_more_than_other_endpoints_is_left(change: Callable[[ServiceState], ServiceState]) -> None:
    web = _on_port_80(WEB_STATE)
    served = await Served(web, _on_port_80(a_service("other", "10.96.0.2"))).begin()
    before = dict(served.world.routes)
    assert not served.takes(change(web))
    assert served.world.routes == before
    assert list(served.world.changes) == [web.service.key]
    changed = served.world.states[web.service.key]
    if changed.service is not web.service:  # what was changed in more than endpoints need not be plain afterwards
        await served.proxier.sync(verify=False)
        closes = changed.service.close_removed_after is not None
        assert served.takes(with_endpoints(changed, "10.0.0.7")) is not closes


DNS = a_service("dns", "10.96.0.10", ports=(PortSpec("dns", Protocol.UDP, 53), PortSpec("dns-tcp", Protocol.TCP, 53)))


async def test_all_ports_of_a_service_get_other_endpoints_or_none_does() -> None:
    served = await Served(DNS, a_service("other", "10.96.0.2", ports=(PortSpec("http", Protocol.TCP, 8080),))).begin()
    assert served.takes(with_endpoints(DNS, "10.0.0.2", "10.0.0.3"))
    found = {listener.service_port.port: snapshot.endpoints for listener, snapshot in served.world.routes.items()}
    assert set(found) == {"dns", "dns-tcp", "http"}
    assert found["dns"] == found["dns-tcp"] == (Endpoint("10.0.0.2", 8080), Endpoint("10.0.0.3", 8080))
    before = dict(served.world.routes)
    assert not served.takes(with_endpoints(DNS, "10.0.0.2", "10.96.0.2")), "by TCP that is another Service"
    assert served.world.routes == before
    assert list(served.world.changes) == [DNS.service.key]


async def test_while_all_is_handed_over_a_service_of_several_ports_changes_too() -> None:
    served = await Served(DNS).begin()
    async with served.proxier.held():
        assert served.takes(with_endpoints(DNS, "10.0.0.9"))
        assert {snapshot.endpoints for snapshot in served.world.routes.values()} == {(Endpoint("10.0.0.9", 8080),)}


async def test_one_that_was_a_portal_may_be_somebodys_loop() -> None:
    looping = with_endpoints(_on_port_80(WEB_STATE), "10.96.0.2", "10.0.0.1")
    other = with_endpoints(_on_port_80(a_service("other", "10.96.0.2")), "10.96.0.1")
    served = await Served(looping, other).begin()
    assert not served.takes(with_endpoints(looping, "10.0.0.1", "10.0.0.5"))
    await served.proxier.follow()
    assert routed(served.world) == ["10.0.0.1:80", "10.0.0.5:80"]


async def test_one_that_is_a_portal_and_was_not_ready_until_now_may_loop() -> None:
    web, other = _on_port_80(WEB_STATE), _on_port_80(a_service("other", "10.96.0.2"))
    not_ready = _with((SliceEndpoint("10.0.0.1"), SliceEndpoint("10.96.0.2", ready=False)), web)
    served = await Served(not_ready, with_endpoints(other, "10.96.0.1")).begin()
    assert routed(served.world) == ["10.0.0.1:80"]
    assert not served.takes(with_endpoints(web, "10.0.0.1", "10.96.0.2"))
    await served.proxier.follow()
    assert routed(served.world) == ["10.0.0.1:80"]


async def test_one_that_stays_a_portal_is_left_out_once_it_leads_back() -> None:
    web, other = _on_port_80(WEB_STATE), _on_port_80(a_service("other", "10.96.0.2"))
    served = await Served(with_endpoints(web, "10.0.0.1", "10.96.0.2"), other).begin()
    assert served.takes(with_endpoints(web, "10.0.0.1", "10.0.0.2", "10.96.0.2"))
    assert routed(served.world) == ["10.0.0.1:80", "10.0.0.2:80", "10.96.0.2:80"]
    assert not served.takes(with_endpoints(other, "10.96.0.1"))
    await served.proxier.follow()
    assert routed(served.world) == ["10.0.0.1:80", "10.0.0.2:80"]
    assert not served.takes(with_endpoints(web, "10.0.0.1", "10.96.0.2")), "one that loops is among them"
    await served.proxier.follow()
    assert routed(served.world) == ["10.0.0.1:80"]


async def test_one_that_may_be_at_a_node_port_is_left(served: Served) -> None:
    other = a_service("other", "10.96.0.2")
    ports = tuple(structs.replace(each, node_port=8080) for each in other.service.ports)
    served.world.put(structs.replace(other, service=structs.replace(other.service, type="NodePort", ports=ports)))
    assert await served.proxier.sync(verify=False)
    part = WEB_STATE.slices[0]
    elsewhere = structs.replace(part, name="web-2", ports=(structs.replace(part.ports[0], port=9090),))
    for number in (2, 3):
        endpoints = (SliceEndpoint("10.0.0.1"), SliceEndpoint(f"10.0.0.{number}"))
        others = structs.replace(elsewhere, endpoints=endpoints)
        assert not served.takes(structs.replace(WEB_STATE, slices=(part, others)))
        await served.proxier.follow()
        assert routed(served.world) == ["10.0.0.1:8080", "10.0.0.1:9090", f"10.0.0.{number}:9090"]


def _with(endpoints: tuple[SliceEndpoint, ...], state: ServiceState) -> ServiceState:
    return structs.replace(state, slices=(structs.replace(state.slices[0], endpoints=endpoints),))


def _on_port_80(state: ServiceState) -> ServiceState:
    ports = tuple(structs.replace(each, port=80) for each in state.slices[0].ports)
    return structs.replace(state, slices=(structs.replace(state.slices[0], ports=ports),))


async def test_weights_that_slices_had_go_with_them() -> None:
    endpoints = (SliceEndpoint("10.0.0.1", weight=3), SliceEndpoint("10.0.0.2"))
    weighted = structs.replace(WEB_STATE.slices[0], endpoints=endpoints, weighted=True)
    served = await Served(structs.replace(WEB_STATE, slices=(weighted,))).begin()
    assert served.world.routes[WEB_LISTENER].weights == (3, 1)
    assert served.takes(with_endpoints(WEB_STATE, "10.0.0.1", "10.0.0.2"))
    assert served.world.routes[WEB_LISTENER].weights == ()


async def test_drained_endpoints_stay_drained(served: Served) -> None:
    served.table.put(Drain(WEB.service, Endpoint("10.0.0.1", 8080), 0.0, 0.0))
    await served.proxier.follow()
    assert not served.takes(with_endpoints(WEB_STATE, "10.0.0.1", "10.0.0.2"))
    await served.proxier.follow()
    assert routed(served.world) == ["10.0.0.2:8080"]
    served.table.end(WEB.service)
    assert not served.takes(with_endpoints(WEB_STATE, "10.0.0.1", "10.0.0.3")), "its end has not been followed yet"
    await served.proxier.follow()
    assert served.takes(with_endpoints(WEB_STATE, "10.0.0.1", "10.0.0.4"))
    assert routed(served.world) == ["10.0.0.1:8080", "10.0.0.4:8080"]


async def test_while_all_is_handed_over_other_endpoints_are_taken_and_nothing_else(served: Served) -> None:
    async with asyncio.TaskGroup() as group, served.proxier.held():
        following = group.create_task(served.proxier.follow(), name="as the runner does")
        assert not served.takes(a_service("more", "10.96.0.3"))
        await asyncio.sleep(0)
        assert not served.takes(with_endpoints(WEB_STATE, "10.0.0.2")), "of another Service something is left"
        assert routed(served.world) == ["10.0.0.2:8080"]
        assert len(served.world.open_ports) == 2
        assert not following.done()
    assert not following.result()
    assert await served.proxier.sync(verify=False)
    assert len(served.world.open_ports) == 3


async def test_endpoints_go_on_changing_although_many_services_wait_for_the_end_of_a_hand_over(served: Served) -> None:
    async with served.proxier.held():
        served.takes(*(a_service(f"new-{number}", f"10.96.1.{number}") for number in range(20)))
        assert not served.takes(with_endpoints(WEB_STATE, "10.0.0.2"))
        assert routed(served.world) == ["10.0.0.2:8080"]
        served.takes(a_service("last", "10.96.2.1"))
        assert not served.takes(with_endpoints(WEB_STATE, "10.0.0.3"))
        assert routed(served.world)[-1] == "10.0.0.3:8080"
        assert len(served.world.changes) == 21
    assert await served.proxier.sync(verify=False)
    assert len(served.world.open_ports) == 2 + 21


async def test_nothing_is_taken_while_anything_else_is_to_be_done(served: Served) -> None:
    new = with_endpoints(WEB_STATE, "10.0.0.2")
    async with served.proxier._state:
        assert not served.takes(new), "changes are being taken over in slices"
    served.world.put(a_service("more", "10.96.0.3"))
    async with syncing(served.world, served.proxier):
        assert not served.takes(new), "rules are being written"
    assert served.takes(new)
    served.nodes.version += 1
    assert not served.takes(WEB_STATE), "what is a Node's address may have changed"
    await served.proxier.follow()
    served.proxier.set_node(Scope(locality=Locality("node-1", "a")), LocalTraffic())
    assert not served.takes(WEB_STATE), "our Node is another one"
    assert await served.proxier.sync(verify=False)
    served.world.kernel_refuses = True
    assert not await served.proxier.sync(verify=True)
    assert not served.takes(WEB_STATE), "portals may not be as they should be"
    served.world.kernel_refuses = False
    assert await served.proxier.sync(verify=False)
    assert served.takes(with_endpoints(WEB_STATE, "10.0.0.8"))
    served.proxier.retire()
    assert not served.takes(WEB_STATE)


@pytest.fixture
def without_debug() -> Iterator[None]:
    structlog.configure(processors=[], wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
    yield
    structlog.reset_defaults()


@pytest.mark.usefixtures("without_debug")
async def test_it_calls_few_functions(served: Served) -> None:
    endpoints = tuple(SliceEndpoint(f"10.0.1.{number}") for number in range(10))
    slices = (structs.replace(WEB_STATE.slices[0], endpoints=endpoints),)
    calls = called(lambda: served.takes(structs.replace(WEB_STATE, slices=slices)))
    assert len(served.world.routes[WEB_LISTENER].endpoints) == 10
    assert calls.total() <= 33, calls.most_common()


def called(work: Callable[[], object]) -> Counter[str]:
    """How often which functions of userproxy are called, comprehensions among them."""
    calls: Counter[str] = Counter()

    def count(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(SOURCE):
            calls[frame.f_code.co_qualname] += 1

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls
