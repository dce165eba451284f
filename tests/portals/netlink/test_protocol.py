"""Netlink's layout, as linux/netlink.h has it, and the kernel's own answers."""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.portals.conftest import Network
from userproxy.model import IPFamily
from userproxy.portals import netlink

bodies = st.binary(max_size=9)
kinds = st.integers(0, 0x3FFF)

GET_LINK, NEW_LINK = 18, 16  # linux/rtnetlink.h
LINK_NAME = 3  # linux/if_link.h
LINK_HEADER = 16  # struct ifinfomsg
GET_TABLE = 0xA01
TABLE_NAME = 1


@given(st.dictionaries(kinds, bodies, max_size=4), st.binary(max_size=3))
def test_attributes_are_found_where_they_were_put(wanted: dict[int, bytes], before: bytes) -> None:
    data = before + b"".join(netlink.attribute(kind, body) for kind, body in wanted.items())
    found = netlink.attributes(data, len(before), len(data))
    assert {kind: data[begin:end] for kind, (begin, end) in found.items()} == wanted
    copied = b"".join(netlink.whole(data, *place) for place in found.values())
    assert copied == data[len(before) :], "with header and padding"


@given(st.dictionaries(kinds, bodies, min_size=1, max_size=4))
def test_nested_attributes_are_marked_so_and_found_under_their_own_number(inner: dict[int, bytes]) -> None:
    data = netlink.nested(7, *(netlink.attribute(kind, body) for kind, body in inner.items()))
    assert struct.unpack_from("=HH", data) == (len(data), 7 | 0x8000)
    place = netlink.attributes(data, 0, len(data))[7]
    assert {kind: data[begin:end] for kind, (begin, end) in netlink.attributes(data, *place).items()} == inner


@pytest.mark.parametrize("length", [0, 3])
def test_an_attribute_shorter_than_its_header_ends_the_list(length: int) -> None:
    data = netlink.attribute(1, b"good") + struct.pack("=HH", length, 2) + bytes(8)
    assert netlink.attributes(data, 0, len(data)) == {1: (4, 8)}


@given(st.lists(st.tuples(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), bodies), max_size=4))
def test_messages_are_found_where_they_were_put(wanted: list[tuple[int, int, bytes]]) -> None:
    data = b"".join(netlink.message(*each) for each in wanted)
    assert len(data) % 4 == 0
    found = [(kind, data[begin:end]) for kind, begin, end in netlink.messages(data)]
    assert found == [(kind, body) for kind, _, body in wanted]


def test_a_message_has_the_kernels_header() -> None:
    assert struct.unpack("=IHHII4s", netlink.message(5, 0x301, b"abc")) == (19, 5, 0x301, 0, 0, b"abc\0")


@pytest.mark.parametrize("length", [0, 15])
def test_a_message_shorter_than_its_header_ends_the_list(length: int) -> None:
    data = netlink.message(1, 0, b"good") + struct.pack("=IHHII", length, 2, 0, 0, 0)
    assert [kind for kind, _, _ in netlink.messages(data)] == [1]


@pytest.mark.parametrize(
    ("family", "header"), [(IPFamily.IPV4, bytes([2, 0, 0, 0])), (IPFamily.IPV6, bytes([10, 0, 0, 0]))]
)
def test_requests_to_netfilter_name_the_family(family: IPFamily, header: bytes) -> None:
    assert netlink.netfilter_header(family) == header
    assert len(header) == netlink.NETFILTER_HEADER_SIZE


def test_an_errors_number_is_an_exception_unless_it_is_expected() -> None:
    data = b"xx" + struct.pack("=i", -errno.ENOENT)
    with pytest.raises(FileNotFoundError) as raised:
        netlink.raise_for_code(data, 2)
    assert raised.value.strerror == os.strerror(errno.ENOENT)
    with pytest.raises(PermissionError):
        netlink.raise_for_code(struct.pack("=i", -errno.EPERM), 0)
    assert netlink.raise_for_code(data, 2, unless=errno.ENOENT) == errno.ENOENT
    with pytest.raises(FileNotFoundError):
        netlink.raise_for_code(data, 2, unless=errno.EPERM)
    assert netlink.raise_for_code(struct.pack("=i", 0), 0, unless=errno.ENOENT) == 0


@pytest.fixture
def route(network: Network) -> Iterator[socket.socket]:
    with closing(network.run(lambda: netlink.netlink_socket(netlink.ROUTE))) as made:
        yield made


def names(route: socket.socket) -> list[str]:
    """What the links are called, as the kernel lists them."""
    found = []
    for data, places in netlink.dump(route, GET_LINK, bytes(LINK_HEADER)):
        for begin, end in places:
            place = netlink.attributes(data, begin + LINK_HEADER, end)[LINK_NAME]
            found.append(data[slice(*place)].rstrip(b"\0").decode())
    return found


def test_a_dump_has_everything_and_ends_and_may_be_had_again(network: Network, route: socket.socket) -> None:
    assert "lo" in names(route)
    for number in range(20):  # more than fit into one datagram
        network.shell("ip", "link", "add", f"a-{number}", "type", "veth", "peer", "name", f"b-{number}")
    for _ in range(2):
        assert {f"{end}-{number}" for end in "ab" for number in range(20)} <= set(names(route))


def test_a_kernel_that_does_not_answer_is_waited_for_in_vain_for_some_seconds(route: socket.socket) -> None:
    assert 1 <= (route.gettimeout() or 0) <= 10
    assert not route.get_inheritable()


def test_a_refused_dump_raises_what_the_kernel_says(route: socket.socket) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EOPNOTSUPP)):
        list(netlink.dump(route, 0x7FF, b""))


def test_one_object_is_asked_for_by_its_name(network: Network) -> None:
    network.shell("nft", "add", "table", "ip", "known")
    asking = network.run(lambda: netlink.netlink_socket(netlink.NETFILTER))
    header = netlink.netfilter_header(IPFamily.IPV4)
    with closing(asking):
        netlink.get(asking, GET_TABLE, header + netlink.attribute(TABLE_NAME, b"known\0"))
        with pytest.raises(FileNotFoundError):
            netlink.get(asking, GET_TABLE, header + netlink.attribute(TABLE_NAME, b"unknown\0"))
        netlink.get(asking, GET_TABLE, header + netlink.attribute(TABLE_NAME, b"known\0"))
