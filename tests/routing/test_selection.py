"""Slices to endpoints: whose they are, duplicates, policies, topology, termination."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.routing import oracle, strategies
from tests.routing.notation import HTTP, a_slice, locality, named, parse
from userproxy.model import Endpoint, EndpointSlice, IPFamily, Protocol, SliceEndpoint, SlicePort
from userproxy.routing.selection import Locality, Selection, candidates, select

ALL_CLUSTER = "all Cluster"
ITP_LOCAL = "ITP Local, clusterIP only"
ITP_LOCAL_NODE_PORT = "ITP Local + nodePort, ETP Cluster"
ETP_LOCAL = "ETP Local, nodePort"
BOTH_LOCAL = "ITP Local, ETP Local, nodePort"

POLICIES = {  # internal local, external local, externally accessible
    ALL_CLUSTER: (False, False, False),
    "all Cluster, nodePort": (False, False, True),
    ITP_LOCAL: (True, False, False),
    ITP_LOCAL_NODE_PORT: (True, False, True),
    ETP_LOCAL: (False, True, True),
    BOTH_LOCAL: (True, True, True),
}


def reachable(selection: Selection) -> tuple[Endpoint, ...]:
    """The endpoints that any traffic may get, sorted (kube-proxy's ``allReachableEndpoints``)."""
    return tuple(sorted({*(selection.cluster or ()), *(selection.local or ())}))


@pytest.mark.parametrize(
    ("case", "policy", "where", "endpoints", "cluster", "local"),
    [
        (1, ALL_CLUSTER, locality(), "Rl Rr", "Rl Rr", None),
        (2, ALL_CLUSTER, locality(), "Sl Sr N", "Sl Sr", None),
        (4, ITP_LOCAL, locality(), "Rr Sl", None, "Sl"),
        (5, ITP_LOCAL, locality(), "Rr", None, ""),
        (6, ITP_LOCAL_NODE_PORT, locality(), "Rr", "Rr", ""),
        (7, ETP_LOCAL, locality(), "Rl Rr", "Rl Rr", "Rl"),
        (8, ETP_LOCAL, locality(), "Rr Sl", "Rr", "Sl"),
        (9, ETP_LOCAL, locality(), "Rr", "Rr", ""),
        (10, ALL_CLUSTER, locality(zone="A"), "R(zA) R(zB)", "R(zA)", None),
        (11, ALL_CLUSTER, locality(zone="A"), "R(zA) R(no hint)", "R(zA) R(no hint)", None),
        (12, ALL_CLUSTER, locality(zone="A"), "R(zA) N(no hint)", "R(zA)", None),
        (13, ALL_CLUSTER, locality(zone="C"), "R(zA) R(zB)", "R(zA) R(zB)", None),
        (13, ALL_CLUSTER, locality(zone=None), "R(zA) R(zB)", "R(zA) R(zB)", None),
        (14, ALL_CLUSTER, locality("n4", "A"), "R(n1,zA) R(n2,zA) R(n3,zB)", "R(n1,zA) R(n2,zA)", None),
        (15, ALL_CLUSTER, locality("n1", "A"), "R(n1,zA) R(zA)", "R(n1,zA) R(zA)", None),
        (16, ETP_LOCAL, locality(zone="A"), "Rl(zB) Rr(zA)", "Rr(zA)", "Rl(zB)"),
        # Beyond the check list: a node hint wins over the zone, and hints do not reach those that terminate.
        (17, ALL_CLUSTER, locality("n1", "A"), "R(n1,zA) R(n2,zA)", "R(n1,zA)", None),
        (18, ALL_CLUSTER, locality("n1", "A"), "S(n1,zA) S(n2,zB)", "S(n1,zA) S(n2,zB)", None),
        (19, BOTH_LOCAL, locality(), "Rl Rr Sl", "Rl Rr", "Rl"),
    ],
)
def test_check_list(
    case: int, policy: str, where: Locality, endpoints: str, cluster: str | None, local: str | None
) -> None:
    internal_local, external_local, accessible = POLICIES[policy]
    found = parse(endpoints, where.node)
    selection = select(
        candidates([a_slice(*found.values())], "http", Protocol.TCP),
        internal_local=internal_local,
        external_local=external_local,
        externally_accessible=accessible,
        locality=where,
    )
    assert selection.cluster == named(cluster, found)
    assert selection.local == named(local, found)
    assert selection.has_any
    union = {*(named(cluster, found) or ()), *(named(local, found) or ())}
    assert reachable(selection) == tuple(sorted(union))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("endpoints", ["N", "Nl Nr", ""])
def test_case_3_without_a_usable_endpoint_every_list_is_empty(policy: str, endpoints: str) -> None:
    internal_local, external_local, accessible = POLICIES[policy]
    selection = select(
        candidates([a_slice(*parse(endpoints).values())], "http", Protocol.TCP),
        internal_local=internal_local,
        external_local=external_local,
        externally_accessible=accessible,
        locality=locality(),
    )
    assert not selection.cluster
    assert not selection.local
    assert not selection.has_any


@settings(max_examples=300, deadline=None)
@given(strategies.slices(), st.booleans(), st.booleans(), st.booleans(), strategies.localities)
def test_lists_are_those_of_the_tables(
    slices: list[EndpointSlice], internal_local: bool, external_local: bool, accessible: bool, where: Locality
) -> None:
    selection = select(
        candidates(slices, "http", Protocol.TCP),
        internal_local=internal_local,
        external_local=external_local,
        externally_accessible=accessible,
        locality=where,
    )
    expected = oracle.lists(
        strategies.rows(slices),
        {
            "internal_local": internal_local,
            "external_local": external_local,
            "accessible": accessible,
            "node": where.node,
            "zone": where.zone,
        },
    )
    assert selection.has_any == expected["has_any"]
    for actual, wanted in (
        (selection.cluster, expected["cluster"]),
        (selection.local, expected["local"]),
        (reachable(selection), expected["reachable"]),
    ):
        assert actual == (None if wanted is None else tuple(Endpoint(*key) for key in sorted(wanted)))


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
            [
                a_slice(SliceEndpoint("10.0.0.1"), ports=(SlicePort("http", Protocol.TCP, 80),)),
                a_slice(SliceEndpoint("10.0.0.1")),
            ],
            ["10.0.0.1:80", "10.0.0.1:8080"],
            id="slices differ in port",
        ),
    ],
)
def test_endpoints_of_a_port(slices: list[EndpointSlice], expected: list[str]) -> None:
    selection = select(candidates(slices, "http", Protocol.TCP), locality=locality())
    assert selection.cluster is not None
    assert [str(endpoint) for endpoint in selection.cluster] == expected


def test_an_unnamed_port_matches_an_unnamed_port() -> None:
    slices = [a_slice(SliceEndpoint("10.0.0.1"), ports=(SlicePort("", Protocol.TCP, 8080),))]
    assert list(candidates(slices, "", Protocol.TCP)) == [Endpoint("10.0.0.1", 8080)]


def test_a_family_has_the_slices_of_its_address_type() -> None:
    slices = [a_slice(SliceEndpoint("10.0.0.1")), a_slice(SliceEndpoint("fd00::1"), family="IPv6")]
    assert list(candidates(slices, "http", Protocol.TCP, IPFamily.IPV6)) == [Endpoint("fd00::1", 8080)]


READY = SliceEndpoint("10.0.0.1")
UNREADY = SliceEndpoint("10.0.0.1", ready=False)
DRAINING = SliceEndpoint("10.0.0.1", ready=False, terminating=True)
GONE = SliceEndpoint("10.0.0.1", ready=False, serving=False, terminating=True)


@pytest.mark.parametrize(
    ("listed", "counts"),
    [
        ((READY, UNREADY), UNREADY),
        ((UNREADY, READY), READY),
        ((DRAINING, READY), READY),
        ((READY, DRAINING), READY),
        ((DRAINING, GONE), DRAINING),
        ((GONE, DRAINING), GONE),
        ((READY, UNREADY, DRAINING), UNREADY),
    ],
)
@pytest.mark.parametrize("together", [False, True], ids=["in several slices", "in one slice"])
def test_of_duplicates_the_last_that_does_not_terminate_counts(
    listed: tuple[SliceEndpoint, ...], counts: SliceEndpoint, together: bool
) -> None:
    slices = [a_slice(*listed)] if together else [a_slice(endpoint) for endpoint in listed]
    assert candidates(slices, "http", Protocol.TCP) == {Endpoint("10.0.0.1", 8080): counts}


@settings(deadline=None)
@given(strategies.slices().flatmap(lambda slices: st.tuples(st.just(slices), st.permutations(slices))))
def test_the_order_of_slices_matters_to_duplicates_only(
    both: tuple[list[EndpointSlice], list[EndpointSlice]],
) -> None:
    one, other = (candidates(slices, "http", Protocol.TCP) for slices in both)
    assert one.keys() == other.keys()
    listed = Counter(row["key"] for row in strategies.rows(both[0]))
    lasting = Counter(row["key"] for row in strategies.rows(both[0]) if not row["terminating"])
    for endpoint, source in one.items():
        key = (endpoint.ip, endpoint.port)
        if listed[key] == 1 or lasting[key] == 1:
            assert other[endpoint] == source


@settings(deadline=None)
@given(strategies.slices(), strategies.localities)
def test_results_are_sorted_and_each_once(slices: list[EndpointSlice], where: Locality) -> None:
    flags = {"internal_local": True, "external_local": True, "externally_accessible": True}
    selection = select(candidates(slices, "http", Protocol.TCP), **flags, locality=where)
    for endpoints in (selection.cluster, selection.local, reachable(selection)):
        assert endpoints is not None
        assert list(endpoints) == sorted(set(endpoints))


def test_a_port_number_is_the_slices() -> None:
    assert HTTP.port != 80
    found = candidates([a_slice(READY, ports=(HTTP, SlicePort("admin", Protocol.TCP, 9090)))], "admin", Protocol.TCP)
    assert list(found) == [Endpoint("10.0.0.1", 9090)]
