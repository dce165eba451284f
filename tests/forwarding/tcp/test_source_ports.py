"""Local ports: those in TIME_WAIT are found again, on a host that has fifty."""

import asyncio
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random

import pytest
from structlog.testing import capture_logs

from tests.forwarding.clocked import Clock
from tests.forwarding.conftest import NAME, RESET, Handler, echo
from userproxy.demo.hosts import Host
from userproxy.forwarding.assembly.options import ForwardingOptions
from userproxy.forwarding.forwarder import Forwarder
from userproxy.forwarding.ports import ranges
from userproxy.forwarding.ports.ranges import PortRange
from userproxy.forwarding.tcp.source_ports import SourcePorts
from userproxy.model import Endpoint, IPFamily, ListenerName, Snapshot, Verdict

ENDPOINT = Endpoint("10.0.0.1", 80)
OTHER = Endpoint("10.0.0.2", 80)
LISTENER = 30_000
PORTS = range(40_000, 40_050)
CLIENTS = iter(range(50_000, 60_000))
"""Ports for clients, who thus leave those of the range alone."""


@pytest.fixture
def host(root: None) -> Iterator[Host]:
    """A host with few local ports. On loopback addresses the kernel itself would use them again (tcp_tw_reuse)."""
    with Host("node") as host:
        # Without nodad nobody may bind to the IPv6 address until a worker of the kernel has come round to it.
        host.ip_batch(
            [f"addr add {ip} dev lo{' nodad' * (':' in ip)}" for ip in ("10.0.0.1/32", "10.0.0.2/32", "fd00::1/128")]
        )
        host.sysctl("net.ipv4.ip_local_port_range", f"{PORTS.start} {PORTS.stop - 1}")
        host.sysctl("net.ipv4.tcp_tw_reuse", 0)
        yield host


class Node:
    """A forwarder on the host, and its backends."""

    def __init__(self, forwarder: Forwarder, host: str, stack: AsyncExitStack) -> None:
        self._forwarder = forwarder
        self._name = ListenerName(NAME.service_port, IPFamily.IPV6 if ":" in host else IPFamily.IPV4)
        self._stack = stack
        self.address = (host, forwarder.open(self._name))

    @property
    def failures(self) -> tuple[int, int]:
        """Failed dials, and clients that were not served."""
        statistics = self._forwarder.statistics(self._name)
        return statistics.dial_failures, statistics.unserved

    def route_to(self, *endpoints: Endpoint) -> None:
        self._forwarder.update(Snapshot(self._name, Verdict.SERVE, endpoints, None))

    async def serve(self, endpoint: Endpoint, handler: Handler = echo) -> None:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await handler(reader, writer)
            writer.close()

        await self._stack.enter_async_context(await asyncio.start_server(handle, endpoint.ip, endpoint.port))

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self.address, local_addr=(self.address[0], next(CLIENTS)))

    async def ask(self) -> bytes:
        """What is answered to a client that closes first."""
        reader, writer = await self.connect()
        try:
            writer.write(b"hello")
            writer.write_eof()
            return await asyncio.wait_for(reader.read(), 10)
        finally:
            writer.close()


def answer(name: bytes) -> Handler:
    """A backend that hears its client out and says its name."""

    async def say_name(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.write(name)

    return say_name


def on(host: Host, scenario: Callable[[Node], Awaitable[None]], address: str = "10.0.0.1") -> None:
    """Run a scenario in the host."""

    async def run() -> None:
        addresses = dict.fromkeys(IPFamily, address)
        options = ForwardingOptions(addresses, PortRange(LISTENER, LISTENER), False, 60.0, 10_000)
        forwarder = Forwarder(asyncio.get_running_loop(), options, Random(1))
        try:
            async with AsyncExitStack() as stack:
                await scenario(Node(forwarder, address, stack))
        finally:
            forwarder.shut_down()

    host.inside(asyncio.run, run())


@pytest.mark.parametrize("endpoint", [ENDPOINT, Endpoint("fd00::1", 80)])
def test_more_short_connections_than_ports_are_served(host: Host, endpoint: Endpoint) -> None:
    async def scenario(node: Node) -> None:
        await node.serve(endpoint)
        node.route_to(endpoint)
        assert Counter([await node.ask() for _ in range(200)]) == {b"hello": 200}
        assert node.failures == (0, 0)

    on(host, scenario, endpoint.ip)
    assert 0 < host.inside(waiting_ports, endpoint) <= len(PORTS) // 4 + 1


def waiting_ports(endpoint: Endpoint) -> int:
    """How many ports are in TIME_WAIT towards an endpoint (proc(5), /proc/net/tcp)."""
    table = "tcp6" if ":" in endpoint.ip else "tcp"
    rows = [line.split() for line in Path("/proc/thread-self/net", table).read_text().splitlines()]
    return sum(row[2].endswith(f":{endpoint.port:04X}") and row[3] == "06" for row in rows)


def test_without_ports_towards_one_endpoint_clients_go_to_another_and_a_warning_says_why(host: Host) -> None:
    async def scenario(node: Node) -> None:
        await node.serve(ENDPOINT, answer(b"one"))
        await node.serve(OTHER, answer(b"other"))
        node.route_to(ENDPOINT, OTHER)
        taken = [socket.create_connection((ENDPOINT.ip, ENDPOINT.port)) for _ in PORTS]
        assert Counter([await node.ask() for _ in range(20)]) == {b"other": 20}
        for sock in taken:  # with a RST: no TIME_WAIT
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            sock.close()
        assert Counter([await node.ask() for _ in range(20)]) == {b"one": 10, b"other": 10}, "a suspect"
        assert node.failures == (0, 0)

    with capture_logs() as logs:
        on(host, scenario)
    warnings = [entry for entry in logs if entry["log_level"] == "warning"]
    assert len(warnings) == 1
    assert "net.ipv4.ip_local_port_range" in warnings[0]["event"]
    assert warnings[0]["endpoint"] == "10.0.0.1:80"
    assert warnings[0]["ip_local_port_range"] == "40000-40049"


def test_ports_that_another_process_has_left_are_found_where_there_are_no_others(host: Host) -> None:
    async def scenario(node: Node) -> None:
        await node.serve(ENDPOINT)
        node.route_to(ENDPOINT)
        kept = [await node.connect() for _ in PORTS]
        for reader, writer in kept:
            writer.write_eof()
            assert await reader.read() == b""
            writer.close()
        assert waiting_ports(ENDPOINT) == len(PORTS)
        options = ForwardingOptions(dict.fromkeys(IPFamily, ENDPOINT.ip), PortRange(), False, 60.0, 10_000)
        other = Forwarder(asyncio.get_running_loop(), options, Random(1))
        try:
            second = Node(other, ENDPOINT.ip, AsyncExitStack())
            second.route_to(ENDPOINT)
            assert Counter([await second.ask() for _ in range(60)]) == {b"hello": 60}
            assert second.failures == (0, 0)
        finally:
            other.shut_down()

    on(host, scenario)


def test_without_any_port_a_client_is_reset_and_the_endpoint_not_blamed(host: Host) -> None:
    async def scenario(node: Node) -> None:
        await node.serve(ENDPOINT)
        node.route_to(ENDPOINT)
        taken = [socket.create_connection((ENDPOINT.ip, ENDPOINT.port)) for _ in PORTS]
        with pytest.raises(ConnectionResetError):
            await node.ask()
        for sock in taken:
            sock.close()
        assert node.failures == (0, 1)

    on(host, scenario)


def test_an_endpoint_that_no_address_reaches_is_a_failure_like_any_other(host: Host) -> None:
    """connect(2) says EADDRNOTAVAIL then, too."""
    unreachable = Endpoint("2001:db8::1", 80)

    async def scenario(node: Node) -> None:
        node.route_to(unreachable)
        with pytest.raises(ConnectionResetError):
            await node.ask()
        assert node.failures == (4, 1)

    host.ip_batch(["addr del fd00::1/128 dev lo", "addr del ::1/128 dev lo", "route add 2001:db8::/64 dev lo"])
    with capture_logs() as logs:
        on(host, scenario)
    assert not [entry for entry in logs if entry["log_level"] == "warning"]


def noted(count: int) -> tuple[SourcePorts, Clock]:
    clock = Clock()
    ports = SourcePorts(clock)
    for port in range(count):
        ports.note(ENDPOINT, port)
    return ports, clock


def test_ports_are_taken_oldest_first_and_once() -> None:
    ports, clock = noted(2)
    clock.now += 30
    ports.note(ENDPOINT, 2)
    assert [ports.take(ENDPOINT) for _ in range(4)] == [0, 1, 2, None]
    assert ports.take(OTHER) is None


@pytest.mark.parametrize("steps", [[50.0], [25.0, 25.0], [49.0, 1.0], [10.0] * 5])
def test_a_port_is_forgotten_before_its_time_wait_has_ended(steps: list[float]) -> None:
    ports, clock = noted(1)
    for step in steps:
        clock.now += step
        ports.take(OTHER)
    assert ports.take(ENDPOINT) is None


@pytest.mark.parametrize("seconds", [0.0, 24.0, 49.0])
def test_a_port_is_remembered_for_some_time(seconds: float) -> None:
    ports, clock = noted(1)
    clock.now += seconds
    assert ports.take(ENDPOINT) == 0


def test_an_endpoint_is_crowded_from_a_quarter_of_the_ports_on_until_half_of_them_are_used(host: Host) -> None:
    ports, _ = host.inside(noted, len(PORTS) // 4 - 1)
    assert not ports.crowded
    ports.note(ENDPOINT, 99)
    assert ports.crowded == {ENDPOINT}
    while ENDPOINT in ports.crowded:
        assert ports.take(ENDPOINT) is not None
    assert ports.take(ENDPOINT) is not None


def test_crowds_disperse_with_time() -> None:
    ports, clock = noted(10_000)
    assert ports.crowded == {ENDPOINT}
    clock.now += 60
    ports.note(OTHER, 1)
    assert not ports.crowded


@pytest.fixture
def port_range(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[int], None]:
    """Lets the node have so many local ports."""
    monkeypatch.setattr(ranges, "_NET", tmp_path)

    def have(count: int) -> None:
        (tmp_path / "ip_local_port_range").write_text(f"40000\t{40_000 + count - 1}\n")

    return have


@pytest.mark.parametrize(("count", "quarter"), [(3, 1), (8, 2), (99, 24), (100, 25), (103, 25), (104, 26)])
def test_a_quarter_of_the_ports_is_a_crowd(port_range: Callable[[int], None], count: int, quarter: int) -> None:
    port_range(count)
    assert not noted(quarter - 1)[0].crowded
    assert noted(quarter)[0].crowded == {ENDPOINT}


def test_several_processes_have_a_part_of_the_ports_each(port_range: Callable[[int], None]) -> None:
    port_range(160)
    ports = SourcePorts(Clock(), processes=2)
    assert [ports.is_to_be_noted(ENDPOINT) for _ in range(6)] == [False] * 5 + [True]
    for port in range(14):
        ports.note(ENDPOINT, port)
    assert not ports.crowded
    ports.note(ENDPOINT, 14)
    assert ports.crowded == {ENDPOINT}


def test_a_crowd_is_counted_over_both_generations_and_outlives_one(port_range: Callable[[int], None]) -> None:
    port_range(100)
    ports, clock = noted(20)
    clock.now += 30
    for port in range(20, 25):
        assert not ports.crowded
        ports.note(ENDPOINT, port)
    assert ports.crowded == {ENDPOINT}
    ports, clock = noted(25)
    clock.now += 30
    assert ports.take(OTHER) is None
    assert ports.crowded == {ENDPOINT}


def test_a_crowd_has_dispersed_once_half_of_its_ports_are_used_again(port_range: Callable[[int], None]) -> None:
    port_range(100)
    ports, _ = noted(25)
    crowded = []
    for port in range(25):
        assert ports.take(ENDPOINT) == port
        crowded.append(bool(ports.crowded))
    assert crowded == [True] * 13 + [False] * 12


def test_the_last_port_of_a_small_crowd_leaves_none(port_range: Callable[[int], None]) -> None:
    port_range(3)
    ports, _ = noted(1)
    assert [ports.take(ENDPOINT), ports.take(ENDPOINT)] == [0, None]
    assert not ports.crowded


@pytest.mark.parametrize(("count", "sixteenth"), [(3, 1), (31, 1), (32, 2), (160, 10)])
def test_ports_are_noted_from_a_sixteenth_of_them_on(
    port_range: Callable[[int], None], count: int, sixteenth: int
) -> None:
    port_range(count)
    ports, _ = noted(0)
    wanted = [ports.is_to_be_noted(ENDPOINT) for _ in range(sixteenth + 2)]
    assert wanted == [False] * sixteenth + [True, True]
    assert ports.busy == {ENDPOINT}
    assert not ports.is_to_be_noted(OTHER)


def test_connections_are_counted_together_until_ports_are_noted(port_range: Callable[[int], None]) -> None:
    port_range(16 * 16 * 5)
    ports, clock = noted(0)
    assert ports.at_once == 1, "nobody knows yet how many ports there are"
    assert not ports.is_to_be_noted(ENDPOINT)
    assert ports.at_once == 5
    assert not ports.is_to_be_noted(ENDPOINT, 74)
    assert ports.at_once == 5
    assert not ports.is_to_be_noted(ENDPOINT, 5)
    assert (ports.at_once, ports.busy) == (1, {ENDPOINT})
    assert ports.is_to_be_noted(ENDPOINT)
    clock.now += 60
    assert not ports.is_to_be_noted(OTHER)
    assert ports.at_once == 5


def test_connections_whose_ports_are_not_noted_count_for_the_crowd(port_range: Callable[[int], None]) -> None:
    port_range(160)
    ports, _ = noted(0)
    while not ports.is_to_be_noted(ENDPOINT):
        pass
    for port in range(29):
        ports.note(ENDPOINT, port)
    assert not ports.crowded
    ports.note(ENDPOINT, 29)
    assert ports.crowded == {ENDPOINT}


def test_an_endpoint_is_busy_as_long_as_its_ports_are_noted(port_range: Callable[[int], None]) -> None:
    port_range(32)
    ports, clock = noted(0)
    assert [ports.is_to_be_noted(ENDPOINT) for _ in range(3)] == [False, False, True]
    ports.note(ENDPOINT, 1)
    clock.now += 30
    assert ports.is_to_be_noted(ENDPOINT)
    clock.now += 30
    assert [ports.is_to_be_noted(ENDPOINT) for _ in range(3)] == [False, False, True]
    assert ports.take(ENDPOINT) is None


def taken(ports: SourcePorts, endpoint: Endpoint = ENDPOINT) -> list[int]:
    found = []
    while (port := ports.take(endpoint)) is not None:
        found.append(port)
    return found


def test_another_process_has_ports_for_as_long_as_this_one_would() -> None:
    clock = Clock()
    ours, its = SourcePorts(clock), SourcePorts(clock)
    ours.note(ENDPOINT, 1)
    clock.now += 26
    ours.note(ENDPOINT, 2)
    ours.note(OTHER, 3)
    clock.now += 10
    for state in ours.states():
        its.restore(state)
    assert taken(its, OTHER) == [3]
    assert taken(its) == [1, 2]
    for state in ours.states():
        its.restore(state)
    clock.now += 16  # the first generation is over, that is 52 s after the first port was noted
    assert taken(its) == taken(ours) == [2]


def test_ports_of_several_processes_are_kept_no_longer_than_by_any_of_them() -> None:
    clock = Clock()
    early, late, its = SourcePorts(clock), SourcePorts(clock), SourcePorts(clock)
    early.note(ENDPOINT, 1)
    clock.now += 20
    late.note(ENDPOINT, 2)
    for ports in (late, early):
        for state in ports.states():
            its.restore(state)
    clock.now += 24
    assert sorted(taken(its)) == [1, 2]
    for ports in (late, early):
        for state in ports.states():
            its.restore(state)
    clock.now += 10
    assert taken(its) == [2], "the other one has been in TIME_WAIT for 54 s"


def test_each_port_is_one_process_s() -> None:
    ours = SourcePorts(Clock())
    for port in range(2500):
        ours.note(ENDPOINT, port)
    states = list(ours.states())
    assert [len(state.ports) for state in states] == [1000, 1000, 500]
    found = [port for state in states for share in state.shared(3) for port in share.ports]
    assert sorted(found) == list(range(2500))
