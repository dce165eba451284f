"""Listeners and portals of another userproxy are held, and closed if nobody asks for them."""

import socket

import pytest
from msgspec import structs

from tests.forwarding.conftest import LOOPBACK, NAME, eventually
from tests.processes.control.test_forwarding import OPTIONS, UDP_NAME, asked, backend, clients
from tests.processes.takeover.conftest import Plane
from tests.processes.takeover.planes import NUMBERS, predecessor, successor
from userproxy.model import Admission, AdmissionRule, PortalAddress, Protocol, Snapshot, Verdict

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("before", "after"), NUMBERS[:3])
async def test_portals_that_are_listened_on_go_on(before: int, after: int) -> None:
    options = structs.replace(OPTIONS, bind_portals=True)
    everybody = (AdmissionRule("", NAME),)
    async with backend() as endpoint, predecessor(before, options) as plane:
        assert plane.open(NAME, verdict=Verdict.SERVE) == 0
        plane.update(Snapshot(NAME, Verdict.SERVE, (endpoint,)))
        with socket.socket() as probe:
            probe.bind((LOOPBACK, 0))
            portal = PortalAddress(LOOPBACK, Protocol.TCP, probe.getsockname()[1])
        plane.serve_portal(portal, Admission(everybody, everybody))
        async with clients(portal.port, 6) as found, successor(plane, after, options) as beside:
            for client in found:
                assert await client.ask() == b"hello\n"
            assert await asked(portal.port) == b"hello\n"
            await beside.ask(lambda its: close_unasked(its))
            await eventually(lambda: refuses(portal.port))


async def test_what_nobody_asks_for_is_closed_and_the_rest_keeps_its_port() -> None:
    async with backend() as endpoint, predecessor(2) as plane:
        ports = {name: plane.open(name, verdict=Verdict.SERVE) for name in (NAME, UDP_NAME)}
        for name in ports:
            plane.update(Snapshot(name, Verdict.SERVE, (endpoint,)))
        assert await asked(ports[NAME]) == b"hello\n"
        async with successor(plane, 2) as beside:
            room = beside.plane.room_for_ports

            async def synced(its: Plane) -> int:
                port = its.open(UDP_NAME)
                its.close_unasked(NAME.family)
                return port

            assert await beside.ask(synced) == ports[UDP_NAME]
            await eventually(lambda: refuses(ports[NAME]))
            assert beside.plane.room_for_ports == room + 1, "all that came is accounted for"


async def close_unasked(plane: Plane) -> None:
    plane.close_unasked(NAME.family)


def refuses(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex((LOOPBACK, port)) != 0
