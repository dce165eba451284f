"""The items of lists, their order and their pages."""

from pathlib import Path

import pytest

from tests.admin.planes import DNS, ONE, TWO, WEB, connection, decision, served
from userproxy.model import Problem, ProblemKind, ServicePortName
from userproxy.model.reports import ConnectionState, Outcome


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
