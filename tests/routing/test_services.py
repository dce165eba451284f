"""Which Services are served in a family, through which portals, and who serves which traffic."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.routing import oracle, strategies
from tests.routing.notation import NODE, a_slice, locality, named, parse
from userproxy.model import (
    ClientAddress,
    Endpoint,
    EndpointSlice,
    HealthCheck,
    IPFamily,
    Limits,
    Overflow,
    Portal,
    PortalKind,
    PortSpec,
    Problem,
    ProblemKind,
    Protocol,
    ProxyProtocol,
    Route,
    Service,
    ServiceName,
    ServicePort,
    ServicePortName,
    ServiceState,
    SliceEndpoint,
    SlicePort,
    TrafficClass,
    Verdict,
)
from userproxy.routing.selection import Locality
from userproxy.routing.services import (
    NoLocalEndpoints,
    Routed,
    Scope,
    is_plain,
    portals_of,
    service_ports,
    skip_reason,
    with_endpoints,
)

IPV4, IPV6 = Scope(locality=locality()), Scope(IPFamily.IPV6, locality())
HTTP = PortSpec("http", Protocol.TCP, 80)
WEB = Service("default", "web", cluster_ips=("10.96.0.10",), ports=(HTTP,))
NODE_PORT = replace(WEB, type="NodePort", ports=(PortSpec("http", Protocol.TCP, 80, 30080),))
BALANCED = replace(NODE_PORT, type="LoadBalancer", load_balancer_ips=("198.51.100.7",))
BOTH_FAMILIES = replace(
    BALANCED,
    cluster_ips=("10.96.0.10", "fd00::10"),
    external_ips=("203.0.113.5", "2001:db8::5"),
    load_balancer_ips=("198.51.100.7", "2001:db8::7"),
)

INTERNAL, EXTERNAL, ON_NODE = TrafficClass
CLUSTER_IP, EXTERNAL_IP, LOAD_BALANCER_IP, NODE_PORT_KIND = PortalKind


def routed(service: Service, *slices: EndpointSlice, scope: Scope = IPV4) -> Routed:
    return service_ports(ServiceState(service, slices), scope)


def the_port(service: Service, *slices: EndpointSlice, scope: Scope = IPV4) -> ServicePort:
    (port,) = routed(service, *slices, scope=scope).ports
    return port


def fate(port: ServicePort, destination: PortalKind, source: str) -> Route:
    """The route of a new flow, found as a portal driver finds it."""
    traffic = INTERNAL
    if destination is not CLUSTER_IP:
        traffic = port.on_node if source in ("pod", "host") else port.external
    (route,) = (route for route in port.routes if route.traffic is traffic)
    return route


class TestSkipped:
    @pytest.mark.parametrize(
        ("service", "reason"),
        [
            (WEB, None),
            (NODE_PORT, None),
            (BALANCED, None),
            (replace(WEB, type="ExternalName"), "its type is ExternalName"),
            (replace(WEB, cluster_ips=()), "it has no cluster IP"),
            (replace(WEB, cluster_ips=("fd00::1",)), "it has no IPv4 cluster IP"),
            (replace(WEB, cluster_ips=("fd00::1", "10.96.0.1")), None),
            (replace(WEB, proxy_name="other"), "it is labelled for the service proxy 'other'"),
            (replace(WEB, proxy_name=""), "it is labelled for the service proxy ''"),
        ],
        ids=lambda value: "" if isinstance(value, Service) else str(value),
    )
    def test_reason(self, service: Service, reason: str | None) -> None:
        assert skip_reason(service, IPV4) == reason
        assert (routed(service).ports == ()) == (reason is not None)

    def test_with_a_proxy_name_only_the_services_labelled_for_it_are_ours(self) -> None:
        mine = Scope(proxy_name="mine")
        assert skip_reason(replace(WEB, proxy_name="mine"), mine) is None
        assert skip_reason(WEB, mine) == "it has no label service.kubernetes.io/service-proxy-name: mine"
        assert skip_reason(replace(WEB, proxy_name="other"), mine) == "it is labelled for the service proxy 'other'"

    def test_a_service_of_the_other_family_is_no_problem(self) -> None:
        service = replace(BALANCED, external_local=True, health_check_node_port=32000, bad_annotations=("x",))
        assert routed(service, scope=IPV6) == Routed(skipped="it has no IPv6 cluster IP")


class TestPortals:
    def test_they_come_in_the_order_of_opening_and_of_one_family(self) -> None:
        spec = BOTH_FAMILIES.ports[0]
        assert portals_of(BOTH_FAMILIES, spec, IPV4) == (
            Portal(CLUSTER_IP, "10.96.0.10", 80),
            Portal(EXTERNAL_IP, "203.0.113.5", 80),
            Portal(LOAD_BALANCER_IP, "198.51.100.7", 80),
            Portal(NODE_PORT_KIND, "", 30080),
        )
        assert portals_of(BOTH_FAMILIES, spec, IPV6) == (
            Portal(CLUSTER_IP, "fd00::10", 80),
            Portal(EXTERNAL_IP, "2001:db8::5", 80),
            Portal(LOAD_BALANCER_IP, "2001:db8::7", 80),
            Portal(NODE_PORT_KIND, "", 30080),
        )

    def test_no_node_port_no_portal_for_it(self) -> None:
        assert [portal.kind for portal in portals_of(WEB, HTTP, IPV4)] == [CLUSTER_IP]

    def test_external_ips_can_be_forbidden(self) -> None:
        service = replace(WEB, external_ips=("203.0.113.5",), external_local=True)
        port = the_port(service, scope=replace(IPV4, external_ips_allowed=False))
        assert [portal.kind for portal in port.portals] == [CLUSTER_IP]
        assert len(port.routes) == 1


class TestFamilies:
    def test_each_has_its_own_slices(self) -> None:
        slices = a_slice(SliceEndpoint("10.244.0.2")), a_slice(SliceEndpoint("fd00:1::2"), family="IPv6")
        for scope, ip in ((IPV4, "10.244.0.2"), (IPV6, "fd00:1::2")):
            port = the_port(BOTH_FAMILIES, *slices, scope=scope)
            assert port.family is scope.family
            assert port.routes == (Route(INTERNAL, Verdict.SERVE, (Endpoint(ip, 8080),)),)

    def test_external_addresses_of_the_other_family_do_not_make_it_accessible(self) -> None:
        service = replace(WEB, external_ips=("2001:db8::5",), external_local=True)
        port = the_port(service, a_slice(*parse("Rr").values()))
        assert [route.traffic for route in port.routes] == [INTERNAL]
        assert routed(service, a_slice(*parse("Rr").values())).no_local == NoLocalEndpoints()


@pytest.mark.parametrize(
    ("internal_local", "external_local", "routes", "external", "on_node"),
    [
        (False, False, {INTERNAL: "Rl Rr"}, INTERNAL, INTERNAL),
        (False, True, {INTERNAL: "Rl Rr", EXTERNAL: "Rl"}, EXTERNAL, INTERNAL),
        (True, False, {INTERNAL: "Rl", EXTERNAL: "Rl Rr"}, EXTERNAL, EXTERNAL),
        (True, True, {INTERNAL: "Rl", ON_NODE: "Rl Rr"}, INTERNAL, ON_NODE),
    ],
)
def test_policies_make_routes(
    internal_local: bool,
    external_local: bool,
    routes: dict[TrafficClass, str],
    external: TrafficClass,
    on_node: TrafficClass,
) -> None:
    found = parse("Rl Rr")
    service = replace(NODE_PORT, internal_local=internal_local, external_local=external_local)
    port = the_port(service, a_slice(*found.values()))
    assert port.routes == tuple(
        Route(traffic, Verdict.SERVE, named(text, found) or ()) for traffic, text in routes.items()
    )
    assert (port.external, port.on_node) == (external, on_node)


@pytest.mark.parametrize(("internal_local", "endpoints"), [(False, "Rl Rr"), (True, "Rl")])
@pytest.mark.parametrize("external_local", [False, True])
def test_without_external_portals_there_is_only_one_route(
    internal_local: bool, endpoints: str, external_local: bool
) -> None:
    found = parse("Rl Rr")
    service = replace(WEB, internal_local=internal_local, external_local=external_local)
    port = the_port(service, a_slice(*found.values()))
    assert port.routes == (Route(INTERNAL, Verdict.SERVE, named(endpoints, found) or ()),)
    assert (port.external, port.on_node) == (INTERNAL, INTERNAL)


@pytest.mark.parametrize(
    ("row", "internal_local", "external_local", "unused"),
    [
        ("Rl Rr", False, False, ""),
        ("Rl Rr", True, False, "Rr"),
        ("Rl Rr N S", False, False, "N S"),
        ("Rr(zB) Rl(zA)", False, False, "Rr(zB)"),
        ("N", False, False, "N"),
        ("Rr N", True, True, "Rr N"),
    ],
)
def test_endpoints_that_no_route_has_are_told(
    row: str, internal_local: bool, external_local: bool, unused: str
) -> None:
    found = parse(row)
    service = replace(WEB, internal_local=internal_local, external_local=external_local)
    port = the_port(service, a_slice(*found.values()), scope=Scope(locality=locality(zone="A")))
    assert port.unused == named(unused, found)
    assert set(port.endpoints) == {Endpoint(each.address, 8080) for each in found.values()}


def test_load_balancers_outside_lead_to_port_and_node_port() -> None:
    service = replace(NODE_PORT, balancer_ips=("198.51.100.200", "2001:db8::200"))
    assert the_port(service).balancers == (Endpoint("198.51.100.200", 80), Endpoint("198.51.100.200", 30080))
    assert the_port(replace(WEB, balancer_ips=("198.51.100.200",))).balancers == (Endpoint("198.51.100.200", 80),)
    both = replace(BOTH_FAMILIES, balancer_ips=service.balancer_ips)
    assert {each.ip for each in the_port(both, scope=IPV6).balancers} == {"2001:db8::200"}
    assert not any(portal.ip == "198.51.100.200" for portal in the_port(service).portals)


ALL_SOURCES = ("pod", "host", "other")
ALL_POLICIES = ("Cluster", "Local")
EXTERNAL_KINDS = (EXTERNAL_IP, LOAD_BALANCER_IP, NODE_PORT_KIND)


@pytest.mark.parametrize(
    ("destinations", "internal_policies", "external_policies", "sources", "endpoints"),
    [
        ((CLUSTER_IP,), ("Cluster",), ALL_POLICIES, ALL_SOURCES, "Rl Rr"),
        ((CLUSTER_IP,), ("Local",), ALL_POLICIES, ALL_SOURCES, "Rl"),
        (EXTERNAL_KINDS, ALL_POLICIES, ("Cluster",), ALL_SOURCES, "Rl Rr"),
        (EXTERNAL_KINDS, ALL_POLICIES, ("Local",), ("pod",), "Rl Rr"),
        (EXTERNAL_KINDS, ALL_POLICIES, ("Local",), ("host",), "Rl Rr"),
        (EXTERNAL_KINDS, ALL_POLICIES, ("Local",), ("other",), "Rl"),
    ],
)
def test_which_list_serves_a_flow(
    destinations: tuple[PortalKind, ...],
    internal_policies: tuple[str, ...],
    external_policies: tuple[str, ...],
    sources: tuple[str, ...],
    endpoints: str,
) -> None:
    found = parse("Rl Rr")
    for internal in internal_policies:
        for external in external_policies:
            service = replace(BOTH_FAMILIES, internal_local=internal == "Local", external_local=external == "Local")
            port = the_port(service, a_slice(*found.values()))
            assert {portal.kind for portal in port.portals} >= set(destinations)
            for destination in destinations:
                for source in sources:
                    assert fate(port, destination, source).endpoints == named(endpoints, found)


@pytest.mark.parametrize(
    ("endpoints", "policies", "cluster_ip", "from_outside", "from_this_node"),
    [
        ("", (False, False), "reject", "reject", "reject"),
        ("N", (False, False), "reject", "reject", "reject"),
        ("N", (True, True), "reject", "reject", "reject"),
        ("Nl", (False, True), "reject", "reject", "reject"),
        ("Rr", (True, False), "drop", "serve", "serve"),
        ("Rr", (False, True), "serve", "drop", "serve"),
        ("Rr", (True, True), "drop", "drop", "serve"),
        ("Sr", (True, True), "drop", "drop", "serve"),
        ("Rr Sl", (True, True), "serve", "serve", "serve"),
    ],
)
def test_fate_without_usable_endpoints(
    endpoints: str, policies: tuple[bool, bool], cluster_ip: str, from_outside: str, from_this_node: str
) -> None:
    internal_local, external_local = policies
    service = replace(BALANCED, internal_local=internal_local, external_local=external_local)
    port = the_port(service, a_slice(*parse(endpoints).values()))
    assert {fate(port, CLUSTER_IP, source).verdict for source in ALL_SOURCES} == {cluster_ip}
    for kind in (NODE_PORT_KIND, LOAD_BALANCER_IP):
        assert fate(port, kind, "other").verdict == from_outside
        assert {fate(port, kind, source).verdict for source in ("pod", "host")} == {from_this_node}
    assert all((route.verdict is Verdict.SERVE) == bool(route.endpoints) for route in port.routes)


def test_an_internal_policy_without_external_portals_drops_what_others_could_serve() -> None:
    service = replace(WEB, internal_local=True)
    assert the_port(service, a_slice(*parse("Rr").values())).routes == (Route(INTERNAL, Verdict.DROP),)
    assert the_port(service, a_slice(*parse("N").values())).routes == (Route(INTERNAL, Verdict.REJECT),)


@pytest.mark.parametrize(
    ("endpoints", "policies", "verdicts"),
    [
        ("", (False, False), [Verdict.SERVE]),
        ("", (True, True), [Verdict.SERVE, Verdict.SERVE]),
        ("N", (False, True), [Verdict.SERVE, Verdict.SERVE]),
        ("Rr", (True, False), [Verdict.DROP, Verdict.SERVE]),
        ("Rl", (True, True), [Verdict.SERVE, Verdict.SERVE]),
    ],
)
def test_clients_that_are_to_be_held_are_led_to_a_listener_without_endpoints(
    endpoints: str, policies: tuple[bool, bool], verdicts: list[Verdict]
) -> None:
    internal_local, external_local = policies
    service = replace(BALANCED, internal_local=internal_local, external_local=external_local, hold=9.0)
    port = the_port(service, a_slice(*parse(endpoints).values()))
    assert [route.verdict for route in port.routes] == verdicts
    assert port.hold == 9.0


@pytest.mark.parametrize(
    ("service", "honoured"),
    [
        (NODE_PORT, True),
        (BALANCED, True),
        (replace(WEB, external_ips=("203.0.113.5",)), True),
        (replace(WEB, external_ips=("2001:db8::5",), load_balancer_ips=("198.51.100.7",)), True),
        (replace(WEB, load_balancer_ips=("198.51.100.7",)), False),
        (replace(WEB, ports=NODE_PORT.ports), False),
    ],
)
def test_types_that_have_an_external_policy(service: Service, honoured: bool) -> None:
    port = the_port(replace(service, external_local=True), a_slice(*parse("Rl Rr").values()))
    assert (port.external is EXTERNAL) == honoured


services = st.builds(
    Service,
    namespace=st.just("default"),
    name=st.just("web"),
    type=st.sampled_from(("ClusterIP", "NodePort", "LoadBalancer")),
    cluster_ips=st.just(("10.96.0.10",)),
    external_ips=st.sampled_from(((), ("203.0.113.5",), ("2001:db8::5",))),
    load_balancer_ips=st.sampled_from(((), ("198.51.100.7",))),
    ports=st.sampled_from((0, 30080)).map(lambda node_port: (PortSpec("http", Protocol.TCP, 80, node_port),)),
    internal_local=st.booleans(),
    external_local=st.booleans(),
    close_removed_after=st.sampled_from([None, 0.0, 30.0]),
)


@settings(max_examples=300, deadline=None)
@given(services, strategies.slices(), strategies.localities)
def test_every_flow_fares_as_the_tables_say(service: Service, slices: list[EndpointSlice], where: Locality) -> None:
    result = routed(service, *slices, scope=Scope(locality=where))
    (port,) = result.ports
    rows = strategies.rows(slices)
    external_local = oracle.external_policy_is_local(
        {
            "type": service.type,
            "external_ips": service.external_ips,
            "external_local": service.external_local,
        }
    )
    facts = {
        "internal_local": service.internal_local,
        "external_local": external_local,
        "accessible": any(
            (service.ports[0].node_port, service.load_balancer_ips, "203.0.113.5" in service.external_ips)
        ),
        "node": where.node,
        "zone": where.zone,
    }
    for portal in port.portals:
        destination = "clusterIP" if portal.kind is CLUSTER_IP else "external"
        for source in ALL_SOURCES:
            route = fate(port, portal.kind, source)
            verdict, keys = oracle.fate(rows, facts, destination, source)
            assert route.verdict == verdict
            assert route.endpoints == tuple(Endpoint(*key) for key in sorted(keys))
    chosen = oracle.lists(rows, facts)
    elsewhere_only = chosen["local"] == set() and chosen["has_any"]
    assert result.no_local == NoLocalEndpoints(
        internal=int(elsewhere_only and service.internal_local), external=int(elsewhere_only and external_local)
    )
    everything = tuple(Endpoint(*key) for key in sorted({row["key"] for row in rows}))
    assert port.known == (None if service.close_removed_after is None else everything)
    assert port.routes[0].traffic is INTERNAL
    assert {port.external, port.on_node} <= {route.traffic for route in port.routes}


@settings(max_examples=300, deadline=None)
@given(services, strategies.slices(), strategies.slices(), strategies.localities, st.sampled_from(ClientAddress))
def test_other_endpoints_of_a_plain_service_make_what_everything_anew_makes(
    service: Service,
    before: list[EndpointSlice],
    after: list[EndpointSlice],
    where: Locality,
    client_address: ClientAddress,
) -> None:
    scope = Scope(locality=where, client_address=client_address)
    known, anew = routed(service, *before, scope=scope), routed(service, *after, scope=scope)
    plain = is_plain(service, known)
    assert plain == (not service.internal_local and not service.external_local)
    if plain:
        port = with_endpoints(known.ports[0], ServiceState(service, tuple(after)), scope)
        assert (port is None) == (not (known.ports[0].routes[0].endpoints and anew.ports[0].routes[0].endpoints))
        assert port is None or Routed((port,)) == anew


@pytest.mark.parametrize(("number", "plain"), [(0, False), (1, True), (3, True), (8, True), (9, False)])
def test_a_service_with_a_few_ports_is_plain(number: int, *, plain: bool) -> None:
    service = replace(WEB, ports=tuple(PortSpec(f"p{each}", Protocol.TCP, 80 + each) for each in range(number)))
    assert is_plain(service, routed(service)) is plain
    if number:
        partly = replace(service, ports=(*service.ports[1:], PortSpec("other", Protocol.SCTP, 80)))
        assert not is_plain(partly, routed(partly)), "one port is not served, which is a problem"


def test_weights_and_problems_of_slices_take_everything_anew() -> None:
    first = a_slice(SliceEndpoint("10.0.0.1"))
    port = the_port(WEB, first)
    for other in (replace(first, weighted=True), replace(first, bad_annotations=("what is this",))):
        assert with_endpoints(port, ServiceState(WEB, (other,)), IPV4) is None


@settings(deadline=None)
@given(strategies.slices().flatmap(lambda slices: st.tuples(st.just(slices), st.permutations(slices))), services)
def test_the_order_of_slices_does_not_matter(
    both: tuple[list[EndpointSlice], list[EndpointSlice]], service: Service
) -> None:
    def apart(slices: list[EndpointSlice]) -> list[EndpointSlice]:
        """Addresses that no two slices share."""
        return [
            replace(
                slice_, endpoints=tuple(replace(e, address=f"{e.address}{slice_.name[-1]}") for e in slice_.endpoints)
            )
            for slice_ in slices
        ]

    one, other = (routed(service, *apart(slices)) for slices in both)
    assert one == other


class TestSourceRanges:
    @pytest.mark.parametrize(
        ("ranges", "expected"),
        [
            ((), ()),
            (("172.16.0.0/12", "10.0.0.0/8", "172.16.0.0/12"), ("10.0.0.0/8", "172.16.0.0/12")),
            (("10.0.0.0/8", "0.0.0.0/0"), ()),
            (("10.0.0.0/30",), ("10.0.0.0/30",)),
            (("fd00::/8",), ()),
            (("fd00::/8", "10.0.0.0/8"), ("10.0.0.0/8",)),
            (("::/0", "10.0.0.0/8"), ("10.0.0.0/8",)),
            (("10.0.0.0/8", "192.0.2.1/32"), ("10.0.0.0/8", "192.0.2.1/32")),
            (("192.0.2.0/24",), ("192.0.2.0/24", "198.51.100.7/32")),
        ],
    )
    def test_table(self, ranges: tuple[str, ...], expected: tuple[str, ...]) -> None:
        scope = replace(IPV4, node_ips=("192.0.2.10", "2001:db8::10"))
        assert the_port(replace(BALANCED, source_ranges=ranges), scope=scope).source_ranges == expected

    def test_the_other_family_has_its_own(self) -> None:
        scope = replace(IPV6, node_ips=("192.0.2.10", "2001:db8::10"))
        service = replace(BOTH_FAMILIES, source_ranges=("192.0.2.0/24", "2001:db8::/64"))
        assert the_port(service, scope=scope).source_ranges == ("2001:db8::/64", "2001:db8::7/128")


class TestHealthCheck:
    SERVICE = replace(BALANCED, external_local=True, health_check_node_port=32000)

    @pytest.mark.parametrize(
        ("endpoints", "count"),
        [("", 0), ("Rl Rr", 1), ("Rr Sl", 0), ("Rr", 0), ("Nl", 0), ("Rl Rl(zA) Sl Nl Rr", 2)],
    )
    def test_it_counts_the_ready_endpoints_of_this_node(self, endpoints: str, count: int) -> None:
        result = routed(self.SERVICE, a_slice(*parse(endpoints).values()))
        assert result.health_check == HealthCheck(ServiceName("default", "web"), 32000, count)

    def test_an_address_counts_once_whatever_its_ports(self) -> None:
        ports = SlicePort("http", Protocol.TCP, 8080), SlicePort("admin", Protocol.TCP, 9090)
        here = [SliceEndpoint(f"10.244.0.{number}", node=NODE) for number in (1, 2)]
        service = replace(self.SERVICE, ports=(HTTP, PortSpec("admin", Protocol.TCP, 81)))
        slices = a_slice(*here, ports=ports), a_slice(SliceEndpoint("10.244.0.3", node=NODE), ports=ports[1:])
        result = routed(service, *slices, a_slice(SliceEndpoint("fd00::1", node=NODE), family="IPv6"))
        assert result.health_check is not None
        assert result.health_check.local_endpoints == 3
        assert [port.health_check_port for port in result.ports] == [32000, 0]

    def test_duplicates_are_resolved_per_port(self) -> None:
        ready = SliceEndpoint("10.244.0.1", node=NODE)
        result = routed(self.SERVICE, a_slice(ready), a_slice(replace(ready, ready=False)))
        assert result.health_check is not None
        assert result.health_check.local_endpoints == 0

    @pytest.mark.parametrize(
        "service",
        [
            replace(SERVICE, type="NodePort"),
            replace(SERVICE, external_local=False),
            replace(SERVICE, health_check_node_port=0),
            replace(SERVICE, ports=(PortSpec("sctp", Protocol.SCTP, 80),)),
        ],
        ids=["type", "policy", "no port", "nothing is carried"],
    )
    def test_there_is_none(self, service: Service) -> None:
        result = routed(service, a_slice(*parse("Rl").values()))
        assert result.health_check is None
        assert all(port.health_check_port == 0 for port in result.ports)

    def test_the_first_port_that_is_carried_has_it(self) -> None:
        service = replace(self.SERVICE, ports=(PortSpec("sctp", Protocol.SCTP, 80), *self.SERVICE.ports))
        assert [port.health_check_port for port in routed(service).ports] == [32000]


def test_ports_without_local_endpoints_are_counted_by_policy() -> None:
    ports = HTTP, PortSpec("admin", Protocol.TCP, 81), PortSpec("dns", Protocol.UDP, 53)
    slice_ = a_slice(
        *parse("Rr").values(), ports=(SlicePort("http", Protocol.TCP, 8080), SlicePort("dns", Protocol.UDP, 53))
    )
    for internal in (False, True):
        for external in (False, True):
            service = replace(BALANCED, ports=ports, internal_local=internal, external_local=external)
            assert routed(service, slice_).no_local == NoLocalEndpoints(2 * internal, 2 * external)


def test_each_port_gets_the_endpoints_of_its_own_name_and_what_its_service_says() -> None:
    slice_ = a_slice(
        SliceEndpoint("10.244.0.2"),
        SliceEndpoint("10.244.0.3", ready=False, serving=False),
        ports=(SlicePort("http", Protocol.TCP, 8080), SlicePort("dns", Protocol.UDP, 5353)),
    )
    service = replace(
        WEB,
        ports=(HTTP, PortSpec("dns", Protocol.UDP, 53)),
        affinity_timeout=60,
        created="2026-01-01T00:00:00Z",
        udp_timeout=1.5,
        close_removed_after=0.0,
    )
    http, dns = routed(service, slice_).ports
    assert http.name == ServicePortName("default", "web", "http", Protocol.TCP)
    assert dns.name == ServicePortName("default", "web", "dns", Protocol.UDP)
    assert http.routes[0].endpoints == (Endpoint("10.244.0.2", 8080),)
    assert dns.routes[0].endpoints == (Endpoint("10.244.0.2", 5353),)
    assert dns.known == (Endpoint("10.244.0.2", 5353), Endpoint("10.244.0.3", 5353))
    for port in (http, dns):
        assert (port.affinity_timeout, port.created, port.udp_timeout) == (60, "2026-01-01T00:00:00Z", 1.5)


def test_of_udp_only_the_number_of_flows_is_limited_and_nobody_waits() -> None:
    slice_ = a_slice(SliceEndpoint("10.244.0.2"), ports=(SlicePort("dns", Protocol.UDP, 5353),))
    limits = Limits(5, Overflow.WAIT, 2.0, 9.0)
    service = replace(WEB, ports=(HTTP, PortSpec("dns", Protocol.UDP, 53)), limits=limits)
    http, dns = routed(service, slice_).ports
    assert (http.limits, dns.limits) == (limits, Limits(5, Overflow.REFUSE))
    assert [port.limits for port in routed(replace(service, limits=Limits(rate=2.0)), slice_).ports] == [
        Limits(rate=2.0),
        None,
    ]


class TestClientAddress:
    ENDPOINTS = a_slice(SliceEndpoint("10.244.0.3", node="b"), SliceEndpoint("10.244.0.2", node=NODE))

    @pytest.mark.parametrize("said", [None, *ClientAddress])
    @pytest.mark.parametrize("asked", ClientAddress)
    def test_what_a_service_says_counts_before_what_the_proxy_is_told(
        self, asked: ClientAddress, said: ClientAddress | None
    ) -> None:
        port = the_port(replace(WEB, client_address=said), self.ENDPOINTS, scope=replace(IPV4, client_address=asked))
        assert port.client_address is (said or asked)
        assert bool(port.routes[0].nodes) is (port.client_address is not ClientAddress.NODE)

    def test_the_nodes_of_endpoints_are_known_in_each_route(self) -> None:
        service = replace(NODE_PORT, external_local=True, client_address=ClientAddress.AUTO)
        nowhere = a_slice(SliceEndpoint("10.244.0.2", node=NODE), SliceEndpoint("10.244.0.3"))
        internal, external = the_port(service, nowhere).routes
        assert dict(zip(internal.endpoints, internal.nodes, strict=True)) == {
            Endpoint("10.244.0.2", 8080): NODE,
            Endpoint("10.244.0.3", 8080): "",
        }
        assert (external.endpoints, external.nodes) == ((Endpoint("10.244.0.2", 8080),), (NODE,))

    def test_a_proxy_header_is_for_tcp_alone(self) -> None:
        service = replace(
            WEB,
            ports=(HTTP, PortSpec("dns", Protocol.UDP, 53)),
            sends_proxy=ProxyProtocol.V1,
            accepts_proxy=ProxyProtocol.V2,
        )
        http, dns = routed(service).ports
        assert (http.sends_proxy, http.accepts_proxy) == (ProxyProtocol.V1, ProxyProtocol.V2)
        assert (dns.sends_proxy, dns.accepts_proxy) == (None, None)


class TestProblems:
    SERVICE = replace(
        BOTH_FAMILIES, ports=(PortSpec("odd", Protocol.SCTP, 53), HTTP), bad_annotations=("first", "second")
    )

    def test_what_cannot_be_carried_is_named_and_its_neighbour_served(self) -> None:
        result = routed(self.SERVICE)
        assert [port.name.port for port in result.ports] == ["http"]
        name = ServiceName("default", "web")
        text = "default/web:odd: SCTP port 53 is not served: userproxy carries TCP and UDP"
        assert set(result.left_out) == {
            Problem(name, ProblemKind.UNSUPPORTED_PROTOCOL, text),
            Problem(name, ProblemKind.BAD_ANNOTATION, "first"),
            Problem(name, ProblemKind.BAD_ANNOTATION, "second"),
        }

    def test_one_family_tells_and_it_is_one_that_the_node_serves(self) -> None:
        """A node may have no IPv6, and nobody would hear of it where the Service's first cluster IP decided."""
        for ips in (("10.96.0.10", "fd00::10"), ("fd00::10", "10.96.0.10")):
            service = replace(self.SERVICE, cluster_ips=ips)
            assert len(routed(service).left_out) == 3
            second = routed(service, scope=IPV6)
            assert [port.name.port for port in second.ports] == ["http"]
            assert second.left_out == ()
        alone = replace(self.SERVICE, cluster_ips=("fd00::10",))
        assert len(routed(alone, scope=IPV6).left_out) == 3

    def test_a_balancer_that_nobody_has_is_named_and_round_robin_serves(self) -> None:
        service = replace(WEB, balancer="leastconn")
        result = routed(service)
        assert [port.balancer for port in result.ports] == ["round-robin"]
        (problem,) = result.left_out
        assert (problem.kind, problem.here) == (ProblemKind.BAD_ANNOTATION, True)
        assert problem.text.startswith(
            'default/web: annotation userproxy.io/balancer: "leastconn" is not one of round-robin, random, '
        )
        assert problem.text.endswith(", and no package that is installed here has a balancer of that name")

    def test_one_that_a_package_has_is_used(self) -> None:
        result = routed(replace(WEB, balancer="mine"), scope=replace(IPV4, balancers=frozenset({"mine"})))
        assert [port.balancer for port in result.ports] == ["mine"]
        assert result.left_out == ()
