"""Health check node ports: real requests on loopback, of both families."""

import asyncio
import json
import random
import socket
from collections.abc import AsyncIterator, Mapping, MutableMapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from userproxy.addresses import SocketAddress
from userproxy.model import HealthCheck, IPFamily, ProblemKind, ServiceName
from userproxy.proxier.health_checks import HealthCheckServers
from userproxy.telemetry.http_connections import ConnectionBudget

WEB, API = ServiceName("shop", "web"), ServiceName("shop", "api")
LOOPBACK = ("127.0.0.1",)

IN_USE = "cannot listen on 127.0.0.1:{0}: Address already in use"


class Bench:
    def __init__(self, family: IPFamily, addresses: tuple[str, ...] | None) -> None:
        self.healthy = True
        self.addresses = addresses
        self.told: list[tuple[ServiceName, str]] = []
        self.servers = HealthCheckServers(family, lambda: self.healthy, ConnectionBudget(32))

    async def sync(self, *checks: HealthCheck, has_predecessor: bool = False) -> None:
        for problem in await self.servers.sync(checks, self.addresses, has_predecessor=has_predecessor):
            assert (problem.kind, problem.here) == (ProblemKind.HEALTH_CHECK, True)
            assert problem.service is not None
            self.told.append((problem.service, problem.text))


@asynccontextmanager
async def opened(
    family: IPFamily = IPFamily.IPV4, addresses: tuple[str, ...] | None = LOOPBACK
) -> AsyncIterator[Bench]:
    bench = Bench(family, addresses)
    try:
        yield bench
    finally:
        await bench.servers.close()


def free_ports(count: int) -> list[int]:
    """Ports that nobody has, above those that Linux gives to outgoing connections."""
    found: set[int] = set()
    while len(found) < count:
        port = random.randrange(61_000, 65_536)
        with suppress(OSError), socket.create_server(("", port)):
            found.add(port)
    return list(found)


async def ask(
    port: int, host: str = "127.0.0.1", path: str = "/", method: str = "GET"
) -> tuple[int, Mapping[str, str], bytes]:
    """Status, headers and body of an answer; ClientConnectorError where nobody listens."""
    async with (
        aiohttp.ClientSession() as client,
        client.request(method, f"http://{SocketAddress(host, port)}{path}") as answer,
    ):
        return answer.status, answer.headers, await answer.read()


async def count_at(port: int) -> int:
    _, _, body = await ask(port)
    count: int = json.loads(body)["localEndpoints"]
    return count


async def name_at(port: int, host: str = "127.0.0.1") -> str:
    _, _, body = await ask(port, host)
    name: str = json.loads(body)["service"]["name"]
    return name


async def refuses(port: int, host: str = "127.0.0.1") -> bool:
    try:
        await ask(port, host)
    except aiohttp.ClientConnectorError:
        return True
    return False


def warnings(logs: Sequence[MutableMapping[str, Any]]) -> list[str]:
    return [line["event"] for line in logs if line["log_level"] == "warning"]


@pytest.mark.parametrize(
    ("count", "healthy", "status"), [(2, True, 200), (1, True, 200), (0, True, 503), (2, False, 503), (0, False, 503)]
)
async def test_an_answer_is_kube_proxys_byte_by_byte(count: int, healthy: bool, status: int) -> None:
    (port,) = free_ports(1)
    async with opened() as bench:
        bench.healthy = healthy
        await bench.sync(HealthCheck(WEB, port, count))
        answered, headers, body = await ask(port)
    assert answered == status
    assert body.decode() == (
        "{\n"
        '\t"service": {\n'
        '\t\t"namespace": "shop",\n'
        '\t\t"name": "web"\n'
        "\t},\n"
        f'\t"localEndpoints": {count},\n'
        f'\t"serviceProxyHealthy": {"true" if healthy else "false"}\n'
        "}"
    )
    assert headers["Content-Type"] == "application/json"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Load-Balancing-Endpoint-Weight"] == str(count)


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS", "PURGE"])
@pytest.mark.parametrize("path", ["/", "/healthz", "/a/b?c=d"])
async def test_every_path_and_method_answers_alike(method: str, path: str) -> None:
    (port,) = free_ports(1)
    async with opened() as bench:
        await bench.sync(HealthCheck(WEB, port, 1))
        _, _, expected = await ask(port)
        status, headers, body = await ask(port, path=path, method=method)
    assert (status, body) == (200, expected)
    assert headers["X-Load-Balancing-Endpoint-Weight"] == "1"


async def test_an_idle_connection_sees_each_new_count() -> None:
    (port,) = free_ports(1)
    async with opened() as bench, aiohttp.ClientSession() as client:
        seen = []
        for count in (0, 3, 1):
            await bench.sync(HealthCheck(WEB, port, count))
            async with client.get(f"http://127.0.0.1:{port}/") as answer:
                seen.append((answer.status, answer.headers["X-Load-Balancing-Endpoint-Weight"]))
                await answer.read()
    assert seen == [(503, "0"), (200, "3"), (200, "1")]


async def test_servers_come_move_and_go() -> None:
    first, second, third = free_ports(3)
    async with opened() as bench:
        await bench.sync(HealthCheck(WEB, first, 1), HealthCheck(API, second, 2))
        assert [await name_at(first), await name_at(second)] == ["web", "api"]
        await bench.sync(HealthCheck(WEB, third, 1), HealthCheck(API, second, 2))
        assert await refuses(first)
        assert [await name_at(third), await name_at(second)] == ["web", "api"]
        await bench.sync(HealthCheck(API, second, 2))
        assert await refuses(third)
        await bench.servers.close()
        assert await refuses(second)
        assert bench.told == []


async def test_two_services_exchange_their_ports() -> None:
    first, second = free_ports(2)
    async with opened() as bench:
        await bench.sync(HealthCheck(WEB, first, 1), HealthCheck(API, second, 2))
        await bench.sync(HealthCheck(WEB, second, 1), HealthCheck(API, first, 2))
        assert [await name_at(first), await name_at(second)] == ["api", "web"]
        assert bench.told == []


async def test_port_zero_has_no_server() -> None:
    async with opened() as bench:
        with capture_logs() as logs:
            await bench.sync(HealthCheck(WEB, 0, 1))
        assert (bench.told, logs) == ([], [])


async def test_a_taken_port_is_tried_and_told_at_each_sync_and_logged_once() -> None:
    (port,) = free_ports(1)
    async with opened() as bench:
        with capture_logs() as logs, socket.create_server(("127.0.0.1", port)):
            for count in (1, 2):
                await bench.sync(HealthCheck(WEB, port, count))
        reason = IN_USE.format(port)
        text = f"shop/web: health check node port {port} is not served: {reason}"
        assert bench.told == [(WEB, text)] * 2
        assert warnings(logs) == [text]
        await bench.sync(HealthCheck(WEB, port, 3))
        assert await count_at(port) == 3
        assert len(bench.told) == 2


async def test_the_same_failure_later_is_logged_again() -> None:
    port, other = free_ports(2)
    with capture_logs() as logs:
        async with opened() as bench:
            for _ in range(2):
                with socket.create_server(("127.0.0.1", port)):
                    await bench.sync(HealthCheck(WEB, port, 1))
                await bench.sync(HealthCheck(WEB, port, 1))
                assert await name_at(port) == "web"
                await bench.sync(HealthCheck(WEB, other, 1))
    assert len(warnings(logs)) == 2


async def test_a_service_that_gave_up_its_port_is_logged_anew() -> None:
    check = HealthCheck(WEB, free_ports(1)[0], 1)
    with capture_logs() as logs:
        async with opened() as bench:
            with socket.create_server(("127.0.0.1", check.port)):
                await bench.sync(check)
                await bench.sync()
                await bench.sync(check)
    assert len(warnings(logs)) == 2


async def test_of_two_services_with_one_port_the_first_has_it_and_keeps_it() -> None:
    (port,) = free_ports(1)
    web, api = HealthCheck(WEB, port, 1), HealthCheck(API, port, 1)
    async with opened() as bench:
        await bench.sync(web, api)
        await bench.sync(api, web)
        assert await name_at(port) == "web"
        assert [service for service, _ in bench.told] == [API, API]
        await bench.sync(api)
        assert await name_at(port) == "api"


async def test_while_a_predecessor_may_have_it_a_taken_port_is_told_and_not_logged() -> None:
    (port,) = free_ports(1)
    async with opened() as bench:
        with capture_logs() as logs, socket.create_server(("127.0.0.1", port)):
            await bench.sync(HealthCheck(WEB, port, 1), has_predecessor=True)
            assert len(bench.told) == 1
            assert warnings(logs) == []
            await bench.sync(HealthCheck(WEB, port, 1))
            assert len(warnings(logs)) == 1


async def test_a_port_that_moves_to_a_taken_one_is_given_up() -> None:
    port, other = free_ports(2)
    async with opened() as bench:
        await bench.sync(HealthCheck(WEB, port, 1))
        with socket.create_server(("127.0.0.1", other)):
            await bench.sync(HealthCheck(WEB, other, 1))
        assert await refuses(port)
        assert len(bench.told) == 1


async def test_all_given_addresses_answer_and_others_do_not() -> None:
    (port,) = free_ports(1)
    async with opened(addresses=("127.0.0.2", "127.0.0.3")) as bench:
        await bench.sync(HealthCheck(WEB, port, 1))
        assert [await name_at(port, host) for host in ("127.0.0.2", "127.0.0.3")] == ["web", "web"]
        assert await refuses(port)
        await bench.sync()
        assert await refuses(port, "127.0.0.2")
        assert await refuses(port, "127.0.0.3")


async def test_one_address_that_cannot_be_had_leaves_none() -> None:
    (port,) = free_ports(1)
    async with opened(addresses=("127.0.0.1", "192.0.2.1")) as bench:
        await bench.sync(HealthCheck(WEB, port, 1))
        assert await refuses(port)
        ((_, text),) = bench.told
        assert text.endswith(f"cannot listen on 192.0.2.1:{port}: Cannot assign requested address")
        with socket.create_server(("127.0.0.1", port)):
            pass


async def test_other_addresses_move_the_servers() -> None:
    (port,) = free_ports(1)
    async with opened(addresses=("127.0.0.2",)) as bench:
        await bench.sync(HealthCheck(WEB, port, 1))
        bench.addresses = ("127.0.0.3",)
        await bench.sync(HealthCheck(WEB, port, 1))
        assert await refuses(port, "127.0.0.2")
        assert await name_at(port, "127.0.0.3") == "web"


async def test_no_addresses_are_no_server() -> None:
    (port,) = free_ports(1)
    async with opened(addresses=()) as bench:
        await bench.sync(HealthCheck(WEB, port, 1))
        assert await refuses(port)
        assert bench.told == []


@pytest.mark.parametrize(
    ("family", "own", "other"), [(IPFamily.IPV4, "127.0.0.1", "::1"), (IPFamily.IPV6, "::1", "127.0.0.1")]
)
async def test_a_family_listens_on_all_its_addresses_and_leaves_the_other_alone(
    family: IPFamily, own: str, other: str
) -> None:
    (port,) = free_ports(1)
    async with opened(family, addresses=None) as bench:
        await bench.sync(HealthCheck(WEB, port, 1))
        assert await name_at(port, own) == "web"
        assert await refuses(port, other)
        if family is IPFamily.IPV4:
            assert await name_at(port, "127.0.0.9") == "web"


async def test_both_families_have_one_port_and_their_own_counts() -> None:
    (port,) = free_ports(1)
    async with opened(IPFamily.IPV4, None) as ipv4, opened(IPFamily.IPV6, None) as ipv6:
        await ipv4.sync(HealthCheck(WEB, port, 1))
        await ipv6.sync(HealthCheck(WEB, port, 0))
        assert [(await ask(port, host))[0] for host in ("127.0.0.1", "::1")] == [200, 503]


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"])
async def test_closing_waits_for_no_client(sent: bytes) -> None:
    (port,) = free_ports(1)
    async with opened() as bench:
        await bench.sync(HealthCheck(WEB, port, 1))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        await writer.drain()
        async with asyncio.timeout(20):  # aiohttp's own keep-alive and shutdown take 30 s and more
            await bench.sync()
            with suppress(ConnectionResetError):
                await reader.read()
        writer.close()
        assert await refuses(port)


@pytest.mark.parametrize("steps", range(5))
async def test_a_cancelled_sync_leaves_nothing_that_close_does_not_end(steps: int) -> None:
    (port,) = free_ports(1)
    async with opened(addresses=("127.0.0.1", "127.0.0.2")) as bench:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(bench.sync(HealthCheck(WEB, port, 1)), name="sync")
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
        await bench.servers.close()
        assert await refuses(port)
        assert await refuses(port, "127.0.0.2")
