"""When stale entries are looked for: at once, but not over and over."""

import asyncio
from collections.abc import Callable, Collection

import pytest
from msgspec import structs

from tests.proxier.conntrack.test_entries import Entry
from tests.turns import watched_turns
from userproxy import pace
from userproxy.model import Portal, PortalBinding, PortalKind, Protocol, ServicePortName, Target, Verdict
from userproxy.proxier.conntrack.cleanup import ConntrackCleanup
from userproxy.proxier.conntrack.entries import FlowEntry


class Kernel:
    """Connection tracking that takes its time."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.began: list[float] = []
        self.asked: list[tuple[Collection[Protocol], Callable[[FlowEntry], bool]]] = []
        self.searching = asyncio.Event()
        self._seconds = seconds

    async def delete(self, protocols: Collection[Protocol], is_stale: Callable[[FlowEntry], bool]) -> int:
        self.began.append(asyncio.get_running_loop().time())
        self.asked.append((protocols, is_stale))
        self.searching.set()
        await asyncio.sleep(self._seconds)
        return 0


def binding(number: int) -> PortalBinding:
    target = Target(Verdict.SERVE, 40000 + number)
    name = ServicePortName("default", f"s{number}", "", Protocol.TCP)
    return PortalBinding(name, (Portal(PortalKind.CLUSTER_IP, f"10.96.0.{number}", 80),), target, target, target)


async def until(kernel: Kernel, searches: int) -> None:
    async with asyncio.timeout(10):
        while len(kernel.began) < searches:
            await kernel.searching.wait()
            kernel.searching.clear()


async def test_nothing_is_looked_for_before_anything_has_changed() -> None:
    kernel = Kernel()
    flows = ConntrackCleanup(kernel, pause=0)
    flows.changed((), ())
    flows.repaired()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await flows.run()
    assert kernel.began == []


@pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP])
async def test_what_is_looked_for_is_what_the_rules_made_stale(protocol: Protocol) -> None:
    kernel = Kernel()
    flows = ConntrackCleanup(kernel, pause=0)
    one = structs.replace(binding(1), name=ServicePortName("default", "s1", "", protocol))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(flows.run())
        flows.changed((), [one])
        await until(kernel, 1)
        task.cancel()
    (asked,) = kernel.asked
    assert set(asked[0]) == {protocol}
    early = Entry("10.96.0.1", 80, "10.96.0.1", 80, protocol)
    assert asked[1](early)
    assert not asked[1](structs.replace(early, port=81))


@pytest.mark.parametrize(("pause", "search", "apart"), [(0.1, 0.0, 0.1), (0.0, 0.02, 0.2)])
async def test_many_changes_are_one_search_and_searches_keep_their_distance(
    pause: float, search: float, apart: float
) -> None:
    kernel = Kernel(search)
    flows = ConntrackCleanup(kernel, pause)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(flows.run())
        flows.changed((), [binding(1)])
        await until(kernel, 1)
        for number in range(2, 50):
            flows.changed((), [binding(number)])
            await asyncio.sleep(0)
        await until(kernel, 2)
        flows.changed([binding(1)], ())
        await until(kernel, 3)
        task.cancel()
    assert len(kernel.began) == 3
    assert min(later - one for one, later in zip(kernel.began, kernel.began[1:], strict=False)) >= apart


async def test_another_look_waits_for_the_search_under_way_and_for_no_pause() -> None:
    """What that one has read may be from before the rules of others went."""
    kernel = Kernel(0.01)
    flows = ConntrackCleanup(kernel, pause=3600)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        task = group.create_task(flows.run())
        flows.changed((), [binding(1)])
        await until(kernel, 1)
        await flows.look_again()
        assert len(kernel.began) == 2
        assert kernel.began[1] - kernel.began[0] >= 0.01
        flows.changed((), [binding(2)])
        await flows.look_again()
        assert len(kernel.began) == 3
        task.cancel()
    for number in (1, 2):
        assert kernel.asked[2][1](Entry(f"10.96.0.{number}", 80, "192.0.2.10", 39999, Protocol.TCP))


async def test_many_changes_are_gone_through_while_others_have_their_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "SLICE_SECONDS", 0.0)
    kernel = Kernel()
    flows = ConntrackCleanup(kernel, pause=0)
    name, target = ServicePortName("default", "s", "", Protocol.UDP), Target(Verdict.SERVE, 40000)
    many = [
        PortalBinding(name, (Portal(PortalKind.CLUSTER_IP, f"10.96.{n // 250}.{n % 250}", 53),), target, target, target)
        for n in range(500)
    ]
    async with watched_turns() as turns, asyncio.TaskGroup() as group:
        task = group.create_task(flows.run())
        flows.changed((), many)
        await until(kernel, 1)
        assert turns.count > 3 * 500, "for bindings, for portals, and for what is to be looked for"
        task.cancel()
    ((protocols, is_stale),) = kernel.asked
    assert set(protocols) == {Protocol.UDP}
    assert is_stale(Entry("10.96.1.249", 53, "10.96.1.249", 53))
