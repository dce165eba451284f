"""Whoever can start Pods is told that clients are held: at the first, and not too often."""

from typing import cast

import pytest

from userproxy.model import Protocol, ServicePortName
from userproxy.model.data_plane import DataPlane
from userproxy.model.holding import HeldClients
from userproxy.wiring.watches.needed_pods import NeededPodsWatch

NAME = ServicePortName("default", "web", "http", Protocol.TCP)
OTHER = ServicePortName("default", "other", "", Protocol.TCP)


class Plane:
    found: tuple[HeldClients, ...] = ()

    async def held_clients(self) -> tuple[HeldClients, ...]:
        return self.found


@pytest.mark.parametrize(
    ("looks", "told"),
    [
        pytest.param([(0, 0, 0), (1, 0, 0)], [], id="nobody"),
        pytest.param([(0, 1, 1), (1, 5, 5), (4.9, 5, 5), (5, 5, 5), (6, 5, 5), (10, 5, 5)], [0, 5, 10], id="all along"),
        pytest.param([(0, 0, 1), (1, 0, 1), (20, 0, 1)], [0], id="one who left between two looks"),
        pytest.param([(0, 1, 1), (1, 0, 1), (2, 1, 2), (6, 1, 2)], [0, 6], id="one who comes back too soon"),
        pytest.param([(0, 1, 1), (9, None, None), (20, 0, 1), (30, 1, 2)], [0, 30], id="asleep again"),
    ],
)
async def test_when_it_is_told(looks: list[tuple[float, int | None, int | None]], told: list[float]) -> None:
    plane, now = Plane(), 0.0
    found: list[tuple[ServicePortName, float]] = []
    watch = NeededPodsWatch(cast(DataPlane, plane), lambda name: found.append((name, now)), lambda: now)
    for at, held, ever in looks:
        now = at
        plane.found = () if held is None or ever is None else (HeldClients(NAME, held, ever),)
        await watch.look()
    assert found == [(NAME, each) for each in told]


async def test_service_ports_do_not_keep_each_other_waiting() -> None:
    plane = Plane()
    found: list[ServicePortName] = []
    watch = NeededPodsWatch(cast(DataPlane, plane), found.append, lambda: 0.0)
    plane.found = (HeldClients(NAME, 1, 1),)
    await watch.look()
    plane.found = (HeldClients(NAME, 1, 1), HeldClients(OTHER, 1, 1))
    await watch.look()
    assert found == [NAME, OTHER]
