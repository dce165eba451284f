"""The lines of version 1, beside the examples and rules of the specification."""

import pytest

from userproxy.forwarding.proxy_protocol.header import HeaderError, ProxyHeader
from userproxy.forwarding.proxy_protocol.version1 import MOST_BYTES, decode, encode

LONG = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"


def test_the_specifications_own_example() -> None:
    line = b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"
    assert decode(line + b"GET / HTTP/1.1\r\n") == (
        ProxyHeader(("192.168.0.1", 56324), ("192.168.0.11", 443)),
        len(line),
    )
    assert encode(("192.168.0.1", 56324), ("192.168.0.11", 443)) == line


@pytest.mark.parametrize(
    ("line", "client", "portal"),
    [
        ("TCP4 255.255.255.255 0.0.0.0 65535 0", ("255.255.255.255", 65535), ("0.0.0.0", 0)),
        (f"TCP6 {LONG} {LONG} 65535 65535", (LONG, 65535), (LONG, 65535)),
        ("TCP6 FD00:0::0A fd00::1 1 2", ("fd00::a", 1), ("fd00::1", 2)),
        ("TCP6 ::ffff:192.0.2.1 ::ffff:192.0.2.2 1 2", ("192.0.2.1", 1), ("192.0.2.2", 2)),
    ],
)
def test_addresses_in_every_spelling(line: str, client: tuple[str, int], portal: tuple[str, int]) -> None:
    header = f"PROXY {line}\r\n".encode()
    assert decode(header) == (ProxyHeader(client, portal), len(header))


@pytest.mark.parametrize("rest", [b"", b" ", b" what ever", b" 1.2.3.4 5.6.7.8 1 2", b" \xff\n\r \0", b" " + b"f" * 91])
def test_whatever_follows_unknown_is_ignored(rest: bytes) -> None:
    header = b"PROXY UNKNOWN" + rest + b"\r\n"
    assert decode(header + b"payload") == (ProxyHeader(), len(header))


def test_without_both_addresses_nothing_is_told() -> None:
    assert encode(None, ("10.0.0.1", 80)) == encode(("10.0.0.1", 80), None) == b"PROXY UNKNOWN\r\n"


@pytest.mark.parametrize(
    "line",
    [
        "",
        "TCP4",
        "TCP4 1.2.3.4 5.6.7.8 1",
        "TCP4 1.2.3.4 5.6.7.8 1 2 3",
        "TCP4 1.2.3.4 5.6.7.8 1 2 ",
        "TCP4  1.2.3.4 5.6.7.8 1 2",
        " TCP4 1.2.3.4 5.6.7.8 1 2",
        "TCP4\t1.2.3.4 5.6.7.8 1 2",
        "tcp4 1.2.3.4 5.6.7.8 1 2",
        "TCP5 1.2.3.4 5.6.7.8 1 2",
        "UDP4 1.2.3.4 5.6.7.8 1 2",
        "UNKNOWNS",
        "unknown",
        "TCP4 ::1 ::1 1 2",
        "TCP6 1.2.3.4 5.6.7.8 1 2",
        "TCP4 1.2.3.4 ::1 1 2",
        "TCP6 ::1 1.2.3.4 1 2",
        "TCP4 01.2.3.4 5.6.7.8 1 2",
        "TCP4 1.2.3 5.6.7.8 1 2",
        "TCP4 1.2.3.4.5 5.6.7.8 1 2",
        "TCP4 1.2.3.256 5.6.7.8 1 2",
        "TCP4 0x1.2.3.4 5.6.7.8 1 2",
        "TCP4 1.2.3.4/8 5.6.7.8 1 2",
        "TCP6 1::2::3 ::1 1 2",
        "TCP6 12345::1 ::1 1 2",
        "TCP6 fe80::1%eth0 ::1 1 2",
        "TCP6 [::1] ::1 1 2",
        "TCP4 1.2.3.4 5.6.7.8 65536 2",
        "TCP4 1.2.3.4 5.6.7.8 -1 2",
        "TCP4 1.2.3.4 5.6.7.8 +1 2",
        "TCP4 1.2.3.4 5.6.7.8 01 2",
        "TCP4 1.2.3.4 5.6.7.8 1 2\n",
        "TCP4 1.2.3.4 5.6.7.8 1 2\r",
        "TCP4 1.2.3.4 5.6.7.8 1\n 2",
        "TCP4 1.2.3.4 5.6.7.8 1 2\nGET /",
        "TCP4 1.2.3.4 5.6.7.8 ٣ 2",
        "TCP4 1.2.3.4 é 1 2",
    ],
)
def test_a_line_that_is_not_exactly_as_specified_is_refused(line: str) -> None:
    with pytest.raises(HeaderError):
        decode(f"PROXY {line}\r\n".encode())


@pytest.mark.parametrize(
    "data", [b"G", b"GET / HTTP/1.1\r\n", b"PROXYTCP4", b"proxy ", b"\r\n\r\n\0\r\nQUIT\n", b"PR "]
)
def test_what_cannot_become_a_line_is_refused_at_once(data: bytes) -> None:
    with pytest.raises(HeaderError):
        decode(data)


def test_a_line_without_an_end_is_refused_once_it_is_too_long() -> None:
    longest = b"PROXY UNKNOWN " + b"x" * (MOST_BYTES - 16)
    assert decode(longest) is None
    assert decode(longest + b"\r\n") == (ProxyHeader(), MOST_BYTES)
    assert decode(longest + b"x") is None
    with pytest.raises(HeaderError):
        decode(longest + b"x\r\n")
