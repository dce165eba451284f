"""Hand-overs at any moment of any conversation: every byte arrives once, in order, and ends arrive after them."""

import asyncio
import socket
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.forwarding.conftest import LOOPBACK, NAME, eventually
from tests.forwarding.handover.conftest import a_forwarder, changed, first, rest, taken_over
from userproxy.forwarding.forwarder import Forwarder
from userproxy.forwarding.tcp import pipes
from userproxy.model import Endpoint, Snapshot, Verdict

CLIENT, BACKEND = 0, 1
SIDES = st.sampled_from([CLIENT, BACKEND])
STEPS = st.one_of(
    st.tuples(st.just("send"), SIDES, st.sampled_from([1, 100, 65_536, 200_000, 3_000_000])),
    st.tuples(st.just("read"), SIDES, st.sampled_from([1, 70_000, 5_000_000])),
    st.tuples(st.just("end"), SIDES, st.just(0)),
    st.tuples(st.just("hand over"), SIDES, st.just(0)),
    st.tuples(st.just("hand over slowly"), SIDES, st.just(0)),
    st.tuples(st.just("turns"), SIDES, st.sampled_from([1, 3, 20])),
)


class Conversation:
    """Both ends of a connection: what each has written and read."""

    def __init__(self, ends: tuple[socket.socket, socket.socket]) -> None:
        self._ends = ends
        self._waiting = [bytearray(), bytearray()]
        self._ended = [False, False]
        self._told = [False, False]
        self.written = [bytearray(), bytearray()]
        self.read = [bytearray(), bytearray()]
        self.at_end = [False, False]

    def send(self, side: int, size: int) -> None:
        if not self._ended[side]:
            begin = len(self.written[side])
            data = bytes((begin + n * (side + 1)) & 0xFF for n in range(min(size, 997)))
            data = (data * (size // len(data) + 1))[:size]
            self.written[side] += data
            self._waiting[side] += data
            self.push(side)

    def end(self, side: int) -> None:
        self._ended[side] = True
        self.push(side)

    def push(self, side: int) -> None:
        """Write what waits, as far as it goes, and the end after it."""
        waiting = self._waiting[side]
        with suppress(BlockingIOError):
            while waiting:
                del waiting[: self._ends[side].send(waiting)]
            if self._ended[side] and not self._told[side]:
                self._told[side] = True
                self._ends[side].shutdown(socket.SHUT_WR)

    def take(self, side: int, size: int) -> None:
        with suppress(BlockingIOError):
            while size > 0 and not self.at_end[side]:
                data = self._ends[side].recv(min(size, 1 << 18))
                self.at_end[side] = not data
                self.read[side] += data
                size -= len(data)

    def finish(self) -> bool:
        """Go on to both ends; whether they have come."""
        for side in (CLIENT, BACKEND):
            self._ended[side] = True
            with suppress(OSError):
                self.push(side)
            self.take(side, 10_000_000)
        return all(self.at_end)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@example(
    steps=[("send", CLIENT, 3_000_000), ("turns", CLIENT, 20), ("hand over", CLIENT, 0), ("end", CLIENT, 0)],
    most_pipes=0,
)
@example(
    steps=[("send", BACKEND, 3_000_000), ("turns", CLIENT, 20), ("hand over slowly", CLIENT, 0)],
    most_pipes=pipes.MOST_PIPES,
)
@given(steps=st.lists(STEPS, min_size=1, max_size=14), most_pipes=st.sampled_from([0, pipes.MOST_PIPES]))
def test_every_byte_arrives_once_whenever_it_is_handed_over(steps: list[tuple[str, int, int]], most_pipes: int) -> None:
    """Without pipes what does not fit into the kernel's buffers waits in memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipes, "MOST_PIPES", most_pipes)
        asyncio.run(converse(steps))


async def converse(steps: list[tuple[str, int, int]]) -> None:
    planes = [a_forwarder()]
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # of those that are accepted, too
        listening.bind((LOOPBACK, 0))
        listening.listen()
        port = planes[0].open(NAME)
        planes[0].update(Snapshot(NAME, Verdict.SERVE, (Endpoint(*listening.getsockname()),)))
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect((LOOPBACK, port))
            await eventually(lambda: planes[0].active == 1)
            listening.settimeout(5)
            await asyncio.sleep(0.001)
            with listening.accept()[0] as backend:
                for end in (client, backend):
                    end.setblocking(False)
                talk = Conversation((client, backend))
                for step in steps:
                    await take(step, talk, planes)
                await eventually(talk.finish)
                assert talk.read[BACKEND] == talk.written[CLIENT]
                assert talk.read[CLIENT] == talk.written[BACKEND]
        await eventually(lambda: planes[-1].active == 0)
        assert planes[-1]._tcp.pipes._kept == 0
        counted = planes[-1].statistics(NAME)
        assert (counted.bytes_up, counted.bytes_down) == tuple(map(len, talk.written))
    for each in planes:
        each.shut_down()


async def take(step: tuple[str, int, int], talk: Conversation, planes: list[Forwarder]) -> None:
    what, side, size = step
    match what:
        case "send":
            talk.send(side, size)
        case "read":
            talk.take(side, size)
        case "end":
            talk.end(side)
        case "hand over":
            planes.append(await taken_over(planes[-1]))
        case "hand over slowly":
            new = a_forwarder()
            giver, taker = planes[-1].hand_over(), new.take_over()
            await first(giver, taker)
            for _ in range(2):
                talk.push(side)
                for _ in range(5):
                    await asyncio.sleep(0)
                await changed(giver, taker)
            talk.push(side)
            rest(planes[-1], new, giver, taker)
            planes.append(new)
        case "turns":
            for _ in range(size):
                await asyncio.sleep(0)
