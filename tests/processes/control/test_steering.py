"""What all data processes do with connections, because somebody asks for it."""

import os
import signal
import time

import pytest

from tests.forwarding.conftest import NAME, eventually
from tests.processes.control.test_forwarding import (
    Client,
    all_ready,
    backend,
    clients,
    forwarding,
    heard,
    is_alive,
    pids,
)
from userproxy.model import Snapshot, Verdict
from userproxy.model.faults import Fault, Latency
from userproxy.model.reports import Query

_LATENCY = 0.1


@pytest.mark.parametrize("processes", [1, 2])
async def test_connections_of_all_processes_are_closed(processes: int) -> None:
    async with forwarding(processes) as forwarder, backend() as one, backend() as two:
        port = forwarder.open(NAME, verdict=Verdict.SERVE)
        forwarder.update(Snapshot(NAME, Verdict.SERVE, (one, two)))
        await all_ready(forwarder)
        async with clients(port, 12) as connected:
            reports = (await forwarder.data_plane.connections()).items
            mine = sum(report.endpoint == one for report in reports)
            assert 0 < mine < 12
            assert await forwarder.steering.close_connections(Query(endpoint=one), "tidy up") == mine
            assert sum([await is_alive(client) for client in connected]) == 12 - mine
            assert {each.endpoint for each in (await forwarder.data_plane.connections()).items} == {two}


@pytest.mark.parametrize("processes", [1, 2])
async def test_one_connection_is_closed_by_its_id_whichever_process_has_it(processes: int) -> None:
    async with forwarding(processes) as forwarder, backend() as endpoint:
        port = forwarder.open(NAME, verdict=Verdict.SERVE)
        forwarder.update(Snapshot(NAME, Verdict.SERVE, (endpoint,)))
        await all_ready(forwarder)
        async with clients(port, 12) as connected:
            ids = [report.id for report in (await forwarder.data_plane.connections()).items]
            for closed, number in enumerate((ids[0], ids[-1]), start=1):
                assert await forwarder.steering.close_connections(Query(connection=number), "tidy up") == 1
                assert sum([await is_alive(client) for client in connected]) == 12 - closed
            left = [report.id for report in (await forwarder.data_plane.connections()).items]
            assert left == ids[1:-1]


@pytest.mark.parametrize("processes", [1, 2])
async def test_faults_are_suffered_in_all_processes_and_in_one_that_takes_the_place_of_another(processes: int) -> None:
    async with forwarding(processes) as forwarder, backend() as endpoint:
        port = forwarder.open(NAME, verdict=Verdict.SERVE)
        forwarder.update(Snapshot(NAME, Verdict.SERVE, (endpoint,)))
        await all_ready(forwarder)
        now = time.monotonic()
        latency = Fault(1, NAME.service_port.service, Latency(_LATENCY), now, 0.0, now + 600)
        forwarder.steering.put_faults((latency,))
        await heard(forwarder)
        assert min([await _seconds(port) for _ in range(8)]) >= _LATENCY
        killed = set(pids(forwarder))
        for victim in killed:
            os.kill(victim, signal.SIGKILL)
        await eventually(lambda: len(set(pids(forwarder)) - killed) == processes, 30)
        await all_ready(forwarder)
        assert min([await _seconds(port) for _ in range(8)]) >= _LATENCY
        giver = forwarder.hand_over()
        async for _ in giver.first():
            pass
        assert min([await _seconds(port) for _ in range(8)]) < _LATENCY, "none while another userproxy may take over"
        giver.cancel()
        await heard(forwarder)
        assert min([await _seconds(port) for _ in range(8)]) >= _LATENCY, "it has not"
        assert forwarder.steering.faults == (latency,)
        forwarder.steering.put_faults(())
        await heard(forwarder)
        assert min([await _seconds(port) for _ in range(8)]) < _LATENCY


async def _seconds(port: int) -> float:
    """How long a new connection's first question takes."""
    async with Client() as client:
        await client.connect(port)
        began = time.monotonic()
        assert await client.ask() == b"hello\n"
        return time.monotonic() - began
