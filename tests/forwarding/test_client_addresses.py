"""Where clients and endpoints are, and so whose address the endpoints see."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from userproxy.demo.hosts import Host
from userproxy.forwarding import client_addresses
from userproxy.forwarding.client_addresses import ClientAddresses, NetworkTable, is_own_address
from userproxy.model import (
    ClientAddress,
    DirectNetwork,
    Endpoint,
    IPFamily,
    ListenerName,
    Protocol,
    ReturnPath,
    ServicePortName,
    Snapshot,
    TrafficClass,
)

SERVICE_PORT = ServicePortName("default", "web", "http", Protocol.TCP)
POD, OTHER_POD, ROUTED_POD, FAR_POD = "10.244.1.5", "10.244.1.6", "10.9.0.7", "10.244.2.5"
BRIDGE = DirectNetwork("10.244.1.0/24", "cni0", of_pods=True, is_bridge=True, answers_rise=True)
DEAF_BRIDGE = DirectNetwork("10.244.1.0/24", "cni0", of_pods=True, is_bridge=True)
VETH = DirectNetwork("10.9.0.7", "cali7", of_pods=True)
UPLINK = DirectNetwork("192.0.2.0/24", "eth0")
OUTSIDE = "203.0.113.9"


def sources_of(
    *endpoints: tuple[str, str],
    networks: tuple[DirectNetwork, ...] = (BRIDGE, VETH, UPLINK),
    wanted: ClientAddress = ClientAddress.AUTO,
    traffic: TrafficClass = TrafficClass.INTERNAL,
) -> client_addresses.Sources:
    """Of a listener whose endpoints are given by address and node, on the node `here`."""
    addresses = ClientAddresses("here")
    addresses.follow(ReturnPath(IPFamily.IPV4, networks=networks))
    found = addresses.sources(
        Snapshot(
            ListenerName(SERVICE_PORT, IPFamily.IPV4, traffic),
            endpoints=tuple(Endpoint(ip, 80) for ip, _ in endpoints),
            client_address=wanted,
            nodes=tuple(node for _, node in endpoints),
        )
    )
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("client", "endpoint", "node", "keeps", "own_ports_only", "interface"),
    [
        (POD, FAR_POD, "there", True, True, "cni0"),
        (POD, OTHER_POD, "here", True, True, "cni0"),
        (POD, ROUTED_POD, "here", True, True, "cni0"),
        (ROUTED_POD, POD, "here", True, True, "cali7"),
        (ROUTED_POD, "192.0.2.8", "there", True, True, "cali7"),
        (OUTSIDE, POD, "here", True, False, ""),
        ("192.0.2.99", POD, "", True, False, "eth0"),
        (POD, POD, "here", False, False, ""),
        (OUTSIDE, FAR_POD, "there", False, False, ""),
        (OUTSIDE, FAR_POD, "", False, False, ""),
        ("127.0.0.1", POD, "here", False, False, ""),
        ("2001:db8::7", POD, "here", False, False, ""),
        (POD, "127.0.0.1", "here", False, False, ""),
    ],
)
def test_whose_address_is_seen(
    client: str, endpoint: str, node: str, keeps: bool, own_ports_only: bool, interface: str
) -> None:
    choice = sources_of((endpoint, node)).choose(client, Endpoint(endpoint, 80))
    assert (choice.keeps, choice.own_ports_only, choice.interface) == (keeps, own_ports_only, interface), choice.reason
    assert choice.node == (node if keeps else "")


def test_keep_goes_beyond_auto() -> None:
    choice = sources_of((FAR_POD, "there"), wanted=ClientAddress.KEEP).choose(OUTSIDE, Endpoint(FAR_POD, 80))
    assert (choice.keeps, choice.interface, choice.node) == (True, "", "there")


def test_answers_that_stay_in_a_bridge_keep_the_nodes_address() -> None:
    sources = sources_of((OTHER_POD, "here"), (FAR_POD, "there"), networks=(DEAF_BRIDGE,), wanted=ClientAddress.KEEP)
    choice = sources.choose(POD, Endpoint(OTHER_POD, 80))
    assert not choice.keeps
    assert "bridge" in choice.reason
    assert sources.choose(POD, Endpoint(FAR_POD, 80)).keeps


def test_a_client_whom_a_bridge_looks_for_among_its_own_is_not_kept() -> None:
    """A Pod on a link of its own with an address of the bridge's network: nobody on the bridge answers for it."""
    apart = DirectNetwork("10.244.1.99/32", "cali9", of_pods=True)
    sources = sources_of((POD, "here"), (FAR_POD, "there"), networks=(BRIDGE, apart), wanted=ClientAddress.KEEP)
    choice = sources.choose("10.244.1.99", Endpoint(POD, 80))
    assert not choice.keeps
    assert "endpoint's bridge" in choice.reason
    assert sources.choose("10.244.1.99", Endpoint(FAR_POD, 80)).keeps


def test_who_wants_the_nodes_address_is_asked_nothing() -> None:
    assert ClientAddresses().sources(Snapshot(ListenerName(SERVICE_PORT))) is None


def test_before_the_host_is_known_and_where_it_cannot_do_it_the_nodes_address_is_seen() -> None:
    addresses = ClientAddresses("here")
    endpoint = Endpoint(FAR_POD, 80)
    sources = addresses.sources(
        Snapshot(ListenerName(SERVICE_PORT), endpoints=(endpoint,), client_address=ClientAddress.KEEP, nodes=("there",))
    )
    assert sources is not None
    assert not sources.choose(POD, endpoint).keeps
    addresses.follow(ReturnPath(IPFamily.IPV6, networks=(BRIDGE,)[:0]))
    assert not sources.choose(POD, endpoint).keeps, "the other family's path says nothing of this one"
    addresses.follow(ReturnPath(IPFamily.IPV4, "the socket module is missing", (BRIDGE,)))
    assert sources.choose(POD, endpoint) == client_addresses.SourceChoice("the socket module is missing")
    addresses.follow(ReturnPath(IPFamily.IPV4, networks=(BRIDGE,)))
    assert sources.choose(POD, endpoint).keeps


def test_what_is_learned_of_answers_is_expected_of_the_next_connection() -> None:
    endpoint = Endpoint(FAR_POD, 80)
    sources = sources_of((FAR_POD, "there"))
    assert sources.expect(POD, endpoint) == sources.choose(POD, endpoint)
    assert sources.pairs.known("cni0", "there") is None, "asking changes nothing"
    with capture_logs():
        sources.pairs.of("cni0", "there").lose(1.0, POD, endpoint, "default/web")
    assert sources.choose(POD, endpoint).keeps, "whether it is dialled so is decided by what is learned"
    expected = sources.expect(POD, endpoint)
    assert (expected.keeps, "did not come back" in expected.reason) == (False, True)
    assert sources.expect(ROUTED_POD, endpoint).keeps, "that is another pair"


def test_other_routes_of_the_host_count_at_once() -> None:
    addresses = ClientAddresses("here")
    endpoint = Endpoint(FAR_POD, 80)
    sources = addresses.sources(
        Snapshot(ListenerName(SERVICE_PORT), endpoints=(endpoint,), client_address=ClientAddress.AUTO, nodes=("there",))
    )
    assert sources is not None
    for networks, interface in (((BRIDGE,), "cni0"), ((BRIDGE, DirectNetwork(POD, "veth1", of_pods=True)), "veth1")):
        addresses.follow(ReturnPath(IPFamily.IPV4, networks=networks))
        assert sources.choose(POD, endpoint).interface == interface


def test_places_are_remembered_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(client_addresses, "is_own_address", asked.append)
    monkeypatch.setattr(client_addresses, "MOST_PLACES", 3)
    places = client_addresses.Places(ReturnPath(IPFamily.IPV4, networks=(BRIDGE,)))
    for ip in ("10.0.0.1", "10.0.0.2", "10.0.0.1", "10.0.0.3", "10.0.0.4", "10.0.0.2", "10.0.0.1"):
        places.of(ip)
        assert len(places) <= 3
    assert asked == ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.1"]


@given(
    st.sets(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)), max_size=12),
    st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=8),
)
def test_the_smallest_network_counts(networks: set[tuple[int, int]], addresses: list[int]) -> None:
    known = {ipaddress.ip_network((number, length), strict=False) for number, length in networks}
    table = NetworkTable(DirectNetwork(str(each), f"if{each.prefixlen}") for each in known)
    for number in [*addresses, *(int(each.network_address) for each in known)]:
        address = ipaddress.ip_address(number)
        fitting = [each for each in known if address in each]
        found = table.find(str(address))
        expected = str(max(fitting, key=lambda each: each.prefixlen)) if fitting else None
        assert (None if found is None else found.network) == expected


def test_addresses_of_both_families_are_found() -> None:
    table = NetworkTable([DirectNetwork("fd00::/64", "cni0"), DirectNetwork("fd00::7", "cali7")])
    assert [getattr(table.find(ip), "interface", None) for ip in ("fd00::5", "fd00::7", "fd01::1")] == [
        "cni0",
        "cali7",
        None,
    ]


@pytest.mark.parametrize("any_can_be_bound", [0, 1])
def test_own_addresses_are_told_from_others(root: None, any_can_be_bound: int) -> None:
    own = ("127.0.0.1", "127.9.9.9", "192.0.2.1", "10.96.0.7", "::1", "2001:db8::1")
    others = ("192.0.2.2", "198.51.100.1", "2001:db8::2")
    with Host("node") as node:
        node.ip_batch(["link add eth0 type bridge", "link set eth0 up", "addr add 192.0.2.1/24 dev eth0"])
        node.ip_batch(["addr add 2001:db8::1/64 dev eth0 nodad", "route add local 10.96.0.0/16 dev lo"])
        for version in ("ipv4", "ipv6"):
            node.sysctl(f"net.{version}.ip_nonlocal_bind", any_can_be_bound)
        assert [ip for ip in (*own, *others) if node.inside(is_own_address, ip)] == list(own)


@pytest.mark.parametrize("traffic", TrafficClass)
def test_whom_a_header_names_is_no_pod_of_this_node_because_its_proxy_is(traffic: TrafficClass) -> None:
    endpoints = ((FAR_POD, "there"), (POD, "here"))
    sources = sources_of(*endpoints, traffic=traffic)
    assert not sources.choose(OUTSIDE, Endpoint(FAR_POD, 80), introduced=True).keeps
    assert sources.choose(OUTSIDE, Endpoint(POD, 80), introduced=True).keeps
    assert sources.choose(ROUTED_POD, Endpoint(FAR_POD, 80), introduced=True).keeps
    assert sources.choose(OUTSIDE, Endpoint(FAR_POD, 80)).keeps is (traffic is TrafficClass.ON_NODE)


@pytest.mark.parametrize("client", ["169.254.3.4", "fe80::7", "fe80::7%eth0"])
def test_an_address_that_is_no_good_beyond_its_link_is_not_kept(client: str) -> None:
    family = IPFamily.IPV6 if ":" in client else IPFamily.IPV4
    endpoint = "fd00:10:244:1::5" if ":" in client else POD
    addresses = ClientAddresses("here")
    addresses.follow(ReturnPath(family, networks=(DirectNetwork(endpoint, "cali9", of_pods=True),)))
    listener = ListenerName(SERVICE_PORT, family)
    sources = addresses.sources(
        Snapshot(listener, endpoints=(Endpoint(endpoint, 80),), client_address=ClientAddress.KEEP, nodes=("here",))
    )
    assert sources is not None
    choice = sources.choose(client, Endpoint(endpoint, 80))
    assert not choice.keeps
    assert "link" in choice.reason


@pytest.mark.parametrize("nonlocal_bind", [0, 1])
@pytest.mark.parametrize(
    ("family", "address"),
    [
        *[(IPFamily.IPV4, each) for each in ("0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255", "169.254.7.7")],
        *[(IPFamily.IPV6, each) for each in ("::", "ff02::1", "ff0e::1", "fe80::1", "::ffff:10.9.9.9")],
    ],
)
def test_what_cannot_be_a_hosts_address_is_kept_for_nobody(
    root: None, family: IPFamily, address: str, nonlocal_bind: int
) -> None:
    """Only a PROXY header can name such a client, and where any address can be bound nothing else would stop it."""
    endpoint = Endpoint("2001:db8::77" if family is IPFamily.IPV6 else "10.244.1.5", 80)

    def kept() -> bool:
        addresses = ClientAddresses("here")
        addresses.follow(ReturnPath(family))
        name = ListenerName(SERVICE_PORT, family)
        wanted = Snapshot(name, endpoints=(endpoint,), client_address=ClientAddress.KEEP, nodes=("here",))
        sources = addresses.sources(wanted)
        return sources is not None and sources.choose(address, endpoint, introduced=True).keeps

    with Host("node") as node:
        node.ip_batch(["addr add 192.0.2.10/32 dev lo", "addr add 2001:db8::10/128 dev lo nodad"])
        for version in ("ipv4", "ipv6"):
            node.sysctl(f"net.{version}.ip_nonlocal_bind", nonlocal_bind)
        assert not node.inside(kept)
