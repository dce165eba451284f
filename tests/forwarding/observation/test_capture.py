import asyncio
import gc
import socket
import sys
from contextlib import closing, suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.admin.pcapng.reader import read, streams
from tests.forwarding.conftest import LOOPBACK, NAME, RESET, Bench, Serve, echo, eventually, named
from tests.forwarding.observation.recorded import complaints, followed, recorded
from userproxy.forwarding.tcp.direction import Direction
from userproxy.forwarding.tcp.relay import Relay
from userproxy.model import Endpoint, IPFamily, ListenerName, Protocol, ServicePortName, Snapshot, Verdict
from userproxy.model.capture import CaptureRequest, Leg, SegmentKind
from userproxy.model.reports import Outcome, Query

FIN, RST = SegmentKind.FIN, SegmentKind.RST


async def ask(bench: Bench, text: bytes) -> bytes:
    """What a client is answered who says something, and that it is all."""
    reader, writer = await bench.connect()
    writer.write(text)
    writer.write_eof()
    try:
        return await reader.read()
    finally:
        writer.close()


async def datagram(sock: socket.socket) -> tuple[bytes, Any]:
    """The next datagram, and from where; uvloop has no sock_recvfrom()."""
    found: list[tuple[bytes, Any]] = []

    def receive() -> bool:
        with suppress(BlockingIOError):
            found.append(sock.recvfrom(65_536))
        return bool(found)

    await eventually(receive)
    return found[0]


async def test_both_legs_of_a_connection_are_told_with_their_addresses(bench: Bench, serve: Serve) -> None:
    backend = await serve(echo)
    bench.route_to(backend)

    async with recorded(bench) as found:
        reader, writer = await bench.connect()
        client = writer.get_extra_info("sockname")
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        writer.write_eof()
        await reader.read()
        writer.close()
        await found.ends()

    opened = found.opened[0]
    assert (opened.client.ip, opened.client.port) == client
    assert (opened.portal.ip, opened.portal.port) == bench.address
    assert opened.endpoint == Endpoint(*backend)
    assert opened.node is not None
    assert opened.node.port not in (client[1], backend[1], bench.address[1])
    assert opened.whole
    assert opened.accepted <= opened.dialed <= opened.connected
    for leg in Leg:
        assert found.data(leg, up=True) == found.data(leg, up=False) == b"hello"
    ended = found.ended[0]
    assert (ended.verdict, ended.bytes_up, ended.bytes_down) == (Outcome.SERVED, 5, 5)
    assert all(side.fin for side in streams(read(found.file()).packets).values())


async def test_ten_megabytes_are_followed_by_tshark_byte_for_byte(bench: Bench, serve: Serve, tmp_path: Path) -> None:
    bench.route_to(await serve(echo))
    payload = Random(1).randbytes(10_000_000)

    async with recorded(bench) as found:
        reader, writer = await bench.connect()

        async def say() -> None:
            writer.write(payload)
            await writer.drain()
            writer.write_eof()

        async with asyncio.TaskGroup() as group:
            group.create_task(say())
            answer = await reader.read()
        writer.close()
        await found.ends()

    assert answer == payload
    file = tmp_path / "bulk.pcapng"
    file.write_bytes(found.file())
    assert complaints(file) == ""
    assert followed(file, 0) == (payload, payload)
    assert followed(file, 1) == (payload, payload)


async def test_a_half_closed_connection_in_tshark(bench: Bench, serve: Serve, tmp_path: Path) -> None:
    async def answer_after_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.read()
        writer.write(asked[::-1])
        await writer.drain()
        writer.write(b"!")

    bench.route_to(await serve(answer_after_the_end))

    async with recorded(bench) as found:
        assert await ask(bench, b"question") == b"noitseuq!"
        await found.ends()

    assert found.marks()[:2] == [(Leg.CLIENT, True, FIN), (Leg.BACKEND, True, FIN)]
    file = tmp_path / "half-closed.pcapng"
    file.write_bytes(found.file())
    assert complaints(file) == ""
    assert followed(file, 0) == followed(file, 1) == (b"question", b"noitseuq!")


async def test_a_retried_connection_in_tshark_says_what_was_tried(
    bench: Bench, serve: Serve, refusing: tuple[str, int], tmp_path: Path
) -> None:
    backend = await serve(named(b"second"))
    bench.route_to(refusing, backend)
    bench.forwarder.update(Snapshot(NAME, Verdict.SERVE, (Endpoint(*refusing), Endpoint(*backend))))

    async with recorded(bench) as found:
        for _ in range(2):  # one of the two begins with the other
            assert await ask(bench, b"") == b"second"
        await found.ends(2)

    retried = [opened for opened in found.opened if opened.tried]
    assert [(each.tried[0].endpoint, each.tried[0].reason) for each in retried] == [
        (Endpoint(*refusing), "Connection refused")
    ]
    file = tmp_path / "retried.pcapng"
    file.write_bytes(found.file())
    assert complaints(file) == ""
    assert {followed(file, stream) for stream in range(4)} == {(b"", b"second")}
    comments = [each.comment for each in read(found.file()).packets]
    assert any(f"tried before: {Endpoint(*refusing)} (Connection refused)" in comment for comment in comments)


async def test_whom_no_endpoint_serves_is_told_with_the_reason(bench: Bench, refusing: tuple[str, int]) -> None:
    bench.route_to(refusing)

    async with recorded(bench) as found:
        with pytest.raises(ConnectionResetError):
            await ask(bench, b"hello")
        await found.ends()

    assert [(each.node, each.endpoint) for each in found.opened] == [(None, None)]
    assert found.ended[0].verdict is Outcome.REFUSED
    assert found.opened[0].tried[0].endpoint == Endpoint(*refusing)
    assert {each.interface for each in read(found.file()).packets} == {0}


async def test_who_has_reset_it_is_told(bench: Bench, serve: Serve) -> None:
    bench.route_to(await serve(echo))

    async with recorded(bench) as found:
        reader, writer = await bench.connect()
        writer.write(b"hello")
        await reader.readexactly(5)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        writer.transport.abort()
        await found.ends()

    assert found.marks() == [(Leg.CLIENT, True, RST)]
    assert found.ended[0].verdict is Outcome.RESET
    resets = [(each.interface, each.outbound) for each in read(found.file()).packets if each.flags & 4]
    assert resets == [(0, False), (1, True)]


async def test_what_is_open_already_is_captured_from_then_on(bench: Bench, serve: Serve) -> None:
    bench.route_to(await serve(echo))
    reader, writer = await bench.connect()
    writer.write(b"before")
    await reader.readexactly(6)

    async with recorded(bench) as found:
        writer.write(b"after")
        await reader.readexactly(5)
        writer.close()
        await found.ends()

    assert [opened.whole for opened in found.opened] == [False]
    assert found.data(Leg.CLIENT, up=True) == found.data(Leg.BACKEND, up=False) == b"after"


async def test_what_is_in_a_pipe_when_a_capture_begins_arrives(bench: Bench, serve: Serve) -> None:
    may_read = asyncio.Event()
    received = bytearray()

    async def read_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await may_read.wait()
        while data := await reader.read(1 << 20):
            received.extend(data)

    bench.route_to(await serve(read_late))
    payload = Random(2).randbytes(40_000_000)
    reader, writer = await bench.connect()
    writer.write(payload)

    def piped() -> list[Direction]:
        return [each for each in gc.get_objects() if isinstance(each, Direction) and each._pipe is not None]

    await eventually(lambda: any(each.blocked for each in piped()))

    async with recorded(bench, CaptureRequest(payload_bytes=0)) as found:
        assert not piped()
        may_read.set()
        await writer.drain()
        writer.write_eof()
        await reader.read()
        writer.close()
        await found.ends()

    assert bytes(received) == payload
    assert found.ended[0].bytes_up == len(payload)


async def test_a_connection_has_its_own_functions_again_after_the_last_capture(bench: Bench, serve: Serve) -> None:
    bench.route_to(await serve(echo))
    reader, writer = await bench.connect()
    writer.write(b"1")
    await reader.readexactly(1)
    ours = writer.get_extra_info("sockname")
    relays = [each for each in gc.get_objects() if isinstance(each, Relay) and not each.closed and each.peer == ours]
    directions = [direction for relay in relays for direction in (relay.upward, relay.downward)]
    assert len(directions) == 2

    def kinds() -> set[Any]:
        return {type(each._source).__name__ for each in directions} | {type(each._sink).__name__ for each in directions}

    assert kinds() == {"socket"}
    async with recorded(bench) as outer:
        async with recorded(bench) as inner:
            assert kinds() == {"TappedSockets"}
            writer.write(b"2")
            await reader.readexactly(1)
            await eventually(lambda: inner.data(Leg.CLIENT, up=False) == b"2")
        assert kinds() == {"TappedSockets"}
        writer.write(b"3")
        await reader.readexactly(1)
        await eventually(lambda: outer.data(Leg.CLIENT, up=False) == b"23")
    assert kinds() == {"socket"}
    writer.write(b"4")
    await reader.readexactly(1)
    writer.close()
    await bench.eventually_idle()
    assert inner.data(Leg.CLIENT, up=True) == b"2"


async def test_as_many_connections_as_asked_for_are_captured_whole(bench: Bench, serve: Serve) -> None:
    bench.route_to(await serve(echo))
    _, writer = await bench.connect()
    await eventually(lambda: bench.forwarder.active == 1)

    async with recorded(bench, CaptureRequest(connections=2)) as found:
        for number in range(4):
            assert await ask(bench, b"%d" % number) == b"%d" % number
        await found.ends(2)

    writer.close()
    assert found.data(Leg.CLIENT, up=True) == b"01"
    assert [opened.whole for opened in found.opened] == [True, True]


async def test_a_half_closed_one_that_was_not_captured_does_not_begin_to_be(bench: Bench, serve: Serve) -> None:
    bench.route_to(await serve(echo))
    reader, writer = await bench.connect()
    writer.write(b"x")
    await reader.readexactly(1)

    async with recorded(bench, CaptureRequest(connections=1)) as found:
        writer.write_eof()
        await reader.read()
        writer.close()
        await bench.eventually_idle()
        assert await ask(bench, b"next") == b"next"
        await found.ends()

    assert found.data(Leg.CLIENT, up=True) == b"next"


async def test_only_so_many_bytes_of_each_direction(bench: Bench, serve: Serve) -> None:
    bench.route_to(await serve(echo))

    async with recorded(bench, CaptureRequest(payload_bytes=3)) as found:
        reader, writer = await bench.connect()
        for text in (b"ab", b"cdef", b"g"):
            writer.write(text)
            await reader.readexactly(len(text))
        writer.close()
        await found.ends()

    assert [found.data(leg, up=up) for leg in Leg for up in (True, False)] == [b"abc"] * 4
    sides = streams(read(found.file()).packets).values()
    assert [(bytes(side.data), side.missing) for side in sides] == [(b"abc", 4)] * 4


@pytest.mark.parametrize(
    "query", [Query(client="127.0.0.9"), Query(endpoint=Endpoint("10.9.9.9", 1)), Query(namespace="n")]
)
async def test_what_is_not_asked_for_is_not_captured(bench: Bench, serve: Serve, query: Query) -> None:
    bench.route_to(await serve(echo))

    async with recorded(bench, CaptureRequest(query)) as found:
        assert await ask(bench, b"hello") == b"hello"
        await bench.eventually_idle()

    assert found.events == []


async def test_a_reader_that_is_too_slow_is_cut_off_and_delays_nobody(bench: Bench, serve: Serve) -> None:
    bench.route_to(await serve(echo))

    async with bench.forwarder.data_plane.capture(CaptureRequest(), 10_000) as reader:
        for _ in range(3):
            assert await ask(bench, b"x" * 4_000) == b"x" * 4_000
        await bench.eventually_idle()
        batch = await reader.read()

    assert batch.lost > 0
    assert 0 < len(batch.items) < 20


async def test_a_reader_that_keeps_up_has_room_again(bench: Bench, serve: Serve) -> None:
    bench.route_to(await serve(echo))

    async with recorded(bench, room=40_000) as found:
        for number in range(20):
            assert await ask(bench, b"x" * 4_000) == b"x" * 4_000
            await found.ends(number + 1)

    assert found.lost == 0
    assert len(found.data(Leg.BACKEND, up=False)) == 80_000


async def test_nobody_captures_and_a_connection_costs_no_call_more(bench: Bench, serve: Serve) -> None:
    bench.route_to(await serve(echo))
    calls: dict[str, int] = {}

    def count(frame: Any, event: str, _argument: Any) -> None:
        module = Path(frame.f_code.co_filename)
        if event == "call" and module.parts[-3:-1] in (("forwarding", "tcp"), ("forwarding", "observation")):
            name = f"{module.stem}.{frame.f_code.co_qualname}"
            calls[name] = calls.get(name, 0) + 1

    async def serve_ten() -> dict[str, int]:
        calls.clear()
        sys.setprofile(count)
        try:
            for _ in range(10):
                reader, writer = await bench.connect()
                for _ in range(5):
                    writer.write(b"hello")
                    await reader.readexactly(5)
                writer.close()
                await bench.eventually_idle()
        finally:
            sys.setprofile(None)
        return dict(calls)

    await serve_ten()
    before = await serve_ten()
    async with recorded(bench):
        assert await ask(bench, b"hello") == b"hello"
    after = await serve_ten()

    assert not [name for name in (*before, *after) if name.startswith(("capture.", "taps.", "tap."))]
    # How many events tell of what there is to do is chance; what is done for each connection is not.
    for_each = [
        name for name, number in before.items() if name.startswith(("connections.", "recorder.")) and number >= 10
    ]
    assert {name: after[name] for name in for_each} == {name: before[name] for name in for_each}
    assert len(for_each) >= 4
    assert after["relay.Relay.begin"] == before["relay.Relay.begin"] == 10


async def test_datagrams_of_a_flow_are_told_on_both_legs(bench: Bench) -> None:
    name = ListenerName(ServicePortName("kube-system", "dns", "dns", Protocol.UDP), IPFamily.IPV4)
    with (
        closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as backend,
        closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as client,
    ):
        backend.bind((LOOPBACK, 0))
        port = bench.forwarder.open(name)
        bench.forwarder.update(Snapshot(name, Verdict.SERVE, (Endpoint(*backend.getsockname()),)))
        client.bind((LOOPBACK, 0))
        client.connect((LOOPBACK, port))
        for sock in (client, backend):
            sock.setblocking(False)

        async with recorded(bench, CaptureRequest(Query(protocol=Protocol.UDP))) as found:
            client.send(b"question")
            _, node = await datagram(backend)
            for answer in (b"answer", b"another", b"", b"last"):
                backend.sendto(answer, node)
                assert (await datagram(client))[0] == answer
            bench.forwarder.close(name)
            await found.ends()

        packets = read(found.file()).packets
        address = client.getsockname()
        assert [(each.interface, each.source, each.destination, each.payload) for each in packets[:4]] == [
            (0, address, (LOOPBACK, port), b"question"),
            (1, node, backend.getsockname(), b"question"),
            (1, backend.getsockname(), node, b"answer"),
            (0, (LOOPBACK, port), address, b"answer"),
        ]
        assert [each.payload for each in packets[5::2]] == [b"another", b"", b"last"]


async def test_a_flow_that_moves_goes_on_being_told_of(bench: Bench, refusing: tuple[str, int]) -> None:
    name = ListenerName(ServicePortName("kube-system", "dns", "dns", Protocol.UDP), IPFamily.IPV4)
    with (
        closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as backend,
        closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as client,
    ):
        backend.bind((LOOPBACK, 0))
        port = bench.forwarder.open(name)
        client.connect((LOOPBACK, port))
        for sock in (client, backend):
            sock.setblocking(False)

        async with recorded(bench) as found:
            bench.forwarder.update(Snapshot(name, Verdict.SERVE, (Endpoint(*refusing),)))
            client.send(b"question")
            await eventually(lambda: bool(found.opened))
            bench.forwarder.update(Snapshot(name, Verdict.SERVE, (Endpoint(*backend.getsockname()),)))
            client.send(b"again")
            _, node = await datagram(backend)
            backend.sendto(b"answer", node)
            assert (await datagram(client))[0] == b"answer"

        assert found.opened[0].endpoint == Endpoint(*refusing)
        assert found.opened[-1].endpoint == Endpoint(*backend.getsockname())
        assert found.opened[-1].node is not None
        assert found.opened[-1].node.port == node[1]
        assert found.data(Leg.CLIENT, up=True) == b"questionagain"
        assert found.data(Leg.CLIENT, up=False) == b"answer"


async def test_a_datagram_that_is_sent_again_came_from_the_client_once(bench: Bench, refusing: tuple[str, int]) -> None:
    name = ListenerName(ServicePortName("kube-system", "dns", "dns", Protocol.UDP), IPFamily.IPV4)
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as backend:
        backend.bind((LOOPBACK, 0))
        backend.setblocking(False)
        port = bench.forwarder.open(name)
        endpoints = (Endpoint(*refusing), Endpoint(*backend.getsockname()))
        bench.forwarder.update(Snapshot(name, Verdict.SERVE, endpoints))

        async with recorded(bench) as found:
            for _ in endpoints:  # one of the two flows begins with the endpoint that refuses
                with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as client:
                    client.connect((LOOPBACK, port))
                    client.send(b"question")
                    assert (await datagram(backend))[0] == b"question"
            await eventually(lambda: len(found.data(Leg.BACKEND, up=True)) >= 24)

    assert found.data(Leg.CLIENT, up=True) == b"question" * 2
    assert found.data(Leg.BACKEND, up=True) == b"question" * 3
