"""Figures of a listener that only the kernel knows."""

import socket

from tests.forwarding.conftest import eventually
from tests.forwarding.udp.bench import Bench


async def test_kernel_drops_are_counted_also_after_the_end(bench: Bench) -> None:
    bench.listener._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client, statistics = bench.client(), bench.listener.statistics
    for _ in range(100):
        client.send(bytes(1000))
    count = statistics.dropped
    assert count > 0
    bench.route()
    await eventually(lambda: statistics.unserved == 100 - count)
    bench.listener.close()
    assert statistics.dropped == count
