"""The health check node ports of a family: real ones on loopback, and a stop that comes while they are opened."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.proxier.test_health_checks import LOOPBACK, WEB, count_at, free_ports, refuses
from userproxy.model import HealthCheck, IPFamily, ProblemKind
from userproxy.proxier.family.health_ports import HealthPorts
from userproxy.proxier.health_checks import HealthCheckServers
from userproxy.telemetry.http_connections import ConnectionBudget


def servers() -> HealthCheckServers:
    return HealthCheckServers(IPFamily.IPV4, lambda: True, ConnectionBudget(32))


@pytest.fixture
async def ports() -> AsyncIterator[HealthPorts]:
    made = HealthPorts(servers())
    yield made
    await made.close()


@pytest.fixture
def check() -> HealthCheck:
    return HealthCheck(WEB, free_ports(1)[0], 3)


async def sync(ports: HealthPorts, *checks: HealthCheck, has_predecessor: bool = False) -> bool:
    return await ports.sync(checks, LOOPBACK, has_predecessor=has_predecessor)


async def test_it_is_concerned_until_the_last_of_them_is_closed(ports: HealthPorts, check: HealthCheck) -> None:
    assert not ports.concern(())
    assert ports.concern((check,))
    assert not await sync(ports, check)
    assert await count_at(check.port) == 3
    assert ports.concern(()), "one is open that nobody wants any more"
    await sync(ports)
    assert await refuses(check.port)
    assert not ports.concern(())


async def test_a_port_that_a_predecessor_has_is_tried_again_and_is_no_problem(
    ports: HealthPorts, check: HealthCheck
) -> None:
    predecessor = servers()
    await predecessor.sync((check,), LOOPBACK)
    assert await sync(ports, check, has_predecessor=True)
    assert not ports.problems
    assert not await sync(ports, check), "of somebody else it is one"
    (problem,) = ports.problems
    assert problem.kind is ProblemKind.HEALTH_CHECK
    await predecessor.close()
    assert ports.concern(()), "it is to be told that the problem is over"
    assert not await sync(ports, check)
    assert not ports.problems


async def test_what_is_left_to_a_successor_is_not_opened_again(ports: HealthPorts, check: HealthCheck) -> None:
    await sync(ports, check)
    await ports.leave()
    assert not await sync(ports, check)
    assert await refuses(check.port)


async def test_who_leaves_while_they_are_opened_leaves_none(ports: HealthPorts, check: HealthCheck) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(sync(ports, check), name="a sync")
        await asyncio.sleep(0)
        group.create_task(ports.leave(), name="a stop")
        group.create_task(sync(ports, check), name="a sync that comes late")
    assert await refuses(check.port)
