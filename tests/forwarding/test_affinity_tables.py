"""Affinity is shared by the listeners of a service port, and forgotten bit by bit."""

import asyncio

import pytest

from tests.forwarding.conftest import LOOPBACK, NAME, Bench, Serve, eventually, named
from userproxy.forwarding import affinity_tables
from userproxy.model import (
    Endpoint,
    IPFamily,
    ListenerName,
    Protocol,
    ServicePortName,
    Snapshot,
    TrafficClass,
    Verdict,
)

OTHER = ListenerName(ServicePortName("default", "other", "", Protocol.TCP))
EXTERNAL = ListenerName(NAME.service_port, traffic=TrafficClass.EXTERNAL)


async def test_the_listeners_of_a_service_port_share_their_clients_affinity(bench: Bench, serve: Serve) -> None:
    backends = tuple([Endpoint(*await serve(named(name))) for name in (b"a", b"b", b"c", b"d")])
    ports = [bench.address[1], bench.forwarder.open(EXTERNAL)]
    others = [bench.forwarder.open(OTHER), bench.forwarder.open(ListenerName(NAME.service_port, IPFamily.IPV6))]
    assert len(others) == 2
    for name in (NAME, EXTERNAL, OTHER):
        bench.forwarder.update(Snapshot(name, Verdict.SERVE, backends, 60))
    assert len(bench.forwarder._balancing.affinity) == 2
    answers = {await fetch(port) for port in ports * 6}
    assert len(answers) == 1
    bench.forwarder.close(EXTERNAL)
    assert {await fetch(ports[0]) for _ in range(4)} == answers
    for name in (NAME, OTHER):
        bench.forwarder.update(Snapshot(name, Verdict.SERVE, backends))
    assert len(bench.forwarder._balancing.affinity) == 0


async def fetch(port: int) -> bytes:
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    answer = await reader.read()
    writer.close()
    return answer


async def test_a_hundred_thousand_clients_are_forgotten_in_many_turns_of_the_loop(bench: Bench) -> None:
    forwarder = bench.forwarder
    forwarder.update(Snapshot(NAME, Verdict.SERVE, (Endpoint(LOOPBACK, 1),), 60))
    balancer = forwarder._listeners[NAME].balancer
    for n in range(100_000):
        balancer.pick(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", 0.0)
    forwarder.update(Snapshot(NAME, Verdict.SERVE, (Endpoint(LOOPBACK, 1),)))
    turns = 0
    while forwarder._balancing.affinity._discarded._entries:
        turns += 1
        await asyncio.sleep(0)
    assert turns >= 50


async def test_clients_of_a_table_that_nobody_uses_are_forgotten(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(affinity_tables, "_EXPIRY_SECONDS", 0.01)
    bench.forwarder.update(Snapshot(NAME, Verdict.SERVE, (Endpoint(LOOPBACK, 1),), 1))
    (table,) = bench.forwarder._balancing.affinity._tables.values()
    table.record("192.0.2.1", Endpoint(LOOPBACK, 1), asyncio.get_running_loop().time())
    await eventually(lambda: len(table) == 0)
