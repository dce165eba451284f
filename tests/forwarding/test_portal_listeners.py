"""Portals listened on themselves: 127.96.0.0/16 stands for their addresses, since all of it is loopback's."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from random import Random

import pytest

from tests.forwarding.conftest import Connected, Serve, echo, eventually, named
from userproxy.errors import ObjectError, OutOfDescriptorsError, PortUnavailableError
from userproxy.forwarding.assembly.options import ForwardingOptions
from userproxy.forwarding.forwarder import Forwarder
from userproxy.forwarding.ports.ranges import PortRange
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
    TrafficClass,
    Verdict,
)

TCP = ServicePortName("default", "web", "http", Protocol.TCP)
UDP = ServicePortName("kube-system", "dns", "dns", Protocol.UDP)
ELSEWHERE = "127.7.0.1"
"""A client who is told by its network; to the kernel everybody on loopback is the host."""


def internal(service_port: ServicePortName) -> ListenerName:
    return ListenerName(service_port)


def external(service_port: ServicePortName) -> ListenerName:
    return ListenerName(service_port, IPFamily.IPV4, TrafficClass.EXTERNAL)


def everybody(listener: ListenerName) -> Admission:
    rules = (AdmissionRule("", listener),)
    return Admission(rules, rules)


def by_source(service_port: ServicePortName) -> Admission:
    """Clients of 127.7.0.0/16 have the external endpoints, others those of the cluster."""
    rules = (AdmissionRule("127.7.0.0/16", external(service_port)), AdmissionRule("", internal(service_port)))
    return Admission(rules, rules)


NOBODY = Admission((AdmissionRule("", None),), (AdmissionRule("", None),))
NOT_ELSEWHERE = (AdmissionRule("127.7.0.0/16", None), AdmissionRule("", internal(TCP)))


@pytest.fixture
async def forwarder() -> AsyncIterator[Forwarder]:
    options = ForwardingOptions({}, PortRange(), True, 60.0, 10_000, bind_portals=True)
    made = Forwarder(asyncio.get_running_loop(), options, Random(1))
    for name in (internal(TCP), external(TCP), internal(UDP), external(UDP)):
        assert made.open(name) == 0
    yield made
    made.shut_down()


@pytest.fixture
def sockets() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def free_port(protocol: Protocol = Protocol.TCP) -> int:
    kind = socket.SOCK_STREAM if protocol is Protocol.TCP else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def web() -> PortalAddress:
    return PortalAddress("127.96.0.10", Protocol.TCP, free_port())


@pytest.fixture
def dns() -> PortalAddress:
    return PortalAddress("127.96.0.53", Protocol.UDP, free_port(Protocol.UDP))


def route(forwarder: Forwarder, listener: ListenerName, *addresses: tuple[str, int]) -> None:
    endpoints = tuple(Endpoint(ip, port) for ip, port in addresses)
    forwarder.update(Snapshot(listener, Verdict.SERVE, endpoints, known=endpoints))


async def ask(portal: PortalAddress, source: str = "127.0.0.1") -> bytes:
    reader, writer = await asyncio.open_connection(portal.ip, portal.port, local_addr=(source, 0))
    try:
        return await reader.read()
    finally:
        writer.close()


def backend(sockets: ExitStack) -> socket.socket:
    made = sockets.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    made.setblocking(False)
    made.bind(("127.0.0.1", 0))
    return made


def client(sockets: ExitStack, portal: PortalAddress, source: str = "127.0.0.1") -> socket.socket:
    made = sockets.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    made.setblocking(False)
    made.bind((source, 0))
    made.connect((portal.ip, portal.port))
    return made


async def received(sock: socket.socket) -> tuple[bytes, tuple[str, int]]:
    found: list[tuple[bytes, tuple[str, int]]] = []

    def arrived() -> bool:
        try:
            found.append(sock.recvfrom(2048))
        except BlockingIOError:
            return False
        return True

    await eventually(arrived)
    return found[0]


async def test_a_portal_leads_to_the_endpoints_of_its_listener(
    forwarder: Forwarder, serve: Serve, web: PortalAddress
) -> None:
    route(forwarder, internal(TCP), await serve(named(b"pod")))
    forwarder.serve_portal(web, everybody(internal(TCP)))
    assert await ask(web) == b"pod"
    statistics = forwarder.statistics(internal(TCP))
    await eventually(lambda: statistics.active == 0)
    assert (statistics.accepted, statistics.bytes_down) == (1, 3)


async def test_several_portals_lead_to_one_listener(forwarder: Forwarder, serve: Serve, web: PortalAddress) -> None:
    route(forwarder, internal(TCP), await serve(named(b"pod")))
    others = [
        web,
        PortalAddress("127.96.0.11", Protocol.TCP, web.port),
        PortalAddress("127.96.0.12", web.protocol, web.port),
    ]
    for portal in others:
        forwarder.serve_portal(portal, everybody(internal(TCP)))
    assert [await ask(portal) for portal in others] == [b"pod"] * 3
    forwarder.leave_portal(others[0])
    with pytest.raises(ConnectionRefusedError):
        await ask(others[0])
    assert await ask(others[1]) == b"pod"


async def test_clients_are_sorted_by_their_source(forwarder: Forwarder, serve: Serve, web: PortalAddress) -> None:
    route(forwarder, internal(TCP), await serve(named(b"any")))
    route(forwarder, external(TCP), await serve(named(b"near")))
    forwarder.serve_portal(web, by_source(TCP))
    assert await ask(web) == b"any"
    assert await ask(web, ELSEWHERE) == b"near"
    assert forwarder.statistics(internal(TCP)).accepted == forwarder.statistics(external(TCP)).accepted == 1


async def test_another_admission_counts_for_the_next_client_and_no_connection_ends(
    forwarder: Forwarder, serve: Serve, web: PortalAddress
) -> None:
    route(forwarder, internal(TCP), await serve(echo))
    route(forwarder, external(TCP), await serve(named(b"near")))
    forwarder.serve_portal(web, everybody(internal(TCP)))
    established = Connected(*await asyncio.open_connection(web.ip, web.port))
    assert await established.is_alive()
    forwarder.serve_portal(web, everybody(external(TCP)))
    assert await ask(web) == b"near"
    forwarder.serve_portal(web, Admission(NOT_ELSEWHERE, NOT_ELSEWHERE))
    with socket.socket() as outsider:
        outsider.setblocking(False)
        outsider.bind((ELSEWHERE, 0))
        outsider.connect_ex((web.ip, web.port))
        assert await established.is_alive()
        forwarder.serve_portal(web, everybody(internal(TCP)))
        again = Connected(*await asyncio.open_connection(web.ip, web.port))
        assert await again.is_alive()
        assert outsider.connect_ex((web.ip, web.port)) != 0, "its SYN was not answered"
    forwarder.leave_portal(web)
    assert await established.is_alive()
    for client in (established, again):
        client.writer.close()


async def test_who_cannot_be_kept_out_by_the_kernel_is_not_let_in_either(
    forwarder: Forwarder, web: PortalAddress
) -> None:
    forwarder.serve_portal(web, everybody(internal(TCP)))
    ranges = tuple(AdmissionRule(f"10.{number // 250}.{number % 250}.0/28", internal(TCP)) for number in range(2000))
    with pytest.raises(ObjectError, match="2000 networks are more"):
        forwarder.serve_portal(web, Admission(ranges, ranges))
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(web.ip, web.port)
    forwarder.serve_portal(web, Admission(ranges[:900], ranges[:900]))


async def test_a_portal_for_nobody_answers_nobody(forwarder: Forwarder, web: PortalAddress) -> None:
    forwarder.serve_portal(web, NOBODY)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await ask(web)
    forwarder.leave_portal(web)
    with pytest.raises(ConnectionRefusedError):
        await ask(web)


async def test_a_portal_that_goes_to_another_service_port_is_that_one_s(
    forwarder: Forwarder, serve: Serve, web: PortalAddress
) -> None:
    other = ListenerName(ServicePortName("default", "other", "http", Protocol.TCP))
    forwarder.open(other)
    route(forwarder, internal(TCP), await serve(named(b"old")))
    route(forwarder, other, await serve(named(b"new")))
    forwarder.serve_portal(web, everybody(internal(TCP)))
    forwarder.serve_portal(web, everybody(other))
    assert await ask(web) == b"new"


async def test_what_another_program_listens_on_everywhere_cannot_be_served(
    forwarder: Forwarder, web: PortalAddress
) -> None:
    before = forwarder.room_for_ports
    with (
        socket.create_server(("0.0.0.0", web.port)),
        pytest.raises(PortUnavailableError, match="Address already in use"),
    ):
        forwarder.serve_portal(web, everybody(internal(TCP)))
    assert forwarder.room_for_ports == before
    forwarder.serve_portal(web, everybody(internal(TCP)))
    assert forwarder.room_for_ports == before - 1
    forwarder.leave_portal(web)
    assert forwarder.room_for_ports == before


async def test_a_successor_listens_before_its_predecessor_ends(
    forwarder: Forwarder, serve: Serve, web: PortalAddress, dns: PortalAddress
) -> None:
    options = ForwardingOptions({}, PortRange(), True, 60.0, 10_000, bind_portals=True)
    successor = Forwarder(asyncio.get_running_loop(), options, Random(2))
    try:
        for each, name in ((forwarder, b"old"), (successor, b"new")):
            if each is successor:
                each.open(internal(TCP))
                each.open(internal(UDP))
            route(each, internal(TCP), await serve(named(name)))
            each.serve_portal(web, everybody(internal(TCP)))
            each.serve_portal(dns, everybody(internal(UDP)))
        forwarder.leave_portal(web)
        assert [await ask(web) for _ in range(5)] == [b"new"] * 5
    finally:
        successor.shut_down()


async def test_a_drain_closes_portals(
    forwarder: Forwarder, serve: Serve, web: PortalAddress, dns: PortalAddress
) -> None:
    route(forwarder, internal(TCP), await serve(echo))
    forwarder.serve_portal(web, everybody(internal(TCP)))
    forwarder.serve_portal(dns, everybody(internal(UDP)))
    established = Connected(*await asyncio.open_connection(web.ip, web.port))
    assert await established.is_alive()
    assert await forwarder.drain(0.05) == 1
    with pytest.raises(ConnectionRefusedError):
        await ask(web)
    assert not await established.is_alive()


async def test_endpoints_that_are_gone_lose_their_connections_when_that_is_asked_for(
    forwarder: Forwarder, serve: Serve, web: PortalAddress
) -> None:
    route(forwarder, internal(TCP), await serve(echo))
    forwarder.serve_portal(web, everybody(internal(TCP)))
    established = Connected(*await asyncio.open_connection(web.ip, web.port))
    assert await established.is_alive()
    forwarder.leave_portal(web)
    forwarder.close(internal(TCP))
    forwarder.update(Snapshot(internal(TCP), Verdict.SERVE, (), known=()))
    assert not await established.is_alive()


async def test_a_portal_as_an_endpoint_leads_to_its_service(
    forwarder: Forwarder, web: PortalAddress, serve: Serve
) -> None:
    """Which of them would loop is found out before (userproxy.proxier.loops)."""
    front = PortalAddress("127.96.0.11", Protocol.TCP, free_port())
    route(forwarder, internal(TCP), await serve(named(b"pod")))
    forwarder.serve_portal(web, everybody(internal(TCP)))
    route(forwarder, external(TCP), (web.ip, web.port))
    forwarder.serve_portal(front, everybody(external(TCP)))
    assert await ask(front) == b"pod"


async def test_the_newer_of_two_processes_at_a_portal_has_all_new_clients(
    forwarder: Forwarder, web: PortalAddress, serve: Serve
) -> None:
    """Half of them were lost if their handshake was under way when the older one closed its socket."""
    route(forwarder, internal(TCP), await serve(named(b"old")))
    forwarder.serve_portal(web, everybody(internal(TCP)))
    assert await ask(web) == b"old"
    options = ForwardingOptions({}, PortRange(), True, 60.0, 10_000, bind_portals=True)
    successor = Forwarder(asyncio.get_running_loop(), options, Random(1))
    try:
        successor.open(internal(TCP))
        route(successor, internal(TCP), await serve(named(b"new")))
        successor.serve_portal(web, everybody(internal(TCP)))
        assert {await ask(web) for _ in range(30)} == {b"new"}
        forwarder.leave_portal(web)
        assert {await ask(web) for _ in range(30)} == {b"new"}
    finally:
        successor.shut_down()


async def test_over_ipv6_a_predecessor_has_clients_until_it_stands_aside_and_its_answers_still_leave(
    forwarder: Forwarder, sockets: ExitStack
) -> None:
    """The kernel takes the oldest of equal sockets there."""
    pods = [bound(sockets), bound(sockets)]
    portal = PortalAddress("::1", Protocol.UDP, free_port(Protocol.UDP))
    name = ListenerName(UDP, IPFamily.IPV6)
    options = ForwardingOptions({}, PortRange(), True, 60.0, 10_000, bind_portals=True)
    successor = Forwarder(asyncio.get_running_loop(), options, Random(1))
    try:
        for each, pod in zip((forwarder, successor), pods, strict=True):
            each.open(name)
            route(each, name, pod.getsockname()[:2])
            each.serve_portal(portal, everybody(name))
        asking = bound(sockets)
        asking.connect((portal.ip, portal.port))
        asking.send(b"one")
        _, flow = await received(pods[0])
        forwarder.stand_aside(IPFamily.IPV4)
        asking.send(b"two")
        assert (await received(pods[0]))[0] == b"two"
        forwarder.stand_aside(IPFamily.IPV6)
        asking.send(b"three")
        assert (await received(pods[1]))[0] == b"three"
        pods[0].sendto(b"late", flow)
        assert (await received(asking))[0] == b"late"
    finally:
        successor.shut_down()


def bound(sockets: ExitStack) -> socket.socket:
    made = sockets.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
    made.setblocking(False)
    made.bind(("::1", 0))
    return made


async def test_without_descriptors_a_portal_is_refused(web: PortalAddress) -> None:
    options = ForwardingOptions({}, PortRange(), True, 60.0, 64, bind_portals=True)
    small = Forwarder(asyncio.get_running_loop(), options, Random(1))
    try:
        small.open(internal(TCP))
        while small.room_for_ports:
            small.take_for_port()
        with pytest.raises(OutOfDescriptorsError):
            small.serve_portal(web, everybody(internal(TCP)))
    finally:
        small.shut_down()


async def test_datagrams_are_answered_from_the_portal(
    forwarder: Forwarder, sockets: ExitStack, dns: PortalAddress
) -> None:
    pod = backend(sockets)
    route(forwarder, internal(UDP), pod.getsockname())
    second = PortalAddress("127.96.0.54", Protocol.UDP, dns.port)
    for portal in (dns, second):
        forwarder.serve_portal(portal, everybody(internal(UDP)))
        asking = client(sockets, portal)
        asking.send(b"who?")
        question, flow = await received(pod)
        assert question == b"who?"
        pod.sendto(b"me", flow)
        assert await received(asking) == (b"me", (portal.ip, portal.port))
    statistics = forwarder.statistics(internal(UDP))
    assert statistics.accepted == statistics.active == 2
    forwarder.leave_portal(dns)
    assert statistics.active == 1


async def test_datagrams_are_sorted_by_their_source(
    forwarder: Forwarder, sockets: ExitStack, dns: PortalAddress
) -> None:
    anywhere, near = backend(sockets), backend(sockets)
    forwarder.serve_portal(dns, by_source(UDP))
    route(forwarder, internal(UDP), anywhere.getsockname())
    route(forwarder, external(UDP), near.getsockname())
    client(sockets, dns).send(b"inside")
    client(sockets, dns, ELSEWHERE).send(b"outside")
    assert (await received(anywhere))[0] == b"inside"
    assert (await received(near))[0] == b"outside"
    moved = backend(sockets)
    asking = client(sockets, dns, ELSEWHERE)
    route(forwarder, external(UDP), moved.getsockname())
    asking.send(b"again")
    assert (await received(moved))[0] == b"again"


async def test_flows_end_with_the_verdict_of_their_listener(
    forwarder: Forwarder, sockets: ExitStack, dns: PortalAddress
) -> None:
    pod = backend(sockets)
    forwarder.serve_portal(dns, everybody(internal(UDP)))
    route(forwarder, internal(UDP), pod.getsockname())
    asking = client(sockets, dns)
    asking.send(b"one")
    await received(pod)
    forwarder.update(Snapshot(internal(UDP), Verdict.REJECT))
    asking.send(b"two")
    statistics = forwarder.statistics(internal(UDP))
    await eventually(lambda: statistics.unserved == 1)
    forwarder.serve_portal(dns, everybody(external(UDP)))
    route(forwarder, external(UDP), pod.getsockname())
    asking.send(b"three")
    assert (await received(pod))[0] == b"three"
