"""Documents become objects of the model, or one sentence each."""

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path as FilePath
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.cluster.examples import (
    ENDPOINTS,
    NODE,
    OBJECTS,
    SERVICE,
    SLICE,
    Path,
    a_service,
    as_text,
    places,
    put,
    without,
)
from userproxy.cluster.objects.documents import Decoded, decode, expand
from userproxy.cluster.objects.keys import identify
from userproxy.cluster.objects.manifest import Manifest, read_manifest
from userproxy.errors import ObjectError
from userproxy.model import EndpointSlice, Hints, PortSpec, Protocol, Service, SliceEndpoint, SlicePort

PORT = "a port number (1..65535)"
NAME = "a name of at most 63 lower-case letters, digits and '-' that begins and ends with a letter or digit"
HTTP = {"name": "http", "port": 80}


def test_what_kubectl_prints() -> None:
    data = FilePath(__file__).with_name("kubectl-get.yaml").read_bytes()
    content = read_manifest(data, "all.yaml", Manifest())
    assert content.problems == ()
    assert [entry.where for entry in content.entries] == [f"all.yaml document 1 item {n}" for n in (1, 2, 3, 4)]
    assert [item for entry in content.entries for item in entry.objects] == [
        Service(
            namespace="store",
            name="shop",
            type="LoadBalancer",
            cluster_ips=("10.96.14.7", "fd00:10:96::7"),
            external_ips=("203.0.113.9",),
            load_balancer_ips=("198.51.100.3",),
            ports=(PortSpec("http", Protocol.TCP, 80, 30080), PortSpec("dns", Protocol.UDP, 53, 30053)),
            affinity_timeout=600,
            created="2026-01-31T12:00:00Z",
            balancer_ips=("198.51.100.4",),
            uid="0d6e5f6a-6c0e-4dc3-8f4b-0cbd6a7b6a01",
        ),
        Service(
            namespace="store",
            name="peers",
            created="2026-01-30T12:00:00Z",
            proxy_name="mesh",
            uid="0d6e5f6a-6c0e-4dc3-8f4b-0cbd6a7b6a02",
        ),
        EndpointSlice(
            namespace="store",
            name="shop-7wq2m",
            service="shop",
            address_type="IPv4",
            ports=(SlicePort("http", Protocol.TCP, 8080), SlicePort("dns", Protocol.UDP, 5353)),
            endpoints=(
                SliceEndpoint("10.244.1.5", node="worker-1", hints=Hints(zones=("zone-a",)), zone="zone-a"),
                SliceEndpoint("10.244.2.9", ready=False, terminating=True, node="worker-2", zone="zone-b"),
            ),
            triggered=datetime(2026, 1, 31, 12, 0, 3, tzinfo=UTC).timestamp(),
        ),
        EndpointSlice("store", "shop-zzk4c", "shop", "IPv6"),
    ]


MALFORMED: list[tuple[dict[str, Any], Path, object, str]] = [
    # the object itself
    (SERVICE, ("apiVersion",), None, "apiVersion: missing; it should be v1"),
    (SERVICE, ("apiVersion",), "v2", 'apiVersion: "v2" should be v1'),
    (SERVICE, ("apiVersion",), 1, "apiVersion: 1 should be v1"),
    (SLICE, ("apiVersion",), "v1", 'apiVersion: "v1" should be discovery.k8s.io/v1'),
    (
        SLICE,
        ("apiVersion",),
        "discovery.k8s.io/v1beta1",
        'apiVersion: "discovery.k8s.io/v1beta1" should be discovery.k8s.io/v1',
    ),
    (SERVICE, ("spec",), [1], "spec: a list is not a mapping"),
    (SERVICE, ("spec",), "x", 'spec: "x" is not a mapping'),
    (SERVICE, ("spec", 5), "x", "spec: a key in it is not text; put it in quotes"),
    # metadata
    (SERVICE, ("metadata", "namespace"), "Shop", f'metadata.namespace: "Shop" is not {NAME}'),
    (SERVICE, ("metadata", "name"), "web_1", f'metadata.name: "web_1" is not {NAME}'),
    (SERVICE, ("metadata", "name"), "", "metadata.name: missing"),
    (SERVICE, ("metadata", "labels"), ["a"], "metadata.labels: a list is not a mapping"),
    (
        SERVICE,
        ("metadata", "labels", "service.kubernetes.io/service-proxy-name"),
        True,
        "metadata.labels.service.kubernetes.io/service-proxy-name: true is not text; put it in quotes",
    ),
    (
        SERVICE,
        ("metadata", "creationTimestamp"),
        "yesterday",
        'metadata.creationTimestamp: "yesterday" is not a time such as 2026-01-31T12:00:00Z',
    ),
    # a Service
    (
        SERVICE,
        ("spec", "type"),
        "Cluster",
        'spec.type: "Cluster" is not one of ClusterIP, NodePort, LoadBalancer, ExternalName',
    ),
    (
        SERVICE,
        ("spec",),
        {"clusterIP": "10.96.0", "ports": [HTTP]},
        'spec.clusterIP: "10.96.0" is not an IP address',
    ),
    (SERVICE, ("spec", "clusterIP"), 10.96, "spec.clusterIP: 10.96 is not text; put it in quotes"),
    (
        SERVICE,
        ("spec", "clusterIP"),
        "10.96.0.11",
        'spec.clusterIPs[0]: "10.96.0.10" differs from spec.clusterIP "10.96.0.11"',
    ),
    (SERVICE, ("spec", "clusterIPs"), ["10.96.0.10", "x"], 'spec.clusterIPs[1]: "x" is not an IP address'),
    (
        SERVICE,
        ("spec", "clusterIPs"),
        ["10.96.0.10", "10.96.0.11"],
        'spec.clusterIPs[1]: "10.96.0.11" is not an IPv6 address',
    ),
    (SERVICE, ("spec", "clusterIPs"), "10.96.0.10", 'spec.clusterIPs: "10.96.0.10" is not a list'),
    (SERVICE, ("spec", "ipFamilies"), ["IPv4", "ipv6"], 'spec.ipFamilies[1]: "ipv6" is not one of IPv4, IPv6'),
    (SERVICE, ("spec", "externalIPs"), "1.2.3.4", 'spec.externalIPs: "1.2.3.4" is not a list'),
    (SERVICE, ("spec", "externalIPs"), [7], "spec.externalIPs[0]: 7 is not text; put it in quotes"),
    (SERVICE, ("spec", "ports"), None, "spec.ports: missing; a Service needs at least one port"),
    (SERVICE, ("spec", "ports"), [], "spec.ports: missing; a Service needs at least one port"),
    (SERVICE, ("spec", "ports"), {"port": 80}, "spec.ports: a mapping is not a list"),
    (SERVICE, ("spec", "ports"), [None], "spec.ports[0]: null is not a mapping"),
    (SERVICE, ("spec", "ports"), [{"name": "http"}], "spec.ports[0].port: missing"),
    (SERVICE, ("spec", "ports", 0, "port"), "80", 'spec.ports[0].port: "80" is not a whole number'),
    (SERVICE, ("spec", "ports", 0, "port"), 80.5, "spec.ports[0].port: 80.5 is not a whole number"),
    (SERVICE, ("spec", "ports", 0, "port"), True, "spec.ports[0].port: true is not a whole number"),
    (SERVICE, ("spec", "ports", 0, "port"), 0, f"spec.ports[0].port: 0 is not {PORT}"),
    (SERVICE, ("spec", "ports", 0, "port"), 70000, f"spec.ports[0].port: 70000 is not {PORT}"),
    (SERVICE, ("spec", "ports", 0, "port"), 10**30, f"spec.ports[0].port: {10**30} is not {PORT}"),
    (SERVICE, ("spec", "ports", 0, "nodePort"), -1, "spec.ports[0].nodePort: -1 is not a port number (0..65535)"),
    (SERVICE, ("spec", "ports", 1, "protocol"), "udp", 'spec.ports[1].protocol: "udp" is not one of TCP, UDP, SCTP'),
    (SERVICE, ("spec", "ports", 1, "name"), None, "spec.ports[1].name: missing, and needed because there are 2 ports"),
    (SERVICE, ("spec", "ports", 1, "name"), "http", 'spec.ports[1].name: "http" is also the name of spec.ports[0]'),
    (SERVICE, ("spec", "ports", 1, "name"), "DNS", f'spec.ports[1].name: "DNS" is not {NAME}'),
    (SERVICE, ("spec", "ports", 1, "name"), 53, "spec.ports[1].name: 53 is not text; put it in quotes"),
    (
        SERVICE,
        ("spec", "ports"),
        [HTTP, {"name": "web", "port": 80}],
        'spec.ports[1].port: "80/TCP" is also the port of spec.ports[0]',
    ),
    (
        SERVICE,
        ("spec", "ports"),
        [HTTP | {"nodePort": 30080}, {"name": "web", "port": 81, "nodePort": 30080}],
        'spec.ports[1].nodePort: "30080/TCP" is also the node port of spec.ports[0]',
    ),
    (SERVICE, ("spec", "sessionAffinity"), "Cookie", 'spec.sessionAffinity: "Cookie" is not one of None, ClientIP'),
    (
        SERVICE,
        ("spec", "sessionAffinityConfig", "clientIP", "timeoutSeconds"),
        86401,
        "spec.sessionAffinityConfig.clientIP.timeoutSeconds: 86401 is not a number of seconds (1..86400)",
    ),
    (
        SERVICE,
        ("status", "loadBalancer", "ingress", 0, "ip"),
        5,
        "status.loadBalancer.ingress[0].ip: 5 is not text; put it in quotes",
    ),
    (
        SERVICE,
        ("spec", "loadBalancerSourceRanges"),
        "10.0.0.0/8",
        'spec.loadBalancerSourceRanges: "10.0.0.0/8" is not a list',
    ),
    (SERVICE, ("spec", "externalTrafficPolicy"), 1, "spec.externalTrafficPolicy: 1 is not text; put it in quotes"),
    (SERVICE, ("spec", "healthCheckNodePort"), "x", 'spec.healthCheckNodePort: "x" is not a whole number'),
    (SERVICE, ("metadata", "annotations"), ["a"], "metadata.annotations: a list is not a mapping"),
    # an EndpointSlice
    (
        SLICE,
        ("metadata", "labels"),
        None,
        "metadata.labels: kubernetes.io/service-name is missing, so the slice belongs to no Service",
    ),
    (SLICE, ("addressType",), None, "addressType: missing"),
    (SLICE, ("addressType",), "ipv4", 'addressType: "ipv4" is not one of IPv4, IPv6, FQDN'),
    (SLICE, ("endpoints", 0, "addresses"), "10.244.1.5", 'endpoints[0].addresses: "10.244.1.5" is not a list'),
    (SLICE, ("endpoints", 0, "addresses"), [None], "endpoints[0].addresses[0]: null is not text; put it in quotes"),
    (
        SLICE,
        ("endpoints", 0, "conditions", "ready"),
        "yes",
        'endpoints[0].conditions.ready: "yes" is not true or false',
    ),
    (SLICE, ("endpoints", 0, "hints"), "a", 'endpoints[0].hints: "a" is not a mapping'),
    (SLICE, ("endpoints", 0, "hints", "forZones"), ["a"], 'endpoints[0].hints.forZones[0]: "a" is not a mapping'),
    (SLICE, ("ports", 0, "port"), 65536, f"ports[0].port: 65536 is not {PORT}"),
    (SLICE, ("ports",), [{"port": 1}, {"port": 2}], 'ports[1].name: "" is also the name of ports[0]'),
    # Endpoints
    (ENDPOINTS, ("subsets", 0, "ports", 0, "port"), -8080, f"subsets[0].ports[0].port: -8080 is not {PORT}"),
    # a Node
    (NODE, ("spec", "podCIDRs", 0), 10, "spec.podCIDRs[0]: 10 is not text; put it in quotes"),
    (NODE, ("status", "addresses"), {}, "status.addresses: a mapping is not a list"),
]


@pytest.mark.parametrize(
    ("base", "path", "value", "sentence"),
    MALFORMED,
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_a_malformed_object_costs_only_itself(base: dict[str, Any], path: Path, value: object, sentence: str) -> None:
    """The sentence names file, document, object, field and value; the neighbours in the file are served."""
    broken = put(base, path, value)
    data = as_text(a_service("before"), broken, a_service("after")).encode()
    content = read_manifest(data, "web.yaml", Manifest())
    key = identify(broken)
    assert [problem.text for problem in content.problems] == [f"web.yaml document 2 ({key}): {sentence}"]
    assert [str(entry.key) for entry in content.entries] == ["Service default/before", "Service default/after"]


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ("text", "here: text is not a Kubernetes object"),
        (5, "here: a number is not a Kubernetes object"),
        ([SERVICE], "here: a list is not a Kubernetes object"),
        ({}, "here: kind: missing"),
        ({"kind": ""}, 'here: kind: "" is not a kind'),
        ({"kind": 5}, "here: kind: 5 is not a kind"),
        ({"kind": ["Service"]}, "here: kind: a list is not a kind"),
        (without(SERVICE, ("metadata",)), "here (Service): metadata.name: missing"),
        (put(SERVICE, ("metadata",), "web"), 'here (Service): metadata: "web" is not a mapping'),
        (put(SERVICE, ("metadata", "name"), 5), "here (Service): metadata.name: 5 is not text; put it in quotes"),
        (
            put(NODE, ("metadata", "name"), "a..b"),
            'here (Node a..b): metadata.name: "a..b" is not a name of at most 253 ',
        ),
        (
            put(SERVICE, ("metadata", "name"), "a\nb"),
            r'here ("Service shop/a\nb"): metadata.name: "a\nb" is not a name ',
        ),
        ({"kind": "List", "items": []}, "here (List): kind: a List inside a List is not read"),
        (put(SERVICE, (5,), "x"), "here (Service shop/web): object: a key in it is not text; put it in quotes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_even_say_what_it_is(document: object, sentence: str) -> None:
    with pytest.raises(ObjectError) as caught:
        decode(document, "here")
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    "document",
    [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": 5},
        {"apiVersion": "v1", "kind": "ConfigMap", "data": {"kind": "Service"}},
        {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": {"name": "web"}, "spec": []},
        {"apiVersion": "metrics.k8s.io/v1beta1", "kind": "Node"},
        {"kind": "Kustomization"},
    ],
)
def test_kinds_that_no_proxy_reads_are_skipped(document: object) -> None:
    assert decode(document, "here") == Decoded()


def test_a_list_gives_its_items_with_their_places() -> None:
    items = [SERVICE, SLICE]
    assert list(expand({"kind": "List", "apiVersion": "v1", "items": items}, "a")) == [
        (SERVICE, "a item 1"),
        (SLICE, "a item 2"),
    ]


def test_a_typed_list_tells_its_items_what_they_are() -> None:
    item = without(without(SERVICE, ("kind",)), ("apiVersion",))
    ((found, place),) = expand({"kind": "ServiceList", "apiVersion": "v1", "items": [item]}, "a")
    assert decode(found, place) == decode(SERVICE, place)


@pytest.mark.parametrize("items", [None, []])
def test_an_empty_list(items: object) -> None:
    assert list(expand({"kind": "List", "items": items}, "a")) == []


@pytest.mark.parametrize(("items", "shown"), [({}, "a mapping"), ("x", "text"), (0, "a number")])
def test_a_list_whose_items_are_none(items: object, shown: str) -> None:
    with pytest.raises(ObjectError, match=rf"^a \(ServiceList\): items: {shown} is not a list$"):
        list(expand({"kind": "ServiceList", "items": items}, "a"))


def test_an_item_that_is_malformed_costs_only_itself() -> None:
    items = [a_service("before"), None, put(SERVICE, ("spec", "ports"), "x"), a_service("after")]
    content = read_manifest(as_text({"kind": "List", "items": items}).encode(), "a.yaml", Manifest())
    assert [entry.key.name for entry in content.entries] == ["before", "after"]
    assert [problem.text for problem in content.problems] == [
        "a.yaml document 1 item 2: null is not a Kubernetes object",
        'a.yaml document 1 item 3 (Service shop/web): spec.ports: "x" is not a list',
    ]


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()))
    | st.sampled_from(["TCP", "None", "IPv4", "IPv6", "ClientIP", "10.96.0.1", "fd00::1", "10.0.0.0/8", "v1", "List"])
    | st.sampled_from(["Local", "Cluster", "VIP", "close", "90s", "2026-01-31T12:00:00Z", "userproxy.io/udp-timeout"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["name", "port", "ip", "ports", "addresses", "clientIP", "labels", "items", "annotations", "forZones"]
            )
            | st.integers()
            | st.none()
            | st.text(max_size=3),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@settings(max_examples=500)
@given(st.sampled_from([(base, path) for base in OBJECTS for path in places(base)]), values)
@example((SERVICE, ("spec", "ports", 0, "port")), 10**5000)
@example((SERVICE, ("metadata", "creationTimestamp")), "0001-01-01T00:00:00+23:59")
@example((SERVICE, ("metadata",)), "\ud800")
def test_whatever_stands_in_a_field_nothing_but_an_object_error_comes_out(
    place: tuple[dict[str, Any], Path], value: object
) -> None:
    base, path = place
    document = put(base, path, value)
    identify(document)
    with suppress(ObjectError):
        for item, where in expand(document, "here"):
            identify(item)
            decode(item, where)
