"""``close`` against an admin server: what it asks, prints, and how it ends."""

import pytest

from tests.admin.planes import ONE
from tests.cli.served import Running
from tests.cli.steer.conftest import asks_for_nothing, good
from userproxy.model import Protocol
from userproxy.model.reports import Query


def test_connections_are_closed(proxy: Running) -> None:
    assert good(proxy, "close", "connections", "-l", "client=10.2.0.9,endpoint=10.1.0.1:8080") == (
        "1 connection closed\n"
    )
    assert good(proxy, "close", "connections", "default/web") == "2 connections closed\n"
    assert good(proxy, "close", "connections", "-l", "id=3000000000042") == "3 connections closed\n"
    assert [query for query, _ in proxy.api.steering.closed] == [
        Query(client="10.2.0.9", endpoint=ONE),
        Query("default", "web"),
        Query(connection=3_000_000_000_042),
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("close connections", "say which connections are to be closed: NS/NAME, -l client=IP"),
        ("close connections -n default", "say which connections are to be closed: NS/NAME, -l client=IP"),
        ("close connections -l protocol=TCP", "say which connections are to be closed: NS/NAME, -l client=IP"),
        ("close connections -l state=open", "is not KEY=VALUE with one of the keys client, endpoint, id, protocol"),
        ("close connections -l id=0", "-l: id: '0' is not the number of a connection"),
        ("close connections -l client=x", "-l: client: 'x' is not an IP address"),
    ],
)
def test_wrong_input_is_one_sentence_and_asks_for_nothing(proxy: Running, arguments: str, sentence: str) -> None:
    asks_for_nothing(proxy, arguments, sentence)


def test_all_that_is_said_has_to_hold(proxy: Running) -> None:
    good(proxy, "close", "conn", "web", "-n", "default", "-l", "client=10.2.0.9,protocol=TCP")
    ((query, _),) = proxy.api.steering.closed
    assert query == Query("default", "web", client="10.2.0.9", protocol=Protocol.TCP)


@pytest.mark.parametrize("kind", ["services", "portals", "endpoints"])
def test_nothing_else_can_be_closed(proxy: Running, kind: str) -> None:
    asks_for_nothing(proxy, f"close {kind} default/web", f"{kind!r} is not one of 'connections'")
