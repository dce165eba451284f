"""Which connections suffer a fault."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from userproxy.forwarding.faults.choice import faults_of, is_chosen, suffered
from userproxy.model.cluster import Protocol, ServiceName, ServicePortName
from userproxy.model.faults import Blackhole, Drop, Effect, Fault, Latency, Refuse
from userproxy.model.snapshots import Endpoint

ONE, TWO = Endpoint("10.0.0.1", 80), Endpoint("10.0.0.2", 80)
HTTP = ServicePortName("default", "web", "http", Protocol.TCP)
DNS = ServicePortName("default", "web", "dns", Protocol.UDP)


REFUSE = Refuse()


def fault(effect: Effect = REFUSE, **terms: Any) -> Fault:
    return structs.replace(Fault(1, ServiceName("default", "web"), effect, 0.0, 0.0, 60.0), **terms)


@pytest.mark.parametrize(
    ("meant", "names"),
    [
        (fault(), {HTTP}),
        (fault(Latency(0.2)), {HTTP, DNS}),
        (fault(Blackhole()), {HTTP, DNS}),
        (fault(Drop()), {DNS}),
        (fault(Latency(0.2), ports=("http",)), {HTTP}),
        (fault(Latency(0.2), ports=("http", "dns")), {HTTP, DNS}),
        (fault(Latency(0.2), ports=("other",)), set()),
        (fault(service=ServiceName("default", "api")), set()),
        (fault(service=ServiceName("other", "web")), set()),
    ],
)
def test_service_ports(meant: Fault, names: set[ServicePortName]) -> None:
    assert {name for name in (HTTP, DNS) if faults_of([meant], name)} == names


@pytest.mark.parametrize(
    ("terms", "client", "endpoint", "expected"),
    [
        ({}, "10.2.0.1", ONE, True),
        ({}, "fd00::1", None, True),
        ({"endpoint": ONE}, "10.2.0.1", ONE, True),
        ({"endpoint": ONE}, "10.2.0.1", TWO, False),
        ({"endpoint": ONE}, "10.2.0.1", None, False),
        ({"client": "10.2.0.0/24"}, "10.2.0.1", ONE, True),
        ({"client": "10.2.0.0/24"}, "10.2.1.1", ONE, False),
        ({"client": "10.2.0.1/32"}, "10.2.0.1", ONE, True),
        ({"client": "fd00::/8"}, "fd00::1", ONE, True),
        ({"client": "fd00::/8"}, "10.2.0.1", ONE, False),
        ({"client": "0.0.0.0/0"}, "fd00::1", ONE, False),
    ],
)
def test_endpoints_and_clients(terms: dict[str, Any], client: str, endpoint: Endpoint, expected: bool) -> None:
    assert bool(suffered([fault(**terms)], endpoint, client, 1)) is expected


@given(st.integers(1, 99), st.integers(1, 10_000), st.integers(0, 10**15))
def test_as_many_as_are_asked_for(percent: int, number: int, first: int) -> None:
    """Of 4,000 connections in a row, within five standard deviations."""
    meant = fault(percent=float(percent), id=number)
    chosen = sum(is_chosen(meant, first + each) for each in range(4000))
    part = percent / 100
    assert abs(chosen - 4000 * part) <= 5 * (4000 * part * (1 - part)) ** 0.5


@given(st.integers(0, 10**15))
def test_it_is_always_the_same_answer_and_all_or_none_at_the_ends(number: int) -> None:
    half = fault(percent=50.0)
    assert is_chosen(half, number) is is_chosen(half, number)
    assert is_chosen(fault(), number)
    assert is_chosen(fault(Drop(), percent=1.0), number), "its percentage is of datagrams"


def test_two_faults_choose_apart() -> None:
    first, second = fault(percent=50.0), fault(percent=50.0, id=2)
    both = sum(is_chosen(first, each) and is_chosen(second, each) for each in range(4000))
    assert 850 < both < 1150
