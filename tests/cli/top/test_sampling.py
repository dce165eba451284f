"""What ``top`` learns of a proxy between two looks at it."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.items import connection, decision, endpoint, service
from userproxy.admin.client import AdminClient, AdminError, CutOffError, Parameter
from userproxy.cli.top import sampling
from userproxy.cli.top.rates import Row
from userproxy.cli.top.sampling import SAMPLERS, ClientSampler, EndpointSampler, Sampler, ServiceSampler

SECONDS = 30.0


class Proxy(AdminClient):
    """A client of a proxy that says what a test has put here, and has been asked for `asked`.

    Watches of decisions are told `rounds`, one after the other; each ends with its error, the last one is quiet.
    """

    def __init__(self, path: Path, *rounds: tuple[list[dict[str, Any]], AdminError]) -> None:
        super().__init__(path)
        self.lists: dict[str, list[dict[str, Any]]] = {"services": [], "endpoints": [], "connections": []}
        self.asked: list[tuple[str, dict[str, Parameter]]] = []
        self.told = threading.Event()
        """Set once all of `rounds` has been told."""
        self.over = threading.Event()
        self._rounds = list(rounds)

    def items(self, route: str, **parameters: Parameter) -> Iterator[dict[str, Any]]:
        self.asked.append((route, parameters))
        yield from self.lists[route]

    def watch(self, route: str, **parameters: Parameter) -> Iterator[dict[str, Any]]:
        self.asked.append((f"watch of {route}", parameters))
        yield {"type": "SYNCED", "object": None}
        if self._rounds:
            told, error = self._rounds.pop(0)
            yield from ({"type": "ADDED", "object": each} for each in told)
            raise error
        self.told.set()
        self.over.wait(SECONDS)
        raise AdminError("the test is over")


class Clock:
    """As `time`, and stands still between two tests' words."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(sampling, "time", made)
    return made


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    made = Proxy(tmp_path / "admin.sock")
    yield made
    made.over.set()


def only(sampler: Sampler) -> Row:
    (row,) = sampler.rows()
    return row


def test_at_first_a_service_has_no_rates_whatever_it_has_counted(proxy: Proxy, clock: Clock) -> None:
    proxy.lists["services"] = [service(total=1000, bytes_up=10**9, active=3)]
    sampler = ServiceSampler(proxy, {})
    assert only(sampler)[:6] == ("default/web:http", 3, 0.0, 0.0, 0.0, 0.0)


def test_later_it_has_those_since_the_last_look_alone(proxy: Proxy, clock: Clock) -> None:
    sampler = ServiceSampler(proxy, {})
    for total, wanted in ((1000, 0.0), (1010, 5.0), (1010, 0.0), (1030, 10.0)):
        proxy.lists["services"] = [service(total=total)]
        assert only(sampler).connections == wanted
        clock.now += 2.0


def test_an_endpoint_has_rates_of_its_own_and_a_service_its_endpoints_dial_times(proxy: Proxy, clock: Clock) -> None:
    proxy.lists["services"] = [service(total=10)]
    proxy.lists["endpoints"] = [endpoint(total=3, dial_p50_seconds=0.25), endpoint("10.244.0.3:8080", total=0)]
    services, endpoints = ServiceSampler(proxy, {}), EndpointSampler(proxy, {})
    assert only(services).dial_p50 == 0.25
    assert len(endpoints.rows()) == 2
    clock.now += 1.0
    proxy.lists["endpoints"][1] = endpoint("10.244.0.3:8080", total=7)
    assert [row.connections for row in endpoints.rows()] == [0.0, 7.0]


@pytest.mark.parametrize("kind", SAMPLERS)
def test_what_it_was_restricted_to_is_asked_for_everywhere(proxy: Proxy, kind: str) -> None:
    query = {"namespace": "default", "service": "web"}
    SAMPLERS[kind](proxy, query).rows()
    assert proxy.asked
    assert all(parameters == query for _, parameters in proxy.asked)


def test_connections_that_there_were_already_have_not_been_opened_since(proxy: Proxy, clock: Clock) -> None:
    proxy.lists["connections"] = [connection(1, bytes_up=10**6), connection(2, bytes_up=10**6)]
    sampler = ClientSampler(proxy, {})
    assert only(sampler)[:6] == ("10.244.0.9", 2, 0, 0, 0, 0)
    clock.now += 2.0
    proxy.lists["connections"].append(connection(3, bytes_up=100, bytes_down=0))
    assert only(sampler)[:4] == ("10.244.0.9", 3, 0.5, 50.0)
    clock.now += 4.0
    proxy.lists["connections"].append(connection(4, bytes_up=100, bytes_down=0))
    assert only(sampler)[:4] == ("10.244.0.9", 4, 0.25, 25.0), "of four seconds, not of six"


def _client(tmp_path: Path, *rounds: tuple[list[dict[str, Any]], AdminError]) -> tuple[Proxy, ClientSampler]:
    proxy = Proxy(tmp_path / "admin.sock", *rounds)
    sampler = ClientSampler(proxy, {})
    assert proxy.told.wait(SECONDS)
    return proxy, sampler


def test_who_was_cut_off_watches_again_and_says_how_many_it_has_missed(tmp_path: Path, clock: Clock) -> None:
    over = [decision(client="10.244.0.9:50000", bytes_up=1, bytes_down=4)]
    proxy, sampler = _client(tmp_path, (over, CutOffError("too slow", 7)), (over, CutOffError("too slow", 5)))
    assert [row.name for row in sampler.rows()] == ["10.244.0.9"], "what came before and after it counts"
    assert sampler.note == "12 connections were too fast to be counted"
    sampler.rows()
    assert sampler.note == "", "none since"
    assert [route for route, _ in proxy.asked].count("watch of decisions") == 3
    proxy.over.set()


def test_without_the_proxy_it_fails_at_the_next_look(tmp_path: Path) -> None:
    proxy = Proxy(tmp_path / "admin.sock", ([], AdminError("nobody listens at admin.sock")))
    sampler = ClientSampler(proxy, {})
    for each in threading.enumerate():
        if each.name == "decisions":
            each.join(SECONDS)
    with pytest.raises(AdminError, match="nobody listens"):
        sampler.rows()


def test_the_first_look_waits_until_decisions_are_told(tmp_path: Path) -> None:
    """Else those of connections that end right after it would be missed."""
    begun = threading.Event()

    class Slow(Proxy):
        def watch(self, route: str, **parameters: Parameter) -> Iterator[dict[str, Any]]:
            assert begun.wait(SECONDS)
            yield from super().watch(route, **parameters)

    proxy = Slow(tmp_path / "admin.sock")
    sampler = ClientSampler(proxy, {})
    looking = threading.Thread(target=sampler.rows)
    looking.start()
    assert proxy.asked == []
    begun.set()
    looking.join(SECONDS)
    assert [route for route, _ in proxy.asked] == ["watch of decisions", "connections"]
    proxy.over.set()
