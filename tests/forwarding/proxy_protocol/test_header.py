"""Headers of both versions: what is written is read again, and whatever is read costs one error at most."""

import ipaddress
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from userproxy.forwarding.proxy_protocol import version1, version2
from userproxy.forwarding.proxy_protocol.header import Address, HeaderError, ProxyHeader, port_number

ports = st.integers(0, 65535)
ipv4 = st.tuples(st.ip_addresses(v=4).map(str), ports)
ipv6 = st.tuples(st.ip_addresses(v=6).map(str).filter(lambda ip: not ip.startswith("::ffff:")), ports)
pairs = st.tuples(ipv4, ipv4) | st.tuples(ipv6, ipv6)
mixed = st.tuples(ipv4, ipv6) | st.tuples(ipv6, ipv4)
versions = st.sampled_from((version1, version2))


@settings(max_examples=300, deadline=None)
@given(versions, pairs | mixed, st.binary(max_size=200))
def test_what_is_written_is_read_again(version: ModuleType, pair: tuple[Address, Address], payload: bytes) -> None:
    header = version.encode(*pair)
    assert len(header) <= version1.MOST_BYTES
    assert version.decode(header + payload) == (ProxyHeader(*pair), len(header))


@settings(max_examples=100, deadline=None)
@given(versions, pairs | st.just((None, None)))
def test_a_header_in_pieces_is_read_once_it_is_whole(
    version: ModuleType, pair: tuple[Address | None, Address | None]
) -> None:
    header = version.encode(*pair)
    assert {version.decode(header[:size]) for size in range(len(header))} == {None}
    assert version.decode(header) == (ProxyHeader(*pair), len(header))


@settings(max_examples=100, deadline=None)
@given(versions, st.none() | ipv4, st.none() | ipv6)
def test_a_header_with_half_an_address_leaves_the_connections_own(
    version: ModuleType, client: Address | None, portal: Address | None
) -> None:
    if client is None or portal is None:
        header = version.encode(client, portal)
        assert version.decode(header) == (ProxyHeader(), len(header))


mangled = st.builds(
    lambda pair, version, at, byte, tail: bytes(
        byte if index == at else each for index, each in enumerate(version.encode(*pair) + tail)
    ),
    pairs,
    versions,
    st.integers(0, 60),
    st.integers(0, 255),
    st.binary(max_size=40),
)
lines = st.text(st.sampled_from("PROXYTCP46UNKNOWN 0123456789.:abcf\r\n%"), max_size=120).map(
    lambda text: b"PROXY " + text.encode()
)
after_signature = st.builds(
    lambda fixed, tail: version2.SIGNATURE + fixed + tail,
    st.tuples(st.sampled_from((0x20, 0x21)), st.integers(0, 0x33), st.just(0), st.integers(0, 60)).map(bytes),
    st.binary(max_size=80),
)


@settings(max_examples=1000, deadline=None)
@given(versions, st.binary(max_size=300) | mangled | lines | after_signature)
def test_nothing_but_the_one_error_is_raised_and_what_is_read_is_bounded(version: ModuleType, data: bytes) -> None:
    try:
        found = version.decode(data)
    except HeaderError:
        return
    if found is None:
        assert len(data) < version.MOST_BYTES
        return
    header, size = found
    assert 15 <= size <= min(len(data), version.MOST_BYTES)
    assert (header.client is None) is (header.portal is None)
    for address in (header.client, header.portal):
        if address is not None:
            assert str(ipaddress.ip_address(address[0])) == address[0]
            assert 0 <= address[1] <= 65535


@pytest.mark.parametrize("text", ["", "-1", "+1", "01", "00", "65536", "99999", "123456", " 1", "1_0", "٣", "0x1"])
def test_what_is_no_port(text: str) -> None:
    with pytest.raises(HeaderError):
        port_number(text)


@pytest.mark.parametrize("text", ["0", "1", "80", "65535"])
def test_what_is_a_port(text: str) -> None:
    assert port_number(text) == int(text)


@pytest.mark.parametrize("version", [version1, version2])
def test_a_client_of_ipv4_is_one_however_its_address_was_written(version: ModuleType) -> None:
    header = version.encode(("::ffff:192.0.2.1", 7), ("fd00::1", 80))
    assert version.decode(header) == (ProxyHeader(("192.0.2.1", 7), ("fd00::1", 80)), len(header))


@pytest.mark.parametrize("version", [version1, version2])
def test_the_name_of_an_interface_is_left_out(version: ModuleType) -> None:
    header = version.encode(("fe80::1%eth0", 7), ("fe80::2", 80))
    assert version.decode(header) == (ProxyHeader(("fe80::1", 7), ("fe80::2", 80)), len(header))
