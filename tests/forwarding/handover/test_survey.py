"""What has clients is found, and nothing else."""

import asyncio

from tests.forwarding.conftest import LOOPBACK, NAME, Serve, echo, eventually
from tests.forwarding.handover.conftest import a_forwarder, forwarders
from tests.forwarding.handover.test_listeners import DNS
from userproxy.forwarding.handover.survey import survey
from userproxy.forwarding.tcp.listener import TcpListener
from userproxy.model import Endpoint, ListenerName, Protocol, ServicePortName, Snapshot, Verdict


async def test_listeners_with_clients_and_those_who_wait_and_all_of_udp(serve: Serve) -> None:
    async with forwarders() as made:
        plane = a_forwarder()
        made.append(plane)
        idle = ListenerName(ServicePortName("default", "idle", "http", Protocol.TCP))
        port = plane.open(NAME)
        plane.open(idle)
        plane.open(DNS)
        endpoint = Endpoint(*await serve(echo))
        for name in (NAME, idle):
            plane.update(Snapshot(name, Verdict.SERVE, (endpoint,)))
        found = survey(plane._parts, plane._listeners.values())
        assert (list(found.connections), found.waiting) == ([], [])
        assert [whose for _, whose in found.udp] == [(plane.statistics(DNS).number, None)]
        _, writer = await asyncio.open_connection(LOOPBACK, port)
        await eventually(lambda: plane.active == 1)
        listener = plane._listeners[NAME]
        assert isinstance(listener, TcpListener)
        assert list(survey(plane._parts, plane._listeners.values()).connections) == [listener.connections]
        plane._poller.forget(listener.socket)
        _, held = await asyncio.open_connection(LOOPBACK, port)
        assert listener._hold_next()
        assert survey(plane._parts, plane._listeners.values()).waiting == [
            (listener, (listener.statistics.number, None))
        ]
        plane.close(NAME)
        assert list(survey(plane._parts, plane._listeners.values()).connections) == [listener.connections], "they go on"
        writer.close()
        held.close()
