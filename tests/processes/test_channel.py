"""Messages and descriptors through a socketpair: whole, in order, bounded, and what a broken peer costs."""

import asyncio
import os
import resource
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from msgspec import Struct

from tests.forwarding.conftest import eventually
from userproxy.forwarding.descriptors import open_descriptors
from userproxy.pace import SLICE_SECONDS
from userproxy.processes import channel
from userproxy.processes.channel import Channel, Decoder, encode, socket_pair


class Text(Struct, frozen=True, tag="text"):
    text: str


class Number(Struct, frozen=True, tag="number"):
    number: int


class End:
    """A channel, and what has come by it."""

    def __init__(self, sock: socket.socket, most_waiting: int = 1 << 26, low_water: int = 1 << 18) -> None:
        self.messages: list[Text | Number] = []
        self.seconds_each = 0.0
        """How long it takes to deal with a message."""
        self.descriptors: list[list[int]] = []
        self.reasons: list[str] = []
        loop = asyncio.get_running_loop()
        decoder: Decoder[Text | Number] = Decoder(Text | Number)
        ended = self.reasons.append
        self.channel = Channel(loop, sock, decoder, self._received, ended, most_waiting, low_water)

    def _received(self, message: Text | Number, descriptors: list[int]) -> None:
        self.messages.append(message)
        end = time.perf_counter() + self.seconds_each
        while time.perf_counter() < end:
            pass
        self.descriptors.append(descriptors)
        if isinstance(message, Text) and message.text == "fail":
            raise RuntimeError("a bug")


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket_pair()
    yield ours, theirs
    ours.close()
    theirs.close()


Pair = tuple[socket.socket, socket.socket]


async def test_messages_arrive_whole_and_in_order_whatever_their_size(pair: Pair) -> None:
    one, other = End(pair[0]), End(pair[1])
    sizes = [0, 1, 32 * 1024 - 10, 32 * 1024, 32 * 1024 + 1, 1 << 20, 3]
    for size in sizes:
        one.channel.send(Text("x" * size))
        one.channel.send(Number(size))
    await eventually(lambda: len(other.messages) == 2 * len(sizes))
    assert [each.number for each in other.messages if isinstance(each, Number)] == sizes
    assert [len(each.text) for each in other.messages if isinstance(each, Text)] == sizes
    assert one.channel.waiting == 0


async def test_descriptors_arrive_with_their_message(pair: Pair) -> None:
    one, other = End(pair[0]), End(pair[1])
    files = [os.memfd_create(str(number)) for number in range(200)]
    one.channel.send(Number(0))
    one.channel.send(Number(len(files)), files)
    one.channel.send(Text("y" * 100_000), files[:1])
    await eventually(lambda: len(other.messages) == 3)
    assert [len(each) for each in other.descriptors] == [0, 200, 1]
    assert [os.readlink(f"/proc/self/fd/{each}") for each in other.descriptors[1]] == [
        os.readlink(f"/proc/self/fd/{each}") for each in files
    ]
    assert not any(os.get_inheritable(each) for each in other.descriptors[1])
    for each in (*files, *other.descriptors[1], *other.descriptors[2]):
        os.close(each)


async def test_what_the_peer_does_not_read_waits_and_keeps_its_descriptors(pair: Pair) -> None:
    one = End(pair[0])
    file = os.memfd_create("kept")
    for number in range(300):
        one.channel.send(Text("z" * 10_000), [file] if number == 299 else [])
    os.close(file)
    assert not one.channel.has_room
    other = End(pair[1])
    async with asyncio.timeout(10):
        await one.channel.drained()
    await eventually(lambda: len(other.messages) == 300)
    assert os.readlink(f"/proc/self/fd/{other.descriptors[299][0]}").startswith("/memfd:kept")
    os.close(other.descriptors[299][0])


async def test_who_asks_for_it_waits_until_all_is_sent(pair: Pair) -> None:
    one = End(pair[0], low_water=0)
    while one.channel.has_room:
        one.channel.send(Text("z" * 10_000))
    assert 0 < one.channel.waiting < 20_000, "nothing was made that had to wait, but for the last"
    End(pair[1])
    async with asyncio.timeout(10):
        await one.channel.drained()
    assert one.channel.waiting == 0


async def test_a_peer_that_reads_nothing_is_lost_at_the_bound_and_nobody_waits_for_it(pair: Pair) -> None:
    one = End(pair[0], most_waiting=1 << 20)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(200):
        one.channel.send(Text("w" * 10_000), [0])
    assert one.reasons == ["it does not read what is sent to it"]
    assert not one.channel.open
    async with asyncio.timeout(1):
        await one.channel.drained()
    assert len(os.listdir("/proc/self/fd")) == before - 1


async def test_an_end_that_closes_is_told_of_after_what_it_had_sent(pair: Pair) -> None:
    one, other = End(pair[0]), End(pair[1])
    one.channel.send(Number(1))
    one.channel.close()
    await eventually(lambda: bool(other.reasons))
    assert other.messages == [Number(1)]
    assert other.reasons == ["it has closed the connection"]
    one.channel.send(Number(2))  # nothing happens
    assert one.reasons == []


@pytest.mark.parametrize("more", [1, 3])
async def test_the_last_words_of_an_end_that_has_not_read_everything_are_heard(pair: Pair, more: int) -> None:
    """Such as why a successor does not take over: its predecessor goes on sending meanwhile."""
    ours, theirs = pair
    end = End(ours)
    end.channel.send(Text("unread"))
    theirs.send(b"\0" + encode(Text("why not")))
    theirs.close()
    for _ in range(more - 1):
        end.channel.send(Text("of no use"))
    await eventually(lambda: bool(end.reasons))
    assert end.messages == [Text("why not")]
    assert len(end.reasons) == 1


@pytest.mark.parametrize("more", [0, 1])
async def test_all_that_an_end_has_said_is_heard_however_long_each_message_takes(
    pair: Pair, more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that dies has not read everything. uvloop calls a reader once, where there is such an error."""
    monkeypatch.setattr(channel, "_TURN_SECONDS", 0.0)
    ours, theirs = pair
    end = End(ours)
    end.channel.send(Text("unread"))
    for number in range(5):
        theirs.send(b"\0" + encode(Number(number)))
    theirs.close()
    for _ in range(more):
        end.channel.send(Text("of no use"))
    await eventually(lambda: bool(end.reasons))
    assert end.messages == [Number(number) for number in range(5)]
    assert len(end.reasons) == 1


@pytest.mark.parametrize(
    "packet",
    [
        b"\0",
        b"\0garbage",
        b"\2" + encode(Number(1)),
        b"\0" + encode({"type": "unknown"}),
        b"\0" + encode(Text("a"))[:-1],
    ],
    ids=["empty", "garbage", "unknown mark", "unknown message", "half a message"],
)
async def test_what_is_no_message_ends_the_channel_and_leaks_no_descriptor(pair: Pair, packet: bytes) -> None:
    other = End(pair[1])
    before = len(os.listdir("/proc/self/fd"))
    socket.send_fds(pair[0], [packet], [0, 1])
    await eventually(lambda: bool(other.reasons))
    assert "what is no message" in other.reasons[0]
    assert other.messages == []
    assert len(os.listdir("/proc/self/fd")) == before - 1  # that of the channel


async def test_half_a_message_of_a_peer_that_dies_is_dropped_with_its_descriptors(pair: Pair) -> None:
    other = End(pair[1])
    before = len(os.listdir("/proc/self/fd"))
    socket.send_fds(pair[0], [b"\1" + encode(Text("abc"))[:3]], [0])
    pair[0].close()
    await eventually(lambda: bool(other.reasons))
    assert other.messages == []
    assert len(os.listdir("/proc/self/fd")) == before - 2


async def test_without_room_for_its_descriptors_a_message_comes_without_any(pair: Pair) -> None:
    one, other = End(pair[0]), End(pair[1])
    files = [os.memfd_create(str(number)) for number in range(5)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    one.channel.send(Number(5), files)
    one.channel.send(Number(0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(files) + 3, hard))
    try:
        await eventually(lambda: len(other.messages) == 2)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert other.messages == [Number(5), Number(0)]
    assert other.descriptors == [[], []]
    for each in files:
        os.close(each)


async def test_a_message_that_there_are_not_enough_descriptors_for_costs_no_other_and_leaks_none(pair: Pair) -> None:
    one = End(pair[0])
    while not one.channel.waiting:
        one.channel.send(Text("x" * 10_000))
    one.channel.send(Number(1))
    with open(os.devnull) as file:
        before = open_descriptors()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 100, hard))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                one.channel.send(Number(2), [file.fileno()] * 500)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        one.channel.send(Number(3))
        other = End(pair[1])
        await eventually(lambda: Number(3) in other.messages or bool(other.reasons))
        assert (other.messages[-2:], other.descriptors[-2:]) == ([Number(1), Number(3)], [[], []])
        assert open_descriptors() == before


async def test_a_bug_that_one_message_meets_does_not_cost_the_next(pair: Pair) -> None:
    one, other = End(pair[0]), End(pair[1])
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    one.channel.send(Text("fail"))
    one.channel.send(Number(7))
    await eventually(lambda: len(other.messages) == 2)
    assert str(told[0]["exception"]) == "a bug"
    assert other.channel.open


async def test_a_flood_of_messages_leaves_the_loop_to_others(pair: Pair) -> None:
    one, other = End(pair[0]), End(pair[1])
    turns = 0
    for number in range(20_000):
        one.channel.send(Number(number))
    while len(other.messages) < 20_000:
        await asyncio.sleep(0)
        turns += 1
    assert turns > 10


async def test_messages_that_take_as_long_as_a_slice_come_one_in_a_turn(pair: Pair) -> None:
    """A data process serves clients between two of them."""
    one, other = End(pair[0]), End(pair[1])
    other.seconds_each = SLICE_SECONDS
    for number in range(50):
        one.channel.send(Number(number))
    most = before = 0
    while before < 50:
        await asyncio.sleep(0)
        most, before = max(most, len(other.messages) - before), len(other.messages)
    assert most == 1


async def test_what_a_peer_has_said_before_its_end_is_received_at_once(pair: Pair) -> None:
    end = End(pair[0])
    end.channel.send(Text("unread"))
    for number in range(50):
        pair[1].send(b"\0" + encode(Number(number)))
    pair[1].close()
    end.channel.finish(5)
    assert end.messages == [Number(number) for number in range(50)]
    assert not end.channel.open


async def test_last_words_for_who_has_gone_hold_nobody_up(pair: Pair) -> None:
    end = End(pair[0])
    pair[1].close()
    end.channel.send(Text("of no use"))
    began = time.monotonic()
    end.channel.flush(60)
    assert time.monotonic() - began < 30
    await eventually(lambda: bool(end.reasons))


async def test_last_words_leave_without_a_pause_while_the_peer_has_room(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = End(pair[0]), End(pair[1])
    monkeypatch.setattr("userproxy.processes.channel._TURN_SECONDS", 0.0)
    one.channel.send(Text("x" * 2_000_000))
    other.channel.wait(lambda: False, 0.01)  # which makes room again
    before, pauses = one.channel.waiting, list[int]()
    monkeypatch.setattr(time, "sleep", lambda _: pauses.append(one.channel.waiting))
    one.channel.flush(0.01)
    assert before - pauses[0] > 3 * 32 * 1024


async def test_an_exchange_in_one_turn_of_the_loop_waits_without_it(pair: Pair) -> None:
    one, other = End(pair[0]), End(pair[1])

    def answer() -> None:
        other.channel.wait(lambda: bool(other.messages), 5)
        other.channel.send(Text("y" * 300_000))
        other.channel.flush(5)

    with ThreadPoolExecutor() as pool:
        answering = pool.submit(answer)
        one.channel.send(Text("x" * 300_000))
        assert one.channel.wait(lambda: bool(one.messages), 5)
        answering.result()
    assert one.messages == [Text("y" * 300_000)]
    assert not one.channel.wait(lambda: len(one.messages) > 1, 0.01)
    other.channel.close()
    assert not one.channel.wait(lambda: len(one.messages) > 1, 5)
    assert one.reasons == ["it has closed the connection"]
