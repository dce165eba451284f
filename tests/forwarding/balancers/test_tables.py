"""Tables are made one at a time, and of each balancer only the latest."""

import asyncio

from tests.forwarding.conftest import eventually
from userproxy.forwarding.balancers.tables import TablesToMake


async def test_one_at_a_time_with_others_served_in_between() -> None:
    tables, order = TablesToMake(asyncio.get_running_loop()), list[str]()
    for name in ("a", "b", "a", "c"):
        number = len(order)
        tables.add(name, lambda name=name, number=number: order.append(name))  # type: ignore[misc]
    assert not order, "whoever asks has other things to do"

    async def others() -> None:
        while len(order) < 3:
            if order and order[-1] != "served":
                order.append("served")
            await asyncio.sleep(0)

    await asyncio.wait_for(others(), 10)
    await eventually(lambda: "c" in order)
    made = [each for each in order if each != "served"]
    assert made == ["a", "b", "c"]
    assert order[1] == "served"


async def test_of_each_balancer_the_latest_alone() -> None:
    tables, order = TablesToMake(asyncio.get_running_loop()), list[int]()
    for number in range(3):
        tables.add("a", lambda number=number: order.append(number))  # type: ignore[misc]
    await eventually(lambda: bool(order))
    assert order == [2]
    tables.add("b", lambda: order.append(7))
    await eventually(lambda: order == [2, 7])


async def test_none_after_the_end() -> None:
    tables, order = TablesToMake(asyncio.get_running_loop()), list[int]()
    tables.add("a", lambda: order.append(1))
    tables.stop()
    await asyncio.sleep(0)
    assert not order
