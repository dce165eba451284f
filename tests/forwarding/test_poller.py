"""The poller: every handler gets its own events, and only those."""

import asyncio
import fcntl
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from functools import partial

import pytest
import uvloop
from structlog.testing import capture_logs

from tests.forwarding.conftest import eventually
from userproxy.forwarding.poller import ANOTHER_TURN, DATAGRAMS, READABLE, STREAM, WHILE_DATAGRAMS, Poller


class Owner:
    def __init__(self) -> None:
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True


@pytest.fixture
def owner() -> Owner:
    return Owner()


@pytest.fixture
async def poller() -> AsyncIterator[Poller]:
    opened = Poller(asyncio.get_running_loop())
    yield opened
    opened.shut_down()


@pytest.fixture
def pairs() -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    made = [socket.socketpair() for _ in range(3)]
    for pair in made:
        for sock in pair:
            sock.setblocking(False)
    yield made
    for pair in made:
        for sock in pair:
            sock.close()


Pairs = list[tuple[socket.socket, socket.socket]]


async def test_the_present_state_is_the_first_event(poller: Poller, owner: Owner, pairs: Pairs) -> None:
    (near, far), *_ = pairs
    far.send(b"x")
    seen: list[int] = []
    poller.add(near.fileno(), STREAM, seen.append, owner)
    await eventually(lambda: bool(seen))
    assert seen[0] & READABLE


async def test_an_event_for_a_closed_socket_never_reaches_the_next_owner_of_its_number(
    poller: Poller, owner: Owner, pairs: Pairs
) -> None:
    (first, wake_first), (second, wake_second), (silent, _) = pairs
    number = second.fileno()
    reused: list[int] = []
    seen: list[int] = []

    def close_second_and_open_another(events: int) -> None:
        if events & READABLE and not reused:
            poller.close(second)
            reused.append(fcntl.fcntl(silent.fileno(), fcntl.F_DUPFD, number))  # `number` itself if it is free
            poller.add(reused[0], STREAM, seen.append, owner)

    poller.add(first.fileno(), STREAM, close_second_and_open_another, owner)
    poller.add(second.fileno(), STREAM, lambda _events: None, owner)
    wake_first.send(b"x")
    wake_second.send(b"x")  # in one batch with the first one, and after it
    await eventually(lambda: bool(seen))
    assert not any(events & READABLE for events in seen)
    os.close(reused[0])


@pytest.mark.bugs
async def test_a_handler_that_fails_costs_its_owner_alone(poller: Poller, owner: Owner, pairs: Pairs) -> None:
    (bad, _), (good, _), _ = pairs
    seen: list[int] = []

    def fail(_events: int) -> None:
        raise RuntimeError("a bug")

    poller.add(bad.fileno(), STREAM, fail, owner)
    poller.add(good.fileno(), STREAM, seen.append, Owner())
    with capture_logs() as logs:
        await eventually(lambda: bool(seen) and owner.aborted)
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"]


async def test_another_turn_comes_after_the_others(poller: Poller, owner: Owner) -> None:
    turns: list[int] = []
    for _ in range(3):
        poller.again(turns.append, owner)
    assert turns == []
    await eventually(lambda: bool(turns))
    assert turns == [ANOTHER_TURN]


async def test_events_come_between_turns(poller: Poller, owner: Owner, pairs: Pairs) -> None:
    (near, far), *_ = pairs
    turns: list[int] = []
    seen: list[int] = []

    def take_a_millisecond(_events: int) -> None:
        end = time.monotonic() + 0.001
        while time.monotonic() < end:
            pass
        if not turns:
            far.send(b"x")
        turns.append(1)

    handlers = [partial(take_a_millisecond) for _ in range(20)]
    poller.add(near.fileno(), STREAM, lambda events: seen.append(len(turns)) if events & READABLE else None, owner)
    for handler in handlers:
        poller.again(handler, owner)
    await eventually(lambda: len(turns) == len(handlers))
    assert seen
    assert seen[0] < 5


async def test_who_asks_for_turn_after_turn_has_them_in_turn_with_others(poller: Poller, owner: Owner) -> None:
    turns: list[str] = []

    def ask(name: str, handler: Callable[[int], None]) -> None:
        turns.append(name)
        if turns.count(name) < 3:
            poller.again(handler, owner)

    def one(_events: int) -> None:
        ask("one", one)

    def two(_events: int) -> None:
        ask("two", two)

    poller.again(one, owner)
    poller.again(two, owner)
    await eventually(lambda: len(turns) == 6)
    assert turns == ["one", "two"] * 3


@pytest.mark.bugs
async def test_a_failing_turn_costs_its_owner_alone(poller: Poller, owner: Owner) -> None:
    turns: list[int] = []

    def fail(_events: int) -> None:
        raise RuntimeError("a bug")

    poller.again(fail, owner)
    poller.again(turns.append, Owner())
    with capture_logs():
        await eventually(lambda: bool(turns))
    assert owner.aborted


@pytest.mark.parametrize("has_copy", [True, False])
async def test_a_socket_of_ones_own_is_taken_out_by_closing_it_and_that_of_another_process_before(
    poller: Poller, owner: Owner, pairs: Pairs, *, has_copy: bool
) -> None:
    """A copy keeps a socket in epoll: its events would reach whoever has its number next (epoll(7))."""
    (near, far), (silent, _), *_ = pairs
    number, seen = near.fileno(), list[int]()
    poller.add(number, STREAM, lambda _events: None, owner)
    copy = os.dup(number) if has_copy else -1
    if has_copy:
        poller.of_others.add(number)
    poller.copied = False
    with socket.socket() as unwatched:
        poller.close_both(unwatched, near)
    assert len(poller) == 0
    await eventually(lambda: near.fileno() == -1)
    reused = fcntl.fcntl(silent.fileno(), fcntl.F_DUPFD, number)
    poller.add(reused, STREAM, seen.append, owner)
    await eventually(lambda: bool(seen))
    assert not poller.of_others
    if has_copy:
        far.send(b"x")
        poller._drain()
        os.close(copy)
    assert reused == number
    assert not any(events & READABLE for events in seen)
    os.close(reused)


@pytest.mark.parametrize("copied", [True, False])
async def test_a_socket_that_is_closed_already_takes_nobody_elses_handler(
    poller: Poller, owner: Owner, pairs: Pairs, *, copied: bool
) -> None:
    (near, far), (ended, _), *_ = pairs
    seen: list[int] = []
    poller.copied = copied
    last = fcntl.fcntl(near.fileno(), fcntl.F_DUPFD, len(poller._handlers) - 1)
    poller.add_method(last, lambda _owner, events: seen.append(events), owner)
    ended.close()
    poller.close_both(ended, ended)
    poller.close(ended)
    far.send(b"x")
    await eventually(lambda: any(events & READABLE for events in seen))
    poller.close_now()
    os.close(last)


async def test_a_closed_socket_is_forgotten(poller: Poller, owner: Owner, pairs: Pairs) -> None:
    (near, far), *_ = pairs
    poller.add(near.fileno(), STREAM, lambda _events: None, owner)
    assert len(poller) == 1
    poller.close(near)
    assert len(poller) == 0
    await eventually(lambda: near.fileno() == -1)
    far.close()


async def test_a_socket_beside_another_is_watched_and_the_other_has_another_handler(
    poller: Poller, owner: Owner, pairs: Pairs
) -> None:
    (near, far), (beside, peer), *_ = pairs
    told: list[str] = []
    poller.add_method(near.fileno(), lambda whose, _events: told.append("before" if whose is owner else ""), owner)
    await eventually(lambda: told == ["before"])
    poller.add_beside(
        beside.fileno(),
        lambda whose, _events: told.append("beside" if whose is owner else ""),
        near.fileno(),
        lambda whose, _events: told.append("after" if whose is owner else ""),
        owner,
    )
    await eventually(lambda: told == ["before", "beside"])
    far.send(b"x")
    peer.send(b"x")
    await eventually(lambda: sorted(told[2:]) == ["after", "beside"])
    poller.close_both(near, beside)
    assert len(poller) == 0
    await eventually(lambda: near.fileno() == beside.fileno() == -1)


async def test_a_socket_closed_at_once_is_closed_and_forgotten(poller: Poller, owner: Owner, pairs: Pairs) -> None:
    (near, far), *_ = pairs
    poller.add(near.fileno(), DATAGRAMS, lambda _events: None, owner)
    poller.close_at_once(near)
    assert near.fileno() == -1
    assert len(poller) == 0
    far.close()


async def test_a_handler_that_leaves_something_is_called_again_if_that_was_asked_for(
    poller: Poller, owner: Owner, pairs: Pairs
) -> None:
    (near, far), *_ = pairs
    far.send(b"xyz")
    read: list[bytes] = []
    poller.add(near.fileno(), WHILE_DATAGRAMS, lambda _events: read.append(near.recv(1)), owner)
    await eventually(lambda: read == [b"x", b"y", b"z"])
    poller.close(near)


async def test_after_handlers_and_after_turns_the_rest_is_done_once(owner: Owner, pairs: Pairs) -> None:
    order: list[str] = []
    poller = Poller(asyncio.get_running_loop(), lambda: order.append("rest"))
    try:
        for near, far in pairs:
            far.send(b"x")
            poller.add(near.fileno(), DATAGRAMS, lambda _events: order.append("event"), owner)
        await eventually(lambda: "rest" in order)
        assert order == ["event"] * len(pairs) + ["rest"]
        order.clear()
        poller.again(lambda _events: order.append("turn"), owner)
        await eventually(lambda: "rest" in order)
        assert order == ["turn", "rest"]
    finally:
        poller.shut_down()


async def test_while_it_is_paused_no_turn_is_taken(poller: Poller, owner: Owner) -> None:
    taken: list[int] = []
    poller.pause()
    poller.again(taken.append, owner)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert taken == []
    poller.resume()
    await eventually(lambda: taken == [ANOTHER_TURN])


@pytest.mark.parametrize("at_once", [False, True], ids=["as the loop runs", "before the loop has begun to watch it"])
async def test_a_poller_that_goes_on_tells_of_what_has_come_and_the_loop_sleeps_until_then(
    owner: Owner, pairs: Pairs, *, at_once: bool
) -> None:
    """The loop goes on to watch it: to be put into the loop's epoll again costs a microsecond for each socket."""
    (near, far), *_ = pairs
    loop, seen, asked = asyncio.get_running_loop(), list[int](), list[int]()

    class Counting(Poller):
        def _drain(self) -> None:
            asked.append(1)
            super()._drain()

    poller = Counting(loop)
    try:
        if not at_once:
            await asyncio.sleep(0.01)  # which has the loop ask the kernel
        poller.pause()
        poller.pause()
        assert poller._is_mute is not (at_once and isinstance(loop, uvloop.Loop))
        poller.add(near.fileno(), STREAM, seen.append, owner)
        far.send(b"x")
        for _ in range(100):
            await asyncio.sleep(0)
        assert seen == asked == []
        poller.resume()
        poller.resume()
        await eventually(lambda: any(events & READABLE for events in seen))
        near.recv(1)
        seen.clear()
        far.send(b"y")
        await eventually(lambda: any(events & READABLE for events in seen))
    finally:
        poller.shut_down()


@pytest.mark.parametrize("copied", [True, False])
async def test_descriptors_of_any_size_are_watched_and_those_that_are_not_can_be_given_up(
    poller: Poller, owner: Owner, pairs: Pairs, *, copied: bool
) -> None:
    (near, far), (silent, _), (other, _) = pairs
    far.send(b"x")
    high = fcntl.fcntl(near.fileno(), fcntl.F_DUPFD, 700)
    beyond = fcntl.fcntl(silent.fileno(), fcntl.F_DUPFD, 900)
    seen: list[int] = []
    with socket.socket(fileno=high) as duplicate, socket.socket(fileno=beyond) as unwatched:
        poller.add(other.fileno(), STREAM, seen.append, owner)
        poller.forget(unwatched)
        poller.replace(beyond, seen.append, owner)
        poller.add_method(high, lambda _owner, events: seen.append(events), owner)
        await eventually(lambda: any(events & READABLE for events in seen))
        assert len(poller) == 2
        poller.copied = copied
        poller.close_both(duplicate, unwatched)
        assert len(poller) == 1
        seen.clear()
        with suppress(FileNotFoundError):  # it is not in epoll any more, or goes with close(2)
            poller._epoll.modify(duplicate.fileno(), STREAM)
            assert not copied
    poller.forget(near)
    near.close()
    poller.close_at_once(near)
    assert len(poller) == 1, "a closed socket has the number -1"


async def test_the_time_of_a_batch_is_that_at_which_it_was_taken(owner: Owner, pairs: Pairs) -> None:
    times = iter((3.0, 4.0))
    poller = Poller(asyncio.get_running_loop(), clock=lambda: next(times))
    seen: list[float] = []
    try:
        for near, far in pairs[:2]:
            far.send(b"x")
            poller.add(near.fileno(), DATAGRAMS, lambda _events: seen.append(poller.now), owner)
        assert poller.now == 0.0
        await eventually(lambda: len(seen) == 2)
        assert (seen, poller.now) == ([3.0, 3.0], 0.0)
        pairs[0][1].send(b"x")
        await eventually(lambda: len(seen) == 3)
        assert seen[2] == 4.0
    finally:
        poller.shut_down()
