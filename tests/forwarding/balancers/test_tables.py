"""Tables are made one at a time and in parts, and of each balancer only the latest."""

import asyncio
from collections.abc import Callable

from tests.forwarding.conftest import eventually
from userproxy.forwarding.balancers.tables import TablesToMake


def table(order: list[str], name: str, parts: int = 1) -> Callable[[], bool]:
    """What writes down each part that is done."""
    left = [parts]

    def make() -> bool:
        left[0] -= 1
        order.append(name)
        return left[0] > 0

    return make


async def test_one_after_the_other_in_parts_with_others_served_in_between() -> None:
    tables, order = TablesToMake(asyncio.get_running_loop()), list[str]()
    for name, parts in (("a", 2), ("b", 1), ("c", 2)):
        tables.add(name, table(order, name, parts))
    assert not order, "whoever asks has other things to do"

    async def others() -> None:
        while len(order) < 9:
            if order and order[-1] != "served":
                order.append("served")
            await asyncio.sleep(0)

    await asyncio.wait_for(others(), 10)
    assert [each for each in order if each != "served"] == ["a", "a", "b", "c", "c"]
    assert order[1::2] == ["served"] * 4


async def test_of_each_balancer_the_latest_alone() -> None:
    tables, order = TablesToMake(asyncio.get_running_loop()), list[str]()
    for name in ("first", "second", "third"):
        tables.add("a", table(order, name, 3))
    await eventually(lambda: bool(order))
    tables.add("a", table(order, "fourth"))
    tables.add("b", table(order, "of another"))
    await eventually(lambda: "of another" in order)
    assert order[0] == "third"
    assert order.count("third") < 3, "nobody needs it any more"
    assert order[-2:] == ["fourth", "of another"]


async def test_none_after_the_end() -> None:
    tables, order = TablesToMake(asyncio.get_running_loop()), list[str]()
    tables.add("a", table(order, "a"))
    tables.stop()
    await asyncio.sleep(0)
    assert not order
