"""Real requests to real servers on loopback."""

import asyncio
import io
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
import structlog
from aiohttp import web

from tests.telemetry.timestamps import Clock
from tests.telemetry.waiting import eventually
from userproxy.addresses import SocketAddress
from userproxy.errors import PortUnavailableError
from userproxy.model import IPFamily, Node
from userproxy.telemetry.health import Health
from userproxy.telemetry.http_connections import ConnectionBudget, Handler
from userproxy.telemetry.http_servers import BindPolicy, HttpServer, health_app, metrics_app
from userproxy.telemetry.logging import configure
from userproxy.telemetry.metrics import Metrics

ANY_PORT = SocketAddress("127.0.0.1", 0)


@pytest.fixture
def printed() -> object:
    out = io.StringIO()
    configure(0, "json", out)
    yield out
    structlog.reset_defaults()


@asynccontextmanager
async def serving(app: Handler, address: SocketAddress = ANY_PORT) -> AsyncIterator[str]:
    server = HttpServer("health", address, app, ConnectionBudget(8), BindPolicy())
    async with asyncio.TaskGroup() as group:
        task = group.create_task(server.run(), name="server")
        await eventually(lambda: server.bound is not None)
        yield f"http://{server.bound}"
        task.cancel()


class Bench:
    def __init__(self) -> None:
        self.clock = Clock()
        self.health = Health(30, (IPFamily.IPV4,))
        self.metrics = Metrics("0.1.0", (IPFamily.IPV4,))

    @property
    def health_app(self) -> Handler:
        return health_app(self.health, self.metrics, self.clock)

    @property
    def metrics_app(self) -> Handler:
        return metrics_app(self.metrics, lambda: {"kind": "KubeProxyConfiguration", "mode": ""})


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PURGE"])
async def test_the_health_port_answers_any_method(method: str) -> None:
    bench = Bench()
    async with serving(bench.health_app) as url, aiohttp.ClientSession() as client:
        async with client.request(method, f"{url}/healthz") as answer:
            assert answer.status == 503
            assert answer.headers["Content-Type"] == "application/json"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert await answer.read() == bench.health.healthz(bench.clock()).body
        async with client.request(method, f"{url}/livez") as answer:
            assert answer.status == 200
            assert await answer.read() == bench.health.livez(bench.clock()).body
        bench.health.family(IPFamily.IPV4).queued(bench.clock())
        bench.health.node_seen(Node("worker-1"))
        async with client.request(method, f"{url}/healthz") as answer:
            assert answer.status == 200


@pytest.mark.parametrize("path", ["/", "/metrics", "/healthz/", "/readyz"])
async def test_other_paths_are_not_found(path: str) -> None:
    async with serving(Bench().health_app) as url, aiohttp.ClientSession() as client, client.get(url + path) as answer:
        assert answer.status == 404


async def test_answers_are_counted_by_their_code() -> None:
    bench = Bench()
    async with serving(bench.health_app) as url, aiohttp.ClientSession() as client:
        for path in ("/healthz", "/healthz", "/livez"):
            async with client.get(url + path):
                pass
    text = (await bench.metrics.render()).decode().splitlines()
    assert 'kubeproxy_proxy_healthz_total{code="503"} 2.0' in text
    assert 'kubeproxy_proxy_livez_total{code="200"} 1.0' in text


@pytest.mark.parametrize(
    ("path", "content_type", "body"),
    [
        ("/healthz", "text/plain; charset=utf-8", b"ok"),
        ("/healthz?verbose", "text/plain; charset=utf-8", b"[+]ping ok\nhealthz check passed\n"),
        ("/proxyMode", "text/plain; charset=utf-8", b"userspace"),
        (
            "/configz",
            "application/json",
            b'{"kubeproxy.config.k8s.io":{"kind":"KubeProxyConfiguration","mode":""}}',
        ),
    ],
)
async def test_the_metrics_port_says_what_kube_proxys_says(path: str, content_type: str, body: bytes) -> None:
    async with serving(Bench().metrics_app) as url, aiohttp.ClientSession() as client, client.get(url + path) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == content_type
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert await answer.read() == body


async def test_metrics_are_prometheus_text() -> None:
    async with serving(Bench().metrics_app) as url, aiohttp.ClientSession() as client:
        async with client.get(f"{url}/metrics") as answer:
            assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            assert b'kubeproxy_proxy_livez_total{code="200"} 0.0\n' in await answer.read()
        async with client.get(f"{url}/livez") as answer:
            assert answer.status == 404


async def test_a_taken_port_is_tried_until_it_is_free_and_complained_of_once(printed: io.StringIO) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = SocketAddress(*taken.getsockname())
        server = HttpServer("health", address, Bench().health_app, ConnectionBudget(8), BindPolicy(retry_every=0.01))
        async with asyncio.TaskGroup() as group:
            task = group.create_task(server.run(), name="server")
            await eventually(lambda: bool(printed.getvalue()))
            await asyncio.sleep(0.1)  # several tries more, of which nothing is to be seen
            taken.close()
            await eventually(lambda: server.bound == address)
            async with aiohttp.ClientSession() as client, client.get(f"http://{address}/livez") as answer:
                assert answer.status == 200
            task.cancel()
    (line,) = printed.getvalue().splitlines()
    assert f'"health: cannot listen on {address}: Address already in use"' in line


async def test_hard_fail_says_why_and_ends(printed: io.StringIO) -> None:
    told: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = SocketAddress(*taken.getsockname())
        server = HttpServer(
            "metrics", address, Bench().metrics_app, ConnectionBudget(8), BindPolicy(hard_fail=True), told.append
        )
        with pytest.raises(PortUnavailableError, match=f"metrics: cannot listen on {address}: Address already in use"):
            await server.run()
    assert len(told) == 1
    assert printed.getvalue() == ""


async def test_a_predecessor_is_waited_for_in_silence_and_no_longer_than_it_may_be_there(printed: io.StringIO) -> None:
    there = [True]
    policy = BindPolicy(hard_fail=True, may_have_predecessor=lambda: there[0])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = SocketAddress(*taken.getsockname())
        server = HttpServer("health", address, Bench().health_app, ConnectionBudget(8), policy)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(server.run(), name="server")
            await asyncio.sleep(0.25)  # two tries, of which nothing is to be seen
            assert not task.done()
            taken.close()
            await eventually(lambda: server.bound == address)
            task.cancel()
    assert printed.getvalue() == ""
    there[0] = False
    with socket.create_server((address.host, address.port)), pytest.raises(PortUnavailableError):
        await HttpServer("health", address, Bench().health_app, ConnectionBudget(8), policy).run()


async def test_an_address_that_is_not_ours_is_a_failure_to_listen() -> None:
    server = HttpServer(
        "health", SocketAddress("192.0.2.1", 10256), Bench().health_app, ConnectionBudget(8), BindPolicy(hard_fail=True)
    )
    with pytest.raises(PortUnavailableError, match=r"192\.0\.2\.1:10256"):
        await server.run()


async def test_stopping_waits_neither_for_idle_nor_for_silent_clients() -> None:
    async with serving(Bench().health_app) as url, aiohttp.ClientSession() as client:
        async with client.get(f"{url}/livez") as answer:
            await answer.read()
        host, port = url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /livez HT")
        await writer.drain()
        stopping = time.monotonic()
    assert time.monotonic() - stopping < 2
    writer.close()


async def test_stopping_does_not_wait_for_an_answer_that_never_comes() -> None:
    asked = asyncio.Event()

    async def never(_request: web.BaseRequest) -> web.Response:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with serving(never) as url:
        host, port = url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asked.wait()
        stopping = time.monotonic()
    assert time.monotonic() - stopping < 2
    writer.close()


async def test_ipv6_is_written_in_brackets() -> None:
    async with serving(Bench().health_app, SocketAddress("::1", 0)) as url, aiohttp.ClientSession() as client:
        assert url.startswith("http://[::1]:")
        async with client.get(f"{url}/livez") as answer:
            assert answer.status == 200


async def test_all_ipv6_addresses_take_ipv4_clients_too() -> None:
    async with serving(Bench().health_app, SocketAddress("::", 0)) as url, aiohttp.ClientSession() as client:
        port = url.rpartition(":")[2]
        for host in ("127.0.0.1", "[::1]"):
            async with client.get(f"http://{host}:{port}/livez") as answer:
                assert answer.status == 200


async def test_noise_is_not_logged(printed: io.StringIO) -> None:
    async with serving(Bench().health_app) as url:
        host, port = url.removeprefix("http://").split(":")
        for noise in (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
            b"GET / HTTP/9.9 x\r\nbad header\r\n\r\n",
        ):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(noise)
            assert b" 400 " in await reader.readline()
            writer.close()
    assert printed.getvalue() == ""


async def test_a_bug_of_ours_is_logged(printed: io.StringIO) -> None:
    nothing: dict[str, dict[str, object]] = {}
    app = metrics_app(Metrics("0.1.0", (IPFamily.IPV4,)), lambda: nothing["no such key"])
    async with serving(app) as url, aiohttp.ClientSession() as client, client.get(f"{url}/configz") as answer:
        assert answer.status == 500
    assert "no such key" in printed.getvalue()
