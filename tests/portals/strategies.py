"""Whatever Services can ask of the portals."""

from hypothesis import strategies as st

from tests.portals.examples import DROP, REJECT, serve
from userproxy.model import (
    IPFamily,
    LocalTraffic,
    Portal,
    PortalBinding,
    PortalKind,
    Protocol,
    ServicePortName,
    Target,
)

RANGES = {
    IPFamily.IPV4: ("10.0.0.0/8", "10.244.0.0/16", "192.0.2.0/24", "198.51.100.7/32", "0.0.0.0/0"),
    IPFamily.IPV6: ("fd00::/8", "fd00:244::/48", "2001:db8::/64", "2001:db8:100::7/128", "::/0"),
}
EVERY_RANGE = tuple(network for networks in RANGES.values() for network in networks)


def address(family: IPFamily, kind: PortalKind, number: int) -> str:
    place = list(PortalKind).index(kind)
    return f"10.{place}.0.{number}" if family is IPFamily.IPV4 else f"fd00:{place + 1}::{number + 1:x}"


@st.composite
def local_traffics(draw: st.DrawFn) -> LocalTraffic:
    networks = draw(st.lists(st.sampled_from(("10.244.1.0/24", "10.0.0.0/8", "fd00:244::/64")), unique=True))
    return LocalTraffic(tuple(networks), draw(st.sampled_from(("", "cbr0", "veth+"))))


@st.composite
def bindings(draw: st.DrawFn, number: int, family: IPFamily) -> PortalBinding:
    """A binding of the Service with that number, whose names, addresses and ports nobody else has."""
    kinds = draw(st.sets(st.sampled_from(list(PortalKind)), min_size=1))
    limited = draw(st.booleans())
    portals = [Portal(kind, address(family, kind, number), 30000 + number) for kind in kinds]
    if not limited:
        everywhere = Portal(PortalKind.NODE_PORT, "", 30000 + number)
        portals = [everywhere if portal.kind is PortalKind.NODE_PORT else portal for portal in portals]
    first = 40000 + 10 * number
    targets: list[Target] = [REJECT, DROP, serve(first), serve(first + 1), serve(first + 2)]
    internal, external, on_node = (draw(st.sampled_from(targets)) for _ in range(3))
    ranges = draw(st.lists(st.sampled_from(EVERY_RANGE), unique=True, max_size=3))
    protocol = draw(st.sampled_from((Protocol.TCP, Protocol.UDP)))
    name = ServicePortName("default", f"s{number}", draw(st.sampled_from(("", "web"))), protocol)
    check = draw(st.sampled_from((0, 32000 + number)))
    return PortalBinding(name, tuple(portals), internal, external, on_node, tuple(ranges), check)


@st.composite
def binding_lists(draw: st.DrawFn, family: IPFamily) -> list[PortalBinding]:
    numbers = draw(st.lists(st.integers(0, 5), unique=True, max_size=4))
    return [draw(bindings(number, family)) for number in numbers]
