"""What a client of one Service notices while others change: real listeners, and everything behind them but rules."""

import asyncio
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

from tests.turns import watched_turns
from userproxy.cluster.nodes import NodeAddresses
from userproxy.cluster.store import Store
from userproxy.config import Settings
from userproxy.forwarding.assembly.options import ForwardingOptions
from userproxy.forwarding.forwarder import Forwarder
from userproxy.forwarding.ports.ranges import PortRange
from userproxy.model import (
    EndpointSlice,
    IPFamily,
    PortSpec,
    Protocol,
    Service,
    SliceEndpoint,
    SlicePort,
)
from userproxy.portals.interface import DriverOptions
from userproxy.portals.none import NoPortals
from userproxy.wiring.families import build_family
from userproxy.wiring.monitor import Monitor

V4 = IPFamily.IPV4
MANY = 600
SETTINGS = Settings(min_sync_period=3600.0, sync_period=3600.0)
TURN = 0.012
"""Seconds of a thread's own time: six slices, and less than a fifth of what this many Services cost at once."""


def a_service(number: int) -> Service:
    ip = f"10.96.{number // 250}.{number % 250}"
    return Service("default", f"s{number}", cluster_ips=(ip,), ports=(PortSpec("", Protocol.TCP, 80),))


def a_slice(number: int, *addresses: str, port: int = 8080) -> EndpointSlice:
    endpoints = tuple(SliceEndpoint(address) for address in addresses)
    ports = (SlicePort("", Protocol.TCP, port),)
    return EndpointSlice("default", f"s{number}-1", f"s{number}", "IPv4", ports, endpoints)


class Proxy:
    """One family of a proxy without rules, and the Store that it follows."""

    def __init__(self, settings: Settings = SETTINGS) -> None:
        self.store = Store()
        monitor = Monitor(settings, (V4,))
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        options = ForwardingOptions({V4: "127.0.0.1"}, PortRange(), False, 600.0, limit)
        self.forwarder = Forwarder(asyncio.get_running_loop(), options, Random(1))
        self._family = build_family(
            V4,
            NoPortals(DriverOptions(V4, "127.0.0.1")),
            settings,
            "node-1",
            self.store,
            NodeAddresses(self.store, looks_up=False),
            self.forwarder,
            monitor,
            lambda: None,
        )

    def put(self, *items: Service | EndpointSlice) -> None:
        for item in items:
            self.store.upsert(item)
        self._family.changed(None)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work, name=name) for name, work in self._family.tasks().items()]
            yield
            for task in tasks:
                task.cancel()
        await self._family.close()
        self.forwarder.shut_down()

    async def until_listening(self, count: int) -> None:
        async with asyncio.timeout(30):
            while len(self.forwarder._listeners) != count:
                await asyncio.sleep(0.005)


async def test_many_services_at_once_leave_room_for_traffic() -> None:
    proxy = Proxy()
    for number in range(MANY):
        proxy.store.upsert(a_service(number))
        proxy.store.upsert(a_slice(number, "10.0.0.1", "10.0.0.2"))
    async with proxy.running(), watched_turns() as turns:
        proxy.put()
        await proxy.until_listening(MANY)
    assert turns.longest < TURN


async def test_other_endpoints_are_served_though_no_sync_is_due() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(1))
        writer.close()

    backend = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = backend.sockets[0].getsockname()[1]
    proxy = Proxy()
    async with backend, proxy.running():
        proxy.put(a_service(1), a_slice(1, "127.0.0.99", port=port))
        await proxy.until_listening(1)
        proxy.put(a_slice(1, "127.0.0.1", port=port))
        ((_, listener),) = proxy.forwarder._listeners.items()
        async with asyncio.timeout(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            writer.write(b"x")
            assert await reader.read(1) == b"x"
            writer.close()
