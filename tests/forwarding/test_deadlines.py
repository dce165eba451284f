"""One timer for many equal time limits."""

import asyncio

from tests.forwarding.conftest import eventually
from userproxy.forwarding.deadlines import DeadlineQueue


async def test_what_stays_expires_in_order_and_what_is_discarded_does_not() -> None:
    expired: list[int] = []
    queue = DeadlineQueue[int](asyncio.get_running_loop(), 0.02, expired.append)
    for n in range(10):
        queue.add(n)
    for n in (0, 3, 9):
        queue.discard(n)
    queue.discard(77)
    await eventually(lambda: not len(queue))
    assert expired == [1, 2, 4, 5, 6, 7, 8]


async def test_an_expired_item_may_come_back() -> None:
    expired: list[str] = []

    def once_more(item: str) -> None:
        expired.append(item)
        if len(expired) < 3:
            queue.add(item)

    queue = DeadlineQueue[str](asyncio.get_running_loop(), 0.01, once_more)
    queue.add("a")
    await eventually(lambda: len(expired) == 3)
    assert len(queue) == 0


async def test_an_empty_queue_lets_its_timer_run_out() -> None:
    queue = DeadlineQueue[str](asyncio.get_running_loop(), 0.01, lambda _item: None)
    queue.add("a")
    queue.discard("a")
    await eventually(lambda: queue._timer is None)


async def test_cancelling_forgets_everything() -> None:
    expired: list[str] = []
    queue = DeadlineQueue[str](asyncio.get_running_loop(), 0.01, expired.append)
    queue.add("a")
    queue.cancel()
    other = DeadlineQueue[str](asyncio.get_running_loop(), 0.03, expired.append)
    other.add("later")
    await eventually(lambda: bool(expired))
    assert expired == ["later"]
