"""The admin API over its socket, asked by the client that commands have."""

import asyncio
import os
from pathlib import Path

import pytest

from tests.admin.planes import DNS, ONE, TWO, WEB, connection, served
from tests.turns import watched_turns
from userproxy.admin.client import AdminError
from userproxy.model import Problem, ProblemKind, ServicePortName
from userproxy.model.reports import Attempt, ConnectionState, Decision, Outcome, SocketAddress


def decision(number: int, verdict: Outcome = Outcome.SERVED) -> Decision:
    report = connection(number)
    tried = (Attempt(TWO, "connection refused"),) if verdict is Outcome.RETRIED else ()
    return Decision(
        1.7e9 + number, report.listener, SocketAddress("10.2.0.9", 5), None, ONE, verdict, tried=tried, id=number
    )


async def test_a_service_port_is_one_item(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        api.control.add(WEB, ONE, TWO)
        assert await api.get("services") == {
            "items": [
                {
                    "namespace": "default",
                    "name": "web",
                    "port": "http",
                    "protocol": "TCP",
                    "portals": ["10.96.0.10:80"],
                    "balancer": "round-robin",
                    "affinity": "None",
                    "endpoints": {"usable": 2, "all": 2},
                    "active": 0,
                    "total": 0,
                    "failed": 0,
                    "retried": 0,
                    "bytes_up": 0,
                    "bytes_down": 0,
                    "client_address": "node",
                    "proxy_protocol": None,
                    "accept_proxy_protocol": None,
                    "limits": None,
                    "limited": 0,
                    "hold": None,
                    "held": 0,
                    "waiting": 0,
                    "ejected": 0,
                }
            ],
            "next": None,
        }


async def test_connections_have_the_documented_fields(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        api.data.open = [connection(7)]
        assert await api.items("connections") == [
            {
                "id": 7,
                "service": "default/web",
                "port": "http",
                "protocol": "TCP",
                "client": "10.2.0.9:1031",
                "portal": "10.96.0.10:80",
                "endpoint": "10.1.0.1:8080",
                "state": "open",
                "age_seconds": 1.234568,
                "idle_seconds": 0.5,
                "bytes_up": 100,
                "bytes_down": 2000,
                "retries": 0,
                "dial_seconds": 0.00025,
                "source": "client",
                "source_address": "10.2.0.9:61001",
                "faults": "",
            }
        ]


@pytest.mark.parametrize("route", ["services", "endpoints", "portals"])
async def test_pages_of_any_size_have_each_item_once_and_in_order(tmp_path: Path, route: str) -> None:
    names = [ServicePortName(f"ns-{n % 3}", f"s-{n}", "", WEB.protocol) for n in range(20)]
    async with served(tmp_path) as api:
        for n, name in enumerate(names):
            api.control.add(name, ONE, TWO, ip=f"10.96.1.{n}")
        everything = await api.items(route)
        assert len(everything) == (40 if route == "endpoints" else 20)
        for size in (1, 3, 19, 20, 40):
            assert await api.all_items(route, limit=size) == everything


async def test_pages_of_connections_decisions_and_problems(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        api.data.open = [connection(number) for number in range(1, 12)]
        api.data.made = [decision(number) for number in range(1, 12)]
        api.control.found = frozenset(
            Problem(WEB.service, ProblemKind.PORT_CONFLICT, f"default/web: {number:02}") for number in range(11)
        )
        for route in ("connections", "decisions", "problems"):
            everything = await api.items(route)
            assert len(everything) == 11
            assert await api.all_items(route, limit=4) == everything


async def test_filters(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        api.control.add(WEB, ONE, TWO)
        api.control.add(DNS, TWO)
        api.data.open = [connection(1), connection(2, DNS, state=ConnectionState.DRAINING)]
        for asked, found in (
            ({"namespace": "default"}, ["web"]),
            ({"service": "dns"}, ["dns"]),
            ({"protocol": "UDP"}, ["dns"]),
            ({"endpoint": "10.1.0.1"}, ["web"]),
            ({"endpoint": "10.1.0.2:8080"}, ["web", "dns"]),
            ({"endpoint": "10.1.0.2:81"}, []),
        ):
            assert [each["name"] for each in await api.items("services", **asked)] == found, asked
        assert [each["endpoint"] for each in await api.items("endpoints", endpoint="10.1.0.1")] == ["10.1.0.1:8080"]
        assert [each["id"] for each in await api.items("connections", state=["open", "dialing"])] == [1]
        assert [each["id"] for each in await api.items("connections", namespace="kube-system")] == [2]


async def test_a_decision_says_what_was_tried(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        api.data.made = [decision(1, Outcome.RETRIED), decision(1), decision(2, Outcome.RESET)]
        found = await api.items("decisions", verdict=["retried", "served"])
        assert [each["verdict"] for each in found] == ["retried", "served"]
        assert found[0]["time"] == "2023-11-14T22:13:21.000000Z"
        assert found[0]["tried"] == [{"endpoint": "10.1.0.2:8080", "reason": "connection refused"}]
        assert [each["verdict"] for each in await api.items("decisions", last=1)] == ["reset"]


@pytest.mark.parametrize(
    ("route", "asked", "sentence"),
    [
        ("services", {"limit": 0}, "limit: '0' is not a number from 1 to 1000000"),
        ("services", {"colour": "red"}, "there is no parameter 'colour' here, only namespace, service, "),
        ("services", {"client": "10.0.0.1"}, "there is no parameter 'client' here"),
        ("services", {"service": "a/b"}, "service: 'a/b' is not the name of a Service, without its namespace"),
        ("version", {"limit": 1}, "there is no parameter 'limit' here, none at all"),
        ("connections", {"client": "10.0.0.300"}, "client: '10.0.0.300' is not an IP address"),
        (
            "connections",
            {"endpoint": "10.0.0.1:70000"},
            "endpoint: '10.0.0.1:70000' is not an endpoint such as 10.0.0.1",
        ),
        ("connections", {"state": "odd"}, "state: 'odd' is not one of dialing, held, open, half-closed, draining"),
        ("connections", {"after": "x"}, "after: 'x' is not the `next` of this list"),
        ("connections", {"limit": ["1", "2"]}, "limit is given twice"),
        ("nothing", {}, "there is no /v1/nothing here, but /v1/services, "),
    ],
)
async def test_bad_questions_are_answered_with_a_sentence(
    tmp_path: Path, route: str, asked: dict[str, str], sentence: str
) -> None:
    async with served(tmp_path) as api:
        with pytest.raises(AdminError) as caught:
            await api.get(route, **asked)
        assert str(caught.value).startswith(sentence)


async def test_objects(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        assert (await api.get("version"))["api"] == "v1"
        assert (await api.get("status"))["in_sync"] is True
        assert (await api.get("configuration"))["userproxy"] == {"at_stop": "remove"}
        assert "/v1/connections" in (await api.get("openapi.json"))["paths"]


async def test_ten_thousand_connections_are_written_in_pieces(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        api.data.open = [connection(number) for number in range(1, 10_001)]
        async with watched_turns() as turns:
            reader, writer = await asyncio.open_unix_connection(os.fspath(api.path))
            writer.write(b"GET /v1/connections HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            size = 0
            while piece := await reader.read(65536):
                size += len(piece)
            writer.close()
        assert size > 2_500_000
        assert turns.longest < 0.02
