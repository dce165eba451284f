"""One way of a faulted connection: what waits in it."""

import asyncio
import socket

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
        (Way(rate=10**6), 250_000, PIPE_BYTES),
        (Way(seconds=1.0), PIPE_BYTES, PIPE_BYTES),
    ],
    ids=str,
)
async def test_what_waits_is_bounded_in_bytes_and_in_pieces(way: Way, least: int, most: int) -> None:
    """At a byte a second each byte leaves by itself: a buffer of such pieces took 18 MB, and half a second to cut."""
    source, sink = socket.socketpair()
    sink.setblocking(False)
    lane = Lane(asyncio.get_running_loop(), way, source, sink, lambda _: None, Quota(), Allowance(None), lambda: 0.5)
    try:
        while lane.room:
            lane.send(memoryview(bytes(BUFFER_BYTES)))
        assert least <= lane.size <= most
    finally:
        lane.close()
        source.close()
        sink.close()
