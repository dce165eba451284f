"""Objects of the API as bytes: whatever is wrong with them, nothing is raised."""

from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cluster.examples import NODE, SERVICE, SLICE, places, put, without
from userproxy.cluster.objects.documents import decode
from userproxy.cluster.objects.reader import ObjectReader
from userproxy.cluster.objects.resources import Resource, endpoint_slices, own_node, services
from userproxy.model import EndpointSlice, Service

ILL: dict[str, list[object]] = {
    "port": [0, -1, 65536, 10**20, "80", 80.5],
    "nodePort": [-1, 65536, "30080", True],
    "timeoutSeconds": [0, -5, 86401, "600"],
    "protocol": ["QUIC", "tcp", "", 6],
    "type": ["Magic", "", 3],
    "ipMode": ["Both", "", 1],
    "sessionAffinity": ["Cookie", "", 0],
    "addressType": ["IPv5", "", 4],
    "ipFamilies": [["IPv5"], ["IPv6", "IPv6"], [None], []],
    "clusterIP": ["10.96.0.256", "::", "fe80::1%eth0", "none", ""],
    "clusterIPs": [["10.96.0.10", "10.96.0.11"], ["None", "10.96.0.10"], [None], [], "10.96.0.10"],
    "externalIPs": [["203.0.113"], [None], ["", " "], [5]],
    "ip": ["0.0.0.0", "224.0.0.1", "198.51.100", ""],
    "addresses": [[], [""], ["10.244.1"], ["::1"], [None], ["10.244.1.5"] * 200, [{"address": "x"}], [[]]],
    "ready": ["True", 1],
    "ports": [[], [None], [{}], [{"port": 80}] * 2, {}],
    "endpoints": [[], [None], [{}], [{"addresses": ["10.244.1.5"]}] * 10_000, "none"],
    "ingress": [[], [None], [{}], {}],
    "internalTrafficPolicy": ["local", "", 1, ["Local"]],
    "externalTrafficPolicy": ["Magic", "", 1, {}],
    "loadBalancerSourceRanges": [[], [None], [""], ["office"], ["10.0.0.0/8", "::/129"], [5], "10.0.0.0/8"],
    "healthCheckNodePort": [-1, 65536, 10**20, "32000", 0.5],
    "annotations": [{}, [], "x", {"userproxy.io/x": 5}, {"endpoints.kubernetes.io/last-change-trigger-time": 5}],
    "userproxy.io/on-endpoint-removal": ["", "Keep", True, ["close"], {}],
    "userproxy.io/udp-timeout": ["", "0s", "1e9h", "9" * 400 + "h", 30, {}],
    "endpoints.kubernetes.io/last-change-trigger-time": ["", "now", "9999-12-31T23:59:59-23:59", 0, {}],
    "hints": [{}, [], "a", {"forZones": [{"name": 5}]}, {"forNodes": [None]}],
    "forZones": [[], [None], [{}], [{"name": None}], [{"name": "a"}] * 50, ["a"], {}],
    "forNodes": [[], [None], [{}], [{"name": ""}], "worker-1"],
    "podCIDR": ["10.244.1.0", "", 5],
    "address": ["", "worker-1", "::", 5],
    "creationTimestamp": ["yesterday", "2026-13-01T00:00:00Z", 0],
    "podCIDRs": [["10.244.1.0/33"], ["10.244.1.0"], [None]],
}
"""What may stand in fields by these names and is wrong or odd."""
RESOURCES = {"Service": services("mine"), "EndpointSlice": endpoint_slices(), "Node": own_node("worker-1")}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def bent(draw: st.DrawFn) -> dict[str, Any]:
    """An object with some of its values replaced by anything at all."""
    document: Any = draw(st.sampled_from([SERVICE, SLICE, NODE]))
    kind = document["kind"]
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from([path for path in places(document) if path]))
        document = put(document, path, draw(VALUES | st.sampled_from([0, -1, 65536, "", "None", "10.0.0", [None], {}])))
    return {**document, "kind": kind}


@given(bent())
def test_nothing_is_raised(document: dict[str, Any]) -> None:
    reader = ObjectReader(RESOURCES[document["kind"]])
    reading = reader.read(msgspec.json.encode(document))
    assert reading.good or reader.problems


@st.composite
def ill(draw: st.DrawFn) -> dict[str, Any]:
    """An object several of whose fields are null, absent, or hold what their names make likely to be wrong."""
    document: Any = draw(st.sampled_from([SERVICE, SLICE, NODE]))
    named = [path for path in places(document) if path and isinstance(path[-1], str)]
    paths = draw(st.lists(st.sampled_from(named), min_size=1, max_size=4, unique=True))
    for path in sorted(paths, key=len, reverse=True):  # what is inside first: what is around it may vanish
        values = st.sampled_from([None, *ILL.get(str(path[-1]), [])])
        document = draw(st.just(without(document, path)) | values.map(partial(put, document, path)))
    return document  # type: ignore[no-any-return]


@given(st.lists(ill(), min_size=1, max_size=3))
def test_objects_as_clusters_have_them(documents: list[dict[str, Any]]) -> None:
    """One after the other, as versions of one object come; kind or not, as items of a list have none."""
    for kind, resource in RESOURCES.items():
        reader = ObjectReader(resource)
        for document in documents:
            reading = reader.read(msgspec.json.encode(document))
            assert reading.good or reader.problems
            assert reading.item is None or type(reading.item).__name__ == kind
            if isinstance(reading.item, Service) and (document.get("spec") or {}).get("loadBalancerSourceRanges"):
                assert reading.item.source_ranges  # whatever is wrong with ranges, they never mean everybody


def test_a_slice_of_ten_thousand_endpoints() -> None:
    endpoints = [{"addresses": [f"10.{n // 65536 + 1}.{n // 256 % 256}.{n % 256}"]} for n in range(10_000)]
    reading = ObjectReader(endpoint_slices()).read(msgspec.json.encode({**SLICE, "endpoints": endpoints}))
    assert isinstance(reading.item, EndpointSlice)
    assert len({endpoint.address for endpoint in reading.item.endpoints}) == 10_000


@pytest.mark.parametrize("document", [SERVICE, SLICE, NODE], ids=lambda document: str(document["kind"]))
def test_null_is_like_leaving_out(document: dict[str, Any]) -> None:
    resource: Resource = RESOURCES[document["kind"]]
    for path in places(document):
        if path and isinstance(path[-1], str):
            null = ObjectReader(resource).read(msgspec.json.encode(put(document, path, None)))
            absent = ObjectReader(resource).read(msgspec.json.encode(without(document, path)))
            assert null == absent, path


@pytest.mark.parametrize("document", [SERVICE, SLICE, NODE], ids=lambda document: str(document["kind"]))
def test_a_list_item_is_what_a_manifest_is(document: dict[str, Any]) -> None:
    item = {name: value for name, value in document.items() if name not in {"kind", "apiVersion"}}
    reading = ObjectReader(RESOURCES[document["kind"]]).read(msgspec.json.encode(item))
    assert (reading.item,) == decode(document, "manifest").objects


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"7", b'{"metadata":{"name":"\xff"}}', b"[" * 5000, b'"\\ud800"'])
def test_bytes_that_are_no_object(data: bytes) -> None:
    reader = ObjectReader(services(None))
    assert not reader.read(data).good
    assert len(reader.problems) == 1


def test_a_slice_of_host_names_is_none() -> None:
    reader = ObjectReader(endpoint_slices())
    reading = reader.read(msgspec.json.encode({**SLICE, "addressType": "FQDN"}))
    assert reading.good
    assert reading.item is None
    assert str(reading.key) == "EndpointSlice shop/web-1"


SPECIAL = {
    "127.0.0.1": "IPv4",
    "127.9.9.9": "IPv4",
    "127.000.000.001": "IPv4",
    "::ffff:127.0.0.1": "IPv4",
    "::1": "IPv6",
    "169.254.169.254": "IPv4",
    "::ffff:a9fe:a9fe": "IPv4",
    "fe80::1": "IPv6",
    "FEBF::1": "IPv6",
    "0.0.0.0": "IPv4",
    "::": "IPv6",
    "224.0.0.251": "IPv4",
    "ff02::fb": "IPv6",
}
"""What no author of a Service may have a node dial, or take from it, and of which family it is."""


@pytest.mark.parametrize("address", SPECIAL)
def test_an_endpoint_on_the_node_itself_or_its_link_is_refused(address: str) -> None:
    """The API server validates so, too (ValidateNonSpecialIP); only that endpoint is left out, and named."""
    good = "10.244.1.5" if SPECIAL[address] == "IPv4" else "fd00::5"
    endpoints = [{"addresses": [address]}, {"addresses": [good]}]
    reader = ObjectReader(endpoint_slices())
    document = {**SLICE, "addressType": SPECIAL[address], "endpoints": endpoints}
    reading = reader.read(msgspec.json.encode(document))
    assert isinstance(reading.item, EndpointSlice)
    assert [endpoint.address for endpoint in reading.item.endpoints] == [good]
    (problem,) = reader.problems
    assert problem.startswith(f'API (EndpointSlice shop/web-1): endpoints[0].addresses[0]: "{address}" is ')


@pytest.mark.parametrize("address", SPECIAL)
def test_a_portal_on_the_node_itself_or_its_link_is_refused(address: str) -> None:
    """External IPs and load-balancer IPs: traffic of the node to its own loopback would be taken from it."""
    document = put(SERVICE, ("spec", "externalIPs"), [address, "203.0.113.5"])
    document = put(document, ("status", "loadBalancer", "ingress"), [{"ip": "198.51.100.7"}, {"ip": address}])
    reader = ObjectReader(services("mine"))
    reading = reader.read(msgspec.json.encode(document))
    assert isinstance(reading.item, Service)
    assert reading.item.external_ips == ("203.0.113.5",)
    assert reading.item.load_balancer_ips == ("198.51.100.7",)
    assert sorted(problem.partition(" is ")[0] for problem in reader.problems) == [
        f'API (Service shop/web): spec.externalIPs[0]: "{address}"',
        f'API (Service shop/web): status.loadBalancer.ingress[1].ip: "{address}"',
    ]


def test_who_writes_manifests_may_name_the_loopback() -> None:
    document = put(SLICE, ("endpoints", 0, "addresses"), ["127.0.0.1"])
    (found,) = decode(document, "a.yaml").objects
    assert isinstance(found, EndpointSlice)
    assert found.endpoints[0].address == "127.0.0.1"
    assert not decode(document, "a.yaml").problems


@pytest.mark.parametrize("version", [7, 7.5, True, {}])
def test_a_version_that_is_no_text_costs_no_object(version: object) -> None:
    document = {**SERVICE, "metadata": {**SERVICE["metadata"], "resourceVersion": version}}
    reading = ObjectReader(services("")).read(msgspec.json.encode(document))
    assert isinstance(reading.item, Service)
