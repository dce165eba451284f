"""What the kernel lists, compared with what was set up by iproute2."""

import errno
import socket
import struct
from contextlib import closing

import pytest

from tests.portals.conftest import Network
from userproxy.addresses import IPFamily
from userproxy.portals import netlink
from userproxy.portals.netlink import rtnetlink
from userproxy.portals.netlink.rtnetlink import Address, DefaultRoute, Link

INTERRUPTED = 0x10  # NLM_F_DUMP_INTR, linux/netlink.h


@pytest.fixture
def node(network: Network) -> Network:
    """A bridge b0 that is up, and one end d0 of a link that is down."""
    network.shell("ip", "link", "add", "b0", "address", "02:00:00:00:00:0b", "type", "bridge")
    network.shell("ip", "link", "set", "b0", "up")
    network.shell("ip", "link", "add", "d0", "type", "veth", "peer", "name", "e0")
    return network


def numbers(node: Network) -> dict[str, int]:
    return {link.name: link.number for link in node.run(rtnetlink.links)}


def test_links_have_their_names_and_say_whether_they_are_up(node: Network) -> None:
    found = {link.name: link for link in node.run(rtnetlink.links)}
    assert found["lo"] == Link(1, "lo", is_up=True, is_loopback=True, hardware_address=bytes(6))
    assert found["b0"] == Link(
        found["b0"].number,
        "b0",
        is_up=True,
        is_loopback=False,
        kind="bridge",
        hardware_address=bytes.fromhex("02000000000b"),
    )
    assert (found["d0"].is_up, found["d0"].kind) == (False, "veth")
    assert node.run(lambda: socket.if_nametoindex("b0")) == found["b0"].number


def test_a_port_of_a_bridge_is_known(node: Network) -> None:
    node.shell("ip", "link", "set", "d0", "master", "b0")
    found = {link.name: link for link in node.run(rtnetlink.links)}
    assert {name for name, link in found.items() if link.is_port} == {"d0"}


@pytest.mark.parametrize(("kind", "is_port"), [(b"bridge", True), (b"vrf\0", False)])
def test_what_a_vrf_takes_over_is_no_port(kind: bytes, *, is_port: bool) -> None:
    """Told from a message: few kernels have VRFs."""
    number = struct.pack("=I", 3)
    body = struct.pack("=BxHiII", 0, 1, 7, 1, 0) + b"".join(
        [
            netlink.attribute(3, b"d0\0"),
            netlink.attribute(10, number),
            netlink.nested(18, netlink.attribute(1, b"veth\0"), netlink.attribute(4, kind)),
        ]
    )
    assert rtnetlink._link(body, 0, len(body)) == Link(
        7, "d0", is_up=True, is_loopback=False, kind="veth", is_port=is_port
    )


def test_addresses_say_where_they_are_and_how_far_they_count(node: Network) -> None:
    for address in (["192.0.2.10/24"], ["192.0.2.99/24"], ["192.0.2.5", "peer", "198.51.100.1"]):
        node.shell("ip", "address", "add", *address, "dev", "b0")
    node.shell("ip", "address", "add", "169.254.1.1/16", "dev", "b0", "scope", "link")
    b0 = numbers(node)["b0"]
    assert set(node.run(lambda: rtnetlink.addresses(IPFamily.IPV4))) == {
        Address("127.0.0.1", 1, is_global=False, is_secondary=False),
        Address("192.0.2.10", b0, is_global=True, is_secondary=False),
        Address("192.0.2.5", b0, is_global=True, is_secondary=False),
        Address("169.254.1.1", b0, is_global=False, is_secondary=False),
        Address("192.0.2.99", b0, is_global=True, is_secondary=True),
    }


def test_ipv6_addresses_are_canonical_text(node: Network) -> None:
    for address in ("2001:db8::10/64", "::ffff:0:192.0.2.1/128", "::192.0.2.7/128"):
        node.shell("ip", "address", "add", address, "dev", "b0", "nodad")
    found = {address.ip for address in node.run(lambda: rtnetlink.addresses(IPFamily.IPV6)) if address.is_global}
    assert found >= {"2001:db8::10", "::ffff:0:c000:201"}
    assert "192.0.2.1" not in "".join(found)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("family", IPFamily)
def test_default_routes_are_those_of_the_main_table_lowest_metric_first(
    node: Network, family: IPFamily, strict: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not strict:  # as a kernel before 4.20, which lists all tables
        monkeypatch.setattr(rtnetlink, "STRICT_CHECK", 9999)
    ours, gateways, network = {
        IPFamily.IPV4: ("192.0.2.10", ("192.0.2.1", "192.0.2.2"), "198.51.100.0/24"),
        IPFamily.IPV6: ("2001:db8::10", ("2001:db8::1", "2001:db8::2"), "2001:db8:100::/64"),
    }[family]
    assert node.run(lambda: rtnetlink.default_routes(family)) == []
    ip = ["ip", "-6" if family is IPFamily.IPV6 else "-4"]
    nodad = ["nodad"] if family is IPFamily.IPV6 else []
    node.shell(*ip, "address", "add", f"{ours}/{64 if nodad else 24}", "dev", "b0", *nodad)
    node.shell(*ip, "route", "add", "default", "via", gateways[0], "metric", "200", "src", ours)
    node.shell(*ip, "route", "add", "default", "via", gateways[1], "metric", "100")
    node.shell(*ip, "route", "add", "default", "via", gateways[1], "metric", "50", "table", "100")
    node.shell(*ip, "route", "add", network, "via", gateways[1])
    node.shell(*ip, "route", "add", "unreachable", "default", "metric", "10")
    b0 = numbers(node)["b0"]
    assert node.run(lambda: rtnetlink.default_routes(family)) == [DefaultRoute(b0, ""), DefaultRoute(b0, ours)]


@pytest.mark.parametrize("family", IPFamily)
def test_a_route_of_several_hops_has_the_link_of_its_first(node: Network, family: IPFamily) -> None:
    ip, ours, gateways = {
        IPFamily.IPV4: ("-4", ["192.0.2.10/24"], ("192.0.2.1", "192.0.2.2")),
        IPFamily.IPV6: ("-6", ["2001:db8::10/64", "nodad"], ("2001:db8::1", "2001:db8::2")),
    }[family]
    node.shell("ip", ip, "address", "add", ours[0], "dev", "b0", *ours[1:])
    hops = [word for gateway in gateways for word in ("nexthop", "via", gateway, "dev", "b0")]
    node.shell("ip", ip, "route", "add", "default", *hops)
    assert node.run(lambda: rtnetlink.default_routes(family))[0] == DefaultRoute(numbers(node)["b0"], "")


def test_a_list_that_changes_while_it_is_given_is_no_list() -> None:
    ours, kernels = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with closing(ours), closing(kernels):
        kernels.send(netlink.message(16, INTERRUPTED, bytes(16)) + netlink.message(netlink.DONE, 0, bytes(4)))
        with pytest.raises(InterruptedError):
            list(netlink.dump(ours, 18, b""))


@pytest.mark.parametrize(("interruptions", "ends_well"), [(0, True), (4, True), (5, False)])
def test_it_is_asked_for_again_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch, interruptions: int, ends_well: bool
) -> None:
    kernels: list[socket.socket] = []

    def answering(protocol: int) -> socket.socket:
        assert protocol == netlink.ROUTE
        ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        flags = INTERRUPTED if len(kernels) < interruptions else 0
        kernel.send(
            netlink.message(16, flags, struct.pack("=BxHiII", 0, 1, 7, 1, 0) + netlink.attribute(3, b"b0\0"))
            + netlink.message(netlink.DONE, flags, bytes(4))
        )
        kernels.append(kernel)
        return ours

    monkeypatch.setattr(netlink, "netlink_socket", answering)
    if ends_well:
        assert rtnetlink.links() == [Link(7, "b0", is_up=True, is_loopback=False)]
    else:
        with pytest.raises(OSError, match="changed") as raised:
            rtnetlink.links()
        assert raised.value.errno == errno.EINTR
    for kernel in kernels:
        kernel.close()
