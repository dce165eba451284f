"""The order of a stop, between fakes; tests/e2e/test_restarts.py has it with clients."""

import asyncio
from collections.abc import Mapping
from typing import Any, cast

from msgspec import structs

from userproxy.config import AtStop, Settings
from userproxy.forwarding.forwarder import Forwarder
from userproxy.model import IPFamily
from userproxy.proxier.family.proxy import FamilyProxy
from userproxy.wiring.monitor import Monitor
from userproxy.wiring.succession.stopping import Stop

QUICK = Settings(drain_timeout=0.2, linger=0.05)


class Node:
    """Forwarder, monitor, family and its driver at once; keeps what was asked of it, in order."""

    name = "fake"
    family = IPFamily.IPV4
    serves = True
    writer_tasks = ("writer",)
    lease = None
    flows = 0

    def __init__(self, *, contended: bool = False, removable: bool = True) -> None:
        self.contended = contended
        self.active = 0
        self.done: list[str] = []
        self._removable = removable

    @property
    def driver(self) -> "Node":
        return self

    def leave(self) -> None:
        self.done.append("503")

    async def give_up(self) -> None:
        self.done.append("give up")

    async def close_health_checks(self) -> None:
        self.done.append("close ports")

    async def drain(self, seconds: float) -> int:
        self.done.append("drain")
        assert seconds <= 0.2
        return 0

    async def remove(self) -> list[str]:
        self.done.append("remove")
        if not self._removable:
            await asyncio.Event().wait()
        return []

    async def remove_return_path(self) -> bool:
        return True


async def stopped(
    node: Node, settings: Settings = QUICK, tasks: Mapping[str, asyncio.Task[Any]] | None = None, **how: bool
) -> bool:
    stop = Stop(settings, cast(Forwarder, node), [cast(FamilyProxy, node)], cast(Monitor, node), tasks or {}, **how)
    return await stop.leave()


async def test_health_says_503_first_and_rules_go_last() -> None:
    node = Node()
    assert await stopped(node)
    assert node.done == ["503", "give up", "drain", "remove"]


async def test_rules_that_are_to_be_left_stay() -> None:
    node = Node()
    assert await stopped(node, structs.replace(QUICK, at_stop=AtStop.LEAVE))
    assert node.done == ["503", "give up", "drain"]


async def test_the_delay_lies_between_the_503_and_the_end() -> None:
    node = Node()
    started = asyncio.get_running_loop().time()
    assert await stopped(node, structs.replace(QUICK, drain_delay=0.3))
    assert asyncio.get_running_loop().time() - started >= 0.3


async def test_who_waits_for_our_place_has_the_ports_before_the_rules() -> None:
    node = Node(contended=True)
    assert await stopped(node)
    assert node.done[:3] == ["503", "close ports", "give up"]


async def test_where_another_proxy_comes_its_rules_are_behind_ours_until_these_go() -> None:
    node = Node()
    assert await stopped(node, structs.replace(QUICK, at_stop=AtStop.LEAVE), moving_out=True)
    assert node.done == ["503", "close ports", "give up", "remove", "drain"]


async def test_what_writes_or_answers_ends_first_and_nothing_else_does() -> None:
    async with asyncio.TaskGroup() as group:
        tasks = {
            name: group.create_task(asyncio.sleep(60), name=name)
            for name in ("writer", "sync", "healthz", "metrics", "follow the API")
        }
        await stopped(Node(contended=True), tasks=tasks)
        ended = {name for name, task in tasks.items() if task.cancelling()}
        for task in tasks.values():
            task.cancel()
    assert ended == {"writer", "healthz", "metrics"}
