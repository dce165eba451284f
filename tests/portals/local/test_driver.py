import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.portals.conftest import Network, shell
from userproxy.errors import KernelToolError, PortUnavailableError
from userproxy.model import (
    Admission,
    IPFamily,
    Portal,
    PortalAddress,
    PortalBinding,
    PortalKind,
    Protocol,
    ServicePortName,
    Target,
    Verdict,
)
from userproxy.portals.interface import Cleaned, DriverOptions, PortalDriver
from userproxy.portals.local.driver import LocalDriver
from userproxy.portals.local.routes import LocalRoutes
from userproxy.sockets import share

WEB = ServicePortName("default", "web", "http", Protocol.TCP)
API = ServicePortName("default", "api", "http", Protocol.TCP)
SERVE = Target(Verdict.SERVE)
REJECT = Target(Verdict.REJECT)
FAMILY = IPFamily.IPV4


def cluster_ip(name: ServicePortName, ip: str, *more: Portal, target: Target = SERVE) -> PortalBinding:
    return PortalBinding(name, (Portal(PortalKind.CLUSTER_IP, ip, 80), *more), target, target, target)


def at(ip: str, port: int = 80) -> PortalAddress:
    return PortalAddress(ip, Protocol.TCP, port)


class Listeners:
    """Listens as the forwarder does, without anybody behind it; remembers who has what."""

    def __init__(self) -> None:
        self.sockets: dict[PortalAddress, socket.socket] = {}
        self.owners: dict[PortalAddress, ServicePortName] = {}
        self.calls = 0

    def serve_portal(self, address: PortalAddress, admission: Admission) -> None:
        if address not in self.sockets:
            made = socket.socket()
            share(made)
            try:
                made.bind((address.ip, address.port))
                made.listen()
            except OSError as error:
                made.close()
                raise PortUnavailableError(f"cannot listen there: {error.strerror}") from error
            self.calls += 1
            self.sockets[address] = made
        self.owners[address] = admission.listeners[0].service_port

    def leave_portal(self, address: PortalAddress) -> None:
        self.owners.pop(address, None)
        sock = self.sockets.pop(address, None)
        if sock is not None:
            sock.close()

    def close(self) -> None:
        for address in list(self.sockets):
            self.leave_portal(address)


Scenario = Callable[[LocalDriver, Listeners], Coroutine[Any, Any, None]]


@pytest.fixture
def play(network: Network) -> Callable[[Scenario], None]:
    """Runs a scenario with a driver in a network of its own."""
    network.shell("ip", "link", "set", "lo", "up")

    async def with_driver(scenario: Scenario) -> None:
        driver, listeners = LocalDriver(DriverOptions(FAMILY, "0.0.0.0")), Listeners()
        driver.listen_with(listeners)
        try:
            await scenario(driver, listeners)
        finally:
            listeners.close()
            await driver.close()

    return lambda scenario: network.run_loop(lambda: with_driver(scenario))


def me() -> str:
    """This process, as a program that is in the way is named."""
    return f"{Path('/proc/self/comm').read_text().strip()} (process {os.getpid()})"


def standing() -> frozenset[str]:
    return LocalRoutes(FAMILY).standing()


def test_portals_come_and_go_with_their_routes(play: Callable[[Scenario], None]) -> None:
    async def scenario(driver: LocalDriver, listeners: Listeners) -> None:
        node_port = Portal(PortalKind.NODE_PORT, "", 30080)
        done = await driver.sync([cluster_ip(WEB, "10.96.0.10", node_port), cluster_ip(API, "10.96.0.11")])
        assert (done.differed, done.refused) == (False, {})
        assert standing() == {"10.96.0.10", "10.96.0.11"}
        assert listeners.owners == {at("10.96.0.10"): WEB, at("10.96.0.11"): API, at("127.0.0.1", 30080): WEB}
        await driver.sync([cluster_ip(API, "10.96.0.12")], [WEB], verify=False)
        assert standing() == {"10.96.0.12"}
        assert listeners.owners == {at("10.96.0.12"): API}
        assert await driver.remove() == ["removed 1 local routes of IPv4"]
        assert standing() == set()

    play(scenario)


def test_an_address_that_two_service_ports_share_stays_while_one_needs_it(play: Callable[[Scenario], None]) -> None:
    async def scenario(driver: LocalDriver, listeners: Listeners) -> None:
        other = PortalBinding(API, (Portal(PortalKind.CLUSTER_IP, "10.96.0.10", 443),), SERVE, SERVE, SERVE)
        await driver.sync([cluster_ip(WEB, "10.96.0.10"), other])
        await driver.sync([], [WEB])
        assert standing() == {"10.96.0.10"}
        assert listeners.owners == {at("10.96.0.10", 443): API}
        await driver.sync([], [API])
        assert standing() == set()

    play(scenario)


def test_a_portal_that_changes_hands_in_one_sync_is_not_left_without_a_listener(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(driver: LocalDriver, listeners: Listeners) -> None:
        await driver.sync([cluster_ip(WEB, "10.96.0.10")])
        await driver.sync([cluster_ip(API, "10.96.0.10")], [WEB])
        assert listeners.owners == {at("10.96.0.10"): API}
        assert standing() == {"10.96.0.10"}

    play(scenario)


def test_refused_portals_have_a_route_and_no_listener(play: Callable[[Scenario], None]) -> None:
    async def scenario(driver: LocalDriver, listeners: Listeners) -> None:
        await driver.sync([cluster_ip(WEB, "10.96.0.10", target=REJECT)])
        assert standing() == {"10.96.0.10"}
        assert listeners.owners == {}
        with socket.socket() as client, pytest.raises(ConnectionRefusedError):
            client.connect(("10.96.0.10", 80))

    play(scenario)


def test_a_deleted_route_is_found_by_the_next_verification(play: Callable[[Scenario], None]) -> None:
    async def scenario(driver: LocalDriver, _listeners: Listeners) -> None:
        await driver.sync([cluster_ip(WEB, "10.96.0.10"), cluster_ip(API, "10.96.0.11")])
        LocalRoutes(FAMILY).remove(["10.96.0.10"])
        assert not (await driver.sync([], verify=False)).differed
        assert standing() == {"10.96.0.11"}
        assert (await driver.sync([])).differed
        assert standing() == {"10.96.0.10", "10.96.0.11"}
        assert not (await driver.sync([])).differed

    play(scenario)


def test_routes_that_an_earlier_process_left_go_unless_they_are_wanted(play: Callable[[Scenario], None]) -> None:
    async def scenario(driver: LocalDriver, _listeners: Listeners) -> None:
        LocalRoutes(FAMILY).add(["10.96.0.10", "10.96.0.99"])
        await driver.sync([cluster_ip(WEB, "10.96.0.10")])
        assert standing() == {"10.96.0.10"}

    play(scenario)


def test_a_port_that_another_program_has_on_every_address_is_told_and_tried_again(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(driver: LocalDriver, listeners: Listeners) -> None:
        with socket.create_server(("0.0.0.0", 80)):
            done = await driver.sync([cluster_ip(WEB, "10.96.0.10", Portal(PortalKind.EXTERNAL_IP, "203.0.113.5", 81))])
            assert done.refused == {WEB: f"10.96.0.10:80/TCP: {me()} listens on this port of every address"}
            assert listeners.owners == {at("203.0.113.5", 81): WEB}
            assert standing() == {"203.0.113.5"}, "clients of the other would reach the program"
        assert (await driver.sync([], verify=False)).refused == {}
        assert listeners.owners.keys() == {at("10.96.0.10"), at("203.0.113.5", 81)}
        assert standing() == {"10.96.0.10", "203.0.113.5"}

    play(scenario)


def test_node_ports_follow_the_node_s_addresses(play: Callable[[Scenario], None]) -> None:
    async def scenario(driver: LocalDriver, listeners: Listeners) -> None:
        node_port = PortalBinding(WEB, (Portal(PortalKind.NODE_PORT, "", 30080),), SERVE, SERVE, SERVE)
        await driver.sync([node_port])
        shell("ip", "address", "add", "192.0.2.10/32", "dev", "lo")
        await driver.sync([], verify=False)
        assert listeners.owners.keys() == {at("127.0.0.1", 30080), at("192.0.2.10", 30080)}
        shell("ip", "address", "del", "192.0.2.10/32", "dev", "lo")
        await driver.sync([], verify=False)
        assert listeners.owners.keys() == {at("127.0.0.1", 30080)}

    play(scenario)


def test_an_address_that_becomes_the_node_s_own_needs_no_route(play: Callable[[Scenario], None]) -> None:
    async def scenario(driver: LocalDriver, listeners: Listeners) -> None:
        await driver.sync([cluster_ip(WEB, "10.96.0.10")])
        shell("ip", "address", "add", "10.96.0.10/32", "dev", "lo")
        await driver.sync([], verify=False)
        assert standing() == set()
        assert listeners.owners == {at("10.96.0.10"): WEB}
        shell("ip", "address", "del", "10.96.0.10/32", "dev", "lo")
        await driver.sync([], verify=False)
        assert standing() == {"10.96.0.10"}

    play(scenario)


def test_without_the_lease_nothing_is_changed(play: Callable[[Scenario], None]) -> None:
    async def scenario(driver: LocalDriver, _listeners: Listeners) -> None:
        other = LocalDriver(DriverOptions(FAMILY, "0.0.0.0"))
        other.listen_with(Listeners())
        try:
            await driver.sync([cluster_ip(WEB, "10.96.0.10")])
            with pytest.raises(KernelToolError):
                await other.sync([cluster_ip(API, "10.96.0.11")])
            assert (await other.remove())[0].startswith("nothing, because")
        finally:
            await other.close()
        assert standing() == {"10.96.0.10"}

    play(scenario)


def test_cleanup_removes_what_any_process_has_left(network: Network) -> None:
    network.shell("ip", "link", "set", "lo", "up")
    network.run(lambda: LocalRoutes(FAMILY).add(["10.96.0.10", "10.96.0.11"]))
    cleaned = network.run(lambda: LocalDriver.clean_up(FAMILY))
    assert (cleaned.said, cleaned.failed) == (("removed 2 local routes of IPv4",), ())
    assert network.run(standing) == set()
    assert network.run(lambda: LocalDriver.clean_up(FAMILY)).said == ()


def test_a_sparing_cleanup_leaves_the_routes_by_which_connections_get_their_packets(network: Network) -> None:
    def scenario() -> tuple[Cleaned, frozenset[str], Cleaned]:
        LocalRoutes(FAMILY).add(["10.96.0.10", "10.96.0.11"])
        with socket.create_server(("10.96.0.10", 0)) as listening:
            with socket.create_connection(listening.getsockname()), listening.accept()[0]:
                spared = LocalDriver.clean_up(FAMILY, sparing=True)
                left = standing()
            listening.close()
            return spared, left, LocalDriver.clean_up(FAMILY)

    spared, left, then = network.run(scenario)
    assert (spared.said, spared.in_use) == (("removed 1 local routes of IPv4",), ("1 local routes of IPv4",))
    assert (left, then.said) == (frozenset({"10.96.0.10"}), ("removed 1 local routes of IPv4",))


@asynccontextmanager
async def watched(driver: PortalDriver) -> AsyncIterator[asyncio.Event]:
    """An event that is set whenever the driver's watch reports something."""
    told = asyncio.Event()
    task = asyncio.create_task(driver.watch(told.set))  # noqa: TID251 -- it ends with the block
    try:
        yield told
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


LISTENS_EVERYWHERE = "import socket; s = socket.create_server(('0.0.0.0', 22)); print(flush=True); input()"


async def is_told(told: asyncio.Event, seconds: float = 10.0) -> bool:
    try:
        await asyncio.wait_for(told.wait(), seconds)
    except TimeoutError:
        return False
    told.clear()
    return True


DISTURBANCES = {
    "a route is deleted": ("ip", "route", "del", "local", "10.96.0.10", "dev", "lo", "table", "local"),
    "all of ours are": ("ip", "route", "flush", "table", "local", "proto", "117"),
    "one is replaced": ("ip", "route", "replace", "unreachable", "10.96.0.10", "table", "local"),
    "an address comes": ("ip", "address", "add", "192.0.2.10/32", "dev", "lo"),
}


@pytest.mark.parametrize("what", DISTURBANCES)
def test_what_others_do_to_routes_and_addresses_is_told_and_repaired(
    play: Callable[[Scenario], None], what: str
) -> None:
    async def scenario(driver: LocalDriver, _listeners: Listeners) -> None:
        async with watched(driver) as told:
            await driver.sync([cluster_ip(WEB, "10.96.0.10"), cluster_ip(API, "10.96.0.11")])
            shell(*DISTURBANCES[what])
            assert await is_told(told)
            await driver.sync([])
        assert standing() == {"10.96.0.10", "10.96.0.11"}

    play(scenario)


def test_routes_of_others_stay_theirs(play: Callable[[Scenario], None]) -> None:
    """The kernel's own broadcast route, and one by which a cloud's agent makes a load-balancer IP local."""

    async def scenario(driver: LocalDriver, listeners: Listeners) -> None:
        shell("ip", "link", "add", "eth0", "type", "bridge")
        shell("ip", "link", "set", "eth0", "up")
        shell("ip", "address", "add", "192.0.2.10/24", "dev", "eth0")
        shell("ip", "route", "add", "local", "203.0.113.7", "dev", "eth0", "table", "local", "proto", "66")
        before = shell("ip", "route", "show", "table", "local")
        external = (Portal(PortalKind.EXTERNAL_IP, ip, 80) for ip in ("192.0.2.255", "203.0.113.7"))
        await driver.sync([PortalBinding(WEB, (*external,), SERVE, SERVE, SERVE)])
        for _ in range(2):
            assert not (await driver.sync([])).differed
            assert shell("ip", "route", "show", "table", "local") == before
        assert at("203.0.113.7") in listeners.owners
        await driver.sync([], [WEB])
        assert shell("ip", "route", "show", "table", "local") == before

    play(scenario)


def test_own_changes_and_others_routes_disturb_nobody(play: Callable[[Scenario], None]) -> None:
    async def scenario(driver: LocalDriver, _listeners: Listeners) -> None:
        async with watched(driver) as told:
            await driver.sync([cluster_ip(WEB, "10.96.0.10"), cluster_ip(API, "10.96.0.11")])
            await driver.sync([cluster_ip(WEB, "10.96.0.12")], [API], verify=False)
            shell("ip", "route", "add", "local", "198.51.100.9", "dev", "lo", "table", "local")
            shell("ip", "route", "del", "local", "198.51.100.9", "dev", "lo", "table", "local")
            assert not await is_told(told, 0.6)

    play(scenario)


def test_a_program_that_has_gone_is_noticed(play: Callable[[Scenario], None]) -> None:
    async def scenario(driver: LocalDriver, listeners: Listeners) -> None:
        with socket.create_server(("0.0.0.0", 80)):
            assert (await driver.sync([cluster_ip(WEB, "10.96.0.10")])).refused
        async with watched(driver) as told:
            assert await is_told(told)
        assert not (await driver.sync([])).refused
        assert listeners.owners == {at("10.96.0.10"): WEB}

    play(scenario)


def test_a_sync_touches_only_what_it_is_about(play: Callable[[Scenario], None]) -> None:
    async def scenario(driver: LocalDriver, listeners: Listeners) -> None:
        names = [ServicePortName("default", f"s{number}", "http", Protocol.TCP) for number in range(50)]
        await driver.sync([cluster_ip(name, f"10.96.1.{number}") for number, name in enumerate(names)])
        shell("ip", "address", "add", "192.0.2.10/32", "dev", "lo")
        before = listeners.calls
        await driver.sync([cluster_ip(WEB, "10.96.0.10")], verify=False)
        await driver.sync([])
        assert listeners.calls == before + 1
        assert len(standing()) == 51

    play(scenario)


def test_programs_that_listen_everywhere_are_told_of_once(play: Callable[[Scenario], None]) -> None:
    async def scenario(driver: LocalDriver, _listeners: Listeners) -> None:
        command = [sys.executable, "-c", LISTENS_EVERYWHERE]
        with (
            capture_logs() as logs,
            socket.create_server(("0.0.0.0", 10256)),
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other,
        ):
            assert other.stdout is not None
            other.stdout.readline()
            await driver.sync([cluster_ip(WEB, "10.96.0.10")])
            await driver.sync([])
            other.terminate()
        told = [each for each in logs if "listeners" in each]
        name = Path(sys.executable).name[:15]  # TASK_COMM_LEN
        assert [each["listeners"] for each in told] == [f"TCP 22 of {name} (process {other.pid})"], "and not of ours"

    play(scenario)
