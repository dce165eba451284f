"""Listeners, flows, affinity and turns, which go on in another data plane."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import cast

import pytest
from msgspec import structs

from tests.forwarding.conftest import LOOPBACK, NAME, Connected, Serve, echo, eventually, named
from tests.forwarding.handover.conftest import a_forwarder, first, forwarders, rest, taken_over
from userproxy.forwarding.forwarder import Forwarder
from userproxy.forwarding.handover.taking import Taker
from userproxy.forwarding.handover.values import ListenerHandedOver
from userproxy.forwarding.tcp.relays.accounts import TcpStatistics
from userproxy.forwarding.udp.statistics import UdpStatistics
from userproxy.model import (
    Admission,
    AdmissionRule,
    Endpoint,
    IPFamily,
    ListenerName,
    PortalAddress,
    Protocol,
    ServicePortName,
    Snapshot,
    Verdict,
)
from userproxy.routing.balancers.state import BalancerState

DNS = ListenerName(ServicePortName("kube-system", "dns", "dns", Protocol.UDP))


@pytest.fixture
async def planes() -> AsyncIterator[list[Forwarder]]:
    async with forwarders() as found:
        found.append(a_forwarder())
        yield found


class Echoes(asyncio.DatagramProtocol):
    """A backend that answers with who has asked, and what."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)  # uvloop's is not derived from it

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(f"{addr[1]} ".encode() + data, addr)


@pytest.fixture
async def echoes() -> AsyncIterator[list[tuple[str, int]]]:
    """The addresses of two UDP backends."""
    loop = asyncio.get_running_loop()
    made = [await loop.create_datagram_endpoint(Echoes, (LOOPBACK, 0)) for _ in range(2)]
    yield [transport.get_extra_info("sockname") for transport, _ in made]
    for transport, _ in made:
        transport.close()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def udp_client(stack: ExitStack, address: tuple[str, int]) -> socket.socket:
    made = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    made.setblocking(False)
    made.connect(address)
    return made


async def ask(client: socket.socket, text: bytes = b"x") -> bytes:
    """The answer, which begins with the port that the endpoint saw."""
    loop = asyncio.get_running_loop()
    client.send(text)
    async with asyncio.timeout(5):
        return await loop.sock_recv(client, 100)


async def test_flows_keep_their_sockets_and_endpoints(
    planes: list[Forwarder], echoes: list[tuple[str, int]], stack: ExitStack
) -> None:
    port = planes[0].open(DNS)
    planes[0].update(Snapshot(DNS, Verdict.SERVE, tuple(Endpoint(*each) for each in echoes)))
    clients = [udp_client(stack, (LOOPBACK, port)) for _ in range(40)]
    before = [await ask(client) for client in clients]
    for _ in range(3):
        new = a_forwarder()
        giver, taker = planes[-1].hand_over(), new.take_over()
        await first(giver, taker)
        assert await ask(clients[0]) == before[0]
        assert [await ask(each) for each in clients[20:]] == before[20:]
        clients.append(udp_client(stack, (LOOPBACK, port)))
        before.append(await ask(clients[-1]))
        clients[1].send(b"x")  # it is answered by whichever process has it then
        rest(planes[-1], new, giver, taker)
        planes.append(new)
        assert await asyncio.get_running_loop().sock_recv(clients[1], 100) == before[1]
        assert new.open(DNS) == port
        new.close_unasked(IPFamily.IPV4)
        assert [await ask(each) for each in clients] == before
    assert new.flows == 43
    counted = new.statistics(DNS)
    assert isinstance(counted, UdpStatistics)
    assert (counted.accepted, counted.active, counted.unsent) == (43, 43, 0)
    assert counted.datagrams_up == counted.datagrams_down
    flows = [each for listener in new._udp.listeners for each in listener.flows]
    assert [each.seen for each in flows] == sorted(each.seen for each in flows)


async def test_an_endpoint_that_goes_away_loses_flows_as_ever(
    planes: list[Forwarder], echoes: list[tuple[str, int]], stack: ExitStack
) -> None:
    port = planes[0].open(DNS)
    ends = tuple(Endpoint(*each) for each in echoes)
    planes[0].update(Snapshot(DNS, Verdict.SERVE, ends))
    client = udp_client(stack, (LOOPBACK, port))
    before = await ask(client)
    planes.append(await taken_over(planes[0]))
    new = planes[1]
    used = next(iter(new._udp.listeners)).flows.oldest
    assert used is not None
    left = tuple(each for each in ends if each != used.endpoint)
    new.update(Snapshot(DNS, Verdict.SERVE, left))
    assert await ask(client) != before
    assert new.statistics(DNS).endpoints[left[0]].active == 1
    new.update(Snapshot(DNS, Verdict.REJECT))
    assert new.flows == 0
    assert all(each.active == 0 for each in new.statistics(DNS).endpoints.values())


@pytest.mark.parametrize("verdict", list(Verdict))
@pytest.mark.parametrize("name", [NAME, DNS], ids=["TCP", "UDP"])
async def test_a_listener_treats_clients_as_before_and_can_be_told_otherwise(
    planes: list[Forwarder],
    serve: Serve,
    echoes: list[tuple[str, int]],
    stack: ExitStack,
    verdict: Verdict,
    name: ListenerName,
) -> None:
    address = await serve(echo) if name is NAME else echoes[0]
    port = planes[0].open(name, verdict=verdict)
    serving = Snapshot(name, Verdict.SERVE, (Endpoint(*address),))
    planes[0].update(serving if verdict is Verdict.SERVE else Snapshot(name, verdict))
    found = await outcome(name, port, stack)
    planes.append(await taken_over(planes[0]))
    assert planes[1].open(name) == port
    planes.append(await taken_over(planes[1]))
    assert planes[2].open(name) == port
    assert await outcome(name, port, stack) == found
    planes[2].update(serving)
    assert await outcome(name, port, stack) == "served"
    planes[2].update(Snapshot(name, Verdict.REJECT))
    assert await outcome(name, port, stack) == "refused"


async def outcome(name: ListenerName, port: int, stack: ExitStack) -> str:
    try:
        async with asyncio.timeout(0.4):
            if name is DNS:
                client = udp_client(stack, (LOOPBACK, port))
                for _ in range(100):
                    client.send(b"x")
                    await asyncio.sleep(0)
                await asyncio.get_running_loop().sock_recv(client, 100)
            else:
                reader, writer = await asyncio.open_connection(LOOPBACK, port)
                writer.write(b"x")
                await reader.readexactly(1)
                writer.close()
    except TimeoutError:
        return "unanswered"
    except ConnectionRefusedError:
        return "refused"
    return "served"


async def test_turns_and_affinity_go_on(planes: list[Forwarder], serve: Serve) -> None:
    ends = tuple([Endpoint(*await serve(named(str(n).encode()))) for n in range(5)])
    planes[0].open(NAME)
    planes[0].update(Snapshot(NAME, Verdict.SERVE, ends))
    balancer = planes[0]._listeners[NAME].balancer
    turns = [balancer.pick("192.0.2.1", 0.0) for _ in range(7)]
    planes.append(await taken_over(planes[0]))
    after = planes[1]._listeners[NAME].balancer
    assert [after.pick("192.0.2.1", 0.0) for _ in range(3)] == [*turns, *turns][7 % 5 : 7 % 5 + 3]

    planes[1].update(Snapshot(NAME, Verdict.SERVE, ends, 3600))
    loop = asyncio.get_running_loop()
    clients = [*(f"10.0.{n // 250}.{n % 250}" for n in range(2000)), "fd00::1", "fe80::1%lo", "2001:db8:ffff::1"]
    stuck = {client: after.pick(client, loop.time()) for client in clients}
    new = a_forwarder()
    giver, taker = planes[1].hand_over(), new.take_over()
    await first(giver, taker)
    stuck |= {f"10.9.9.{n}": after.pick(f"10.9.9.{n}", loop.time()) for n in range(200)}
    rest(planes[1], new, giver, taker)
    planes.append(new)
    newest = new._listeners[NAME].balancer
    assert {client: newest.pick(client, loop.time()) for client in stuck} == stuck
    assert newest.affinity_entries == len(stuck)
    new.update(Snapshot(NAME, Verdict.SERVE, ends[:2], 3600))
    assert {newest.pick(client, loop.time()) for client in stuck} == set(ends[:2])


async def test_listeners_that_nobody_asks_for_are_closed(planes: list[Forwarder], serve: Serve) -> None:
    port = planes[0].open(NAME)
    planes[0].update(Snapshot(NAME, Verdict.SERVE, (Endpoint(*await serve(echo)),)))
    client = await Connected.to(port)
    planes.append(await taken_over(planes[0]))
    planes[1].close_unasked(IPFamily.IPV4)
    await refused(LOOPBACK, port)
    assert await client.is_alive()
    planes.append(await taken_over(planes[1]))  # now a connection without a listener
    assert await client.is_alive()
    assert len(planes[2]._tcp.without_listener) == 1
    planes[2].reset_connections()
    assert not await client.is_alive()
    await eventually(lambda: planes[2].active == 0)


async def refused(host: str, port: int) -> None:
    """Sockets are closed at the end of a turn of the loop."""
    for _ in range(100):
        try:
            _, writer = await asyncio.open_connection(host, port)
        except ConnectionRefusedError:
            return
        except ConnectionResetError:
            continue
        writer.close()
    pytest.fail("it goes on accepting")


async def test_portals_that_are_listened_on_themselves(
    planes: list[Forwarder], serve: Serve, echoes: list[tuple[str, int]], stack: ExitStack
) -> None:
    planes[0].shut_down()
    planes[0] = a_forwarder(bind_portals=True)
    ends = {NAME: Endpoint(*await serve(echo)), DNS: Endpoint(*echoes[0])}
    portals = {}
    for name, end in ends.items():
        planes[0].open(name)
        planes[0].update(Snapshot(name, Verdict.SERVE, (end,)))
        portals[name] = PortalAddress("127.96.0.9", name.service_port.protocol, 7070)
        planes[0].serve_portal(portals[name], Admission((AdmissionRule("", name),), (AdmissionRule("", name),)))
    reader, writer = await asyncio.open_connection("127.96.0.9", 7070)
    client = udp_client(stack, ("127.96.0.9", 7070))
    before = await ask(client)
    for _ in range(2):
        planes.append(await taken_over(planes[-1], bind_portals=True))
        new = planes[-1]
        for name in ends:
            assert new.open(name) == 0
            everybody = (AdmissionRule("", name),)
            new.serve_portal(portals[name], Admission(everybody, everybody))
        new.close_unasked(IPFamily.IPV4)
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        assert await ask(client) == before
        assert await outcome(NAME, 7070, stack) == "refused"  # that is another address
        other = await asyncio.open_connection("127.96.0.9", 7070)
        other[1].close()
        await eventually(lambda: planes[-1].active == 1)
    writer.close()
    planes.append(await taken_over(planes[-1], bind_portals=True))
    planes[-1].close_unasked(IPFamily.IPV4)
    await refused("127.96.0.9", 7070)


async def test_descriptors_are_counted_as_before(
    planes: list[Forwarder], serve: Serve, echoes: list[tuple[str, int]], stack: ExitStack, uncounted: None
) -> None:
    port, udp_port = planes[0].open(NAME), planes[0].open(DNS)
    planes[0].update(Snapshot(NAME, Verdict.SERVE, (Endpoint(*await serve(echo)),)))
    planes[0].update(Snapshot(DNS, Verdict.SERVE, (Endpoint(*echoes[0]),)))
    clients = [await Connected.to(port) for _ in range(3)]
    await ask(udp_client(stack, (LOOPBACK, udp_port)))
    budget = planes[0]._budget
    mine, ports = budget._mine, budget._ports
    assert (mine, ports) == (2 + 3 * 2 + 1, 2)
    planes.append(await taken_over(planes[0]))
    budget = planes[1]._budget
    assert (budget._mine, budget._ports) == (mine, ports)
    for client in clients:
        client.writer.close()
    await eventually(lambda: planes[1].active == 0)
    planes[1].close(NAME)
    planes[1].close(DNS)
    assert (budget._mine, budget._ports) == (0, 0)


async def test_decisions_and_the_figures_of_closed_listeners_are_remembered(
    planes: list[Forwarder], serve: Serve
) -> None:
    other = ListenerName(ServicePortName("default", "other", "", Protocol.TCP))
    backend = Endpoint(*await serve(echo))
    for name in (NAME, other):
        client_port = planes[0].open(name)
        planes[0].update(Snapshot(name, Verdict.SERVE, (backend,)))
        client = await Connected.to(client_port)
        client.writer.close()
        await eventually(lambda: planes[0].active == 0)
    planes[0].close(other)
    port = planes[0]._listeners[NAME].port
    new = a_forwarder()
    giver, taker = planes[0].hand_over(), new.take_over()
    await first(giver, taker)
    client = await Connected.to(port)
    client.writer.close()
    await eventually(lambda: planes[0].active == 0)
    before = [entry[1:] for _, ring in planes[0]._recorder.rings() for entry in ring]
    rest(planes[0], new, giver, taker)
    planes.append(new)
    assert [entry[1:] for _, ring in new._recorder.rings() for entry in ring] == before
    assert len(before) == 2, "the other listener has taken its own with it"
    assert [(name, counters.ended) for name, counters in new.data_plane.closed.current()] == [(other, 1)]
    assert not new._tcp.without_listener
    assert not planes[0]._recorder.decision_watches or planes[0]._is_forsaken


async def test_a_closed_listener_has_counted_its_clients_once(planes: list[Forwarder], serve: Serve) -> None:
    backend = Endpoint(*await serve(echo))
    client_port = planes[0].open(NAME)
    planes[0].update(Snapshot(NAME, Verdict.SERVE, (backend,)))
    found = [await Connected.to(client_port) for _ in range(3)]
    await eventually(lambda: planes[0].active == 3)
    planes[0].close(NAME)
    new = a_forwarder()
    giver, taker = planes[0].hand_over(), new.take_over()
    await first(giver, taker)
    found[0].writer.close()
    await eventually(lambda: planes[0].active == 2)
    rest(planes[0], new, giver, taker)
    planes.append(new)
    ((_, counters),) = new.data_plane.closed.current()
    assert (counters.accepted, counters.ended) == (3, 1)
    for each in found[1:]:
        each.writer.close()
    await eventually(lambda: new.active == 0)
    assert (counters.accepted, counters.ended) == (3, 3)


async def test_what_another_process_has_counted_of_a_closed_listener_is_kept(planes: list[Forwarder]) -> None:
    counters = TcpStatistics()
    nothing = ListenerHandedOver(7, NAME, is_open=False, balancer=BalancerState(), counters=counters.state())
    counters.accepted = 2
    taker = Taker(planes[0]._parts, shares=True)
    taker.take(nothing, [], 1)
    taker.take(structs.replace(nothing, counters=counters.state()), [], 2)
    taker.complete()
    taker.go_on()
    assert [(name, each.number, each.accepted) for name, each in planes[0].data_plane.closed.current()] == [
        (NAME, 7, 2)
    ]
