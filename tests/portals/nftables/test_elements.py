"""What service ports put into sets and maps."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.portals.examples import DROP, REJECT, in_family, led_to, serve
from tests.portals.strategies import binding_lists
from userproxy.errors import ObjectError
from userproxy.model import IPFamily, Portal, PortalBinding, PortalKind, Protocol, ServicePortName, Target, Verdict
from userproxy.portals.netlink import attributes
from userproxy.portals.nftables.elements import ELEMENT_NAMES, Element, claims, local_ports
from userproxy.portals.nftables.messages import element_parts, split_element

families = st.sampled_from(list(IPFamily))
WEB = ServicePortName("default", "web", "http", Protocol.TCP)


def elements_of(binding: PortalBinding, family: IPFamily, host_ip: str = "") -> list[Element]:
    return [element for claim in claims(binding, family, host_ip).values() for element in claim.elements]


def parts(element: Element) -> tuple[str, bytes, bytes, bytes]:
    return (element.set, *element_parts(element.body, 0, len(element.body)))


def sets_of(binding: PortalBinding, family: IPFamily = IPFamily.IPV4) -> list[str]:
    return sorted(element.set for element in elements_of(binding, family))


@settings(deadline=None)
@given(data=st.data(), family=families)
def test_no_two_elements_of_a_service_port_have_one_name(data: st.DataObject, family: IPFamily) -> None:
    for binding in data.draw(binding_lists(family)):
        found = elements_of(binding, family)
        assert len({(element.set, element.key) for element in found}) == len(found)
        assert {split_element(element.body, 0, len(element.body)) for element in found} == {
            (element.key, element.rest) for element in found
        }


@settings(deadline=None)
@given(data=st.data(), family=families)
def test_the_local_ports_of_a_service_port_are_known_from_its_elements(data: st.DataObject, family: IPFamily) -> None:
    for binding in data.draw(binding_lists(family)):
        found = local_ports(map(parts, elements_of(binding, family))).get(binding.name, ())
        kinds = {portal.kind for portal in binding.portals}
        internal = [binding.internal] if PortalKind.CLUSTER_IP in kinds else []
        others = [binding.on_node, binding.external] if kinds - {PortalKind.CLUSTER_IP} else []
        served = [target.local_port for target in (*internal, *others) if target.verdict is Verdict.SERVE]
        assert set(found) == set(served)
        assert found[:1] == tuple(served[:1])


@pytest.mark.parametrize("name", ["", "http", "a.b_c"])
@pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP])
def test_a_service_port_is_known_by_its_comment(name: str, protocol: Protocol) -> None:
    longest = ServicePortName("n" * 63, "s" * 63, name, protocol)
    portals = [Portal(PortalKind.CLUSTER_IP, "10.96.0.10", 80)]
    assert local_ports(map(parts, elements_of(led_to(longest, 7, portals), IPFamily.IPV4))) == {longest: (7,)}


@pytest.mark.parametrize(
    "comment", [b"", b"\0", b"\0\5hello", b"\0\5/, \0", b"\0\20web, cluster IP\0", b"\0\30default/web, a portal\0"]
)
def test_elements_of_others_name_no_service_port(comment: bytes) -> None:
    (element,) = elements_of(led_to(WEB, 7, [Portal(PortalKind.CLUSTER_IP, "10.96.0.10", 80)]), IPFamily.IPV4)
    name, key, data, _ = parts(element)
    assert local_ports([(name, key, data, comment)]) == {}


@pytest.mark.parametrize("ip", ["10.96.0.10", ""])
@pytest.mark.parametrize(
    ("external", "on_node", "expected"),
    [
        (serve(1), serve(1), ["{}"]),
        (serve(1), serve(2), ["{}-from-elsewhere", "{}-from-node"]),
        (DROP, serve(1), ["refused-{}-from-elsewhere", "{}-from-node"]),
        (REJECT, DROP, ["refused-{}-from-elsewhere", "refused-{}-from-node"]),
        (REJECT, Target(Verdict.REJECT, 5), ["refused-{}"]),
    ],
)
def test_audiences_have_maps_of_their_own_where_they_are_treated_differently(
    ip: str, external: Target, on_node: Target, expected: list[str]
) -> None:
    kind, name = (PortalKind.EXTERNAL_IP, "portals") if ip else (PortalKind.NODE_PORT, "node-ports")
    binding = PortalBinding(WEB, (Portal(kind, ip, 80),), serve(9), external, on_node)
    assert sets_of(binding) == sorted(each.format(name) for each in expected)


def test_a_portal_named_twice_counts_as_the_first_kind() -> None:
    """As its rules come first in iptables, a load-balancer IP that is an external IP too is open to everybody."""
    portals = (
        Portal(PortalKind.LOAD_BALANCER_IP, "198.51.100.7", 80),
        Portal(PortalKind.EXTERNAL_IP, "198.51.100.7", 80),
    )
    binding = PortalBinding(WEB, portals, *(serve(1),) * 3, ("10.0.0.0/8",))
    assert sets_of(binding) == ["portals"]


@pytest.mark.parametrize("family", list(IPFamily))
@settings(deadline=None)
@given(data=st.data())
def test_allowed_sources_are_those_of_the_ranges(family: IPFamily, data: st.DataObject) -> None:
    """No two of them overlap, which the kernel would refuse."""
    base = "10.0.0.0" if family is IPFamily.IPV4 else "fd00::"
    networks = st.builds(
        lambda number, length: str(ip_network(f"{ip_address(base) + number}/{length}", strict=False)),
        st.integers(0, 255),
        st.integers(24 if family is IPFamily.IPV4 else 120, 32 if family is IPFamily.IPV4 else 128),
    )
    ranges = data.draw(st.lists(networks, min_size=1, max_size=6))
    balancer = in_family("198.51.100.7", family)
    portals = (Portal(PortalKind.LOAD_BALANCER_IP, balancer, 80),)
    elements = elements_of(PortalBinding(WEB, portals, *(serve(1),) * 3, tuple(ranges)), family)
    spans = [span(element) for element in elements if element.set == "allowed"]
    assert "restricted" in {element.set for element in elements}
    for number in range(256):
        address = (ip_address(base) + number).packed
        allowed = any(ip_address(address) in ip_network(each) for each in ranges)
        assert sum(first <= address <= last for first, last in spans) == allowed


def span(element: Element) -> tuple[bytes, bytes]:
    """The first and the last source that an element allows."""
    found = attributes(element.key, 0, len(element.key))
    values = [attributes(element.key, *found[kind])[1] for kind in ELEMENT_NAMES]
    size = 16 if values[0][1] - values[0][0] > 20 else 4
    first, last = (element.key[end - size : end] for _, end in values)
    return first, last


def test_without_a_range_of_the_family_nobody_is_restricted() -> None:
    portals = (Portal(PortalKind.LOAD_BALANCER_IP, "198.51.100.7", 80),)
    for ranges in ((), ("fd00::/8",), ("10.0.0.0/8", "0.0.0.0/0")):
        assert sets_of(PortalBinding(WEB, portals, *(serve(1),) * 3, ranges)) == ["portals"]


@pytest.mark.parametrize(("host_ip", "spans"), [("10.1.2.3", 2), ("192.0.2.10", 1), ("", 1)])
def test_where_the_node_may_so_may_the_load_balancer_ips(host_ip: str, spans: int) -> None:
    portals = (Portal(PortalKind.LOAD_BALANCER_IP, "198.51.100.7", 80),)
    binding = PortalBinding(WEB, portals, *(serve(1),) * 3, ("10.0.0.0/8",))
    assert [element.set for element in elements_of(binding, IPFamily.IPV4, host_ip)].count("allowed") == spans


def test_portals_of_the_other_family_have_no_elements() -> None:
    portals = (Portal(PortalKind.CLUSTER_IP, "fd00::1", 80), Portal(PortalKind.NODE_PORT, "", 30080))
    binding = PortalBinding(WEB, portals, *(serve(1),) * 3)
    assert (sets_of(binding), sets_of(binding, IPFamily.IPV6)) == (["node-ports"], ["node-ports", "portals"])


def test_datagrams_to_the_listeners_of_a_service_port_are_guarded_against() -> None:
    name = ServicePortName("default", "dns", "", Protocol.UDP)
    binding = PortalBinding(name, (), serve(1), serve(2), serve(1))
    assert sets_of(binding) == ["udp-listeners"] * 2


@pytest.mark.parametrize("name", ['a"b', "a b", "a\nb", "x" * 201])
def test_a_name_that_cannot_be_a_comment(name: str) -> None:
    for protocol in (Protocol.TCP, Protocol.UDP):
        odd = led_to(ServicePortName(name, name, "", protocol), 7, [Portal(PortalKind.CLUSTER_IP, "10.96.0.10", 80)])
        with pytest.raises(ObjectError, match="its name cannot be the comment of an nftables element"):
            claims(odd, IPFamily.IPV4, "")
