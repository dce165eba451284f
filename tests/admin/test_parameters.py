"""What a request's parameters may be, and what they come to."""

import re

import pytest

from userproxy.admin.parameters import (
    ALL,
    CLIENT,
    CONNECTION,
    ENDPOINT,
    ENDPOINT_PATTERN,
    LIMIT,
    NAMESPACE,
    NETWORK_PATTERN,
    PROTOCOL,
    SECONDS,
    SERVICE,
    STATE,
    BadParameterError,
    Filter,
    after,
    parse,
    parse_endpoint,
    required,
)
from userproxy.model import Endpoint, Protocol
from userproxy.model.reports import ConnectionState, Query

KNOWN = (NAMESPACE, SERVICE, PROTOCOL, ENDPOINT, CLIENT, CONNECTION, STATE, LIMIT, ALL, SECONDS, after("[0-9]+"))


def test_nothing_admits_all() -> None:
    assert parse((), KNOWN) == Filter()
    assert Filter().query == Query()


def test_what_the_data_plane_is_asked() -> None:
    given = [
        ("namespace", "shop"),
        ("service", "web"),
        ("protocol", "UDP"),
        ("endpoint", "[fd00:0::1]:80"),
        ("client", "fd00::00ff"),
        ("id", "3000000000042"),
        ("state", "open"),
        ("state", "held"),
    ]
    assert parse(given, KNOWN).query == Query(
        "shop",
        "web",
        protocol=Protocol.UDP,
        endpoint=Endpoint("fd00::1", 80),
        client="fd00::ff",
        connection=3_000_000_000_042,
        states=(ConnectionState.OPEN, ConnectionState.HELD),
    )


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("names", "a", "there is no parameter 'names' here, only namespace, "),
        ("namespace", "Shop", "namespace: 'Shop' is not the name of a namespace"),
        ("service", "shop/web", "service: 'shop/web' is not the name of a Service, without its namespace"),
        ("protocol", "tcp", "protocol: 'tcp' is not one of TCP, UDP, SCTP"),
        ("endpoint", "10.0.0.1:0", "endpoint: '10.0.0.1:0' is not an endpoint such as"),
        ("endpoint", "10.0.0.1:65536", "endpoint: '10.0.0.1:65536' is not an endpoint such as"),
        ("client", "fe80::1%eth0", "client: 'fe80::1%eth0' is not an IP address without a zone"),
        ("client", "web", "client: 'web' is not an IP address"),
        ("id", "0", "id: '0' is not the number of a connection"),
        ("id", "1" * 19, "is not the number of a connection"),
        ("limit", "0", "limit: '0' is not a number from 1 to 1000000"),
        ("limit", "٣", "limit: '٣' is not a number from 1 to 1000000"),
        ("all", "yes", "all: 'yes' is not true or false"),
        ("seconds", "1_0", "seconds: '1_0' is not a number of seconds"),
        ("seconds", "1e999", "seconds: '1e999' is not a number of seconds"),
        ("after", "x", "after: 'x' is not the `next` of this list"),
    ],
)
def test_what_is_wrong_is_one_sentence(name: str, text: str, sentence: str) -> None:
    with pytest.raises(BadParameterError, match=re.escape(sentence)):
        parse([(name, text)], KNOWN)


def test_only_what_may_be_repeated_is() -> None:
    with pytest.raises(BadParameterError, match="client is given twice"):
        parse([("client", "10.0.0.1"), ("client", "10.0.0.2")], KNOWN)


def test_what_cannot_be_left_out() -> None:
    assert parse([("service", "web")], [required(SERVICE)]).service == "web"
    with pytest.raises(BadParameterError, match="service is missing"):
        parse((), [required(SERVICE)])
    with pytest.raises(BadParameterError, match="there is no parameter 'service' here, none at all"):
        parse([("service", "web")], ())


@pytest.mark.parametrize("text", ["10.0.0.1:80", "[fd00::1]:80", "[::]:1", "[1:2:3:4:5:6:7:8]:65535", "[1::8]:8080"])
def test_the_pattern_of_endpoints_is_as_exact_as_the_parser(text: str) -> None:
    assert re.fullmatch(ENDPOINT_PATTERN, text)
    assert parse_endpoint(text).port > 0


@pytest.mark.parametrize("text", ["10.0.0.256:80", "10.0.0.1:080", "fd00::1:80x", "[fd00:::1]:80", "[1::2::3]:80", ""])
def test_what_is_no_endpoint_fits_neither(text: str) -> None:
    assert not re.fullmatch(ENDPOINT_PATTERN, text)
    with pytest.raises(ValueError, match="is not an endpoint"):
        parse_endpoint(text)


def test_an_address_alone_is_all_its_ports() -> None:
    assert parse_endpoint("fd00::1") == Endpoint("fd00::1", 0)


@pytest.mark.parametrize(
    ("text", "fits"), [("10.0.0.0/8", True), ("fd00::/64", True), ("10.0.0.0/33", False), ("fd00::/129", False)]
)
def test_networks(text: str, fits: bool) -> None:
    assert bool(re.fullmatch(NETWORK_PATTERN, text)) is fits
