"""When stale entries are looked for: at once, but not over and over."""

import asyncio
from collections.abc import Callable, Collection

import pytest

from userproxy.model import Lead, Portal, PortalBinding, PortalKind, Protocol, ServicePortName, Verdict
from userproxy.proxier.flows import StaleFlows
from userproxy.proxier.stale import FlowEntry


class Kernel:
    """Connection tracking that takes its time."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.began: list[float] = []
        self.searching = asyncio.Event()
        self._seconds = seconds

    async def delete(self, protocols: Collection[Protocol], is_stale: Callable[[FlowEntry], bool]) -> int:
        self.began.append(asyncio.get_running_loop().time())
        self.searching.set()
        await asyncio.sleep(self._seconds)
        return 0


def binding(number: int) -> PortalBinding:
    lead = Lead(Verdict.SERVE, 40000 + number)
    name = ServicePortName("default", f"s{number}", "", Protocol.TCP)
    return PortalBinding(name, (Portal(PortalKind.CLUSTER_IP, f"10.96.0.{number}", 80),), lead, lead, lead)


async def until(kernel: Kernel, searches: int) -> None:
    async with asyncio.timeout(10):
        while len(kernel.began) < searches:
            await kernel.searching.wait()
            kernel.searching.clear()


async def test_nothing_is_looked_for_before_anything_has_changed() -> None:
    kernel = Kernel()
    flows = StaleFlows(kernel, pause=0)
    flows.changed((), ())
    flows.repaired()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await flows.run()
    assert kernel.began == []


@pytest.mark.parametrize(("pause", "search", "apart"), [(0.1, 0.0, 0.1), (0.0, 0.02, 0.2)])
async def test_many_changes_are_one_search_and_searches_keep_their_distance(
    pause: float, search: float, apart: float
) -> None:
    kernel = Kernel(search)
    flows = StaleFlows(kernel, pause)
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
