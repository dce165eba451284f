"""Clients who begin with a PROXY header: who is believed, what counts from then on, and what a bad one costs."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from typing import TypeAlias

import pytest

from tests.forwarding.conftest import LOOPBACK, NAME, RESET, Bench, Handler, Serve, echo, eventually, open_bench
from userproxy.forwarding.client_addresses import SourceChoice, Sources
from userproxy.forwarding.observation.recorder import Observed, Peer
from userproxy.forwarding.proxy_protocol.versions import encode
from userproxy.forwarding.tcp import introductions
from userproxy.forwarding.tcp.dialer import Dial
from userproxy.forwarding.tcp.introductions import IntroducedDial
from userproxy.forwarding.tcp.listener import TcpListener
from userproxy.forwarding.tcp.relay import Relay
from userproxy.model import BalancerAccess, ClientAddress, Endpoint, ProxyProtocol, Snapshot, Verdict
from userproxy.model.reports import ChangeKind, ConnectionReport, Decision, Outcome

V1, V2 = ProxyProtocol.V1, ProxyProtocol.V2
CLIENT, PORTAL = ("192.0.2.7", 4711), ("203.0.113.1", 443)
MEBIBYTE = 1024 * 1024
versions = pytest.mark.parametrize("version", list(ProxyProtocol))

Proxy: TypeAlias = socket.socket
"""A client that the listener takes for a proxy, as 127.0.0.1 is trusted; non-blocking."""


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with open_bench(trusted_proxies=("127.0.0.0/24",)) as opened:
        yield opened


def accept_headers(
    bench: Bench,
    version: ProxyProtocol,
    *addresses: tuple[str, int],
    sends: ProxyProtocol | None = None,
    affinity: int | None = None,
    access: BalancerAccess | None = None,
    client_address: ClientAddress = ClientAddress.NODE,
) -> None:
    endpoints = tuple(Endpoint(ip, port) for ip, port in addresses)
    bench.forwarder.update(
        Snapshot(
            NAME,
            Verdict.SERVE,
            endpoints,
            affinity,
            client_address=client_address,
            sends_proxy=sends,
            accepts_proxy=version,
            balancer_access=access,
        )
    )


def header(version: ProxyProtocol, client: tuple[str, int] = CLIENT, portal: tuple[str, int] = PORTAL) -> bytes:
    return encode(version, client, portal)


async def dial(bench: Bench, source: str = LOOPBACK) -> Proxy:
    sock = socket.socket()
    sock.setblocking(False)
    sock.bind((source, 0))
    await asyncio.get_running_loop().sock_connect(sock, bench.address)
    return sock


async def send(sock: Proxy, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(sock, data)


async def hear(sock: Proxy, size: int) -> bytes:
    """So many bytes, or fewer if that is all."""
    got = b""
    while len(got) < size:
        more = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, size - len(got)), 20)
        if not more:
            break
        got += more
    return got


async def answer(bench: Bench, data: bytes, size: int, source: str = LOOPBACK) -> bytes:
    """The first bytes that somebody is answered who sends `data`; empty if reset or ended."""
    with closing(await dial(bench, source)) as sock:
        await send(sock, data)
        try:
            return await hear(sock, size)
        except ConnectionResetError:
            return b"reset"


async def decisions(bench: Bench) -> tuple[Decision, ...]:
    return await bench.forwarder.data_plane.decisions()


async def connections(bench: Bench) -> tuple[ConnectionReport, ...]:
    return (await bench.forwarder.data_plane.connections()).items


def waiting(bench: Bench) -> int:
    """How many clients have not sent their header yet."""
    return len(bench.forwarder._tcp.introductions.limit)


def named(name: bytes) -> Handler:
    """A backend that says its name and who was first, and stays."""

    async def say_name(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(name)
        await reader.read()

    return say_name


@versions
async def test_the_header_is_taken_and_the_rest_reaches_the_endpoint(
    bench: Bench, serve: Serve, version: ProxyProtocol
) -> None:
    accept_headers(bench, version, await serve(echo))
    assert await answer(bench, header(version) + b"hello", 5) == b"hello"
    await bench.eventually_idle()
    (decision,) = await decisions(bench)
    assert (decision.client.ip, decision.client.port) == CLIENT
    assert decision.portal is not None
    assert (decision.portal.ip, decision.portal.port) == PORTAL
    assert (decision.verdict, decision.bytes_up, decision.bytes_down) == (Outcome.SERVED, 5, 5)
    statistics = bench.forwarder.statistics(NAME)
    assert (statistics.accepted, statistics.active, statistics.ended, statistics.refused) == (1, 0, 1, 0)


@versions
async def test_a_header_in_pieces(bench: Bench, serve: Serve, version: ProxyProtocol) -> None:
    accept_headers(bench, version, await serve(echo))
    with closing(await dial(bench)) as proxy:
        proxy.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in header(version, ("fd00::7", 1), ("fd00::1", 2)):
            await send(proxy, bytes([byte]))
            await asyncio.sleep(0)
        await send(proxy, b"hello")
        assert await hear(proxy, 5) == b"hello"
        (report,) = await connections(bench)
        assert (report.client.ip, report.client.port) == ("fd00::7", 1)
    await bench.eventually_idle()


async def test_much_behind_the_header_in_both_directions(bench: Bench, serve: Serve) -> None:
    accept_headers(bench, V2, await serve(echo))
    body = bytes(range(256)) * 4096 * 8
    with closing(await dial(bench)) as proxy:
        async with asyncio.TaskGroup() as group:
            group.create_task(send(proxy, header(V2) + body), name="send")
            heard = group.create_task(hear(proxy, len(body)), name="hear")
        assert heard.result() == body
    await bench.eventually_idle()


async def test_an_endpoint_that_speaks_first(bench: Bench, serve: Serve) -> None:
    accept_headers(bench, V1, await serve(named(b"220 hello")))
    assert await answer(bench, header(V1), 9) == b"220 hello"
    await bench.eventually_idle()


async def test_a_client_that_half_closes_behind_its_header(bench: Bench, serve: Serve) -> None:
    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"%d" % len(await reader.read()))

    accept_headers(bench, V1, await serve(count))
    for body in (b"", b"four"):
        with closing(await dial(bench)) as proxy:
            await send(proxy, header(V1) + body)
            proxy.shutdown(socket.SHUT_WR)
            assert await hear(proxy, 100) == b"%d" % len(body)
    await bench.eventually_idle()


@versions
async def test_who_is_not_trusted_sends_payload(bench: Bench, serve: Serve, version: ProxyProtocol) -> None:
    accept_headers(bench, version, await serve(echo))
    data = header(version) + b"hello"
    assert await answer(bench, data, len(data), source="127.0.1.1") == data
    await bench.eventually_idle()
    (decision,) = await decisions(bench)
    assert decision.client.ip == "127.0.1.1"


async def test_without_trusted_networks_nobody_is(serve: Serve) -> None:
    async with open_bench() as bench:
        accept_headers(bench, V1, await serve(echo))
        data = header(V1) + b"hello"
        assert await answer(bench, data, len(data)) == data
        await bench.eventually_idle()


@pytest.mark.parametrize("first", [b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN 192.0.2.1 192.0.2.2 1 2\r\n"])
async def test_a_header_without_addresses_leaves_the_connections_own(bench: Bench, serve: Serve, first: bytes) -> None:
    accept_headers(bench, V1, await serve(echo))
    assert await answer(bench, first + b"hello", 5) == b"hello"
    await bench.eventually_idle()
    (decision,) = await decisions(bench)
    assert decision.client.ip == LOOPBACK
    assert decision.portal is not None
    assert (decision.portal.ip, decision.portal.port) == bench.address


@pytest.mark.parametrize(
    ("accepts", "first", "why"),
    [
        (V1, b"GET / HTTP/1.1\r\n\r\n", "does not begin with a PROXY line"),
        (V1, b"PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n", "no port number"),
        (V1, header(V2), "does not begin with a PROXY line"),
        (V2, header(V1), "does not begin with the signature"),
        (V2, header(V2)[:12] + b"\x31" + header(V2)[13:], "unknown version"),
        (V2, header(V2)[:14] + b"\xff\xff", "65551 bytes"),
        (V1, b"PROXY " + b"x" * 101, "no end within 107 bytes"),
    ],
)
async def test_a_bad_header_is_refused_at_once(
    bench: Bench, serve: Serve, accepts: ProxyProtocol, first: bytes, why: str
) -> None:
    accept_headers(bench, accepts, await serve(echo))
    assert await answer(bench, first, 1) == b"reset"
    await bench.eventually_idle()
    (decision,) = await decisions(bench)
    assert (decision.verdict, decision.client.ip, decision.endpoint) == (Outcome.REFUSED, LOOPBACK, None)
    assert why in decision.reason
    statistics = bench.forwarder.statistics(NAME)
    assert (statistics.accepted, statistics.refused, statistics.active) == (0, 1, 0)
    assert await answer(bench, header(accepts) + b"hello", 5) == b"hello"


@pytest.mark.parametrize("sent", [b"", b"PROXY TCP4 192.0.2.1"])
async def test_a_client_that_takes_too_long_is_refused_and_nobody_waits_for_it(
    monkeypatch: pytest.MonkeyPatch, serve: Serve, sent: bytes
) -> None:
    monkeypatch.setattr(introductions, "HEADER_SECONDS", 0.3)
    async with open_bench(trusted_proxies=("127.0.0.1/32",)) as bench:
        accept_headers(bench, V1, await serve(echo))
        slow = [await dial(bench) for _ in range(20)]
        for each in slow:
            if sent:
                await send(each, sent)
        statistics = bench.forwarder.statistics(NAME)
        await eventually(lambda: statistics.active + statistics.refused == 20)  # the first ones may be over by now
        assert await answer(bench, header(V1) + b"hello", 5) == b"hello"
        for each in slow:
            with closing(each), pytest.raises(ConnectionResetError):
                await hear(each, 1)
        await bench.eventually_idle()
        of_slow = [each for each in await decisions(bench) if each.verdict is Outcome.TIMED_OUT]
        assert len(of_slow) == 20
        assert of_slow[0].reason == "no whole PROXY header has come within 0.3 s"
        assert waiting(bench) == 0


async def test_a_client_that_goes_without_a_word_is_no_error(
    bench: Bench, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    accept_headers(bench, V1, await serve(echo))
    with closing(await dial(bench)):
        pass
    await eventually(lambda: bench.forwarder.statistics(NAME).refused == 1)
    await bench.eventually_idle()
    (decision,) = await decisions(bench)
    assert decision.reason == "closed by the client, which has sent no PROXY header"
    assert "for want of a good PROXY header" not in capsys.readouterr().out


async def reset(sock: Proxy) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


async def close(sock: Proxy) -> None:
    sock.close()


@pytest.mark.parametrize(
    ("end", "verdict", "reason"),
    [
        (close, Outcome.REFUSED, "closed by the client within its PROXY header"),
        (reset, Outcome.RESET, "reset by the client"),
    ],
)
async def test_a_client_that_ends_within_its_header(
    bench: Bench, serve: Serve, end: Callable[[Proxy], Awaitable[None]], verdict: Outcome, reason: str
) -> None:
    accept_headers(bench, V1, await serve(echo))
    proxy = await dial(bench)
    await send(proxy, b"PROXY TCP4")
    await eventually(lambda: waiting(bench) == 1)
    await end(proxy)
    await bench.eventually_idle()
    (decision,) = await decisions(bench)
    assert (decision.verdict, decision.reason) == (verdict, reason)


async def test_bad_headers_are_logged_once_a_minute(
    bench: Bench, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    accept_headers(bench, V1, await serve(echo))
    for _ in range(5):
        assert await answer(bench, b"nonsense", 1) == b"reset"
    logged = capsys.readouterr().out
    assert logged.count("is refused, for want of a good PROXY header") == 1
    assert "default/web:http" in logged


async def test_clients_stick_to_endpoints_by_the_address_in_their_header(bench: Bench, serve: Serve) -> None:
    names = (b"a", b"b", b"c")
    accept_headers(bench, V1, *[await serve(named(name)) for name in names], affinity=100)
    found: dict[str, set[bytes]] = {}
    for port in range(1, 5):
        for last in range(1, 7):
            ip = f"192.0.2.{last}"
            name = await answer(bench, header(V1, (ip, port)), 1, source=f"127.0.0.{port}")
            found.setdefault(ip, set()).add(name)
    assert [len(each) for each in found.values()] == [1] * 6
    assert set.union(*found.values()) == set(names)
    await bench.eventually_idle()


async def test_it_is_told_who_is_to_begin_with_a_header(bench: Bench, serve: Serve) -> None:
    address = await serve(echo)
    plane = bench.forwarder.data_plane
    bench.route_to(address)
    assert (await plane.peek(NAME, LOOPBACK)).header is None
    accept_headers(bench, V2, address)
    assert (await plane.peek(NAME, LOOPBACK)).header is V2
    assert (await plane.peek(NAME, "127.0.1.1")).header is None


async def test_a_bad_header_takes_no_affinity_from_the_proxy_itself(bench: Bench, serve: Serve) -> None:
    names = (b"a", b"b", b"c")
    accept_headers(bench, V1, *[await serve(named(name)) for name in names], affinity=100)
    first = await answer(bench, b"PROXY UNKNOWN\r\n", 1)
    for _ in range(4):
        assert await answer(bench, b"nonsense", 1) == b"reset"
        assert await answer(bench, b"PROXY UNKNOWN\r\n", 1) == first
    await bench.eventually_idle()


@pytest.mark.parametrize("sends", list(ProxyProtocol))
@versions
async def test_what_was_accepted_is_passed_on(
    bench: Bench, serve: Serve, version: ProxyProtocol, sends: ProxyProtocol
) -> None:
    accept_headers(bench, version, await serve(echo), sends=sends)
    passed_on = header(sends) + b"hello"
    assert await answer(bench, header(version) + b"hello", len(passed_on)) == passed_on
    await bench.eventually_idle()


ACCESS = BalancerAccess((PORTAL[0], "2001:db8::1"), ("192.0.2.0/28",))


@pytest.mark.parametrize(
    ("client", "portal", "is_let_in"),
    [
        (CLIENT, PORTAL, True),
        (("192.0.2.16", 4711), PORTAL, False),
        (("192.0.2.16", 4711), ("203.0.113.2", 443), True),
        (("::ffff:192.0.2.16", 1), ("::ffff:203.0.113.1", 443), False),
        (("2001:db8::7", 1), ("2001:db8::1", 443), True),
    ],
)
async def test_source_ranges_are_for_clients_of_the_load_balancer(
    bench: Bench, serve: Serve, client: tuple[str, int], portal: tuple[str, int], is_let_in: bool
) -> None:
    accept_headers(bench, V1, await serve(echo), access=ACCESS)
    got = await answer(bench, header(V1, client, portal) + b"hello", 5)
    assert got == (b"hello" if is_let_in else b"reset")
    await bench.eventually_idle()
    (decision,) = await decisions(bench)
    assert (decision.verdict is Outcome.SERVED) is is_let_in
    if not is_let_in:
        assert decision.client.ip == "192.0.2.16"
        assert decision.reason == "its address, told by 127.0.0.1, is in no loadBalancerSourceRanges"


async def test_source_ranges_count_where_the_load_balancers_address_itself_was_dialled(
    bench: Bench, serve: Serve
) -> None:
    accept_headers(bench, V1, await serve(echo), access=BalancerAccess((LOOPBACK,), ("192.0.2.0/28",)))
    assert await answer(bench, header(V1, ("198.51.100.1", 1)) + b"hello", 5) == b"reset"
    assert await answer(bench, header(V1) + b"hello", 5) == b"hello"
    assert await answer(bench, b"PROXY UNKNOWN\r\nhello", 5) == b"hello"  # rules have let it in
    await bench.eventually_idle()


async def test_a_client_counts_as_its_proxy_until_it_is_known(bench: Bench, serve: Serve) -> None:
    accept_headers(bench, V1, await serve(echo))
    share = bench.forwarder._tcp.shares.of(NAME.service_port)
    with closing(await dial(bench)) as proxy:
        await eventually(lambda: list(share.addresses) == [LOOPBACK])
        assert bench.forwarder.active == 1
        await send(proxy, header(V1) + b"hello")
        await hear(proxy, 5)
        assert list(share.addresses) == [CLIENT[0]]
        assert (share.count, waiting(bench)) == (1, 0)
        (connection,) = share.addresses[CLIENT[0]]
        assert connection.quiet() is not None, "it is no dial any more, and can make room"
        connection.abort("made room")
        assert (await decisions(bench))[-1].reason == "made room"
    await bench.eventually_idle()
    assert share.count == 0


async def test_clients_without_a_header_make_room_for_others(uncounted: None, serve: Serve) -> None:
    async with open_bench(descriptor_limit=200, trusted_proxies=("127.0.0.1/32",)) as bench:
        accept_headers(bench, V1, await serve(echo))
        silent = [await dial(bench) for _ in range(80)]
        assert await answer(bench, b"hello", 5, source="127.0.0.2") == b"hello"
        assert bench.forwarder.evicted[NAME.service_port.protocol] > 0
        for each in silent:
            each.close()
        await bench.eventually_idle()


async def test_a_drain_waits_for_headers_that_are_still_to_come(bench: Bench, serve: Serve) -> None:
    accept_headers(bench, V1, await serve(echo))
    with closing(await dial(bench)) as proxy:
        await eventually(lambda: waiting(bench) == 1)
        async with asyncio.TaskGroup() as group:
            drained = group.create_task(bench.forwarder.drain(10.0), name="drain")
            await send(proxy, header(V1) + b"hello")
            assert await hear(proxy, 5) == b"hello"
            proxy.close()
        assert drained.result() == 0


async def test_a_stop_resets_those_who_wait(bench: Bench, serve: Serve) -> None:
    accept_headers(bench, V1, await serve(echo))
    with closing(await dial(bench)) as proxy:
        await eventually(lambda: waiting(bench) == 1)
        assert bench.forwarder.reset_connections() == 1
        with pytest.raises(ConnectionResetError):
            await hear(proxy, 1)
        assert (waiting(bench), bench.forwarder.active) == (0, 0)
        (decision,) = await decisions(bench)
        assert (decision.verdict, decision.reason) == (Outcome.RESET, "userproxy stops")


async def test_the_wait_for_the_header_is_no_part_of_the_dial(bench: Bench, serve: Serve) -> None:
    accept_headers(bench, V1, await serve(echo))
    with closing(await dial(bench)) as proxy:
        await eventually(lambda: waiting(bench) == 1)
        await asyncio.sleep(0.05)
        await send(proxy, header(V1) + b"hello")
        await hear(proxy, 5)
        listener = bench.forwarder._listeners[NAME]
        assert isinstance(listener, TcpListener)
        (relay,) = listener.connections.members.values()
        assert isinstance(relay, Relay)
        assert relay.dial.began - relay.opened >= 0.04  # a timer may be early by its resolution
    await bench.eventually_idle()


async def test_a_watch_is_told_of_a_client_once_it_is_known(bench: Bench, serve: Serve) -> None:
    accept_headers(bench, V1, await serve(echo))
    watch = Told()
    bench.forwarder._recorder.connection_watches.append(watch)
    with closing(await dial(bench)) as proxy:
        await eventually(lambda: waiting(bench) == 1)
        await send(proxy, header(V1) + b"hello")
        await hear(proxy, 5)
    await bench.eventually_idle()
    assert watch.told[0] == (ChangeKind.ADDED, CLIENT)
    assert {client for _, client in watch.told} == {CLIENT}
    watch.told.clear()
    assert await answer(bench, b"nonsense", 1) == b"reset"
    await bench.eventually_idle()
    assert watch.told == [], "nobody has heard of it"


@pytest.mark.parametrize(
    ("first", "asked"), [(header(V1), (CLIENT[0], True)), (b"PROXY UNKNOWN\r\n", (LOOPBACK, False))]
)
async def test_endpoints_see_the_address_of_whom_the_header_names(
    bench: Bench, serve: Serve, monkeypatch: pytest.MonkeyPatch, first: bytes, asked: tuple[str, bool]
) -> None:
    seen: list[tuple[str, bool]] = []

    def choose(_sources: Sources, client: str, _endpoint: Endpoint, *, introduced: bool = False) -> SourceChoice:
        seen.append((client, introduced))
        return SourceChoice("a test")

    monkeypatch.setattr(Sources, "choose", choose)
    accept_headers(bench, V1, await serve(echo), client_address=ClientAddress.AUTO)
    assert await answer(bench, first + b"hello", 5) == b"hello"
    assert seen == [asked]


async def test_a_client_is_treated_by_what_counts_once_its_header_has_come(
    bench: Bench, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(Sources, "choose", lambda _sources, client, _endpoint, **_: seen.append(client))
    address = await serve(echo)
    accept_headers(bench, V1, address, client_address=ClientAddress.AUTO)
    with closing(await dial(bench)) as proxy:
        await eventually(lambda: waiting(bench) == 1)
        accept_headers(bench, V1, address)
        await send(proxy, header(V1) + b"hello")
        assert await hear(proxy, 5) == b"hello"
    assert seen == []
    await bench.eventually_idle()


class Told:
    """What is told of connections."""

    def __init__(self) -> None:
        self.told: list[tuple[ChangeKind, Peer]] = []

    def tell(self, kind: ChangeKind, connection: Observed) -> None:
        assert isinstance(connection, Dial | Relay)
        self.told.append((kind, connection.peer))


@pytest.mark.bugs
async def test_a_bug_costs_the_client_alone(bench: Bench, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    accept_headers(bench, V1, await serve(echo))
    take = IntroducedDial._take

    def fail(_dial: IntroducedDial, *_found: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(IntroducedDial, "_take", fail)
    assert await answer(bench, header(V1), 1) == b"reset"
    with closing(await dial(bench)) as proxy:
        await eventually(lambda: waiting(bench) == 1)
        await send(proxy, header(V1))
        with pytest.raises(ConnectionResetError):
            await hear(proxy, 1)
    await bench.eventually_idle()
    monkeypatch.setattr(IntroducedDial, "_take", take)
    assert await answer(bench, header(V1) + b"hello", 5) == b"hello"
    await bench.eventually_idle()
    assert len(bench.forwarder._poller) == 1  # the listener
