"""Slices to endpoints: matching by port name and protocol, readiness, duplicates."""

import pytest

from userproxy.model import Endpoint, EndpointSlice, Protocol, SliceEndpoint, SlicePort
from userproxy.routing.endpoints import eligible_endpoints

HTTP = SlicePort("http", Protocol.TCP, 8080)


def a_slice(*endpoints: SliceEndpoint, ports: tuple[SlicePort, ...] = (HTTP,), family: str = "IPv4") -> EndpointSlice:
    return EndpointSlice("default", "web-1", "web", family, ports, endpoints)


@pytest.mark.parametrize(
    ("slices", "expected"),
    [
        pytest.param([], [], id="no slices"),
        pytest.param([a_slice()], [], id="no endpoints"),
        pytest.param([a_slice(SliceEndpoint("10.0.0.1"))], ["10.0.0.1:8080"], id="ready"),
        pytest.param([a_slice(SliceEndpoint("10.0.0.1", ready=False))], [], id="not ready"),
        pytest.param([a_slice(SliceEndpoint("10.0.0.1", terminating=True))], ["10.0.0.1:8080"], id="ready counts"),
        pytest.param([a_slice(SliceEndpoint("10.0.0.1"), ports=())], [], id="no ports"),
        pytest.param([a_slice(SliceEndpoint("fd00::1"), family="IPv6")], [], id="other family"),
        pytest.param([a_slice(SliceEndpoint("a.example"), family="FQDN")], [], id="FQDN"),
        pytest.param(
            [a_slice(SliceEndpoint("10.0.0.1"), ports=(SlicePort("http", Protocol.UDP, 8080),))],
            [],
            id="other protocol",
        ),
        pytest.param(
            [a_slice(SliceEndpoint("10.0.0.1"), ports=(SlicePort("", Protocol.TCP, 8080),))], [], id="unnamed is a name"
        ),
        pytest.param(
            [a_slice(SliceEndpoint("10.0.0.2")), a_slice(SliceEndpoint("10.0.0.1"), SliceEndpoint("10.0.0.2"))],
            ["10.0.0.1:8080", "10.0.0.2:8080"],
            id="union of slices",
        ),
        pytest.param(
            [a_slice(SliceEndpoint("10.0.0.1", ready=False)), a_slice(SliceEndpoint("10.0.0.1"))],
            ["10.0.0.1:8080"],
            id="moving between slices",
        ),
        pytest.param(
            [
                a_slice(SliceEndpoint("10.0.0.1"), ports=(SlicePort("http", Protocol.TCP, 80),)),
                a_slice(SliceEndpoint("10.0.0.1")),
            ],
            ["10.0.0.1:80", "10.0.0.1:8080"],
            id="slices differ in port",
        ),
    ],
)
def test_eligible(slices: list[EndpointSlice], expected: list[str]) -> None:
    assert [str(endpoint) for endpoint in eligible_endpoints(slices, "http", Protocol.TCP)] == expected


def test_an_unnamed_port_matches_an_unnamed_port() -> None:
    slices = [a_slice(SliceEndpoint("10.0.0.1"), ports=(SlicePort("", Protocol.TCP, 8080),))]
    assert eligible_endpoints(slices, "", Protocol.TCP) == (Endpoint("10.0.0.1", 8080),)
