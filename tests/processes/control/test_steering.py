"""What all data processes do with connections, because somebody asks for it."""

import pytest

from tests.forwarding.conftest import NAME
from tests.processes.control.test_forwarding import all_ready, backend, clients, forwarding, is_alive
from userproxy.model import Snapshot, Verdict
from userproxy.model.reports import Query


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
