"""One way of a faulted connection: what waits in it."""

import asyncio
import socket
from contextlib import suppress

import pytest

from userproxy.forwarding.faults.lane import MOST_PIECES, Allowance, Lane, Quota
from userproxy.forwarding.faults.shape import Way
from userproxy.forwarding.tcp.direction import BUFFER_BYTES
from userproxy.forwarding.tcp.pipes import PIPE_BYTES


@pytest.mark.parametrize(
    ("way", "least", "most"),
    [
        (Way(rate=1), 1, MOST_PIECES + 50),
        (Way(rate=1000), 20_000, BUFFER_BYTES),
        (Way(seconds=60.0, rate=1000), 60_000, BUFFER_BYTES),
        (Way(rate=10**6), BUFFER_BYTES, BUFFER_BYTES),
        (Way(rate=10**8), BUFFER_BYTES, BUFFER_BYTES),
        (Way(seconds=0.2, rate=10**6), 200_000, 200_000),
        (Way(seconds=0.2, rate=10**8), PIPE_BYTES, PIPE_BYTES),
        (Way(seconds=1.0), PIPE_BYTES, PIPE_BYTES),
    ],
    ids=str,
)
async def test_what_waits_is_bounded_in_bytes_and_in_pieces(way: Way, least: int, most: int) -> None:
    """At a byte a second each byte leaves by itself: a buffer of such pieces took 18 MB, and half a second to cut."""
    source, sink = socket.socketpair()
    sink.setblocking(False)
    lane = Lane(asyncio.get_running_loop(), way, source, sink, lambda _: None, Quota(), Allowance(None), lambda: 0.5)
    with suppress(BlockingIOError):  # what the kernel takes does not wait here
        while True:
            sink.send(bytes(BUFFER_BYTES))
    try:
        while lane.room:
            lane.send(memoryview(bytes(BUFFER_BYTES)))
        assert least <= lane.size <= most
    finally:
        lane.close()
        source.close()
        sink.close()
