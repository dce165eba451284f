"""``drain``, ``undrain``, ``close`` and ``fault`` against an admin server: what they ask, print, and how they end."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.admin.planes import DNS, ONE, TWO, WEB, Served
from tests.cli.served import Running, running
from userproxy.model.faults import (
    Bandwidth,
    Blackhole,
    Direction,
    Drop,
    Effect,
    Latency,
    Refuse,
    ResetAfterBytes,
    ResetAfterSeconds,
)
from userproxy.model.reports import Query


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path) as found:

        def fill(api: Served) -> None:
            api.control.add(WEB, ONE, TWO)
            api.control.add(DNS, TWO, ip="10.96.0.53", port=53)
            api.may_have_faults = True

        found.tell(fill)
        yield found
        found.tell(lambda api: api.drains.shut_down())


def good(proxy: Running, *arguments: str) -> str:
    found = proxy.run(*arguments)
    assert (found.exit_code, found.stderr) == (0, "")
    return found.stdout


def bad(proxy: Running, *arguments: str, code: int = 2) -> str:
    found = proxy.run(*arguments)
    assert (found.exit_code, found.stdout) == (code, "")
    assert found.stderr.count("\n") == 1 or "Usage:" in found.stderr
    return found.stderr


def test_an_endpoint_is_drained_and_undrained(proxy: Running) -> None:
    said = good(proxy, "drain", "default/web", "--endpoint", "10.1.0.1:8080")
    assert said == "default/web: 10.1.0.1:8080 gets no new clients until `undrain`\n"
    more = ("--for", "10m", "--close-after", "30s")
    said = good(proxy, "drain", "web", "-n", "default", "--endpoint", "10.1.0.2:8080", *more)
    assert said.startswith("default/web: 10.1.0.2:8080 gets no new clients until ")
    assert "; connections are closed at " in said
    (first, second) = proxy.api.drains.all()
    assert (first.until, first.closes_at) == (None, None)
    assert second.until is not None
    assert second.closes_at is not None
    assert (second.until - second.began, second.closes_at - second.began) == (600, 30)
    said = good(proxy, "undrain", "default/web", "--endpoint", "10.1.0.1:8080")
    assert said == "default/web: 1 endpoint no longer drained\n"
    good(proxy, "drain", "default/web", "--endpoint", "10.1.0.1:8080")
    assert good(proxy, "undrain", "default/web") == "default/web: 2 endpoints no longer drained\n"
    assert proxy.api.drains.all() == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("drain web --endpoint 10.1.0.1:8080", "say which namespace the Service is in: NS/web, or web -n NS"),
        ("drain default/web", "Missing option '--endpoint'"),
        ("drain default/web --endpoint 10.1.0.1", "'10.1.0.1' has no port: write 10.1.0.1:PORT"),
        ("drain default/web --endpoint fd00::1", "'fd00::1' has no port: write [fd00::1]:PORT"),
        ("drain default/web --endpoint x:80", "--endpoint: 'x' is not an IP address"),
        ("drain default/web --endpoint 10.1.0.1:8080 --for 10", "--for: '10' is not a duration such as 250ms"),
        ("drain default/web --endpoint 10.1.0.1:8080 --for 0s", "--for: 0s is not between 1s and 168h"),
        (
            "drain default/web --endpoint 10.1.0.1:8080 --for 30s --close-after 30s",
            "--close-after: 30s is not less than --for 30s",
        ),
        ("close connections", "say which connections are to be closed: NS/NAME, -l client=IP"),
        ("close connections -n default", "say which connections are to be closed: NS/NAME, -l client=IP"),
        ("close connections -l protocol=TCP", "say which connections are to be closed: NS/NAME, -l client=IP"),
        ("close connections -l state=open", "is not KEY=VALUE with one of the keys client, endpoint, id, protocol"),
        ("close connections -l id=0", "-l: id: '0' is not the number of a connection"),
        ("close connections -l client=x", "-l: client: 'x' is not an IP address"),
        ("fault set default/web --latency 200ms", "Missing option '--for'"),
        ("fault set default/web --for 5m", "a fault has exactly one of --latency, --refuse, --blackhole"),
        ("fault set default/web --for 5m --refuse --blackhole", "and this one 2: set one after the other"),
        ("fault set default/web --for 25h --refuse", "--for: 25h is not between 1s and 24h"),
        ("fault set default/web --for 5m --latency fast", "--latency: 'fast' is not a duration"),
        ("fault set default/web --for 5m --latency 61s", "--latency: 61s is not between 0s and 1m"),
        ("fault set default/web --for 5m --refuse --jitter 1s", "--jitter: it belongs to --latency"),
        ("fault set default/web --for 5m --refuse --direction up", "--direction: it belongs to --latency and --drop"),
        ("fault set default/web --for 5m --bandwidth 1MB", "--bandwidth: '1MB' is not a rate such as 64KB/s or 1MB/s"),
        ("fault set default/web --for 5m --bandwidth 0B/s", "--bandwidth: 0B/s is not between 1 byte and"),
        ("fault set default/web --for 5m --reset-after soon", "'soon' is neither a size such as 64KB nor a duration"),
        ("fault set default/web --for 5m --reset-after 1xs", "--reset-after: '1xs' is not a duration"),
        ("fault set default/web --for 5m --refuse --percent 0", "--percent: '0' is not a number above 0 and up to 100"),
        ("fault set default/web --for 5m --refuse --percent all", "--percent: 'all' is not a number above 0"),
        ("fault set default/web --for 5m --refuse --client 10.0.0.0/33", "--client: '10.0.0.0/33' is no address or"),
        ("fault set default/web --for 5m --refuse --endpoint 10.1.0.1", "'10.1.0.1' has no port"),
        ("fault set web --for 5m --refuse", "say which namespace the Service is in"),
        ("fault clear", "say which fault is to be cleared: its ID, or --all"),
        ("fault clear 1 --all", "say which fault is to be cleared: its ID, or --all"),
        ("fault clear one", "'one' is not the number of a fault"),
    ],
)
def test_wrong_input_is_one_sentence_and_asks_for_nothing(proxy: Running, arguments: str, sentence: str) -> None:
    assert sentence in bad(proxy, *arguments.split())
    assert (proxy.api.drains.all(), proxy.api.steering.closed, proxy.api.steering.faults) == ([], [], ())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("drain default/nobody --endpoint 10.1.0.1:8080", "no Service default/nobody is served here"),
        ("drain default/web --endpoint 10.1.0.9:8080", "default/web has no endpoint 10.1.0.9:8080"),
        ("undrain default/web", "no endpoint of default/web is drained"),
        ("fault set default/web --for 5m --drop", "drop: that does not happen to TCP ports, which default/web has"),
        ("fault clear 7", "there is no fault 7"),
    ],
)
def test_what_the_proxy_does_not_know_is_one_sentence(proxy: Running, arguments: str, sentence: str) -> None:
    assert sentence in bad(proxy, *arguments.split(), code=1)


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
    ("options", "effect"),
    [
        ("--latency 200ms", Latency(0.2)),
        ("--latency 200ms --jitter 50ms --direction both", Latency(0.2, 0.05, Direction.BOTH)),
        ("--refuse", Refuse()),
        ("--blackhole", Blackhole()),
        ("--reset-after 64KB", ResetAfterBytes(64_000)),
        ("--reset-after 100", ResetAfterBytes(100)),
        ("--reset-after 2s", ResetAfterSeconds(2.0)),
        ("--reset-after 1m", ResetAfterSeconds(60.0)),
        ("--reset-after 1M", ResetAfterBytes(1_000_000)),
        ("--bandwidth 1MB/s", Bandwidth(1_000_000)),
    ],
)
def test_each_kind_of_fault(proxy: Running, options: str, effect: Effect) -> None:
    said = good(proxy, "fault", "set", "default/web", *options.split(), "--for", "5m")
    assert said.startswith(f"fault 1: {effect}, for default/web until ")
    assert [fault.effect for fault in proxy.api.steering.faults] == [effect]


def test_faults_are_listed_and_cleared(proxy: Running) -> None:
    assert proxy.run("fault", "list").stderr == "No faults in force.\n"
    options = "--endpoint 10.1.0.1:8080 --client 10.2.0.9/24 --latency 200ms --percent 25 --for 5m"
    said = good(proxy, "fault", "set", "default/web:80", *options.split())
    assert said.startswith(
        "fault 1: latency 200ms of 25 %, for default/web:http, endpoint 10.1.0.1:8080, clients of 10.2.0.0/24 until "
    )
    good(proxy, "fault", "set", "kube-system/dns", "--drop", "--percent", "10%", "--for", "1h")
    assert [fault.effect for fault in proxy.api.steering.faults] == [Latency(0.2), Drop()]
    lines = good(proxy, "fault", "list").splitlines()
    assert [line.split()[:6] for line in lines] == [
        ["ID", "SERVICE", "PORTS", "ENDPOINT", "CLIENT", "FAULT"],
        ["1", "default/web", "http", "10.1.0.1:8080", "10.2.0.0/24", "latency"],
        ["2", "kube-system/dns", "<none>", "<none>", "<none>", "drop"],
    ]
    assert good(proxy, "fault", "clear", "1") == "1 fault cleared\n"
    assert good(proxy, "fault", "clear", "--all") == "1 fault cleared\n"
    assert proxy.api.steering.faults == ()


def test_without_the_flag_it_is_one_sentence(proxy: Running) -> None:
    def forbid(api: Served) -> Any:
        api.may_have_faults = False

    proxy.tell(forbid)
    said = bad(proxy, "fault", "set", "default/web", "--refuse", "--for", "5m", code=1)
    assert said == "Error: faults are not allowed here: start userproxy with --allow-faults\n"
