"""One timer for many equal time limits."""

import asyncio
from contextlib import closing

from tests.forwarding.clocked import ClockedLoop
from tests.forwarding.conftest import eventually
from userproxy.forwarding.deadlines import DeadlineQueue


def fail(item: object, error: Exception) -> None:
    raise AssertionError(item) from error


async def test_what_stays_expires_in_order_and_what_is_discarded_does_not() -> None:
    expired: list[int] = []
    queue = DeadlineQueue[int](asyncio.get_running_loop(), 0.02, expired.append, fail)
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

    queue = DeadlineQueue[str](asyncio.get_running_loop(), 0.01, once_more, fail)
    queue.add("a")
    await eventually(lambda: len(expired) == 3)
    assert len(queue) == 0


def test_everybody_has_the_same_time_from_when_they_came() -> None:
    loop = ClockedLoop()
    with closing(loop):
        expired: list[str] = []
        queue = DeadlineQueue[str](loop, 10.0, expired.append, fail)
        queue.add("a")
        loop.advance(4.0)
        queue.add("b")
        loop.advance(5.5)
        assert (expired, len(queue)) == ([], 2)
        loop.advance(0.5)
        assert (expired, len(queue)) == (["a"], 1)
        loop.advance(3.5)
        assert expired == ["a"]
        loop.advance(0.5)
        assert (expired, len(queue)) == (["a", "b"], 0)


def test_who_has_asked_for_the_time_tells_it_and_takes_out_without_a_word() -> None:
    loop = ClockedLoop()
    with closing(loop):
        expired: list[str] = []
        queue = DeadlineQueue[str](loop, 10.0, expired.append, fail)
        queue.add("a", loop.time() - 4.0)
        queue.add("b")
        assert queue.pop("b", None) == queue.deadline("a") + 4.0  # type: ignore[operator]
        assert queue.pop("b", None) is None
        loop.advance(6.0)
        assert (expired, len(queue)) == (["a"], 0)


def test_after_a_standstill_all_whose_time_is_over_expire_at_once() -> None:
    loop = ClockedLoop()
    with closing(loop):
        expired: list[str] = []
        queue = DeadlineQueue[str](loop, 10.0, expired.append, fail)
        for name in "abc":
            queue.add(name)
            loop.advance(1.0)
        loop.jump(8.5)
        assert expired == ["a", "b"]
        loop.advance(0.5)
        assert expired == ["a", "b", "c"]


def test_a_queue_is_of_use_after_it_was_cancelled_and_has_one_timer() -> None:
    loop = ClockedLoop()
    with closing(loop):
        expired: list[str] = []
        queue = DeadlineQueue[str](loop, 10.0, expired.append, fail)
        queue.cancel()
        queue.add("a")
        loop.advance(4.0)
        queue.cancel()
        assert len(queue) == 0
        queue.add("b")
        loop.advance(9.5)
        assert expired == []
        loop.advance(0.5)
        assert expired == ["b"]


async def test_several_whose_time_was_over_in_another_process_expire_at_once() -> None:
    expired: list[int] = []
    loop = asyncio.get_running_loop()
    queue = DeadlineQueue[int](loop, 60.0, expired.append, fail)
    for number in range(3):
        queue.restore(number, loop.time() - number)
    await eventually(lambda: not len(queue))
    assert sorted(expired) == [0, 1, 2]


async def test_an_empty_queue_lets_its_timer_run_out() -> None:
    queue = DeadlineQueue[str](asyncio.get_running_loop(), 0.01, lambda _item: None, fail)
    queue.add("a")
    queue.discard("a")
    await eventually(lambda: queue.timer is None)


async def test_cancelling_forgets_everything() -> None:
    expired: list[str] = []
    queue = DeadlineQueue[str](asyncio.get_running_loop(), 0.01, expired.append, fail)
    queue.add("a")
    queue.cancel()
    other = DeadlineQueue[str](asyncio.get_running_loop(), 0.03, expired.append, fail)
    other.add("later")
    await eventually(lambda: bool(expired))
    assert expired == ["later"]


async def test_an_item_that_fails_costs_the_others_nothing() -> None:
    expired: list[int] = []
    failed: list[tuple[int, str]] = []

    def expire(item: int) -> None:
        expired.append(1000 // item)

    def note(item: int, error: Exception) -> None:
        failed.append((item, type(error).__name__))

    queue = DeadlineQueue[int](asyncio.get_running_loop(), 0.01, expire, note)
    for number in (1, 0, 2):
        queue.add(number)
    await eventually(lambda: len(expired) == 2)
    assert (expired, failed) == ([1000, 500], [(0, "ZeroDivisionError")])


def test_what_comes_from_another_process_expires_in_time_whatever_its_order() -> None:
    loop = ClockedLoop()
    with closing(loop):
        expired: list[str] = []
        queue = DeadlineQueue[str](loop, 10.0, expired.append, fail)
        queue.restore("late", loop.time() + 9.0)
        queue.restore("moved", loop.time() + 2.0)
        queue.restore("early", loop.time() + 1.0)
        queue.restore("moved", loop.time() + 5.0)
        queue.add("new")
        loop.advance(1.0)
        assert expired == ["early"]
        loop.advance(4.0)
        assert expired == ["early", "moved"]
        loop.advance(5.0)
        assert expired == ["early", "moved", "late", "new"]


def test_what_is_taken_out_after_others_have_come_from_another_process_does_not_expire() -> None:
    loop = ClockedLoop()
    with closing(loop):
        expired: list[str] = []
        queue = DeadlineQueue[str](loop, 10.0, expired.append, fail)
        queue.restore("foreign", loop.time() + 1.0)
        loop.advance(1.0)
        queue.add("taken out")
        assert queue.pop("taken out", None) is not None
        assert len(queue) == 0
        loop.advance(10.0)
        assert expired == ["foreign"]


def test_an_item_is_put_in_without_a_call_while_there_is_a_timer() -> None:
    loop = ClockedLoop()
    with closing(loop):
        expired: list[str] = []
        queue = DeadlineQueue[str](loop, 10.0, expired.append, fail)
        queue.add("a")
        loop.advance(4.0)
        armed = [queue.timer is not None]
        queue.deadlines["b"] = loop.time() + queue.seconds
        queue.deadlines["c"] = loop.time() + queue.seconds
        assert queue.pop("c", None) == loop.time() + 10.0
        loop.advance(6.0)
        assert (expired, len(queue)) == (["a"], 1)
        loop.advance(4.0)
        armed.append(queue.timer is not None)
        assert (expired, len(queue), armed) == (["a", "b"], 0, [True, False])
