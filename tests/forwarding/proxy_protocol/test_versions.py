"""What endpoints get that ask for a PROXY header: it comes once, first, and counts among no bytes."""

import asyncio
import hashlib
import os
import socket
from contextlib import ExitStack
from pathlib import Path
from select import EPOLLIN

import pytest

from tests.forwarding.conftest import LOOPBACK, NAME, RESET, Bench, Serve, echo, eventually, open_bench
from tests.forwarding.observation.recorded import complaints, followed, recorded
from userproxy.forwarding.deadlines import DeadlineQueue
from userproxy.forwarding.descriptors import DescriptorBudget
from userproxy.forwarding.observation.recorder import Recorder
from userproxy.forwarding.poller import STREAM, WRITABLE, Poller
from userproxy.forwarding.proxy_protocol import version1, version2
from userproxy.forwarding.proxy_protocol.header import ProxyHeader
from userproxy.forwarding.proxy_protocol.versions import decode, encode
from userproxy.forwarding.tcp.pipes import PipePool
from userproxy.forwarding.tcp.relay import Relay
from userproxy.forwarding.tcp.relays.context import RelayContext
from userproxy.forwarding.tcp.source_ports import SourcePorts
from userproxy.model import (
    Endpoint,
    IPFamily,
    ListenerName,
    Protocol,
    ProxyProtocol,
    ServicePortName,
    Snapshot,
    Verdict,
)

MEBIBYTE = 1024 * 1024
V1, V2 = ProxyProtocol.V1, ProxyProtocol.V2
versions = pytest.mark.parametrize("version", list(ProxyProtocol))


class Keeper:
    """A backend that keeps what each of its clients says until the end, and then answers."""

    def __init__(self, answer: bytes = b"bye") -> None:
        self.heard: list[bytes] = []
        self._answer = answer

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heard.append(await reader.read())
        writer.write(self._answer)
        await writer.drain()


def send_headers(bench: Bench, version: ProxyProtocol | None, *addresses: tuple[str, int]) -> None:
    endpoints = tuple(Endpoint(ip, port) for ip, port in addresses)
    bench.forwarder.update(Snapshot(NAME, Verdict.SERVE, endpoints, sends_proxy=version))


async def say(bench: Bench, text: bytes) -> tuple[str, int]:
    """Say something and the end, and wait for the backend's end. Returns the client's own address and port."""
    reader, writer = await bench.connect()
    writer.write(text)
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(), 20) == b"bye"
    address: tuple[str, int] = writer.get_extra_info("sockname")
    writer.close()
    return address


def test_each_version_has_its_own_bytes() -> None:
    pair = ("192.0.2.1", 4711), ("10.0.0.1", 80)
    assert encode(V1, *pair) == version1.encode(*pair)
    assert encode(V2, *pair) == version2.encode(*pair)
    for version in ProxyProtocol:
        header = encode(version, *pair)
        assert decode(version, header) == (ProxyHeader(*pair), len(header))


@versions
async def test_the_header_comes_before_the_first_byte_and_says_who_the_client_is(
    bench: Bench, serve: Serve, version: ProxyProtocol
) -> None:
    backend = Keeper()
    send_headers(bench, version, await serve(backend.handle))
    clients = [await say(bench, b"request %d" % number) for number in range(3)]
    headers = [encode(version, client, bench.address) for client in clients]
    assert backend.heard == [header + b"request %d" % number for number, header in enumerate(headers)]
    await bench.eventually_idle()


async def test_an_ipv6_client(serve: Serve) -> None:
    heard = asyncio.Queue[bytes]()

    async def keep(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        heard.put_nowait(await reader.read())

    name = ListenerName(NAME.service_port, IPFamily.IPV6)
    async with open_bench() as bench:
        port = bench.forwarder.open(name)
        bench.forwarder.update(Snapshot(name, Verdict.SERVE, (Endpoint(*await serve(keep)),), sends_proxy=V1))
        _, writer = await asyncio.open_connection("::1", port)
        client = writer.get_extra_info("sockname")[:2]
        writer.close()
        assert await asyncio.wait_for(heard.get(), 20) == encode(V1, client, ("::1", port))
        await bench.eventually_idle()


@versions
async def test_a_backend_that_speaks_first_has_the_header_too(
    bench: Bench, serve: Serve, version: ProxyProtocol
) -> None:
    heard = asyncio.Queue[bytes]()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hello\r\n")
        await writer.drain()
        heard.put_nowait(await reader.read())

    send_headers(bench, version, await serve(greet))
    reader, writer = await bench.connect()
    assert await reader.readline() == b"220 hello\r\n"
    client = writer.get_extra_info("sockname")
    writer.close()
    assert await asyncio.wait_for(heard.get(), 20) == encode(version, client, bench.address)
    await bench.eventually_idle()


async def test_a_silent_client_is_announced_all_the_same(bench: Bench, serve: Serve) -> None:
    heard = asyncio.Queue[bytes]()

    async def read_header(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        heard.put_nowait(await reader.readline())

    send_headers(bench, V1, await serve(read_header))
    reader, writer = await bench.connect()
    client = writer.get_extra_info("sockname")
    assert await asyncio.wait_for(heard.get(), 20) == encode(V1, client, bench.address)
    assert await reader.read() == b""
    writer.close()
    await bench.eventually_idle()


async def test_much_that_is_spliced_follows_the_header(bench: Bench, serve: Serve) -> None:
    body = os.urandom(20 * MEBIBYTE)
    backend = Keeper()
    send_headers(bench, V2, await serve(backend.handle))
    client = await say(bench, body)
    header = encode(V2, client, bench.address)
    assert hashlib.sha256(backend.heard[0]).digest() == hashlib.sha256(header + body).digest()
    await bench.eventually_idle()
    statistics = bench.forwarder.statistics(NAME)
    assert (statistics.bytes_up, statistics.bytes_down) == (len(body), 3)


async def test_only_the_endpoint_that_serves_gets_the_header(
    bench: Bench, serve: Serve, refusing: tuple[str, int]
) -> None:
    backend = Keeper()
    send_headers(bench, V1, refusing, await serve(backend.handle))
    clients = [await say(bench, b"x") for _ in range(4)]
    assert backend.heard == [encode(V1, client, bench.address) + b"x" for client in clients]
    await bench.eventually_idle()


async def test_a_snapshot_that_asks_for_none_any_more(bench: Bench, serve: Serve) -> None:
    backend = Keeper()
    address = await serve(backend.handle)
    send_headers(bench, V1, address)
    await say(bench, b"x")
    send_headers(bench, None, address)
    await say(bench, b"y")
    assert backend.heard[0].startswith(b"PROXY TCP4 ")
    assert backend.heard[1] == b"y"
    await bench.eventually_idle()


async def test_a_backend_that_resets_at_once_costs_only_its_client(bench: Bench, serve: Serve) -> None:
    async def reset(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    send_headers(bench, V1, await serve(reset))
    for _ in range(20):
        reader, writer = await bench.connect()
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        writer.close()
    await bench.eventually_idle()


@pytest.mark.parametrize("is_full", [True, False])
async def test_a_header_that_does_not_fit_at_once_goes_before_all_else(*, is_full: bool) -> None:
    with ExitStack() as stack:
        client, near = socket.socketpair()
        far, backend = socket.socketpair()
        for sock in (client, near, far, backend):
            stack.enter_context(sock)
            sock.setblocking(False)
        waiting = _fill(far) if is_full else b""
        header = b"PROXY UNKNOWN\r\n" * (1 if is_full else MEBIBYTE // 4)
        loop = asyncio.get_running_loop()
        poller = Poller(loop)
        stack.callback(poller.shut_down)
        pipes = PipePool(DescriptorBudget(loop, 10_000), loop.time)
        closing = DeadlineQueue[Relay](loop, 1.0, Relay.stay_half_open, poller.failed)
        half_open = DeadlineQueue[Relay](loop, 60.0, Relay.expire, poller.failed)
        context = RelayContext(poller, pipes, closing, half_open, SourcePorts(loop.time), Recorder(loop.time))
        owner = _Owner()
        poller.add(far.fileno(), STREAM, lambda _events: None, _Nobody())
        relay = Relay()
        relay.begin(context, near, far, None, owner)
        backend.sendall(b"greet")
        relay.start(WRITABLE | EPOLLIN, header)
        client.sendall(b"request")
        backend.sendall(b"ing")
        got = backend.recv(MEBIBYTE)  # so that the next event is that of a message, and of room for the header
        while not got.endswith(b"request"):
            await asyncio.sleep(0)
            try:
                got += backend.recv(MEBIBYTE)
            except BlockingIOError:
                await asyncio.sleep(0.001)
        assert got == waiting + header + b"request"
        assert await loop.sock_recv(client, 100) == b"greeting"
        assert relay.moved == (7, 8)
        relay.abort()
        assert owner.ended == [relay]


class _Owner:
    def __init__(self) -> None:
        self.ended: list[Relay] = []

    def relayed(self, relay: Relay) -> None:
        self.ended.append(relay)


class _Nobody:
    def abort(self) -> None:
        raise AssertionError("a handler failed")


def _fill(sock: socket.socket) -> bytes:
    """What a socket that takes no more was given."""
    given = b""
    while True:
        try:
            given += b"." * sock.send(b"." * 4096)
        except BlockingIOError:
            return given


async def test_a_capture_has_the_header_among_what_the_endpoint_got(bench: Bench, serve: Serve, tmp_path: Path) -> None:
    backend = Keeper()
    send_headers(bench, V1, await serve(backend.handle))
    async with recorded(bench) as found:
        client = await say(bench, b"request")
        await found.ends()
    file = tmp_path / "header.pcapng"
    file.write_bytes(found.file())
    assert complaints(file) == ""
    assert followed(file, 0) == (b"request", b"bye")
    assert followed(file, 1) == (encode(V1, client, bench.address) + b"request", b"bye")
    ended = found.ended[0]
    assert (ended.bytes_up, ended.bytes_down) == (7, 3)


async def test_udp_has_no_header(bench: Bench) -> None:
    name = ListenerName(ServicePortName("default", "dns", "", Protocol.UDP))
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as backend,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        backend.bind((LOOPBACK, 0))
        backend.setblocking(False)
        port = bench.forwarder.open(name)
        endpoint = Endpoint(*backend.getsockname())
        bench.forwarder.update(Snapshot(name, Verdict.SERVE, (endpoint,), sends_proxy=V1, accepts_proxy=V2))
        client.sendto(b"question", (LOOPBACK, port))
        found: list[bytes] = []

        def receive() -> bool:
            try:
                found.append(backend.recv(100))
            except BlockingIOError:
                return False
            return True

        await eventually(receive)
        assert found == [b"question"]


async def test_an_echo_of_the_header_is_payload_for_the_client(bench: Bench, serve: Serve) -> None:
    send_headers(bench, V1, await serve(echo))
    reader, writer = await bench.connect()
    header = encode(V1, writer.get_extra_info("sockname"), bench.address)
    writer.write(b"hello")
    assert await reader.readexactly(len(header) + 5) == header + b"hello"
    writer.close()
    await bench.eventually_idle()
