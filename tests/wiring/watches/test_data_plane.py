"""All watches together: what any of them finds is told, and each has its task."""

import asyncio
from typing import cast

from userproxy.addresses import IPFamily
from userproxy.model import Endpoint, ListenerName, ProblemKind, Protocol, ServicePortName
from userproxy.model.balancer_reports import BalancerFault, EjectedEndpoint
from userproxy.model.data_plane import DataPlane
from userproxy.model.holding import HeldClients
from userproxy.model.reports import LostAnswers
from userproxy.wiring.watches.data_plane import DataPlaneWatches

NAME = ServicePortName("default", "web", "http", Protocol.TCP)


class Plane:
    """One on which all goes wrong that is watched for."""

    async def lost_answers(self) -> tuple[LostAnswers, ...]:
        return (LostAnswers(Protocol.TCP, IPFamily.IPV4, "cni0", "b", 1.0, "10.244.1.5", Endpoint("10.244.2.5", 80)),)

    async def balancer_faults(self) -> tuple[BalancerFault, ...]:
        return (BalancerFault(ListenerName(NAME), "by-moon", "it raised"),)

    async def ejected_endpoints(self) -> tuple[EjectedEndpoint, ...]:
        return (EjectedEndpoint(ListenerName(NAME), Endpoint("10.244.2.6", 80), 1769860800.0, "3 failures in a row"),)

    async def held_clients(self) -> tuple[HeldClients, ...]:
        return (HeldClients(NAME, 1, 1),)


async def test_what_each_of_them_finds_is_told() -> None:
    told, needed = asyncio.Event(), asyncio.Event()
    kinds: list[set[ProblemKind]] = []

    def changed() -> None:
        kinds.append({problem.kind for problem in watches.problems})
        told.set()

    watches = DataPlaneWatches(cast(DataPlane, Plane()), changed)
    assert watches.problems == frozenset()
    async with asyncio.TaskGroup() as group:
        tasks = watches.tasks(lambda name: needed.set() if name == NAME else None)
        running = [group.create_task(each, name=name) for name, each in tasks.items()]
        await needed.wait()
        while len(kinds) < 3:
            told.clear()
            await told.wait()
        for each in running:
            each.cancel()
    assert kinds[-1] == {
        ProblemKind.CLIENT_ADDRESS_NOT_KEPT,
        ProblemKind.BALANCER_FAULTY,
        ProblemKind.ENDPOINT_EJECTED,
    }
