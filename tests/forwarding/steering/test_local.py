"""Connections and flows that are closed because somebody asks for it."""

import asyncio
import socket
from contextlib import closing, suppress

from tests.forwarding.conftest import LOOPBACK, NAME, Bench, Connected, Serve, echo, snapshot
from tests.forwarding.udp.bench import received, received_from
from userproxy.model import Endpoint, ListenerName, Protocol, ServicePortName, Snapshot, Verdict
from userproxy.model.reports import Outcome, Query

DNS = ListenerName(ServicePortName("default", "dns", "dns", Protocol.UDP))


async def test_connections_are_closed_by_endpoint_and_by_client(bench: Bench, serve: Serve) -> None:
    steering = bench.forwarder.steering
    first, second = Endpoint(*await serve(echo)), Endpoint(*await serve(echo))
    bench.forwarder.update(snapshot(NAME, first, second))
    clients = [await Connected.to(bench.address[1]) for _ in range(10)]
    assert await steering.close_connections(Query(endpoint=first), "tidy up") == 5
    assert sum([await client.is_alive() for client in clients]) == 5
    assert await steering.close_connections(Query(client="127.0.0.9"), "tidy up") == 0
    assert await steering.close_connections(Query("default", "other"), "tidy up") == 0
    assert await steering.close_connections(Query(endpoint=first), "tidy up") == 0
    assert await steering.close_connections(Query(client=LOOPBACK, endpoint=Endpoint(second.ip, 0)), "now") == 5
    await bench.eventually_idle()
    decisions = await bench.forwarder.data_plane.decisions(Query(outcomes=(Outcome.RESET,)))
    assert [(each.endpoint, each.reason) for each in decisions] == [(first, "tidy up")] * 5 + [(second, "now")] * 5
    for client in clients:
        client.writer.close()


async def test_one_connection_is_closed_by_its_id(bench: Bench, serve: Serve) -> None:
    steering, data_plane = bench.forwarder.steering, bench.forwarder.data_plane
    bench.forwarder.update(snapshot(NAME, Endpoint(*await serve(echo))))
    clients = [await Connected.to(bench.address[1]) for _ in range(5)]
    ids = [each.id for each in (await data_plane.connections()).items]
    assert [each.id for each in (await data_plane.connections(Query(connection=ids[2]))).items] == [ids[2]]
    assert await steering.close_connections(Query("default", "other", connection=ids[2]), "tidy up") == 0
    assert await steering.close_connections(Query(connection=ids[2]), "tidy up") == 1
    assert sum([await client.is_alive() for client in clients]) == 4
    assert [each.id for each in (await data_plane.connections()).items] == [*ids[:2], *ids[3:]]
    assert await steering.close_connections(Query(connection=ids[2]), "tidy up") == 0
    assert (await data_plane.connections(Query(connection=ids[2]))).items == ()
    for client in clients:
        client.writer.close()


async def test_dials_are_given_up_as_well(bench: Bench, black_hole: tuple[str, int]) -> None:
    bench.forwarder.update(snapshot(NAME, Endpoint(*black_hole)))
    reader, writer = await asyncio.open_connection(LOOPBACK, bench.address[1])
    while not (await bench.forwarder.data_plane.connections()).items:
        await asyncio.sleep(0)
    assert await bench.forwarder.steering.close_connections(Query("default"), "tidy up") == 1
    with suppress(ConnectionResetError):
        assert await reader.read() == b"", "it is reset"
    writer.close()


async def test_flows_end_and_begin_again_with_the_next_datagram(bench: Bench) -> None:
    port = bench.forwarder.open(DNS)
    with (
        closing(socket.socket(type=socket.SOCK_DGRAM)) as backend,
        closing(socket.socket(type=socket.SOCK_DGRAM)) as client,
    ):
        for each in (backend, client):
            each.setblocking(False)
        backend.bind((LOOPBACK, 0))
        client.connect((LOOPBACK, port))
        endpoint = Endpoint(*backend.getsockname())
        bench.forwarder.update(Snapshot(DNS, Verdict.SERVE, (endpoint,)))
        seen = []
        for _ in range(2):
            client.send(b"question")
            _, flow = await received_from(backend)
            backend.sendto(b"answer", flow)
            assert await received(client) == b"answer"
            (known,) = (await bench.forwarder.data_plane.connections()).items
            assert await bench.forwarder.steering.close_connections(Query(connection=known.id + 1), "tidy up") == 0
            assert await bench.forwarder.steering.close_connections(Query(connection=known.id), "tidy up") == 1
            seen.append(flow)
        (first, _) = await bench.forwarder.data_plane.decisions()
    assert (first.verdict, first.reason) == (Outcome.RESET, "tidy up")
    assert bench.forwarder.flows == 0
