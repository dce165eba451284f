"""EndpointSlices, Endpoints and Nodes: what a proxy gets of them."""

from typing import Any

import pytest

from tests.cluster.examples import ENDPOINTS, SLICE, Path, put
from userproxy.cluster.objects.documents import Decoded, decode
from userproxy.errors import ObjectError
from userproxy.model import EndpointSlice, Hints, Protocol, SliceEndpoint, SlicePort

HTTP = SlicePort("http", Protocol.TCP, 8080)
TRIGGERED = 1769860800.25  # 2026-01-31T12:00:00.25Z
TRIGGER_TIME = "endpoints.kubernetes.io/last-change-trigger-time"


def good(document: Any) -> Decoded:
    found = decode(document, "a.yaml")
    assert found.problems == ()
    return found


def slice_of(document: Any) -> EndpointSlice:
    (found,) = good(document).objects
    assert isinstance(found, EndpointSlice)
    return found


def test_a_slice() -> None:
    assert slice_of(SLICE) == EndpointSlice(
        namespace="shop",
        name="web-1",
        service="web",
        address_type="IPv4",
        ports=(HTTP,),
        endpoints=(SliceEndpoint("10.244.1.5", node="worker-1", hints=Hints(("a",), ("worker-1",)), zone="a"),),
        triggered=TRIGGERED,
    )


@pytest.mark.parametrize(
    ("path", "value", "field", "expected"),
    [
        (("metadata", "namespace"), None, "namespace", "default"),
        (("ports",), None, "ports", ()),
        (("ports", 0, "name"), None, "ports", (SlicePort("", Protocol.TCP, 8080),)),
        (("ports", 0, "name"), "", "ports", (SlicePort("", Protocol.TCP, 8080),)),
        (("ports", 0, "protocol"), None, "ports", (HTTP,)),
        (("ports", 0, "protocol"), "SCTP", "ports", (SlicePort("http", Protocol.SCTP, 8080),)),
        (("ports", 0, "appProtocol"), "h2c", "ports", (HTTP,)),
        (("endpoints",), None, "endpoints", ()),
        (("endpoints", 0, "addresses"), [], "endpoints", ()),
        (("endpoints", 0, "addresses"), None, "endpoints", ()),
        (("metadata", "annotations"), None, "triggered", None),
        (("metadata", "annotations"), {}, "triggered", None),
        (("metadata", "annotations", TRIGGER_TIME), None, "triggered", None),
        (("metadata", "annotations", TRIGGER_TIME), "", "triggered", None),
        (("metadata", "annotations", TRIGGER_TIME), "now", "triggered", None),
        (("metadata", "annotations", TRIGGER_TIME), 1769860800, "triggered", None),
        (("metadata", "annotations", TRIGGER_TIME), {"time": []}, "triggered", None),
        (("metadata", "annotations", TRIGGER_TIME), "2026-02-30T12:00:00Z", "triggered", None),
        (("metadata", "annotations", TRIGGER_TIME), "0001-01-01T00:00:00+10:00", "triggered", None),
        (("metadata", "annotations", TRIGGER_TIME), "2026-01-31T12:00:00Z", "triggered", 1769860800.0),
        (("metadata", "annotations", TRIGGER_TIME), "2026-01-31T12:00:00.123456789Z", "triggered", 1769860800.123456),
        (("metadata", "annotations", TRIGGER_TIME), "2026-01-31T14:00:00.25+02:00", "triggered", TRIGGERED),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_a_field_of_a_slice(path: Path, value: object, field: str, expected: object) -> None:
    assert getattr(slice_of(put(SLICE, path, value)), field) == expected


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ({"conditions": None}, SliceEndpoint("10.244.1.9")),
        ({"conditions": {}}, SliceEndpoint("10.244.1.9")),
        ({"conditions": {"ready": None, "serving": None, "terminating": None}}, SliceEndpoint("10.244.1.9")),
        ({"conditions": {"ready": False}}, SliceEndpoint("10.244.1.9", ready=False)),
        (
            {"conditions": {"ready": False, "serving": False, "terminating": True}},
            SliceEndpoint("10.244.1.9", ready=False, serving=False, terminating=True),
        ),
        ({"nodeName": "", "zone": ""}, SliceEndpoint("10.244.1.9")),
        ({"nodeName": "n", "zone": "z"}, SliceEndpoint("10.244.1.9", node="n", zone="z")),
        ({"addresses": ["10.244.1.9", "never looked at"]}, SliceEndpoint("10.244.1.9")),
        ({"addresses": ["010.244.001.009"]}, SliceEndpoint("10.244.1.9")),
        ({"deprecatedTopology": {"zone": "a"}, "targetRef": {"kind": "Pod"}}, SliceEndpoint("10.244.1.9")),
        ({"hints": None}, SliceEndpoint("10.244.1.9")),
        ({"hints": {}}, SliceEndpoint("10.244.1.9")),
        ({"hints": {"forZones": None, "forNodes": None}}, SliceEndpoint("10.244.1.9")),
        ({"hints": {"forZones": [{"name": ""}, {"name": None}, {}]}}, SliceEndpoint("10.244.1.9")),
        ({"hints": {"forZones": [{"name": None}], "forNodes": [{"name": ""}]}}, SliceEndpoint("10.244.1.9")),
        ({"hints": {"forZones": [{"name": "a"}]}}, SliceEndpoint("10.244.1.9", hints=Hints(zones=("a",)))),
        ({"hints": {"forNodes": [{"name": "n"}]}}, SliceEndpoint("10.244.1.9", hints=Hints(nodes=("n",)))),
        (
            {"hints": {"forZones": [{"name": "b"}, {"name": "a"}, {"name": "b"}], "forNodes": [{"name": "n"}]}},
            SliceEndpoint("10.244.1.9", hints=Hints(("b", "a"), ("n",))),
        ),
    ],
)
def test_an_endpoint(endpoint: dict[str, Any], expected: SliceEndpoint) -> None:
    document = put(SLICE, ("endpoints", 0), {"addresses": ["10.244.1.9"], **endpoint})
    assert slice_of(document).endpoints == (expected,)


def test_a_slice_of_ipv6() -> None:
    document = put(put(SLICE, ("addressType",), "IPv6"), ("endpoints", 0, "addresses"), ["FD00::5"])
    found = slice_of(document)
    assert (found.address_type, found.endpoints[0].address) == ("IPv6", "fd00::5")


def test_what_is_equal_is_there_once() -> None:
    """Ten thousands of endpoints name the same few nodes and hints, slices the same few ports."""
    first, second = slice_of(SLICE), slice_of(put(SLICE, ("endpoints", 0, "addresses"), ["10.244.1.6"]))
    assert first != second
    for one, other in zip(first.endpoints, second.endpoints, strict=True):
        assert one.node is other.node
        assert one.hints is other.hints
    assert first.ports is second.ports
    assert first.service is second.service
    assert first.namespace is second.namespace


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("fd00::1", '"fd00::1" is not an IPv4 address'),
        ("10.244.1", '"10.244.1" is not an IP address'),
        ("10.244.1.1٢", '"10.244.1.1٢" is not an IP address'),
        ("0.0.0.0", '"0.0.0.0" is not the address of a single host'),
        ("224.0.0.251", '"224.0.0.251" is not the address of a single host'),
    ],
)
def test_an_endpoint_with_a_bad_address_costs_only_itself(address: str, complaint: str) -> None:
    endpoints = [{"addresses": ["10.244.1.5"]}, {"addresses": [address]}, {"addresses": ["10.244.1.6"]}]
    found = decode({**SLICE, "endpoints": endpoints}, "a.yaml")
    (only,) = found.objects
    assert isinstance(only, EndpointSlice)
    assert [endpoint.address for endpoint in only.endpoints] == ["10.244.1.5", "10.244.1.6"]
    assert found.problems == (f"a.yaml (EndpointSlice shop/web-1): endpoints[1].addresses[0]: {complaint}",)


def test_a_bad_address_of_endpoints_costs_only_itself() -> None:
    subset = {"addresses": [{"ip": "10.244.1.5"}, {}], "notReadyAddresses": [{"ip": "x"}, {"ip": "10.244.1.6"}]}
    found = decode({**ENDPOINTS, "subsets": [subset]}, "a.yaml")
    (only,) = found.objects
    assert isinstance(only, EndpointSlice)
    assert [endpoint.address for endpoint in only.endpoints] == ["10.244.1.5", "10.244.1.6"]
    assert found.problems == (
        "a.yaml (Endpoints shop/web): subsets[0].addresses[1].ip: missing",
        'a.yaml (Endpoints shop/web): subsets[0].notReadyAddresses[0].ip: "x" is not an IP address',
    )


def test_names_are_served_by_no_proxy() -> None:
    document = put(put(SLICE, ("addressType",), "FQDN"), ("endpoints", 0, "addresses"), ["shop.example.com"])
    assert decode(document, "a.yaml") == Decoded(
        (), ('a.yaml (EndpointSlice shop/web-1): addressType: "FQDN" is not served, only IPv4 and IPv6',)
    )


@pytest.mark.parametrize("number", [None, 0])
def test_a_port_without_a_number_costs_only_itself(number: int | None) -> None:
    found = decode(put(SLICE, ("ports",), [{"name": "all", "port": number}, {"name": "http", "port": 8080}]), "a.yaml")
    (only,) = found.objects
    assert isinstance(only, EndpointSlice)
    assert only.ports == (HTTP,)
    assert found.problems == (
        "a.yaml (EndpointSlice shop/web-1): ports[0].port: missing, and no proxy serves all ports",
    )


@pytest.mark.parametrize("number", [65536, 70000, -1])
def test_a_number_that_is_no_port_costs_an_object_of_the_api_only_that_port(number: int) -> None:
    """Kubernetes 1.36 accepts it; `kubectl apply` of a manifest does as well, but there it is a mistake."""
    document = put(SLICE, ("ports",), [{"name": "odd", "port": number}, {"name": "http", "port": 8080}])
    found = decode(document, "API", from_manifest=False)
    (part,) = found.objects
    assert isinstance(part, EndpointSlice)
    assert [port.name for port in part.ports] == ["http"]
    (problem,) = found.problems
    assert f"ports[0].port: {number} is not a port number" in problem
    with pytest.raises(ObjectError):
        decode(document, "a.yaml")


def test_endpoints_become_a_slice_for_each_subset_and_family() -> None:
    second = {"addresses": [{"ip": "10.244.1.7"}, {"ip": "fd00::7"}], "ports": [{"port": 9090}]}
    found = good(put(ENDPOINTS, ("subsets",), [ENDPOINTS["subsets"][0], second, {}]))
    other = (SlicePort("", Protocol.TCP, 9090),)
    assert found.objects == (
        EndpointSlice(
            "shop",
            "web-endpoints-0-ipv4",
            "web",
            "IPv4",
            (HTTP,),
            (
                SliceEndpoint("10.244.1.5", node="worker-1"),
                SliceEndpoint("10.244.1.6", ready=False, serving=False),
            ),
        ),
        EndpointSlice("shop", "web-endpoints-1-ipv4", "web", "IPv4", other, (SliceEndpoint("10.244.1.7"),)),
        EndpointSlice("shop", "web-endpoints-1-ipv6", "web", "IPv6", other, (SliceEndpoint("fd00::7"),)),
    )


@pytest.mark.parametrize("subsets", [None, [], [{}], [{"ports": [{"port": 80}]}]])
def test_endpoints_of_nobody(subsets: object) -> None:
    assert good(put(ENDPOINTS, ("subsets",), subsets)) == Decoded()


def test_endpoints_tell_when_they_were_triggered() -> None:
    document = put(ENDPOINTS, ("metadata", "annotations"), {TRIGGER_TIME: "2026-01-31T12:00:00.25Z"})
    (found,) = good(document).objects
    assert isinstance(found, EndpointSlice)
    assert found.triggered == TRIGGERED


def test_a_complaint_about_a_port_is_made_for_each_slice_that_has_it() -> None:
    document = put(SLICE, ("ports",), [{"name": "http", "port": 8080}, {"name": "all"}])
    for _ in range(2):
        assert decode(document, "a.yaml").problems == (
            "a.yaml (EndpointSlice shop/web-1): ports[1].port: missing, and no proxy serves all ports",
        )


def test_a_port_that_is_refused_is_refused_each_time() -> None:
    document = put(SLICE, ("ports", 0, "protocol"), "QUIC")
    for _ in range(2):
        with pytest.raises(ObjectError, match=r'ports\[0\]\.protocol: "QUIC" is not one of'):
            decode(document, "a.yaml")
