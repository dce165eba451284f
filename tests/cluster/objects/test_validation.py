"""The values of fields: what is canonical, what is refused and in which words."""

from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userproxy.addresses import family_of
from userproxy.cluster.objects.validation import Checker, parse_ip, parse_time, show
from userproxy.errors import ObjectError
from userproxy.model import IPFamily, Protocol

LABEL = "a name of at most 63 lower-case letters, digits and '-' that begins and ends with a letter or digit"
SUBDOMAIN = (
    "a name of at most 253 lower-case letters, digits, '-' and '.' whose parts begin and end with a letter or digit"
)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "null"),
        (True, "true"),
        (80, "80"),
        (0.5, "0.5"),
        ("web", '"web"'),
        ("süß\n", '"süß\\n"'),
        ({"a": 1}, "a mapping"),
        ([1], "a list"),
        (10**5000, "a huge number"),
        ("x" * 200, '"' + "x" * 78 + "…"),
        ("x" * 78, '"' + "x" * 78 + '"'),
    ],
    ids=lambda value: "huge" if isinstance(value, int) and value > 80 else repr(value)[:20],
)
def test_show(value: object, shown: str) -> None:
    assert show(value) == shown


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.96.0.1", "10.96.0.1"),
        ("010.096.000.001", "10.96.0.1"),
        ("0.0.0.0", "0.0.0.0"),
        ("::ffff:10.96.0.1", "10.96.0.1"),
        ("FD00:0:0::A", "fd00::a"),
    ],
)
def test_an_address_is_read_as_go_reads_it(text: str, address: str) -> None:
    assert str(parse_ip(text)) == address
    assert family_of(address) == ("IPv6" if ":" in address else "IPv4")


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "10.0.0",
        "10.0.0.0.1",
        "256.0.0.1",
        "10.0.0.1 ",
        "10.0.0.1\n",
        "fe80::1%eth0",
        "0x0a.0.0.1",
        "web",
        "١.1.1.1",
        "10.96.0.1٢",
        "1０.96.0.1",
        "fd00::١",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"does not appear to be|has a zone"):
        parse_ip(text)


Check = Callable[[Checker], object]


@pytest.mark.parametrize(
    ("check", "value"),
    [
        (lambda c: c.present("f", "x"), "x"),
        (lambda c: c.choice("f", "a", ("a", "b")), "a"),
        (lambda c: c.within("f", 1, 1, 3, "a number"), 1),
        (lambda c: c.port("f", 65535), 65535),
        (lambda c: c.protocol("f", None), Protocol.TCP),
        (lambda c: c.protocol("f", "UDP"), Protocol.UDP),
        (lambda c: c.label("f", "a" * 63), "a" * 63),
        (lambda c: c.label("f", "1-a"), "1-a"),
        (lambda c: c.namespace(None), "default"),
        (lambda c: c.namespace("shop"), "shop"),
        (lambda c: c.subdomain("f", "worker-1.example.com"), "worker-1.example.com"),
        (lambda c: c.address("f", "FD00::1", "IPv6"), "fd00::1"),
        (lambda c: c.host("f", "127.0.0.1"), "127.0.0.1"),
        (lambda c: c.family("f", "IPv6"), IPFamily.IPV6),
        (lambda c: c.attempt(c.host, "f", "10.0.0.1"), "10.0.0.1"),
        (lambda c: c.network("f", "10.244.1.7/24"), "10.244.1.0/24"),
        (lambda c: c.network("f", "010.244.001.000/24"), "10.244.1.0/24"),
        (lambda c: c.network("f", "0.0.0.0/0"), "0.0.0.0/0"),
        (lambda c: c.network("f", "FD00:10::/64"), "fd00:10::/64"),
        (lambda c: c.timestamp("f", None), ""),
        (lambda c: c.timestamp("f", ""), ""),
        (lambda c: c.timestamp("f", "2026-01-31T12:00:00Z"), "2026-01-31T12:00:00Z"),
        (lambda c: c.timestamp("f", "2026-01-31T12:00:00.123456Z"), "2026-01-31T12:00:00Z"),
        (lambda c: c.timestamp("f", "2026-01-31T01:30:00+02:00"), "2026-01-30T23:30:00Z"),
        (lambda c: c.unique("f", ["a", "b"], "name", "name"), None),
    ],
)
def test_what_passes_comes_back_canonical(check: Check, value: object) -> None:
    checker = Checker("here")
    assert check(checker) == value
    assert not checker.problems


@pytest.mark.parametrize(
    ("check", "sentence"),
    [
        (lambda c: c.present("f", None), "missing"),
        (lambda c: c.present("f", ""), "missing"),
        (lambda c: c.choice("f", "c", ("a", "b")), '"c" is not one of a, b'),
        (lambda c: c.family("f", "ipv4"), '"ipv4" is not one of IPv4, IPv6'),
        (lambda c: c.within("f", 4, 1, 3, "a number"), "4 is not a number (1..3)"),
        (lambda c: c.port("f", None), "missing"),
        (lambda c: c.port("f", 0), "0 is not a port number (1..65535)"),
        (lambda c: c.port("f", 10**5000), "a huge number is not a port number (1..65535)"),
        (lambda c: c.protocol("f", "tcp"), '"tcp" is not one of TCP, UDP, SCTP'),
        (lambda c: c.label("f", "Web"), f'"Web" is not {LABEL}'),
        (lambda c: c.label("f", "a" * 64), f'"{"a" * 64}" is not {LABEL}'),
        (lambda c: c.label("f", "a.b"), f'"a.b" is not {LABEL}'),
        (lambda c: c.label("f", "web\n"), f'"web\\n" is not {LABEL}'),
        (lambda c: c.subdomain("f", "a..b"), f'"a..b" is not {SUBDOMAIN}'),
        (lambda c: c.subdomain("f", "a" * 254), f'"{"a" * 78}… is not {SUBDOMAIN}'),
        (lambda c: c.address("f", "1.2.3"), '"1.2.3" is not an IP address'),
        (lambda c: c.address("f", "::1", "IPv4"), '"::1" is not an IPv4 address'),
        (lambda c: c.address("f", "::ffff:1.2.3.4", "IPv6"), '"::ffff:1.2.3.4" is not an IPv6 address'),
        (lambda c: c.host("f", "10.96.0.1٢"), '"10.96.0.1٢" is not an IP address'),
        (lambda c: c.host("f", "10.96.0.1\n"), '"10.96.0.1\\n" is not an IP address'),
        (lambda c: c.network("f", "10.96.0.0/1٢"), '"10.96.0.0/1٢" is not a network such as 10.244.0.0/24'),
        (
            lambda c: c.timestamp("f", "2026-01-3١T12:00:00Z"),
            '"2026-01-3١T12:00:00Z" is not a time such as 2026-01-31T12:00:00Z',
        ),
        (lambda c: c.host("f", "0.0.0.0"), '"0.0.0.0" is not the address of a single host'),
        (lambda c: c.host("f", "::"), '"::" is not the address of a single host'),
        (lambda c: c.host("f", "224.0.0.1"), '"224.0.0.1" is not the address of a single host'),
        (lambda c: c.network("f", "10.0.0.0"), '"10.0.0.0" is not a network such as 10.244.0.0/24'),
        (lambda c: c.network("f", "10.0.0.0/33"), '"10.0.0.0/33" is not a network such as 10.244.0.0/24'),
        (lambda c: c.network("f", "10.0.0.0/255.0.0.0"), '"10.0.0.0/255.0.0.0" is not a network such as 10.244.0.0/24'),
        (lambda c: c.timestamp("f", "2026-01-31"), '"2026-01-31" is not a time such as 2026-01-31T12:00:00Z'),
        (
            lambda c: c.timestamp("f", "2026-02-30T12:00:00Z"),
            '"2026-02-30T12:00:00Z" is not a time such as 2026-01-31T12:00:00Z',
        ),
        (
            lambda c: c.timestamp("f", "0001-01-01T00:00:00+10:00"),
            '"0001-01-01T00:00:00+10:00" is not a time such as 2026-01-31T12:00:00Z',
        ),
    ],
)
def test_a_refusal_is_one_sentence_with_field_and_value(check: Check, sentence: str) -> None:
    with pytest.raises(ObjectError) as caught:
        check(Checker("a.yaml document 1 (Service default/web)"))
    assert str(caught.value) == f"a.yaml document 1 (Service default/web): f: {sentence}"


def test_a_value_given_twice_is_named_with_both_its_places() -> None:
    with pytest.raises(ObjectError) as caught:
        Checker("here").unique("ports", ["a", "b", "a"], "name", "name")
    assert str(caught.value) == 'here: ports[2].name: "a" is also the name of ports[0]'


def test_a_note_costs_nothing_but_a_sentence() -> None:
    checker = Checker("here")
    checker.note("spec.x", "odd")
    checker.note("spec.y", "odder")
    assert checker.problems == ["here: spec.x: odd", "here: spec.y: odder"]


def test_a_check_that_costs_nothing_but_a_sentence() -> None:
    checker = Checker("here")
    assert checker.attempt(checker.host, "spec.x", "web") is None
    assert checker.attempt(checker.within, "spec.y", 5, lowest=0, highest=4, noun="a number") is None
    assert checker.problems == ['here: spec.x: "web" is not an IP address', "here: spec.y: 5 is not a number (0..4)"]


FOREIGN = "١２३৩໑𝟏²①Ⅷ١.：／\n\r \u200b\u0660\uff10\x00%"
"""Digits of other scripts, what looks like punctuation, and what str.strip() would take away."""


@st.composite
def nearly(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> str:
    """A good text with up to two characters replaced by, or put beside, what a lenient parser might let pass."""
    text = draw(texts)
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(text)))
        text = text[:place] + draw(st.sampled_from(FOREIGN)) + text[place + draw(st.integers(0, 1)) :]
    return text


HOSTS = st.ip_addresses().map(str) | st.sampled_from(["127.0.0.1", "010.001.000.255", "::ffff:10.0.0.1", "fe80::1"])
NETWORKS = st.builds("{}/{}".format, HOSTS, st.integers(0, 32))
NAMES = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?", fullmatch=True)


@given(nearly(HOSTS), st.sampled_from([None, "IPv4", "IPv6"]), st.booleans())
def test_an_address_that_passes_is_canonical_ascii(text: str, wanted: str | None, special: bool) -> None:
    checker = Checker("here", from_manifest=special)
    for check in (checker.host, checker.destination):
        address = checker.attempt(check, "f", text, wanted)
        if address is not None:
            assert address.isascii()
            assert address == str(ip_address(address))
            assert wanted in (None, family_of(address))


@given(nearly(NETWORKS))
def test_a_network_that_passes_is_canonical_ascii(text: str) -> None:
    network = Checker("here").attempt(Checker("here").network, "f", text)
    if network is not None:
        assert network.isascii()
        assert network == str(ip_network(network))


@given(nearly(NAMES), nearly(st.builds("{}.{}".format, NAMES, NAMES)))
def test_a_name_that_passes_is_lower_case_ascii(label: str, subdomain: str) -> None:
    checker = Checker("here")
    for name in (checker.attempt(checker.label, "f", label), checker.attempt(checker.subdomain, "f", subdomain)):
        assert name is None or set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-.")


@given(nearly(st.datetimes(timezones=st.just(UTC)).map(lambda moment: moment.isoformat().replace("+00:00", "Z"))))
def test_a_time_that_passes_is_ascii(text: str) -> None:
    assert parse_time(text) is None or text.isascii()


@pytest.mark.parametrize("value", [None, 5, "", "2026-01-31", "2026-13-01T00:00:00Z", "0001-01-01T00:00:00+10:00"])
def test_what_is_no_moment(value: object) -> None:
    assert parse_time(value) is None


def test_a_moment_is_exact_to_the_microsecond() -> None:
    assert parse_time("2026-01-31T14:00:00.123456789+02:00") == datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)


@given(
    st.one_of(
        st.ip_addresses().map(str),
        st.sampled_from(["127.0.0.1", "169.254.169.254", "0.0.0.0", "224.0.0.1", "010.0.0.1", "10.0.0.1 ", ""]),
        st.text(max_size=20),
    ),
    st.booleans(),
)
def test_a_plain_destination_is_an_address_as_it_stands(text: str, from_manifest: bool) -> None:
    checker = Checker("a.yaml", from_manifest=from_manifest)
    if checker.is_plain_destination(text):
        assert checker.destination("ip", text, IPFamily.IPV4) == text


@pytest.mark.parametrize("text", ["127.0.0.1", "169.254.169.254"])
def test_what_only_a_manifest_may_name_is_plain_in_a_manifest_alone(text: str) -> None:
    assert Checker("a.yaml", from_manifest=True).is_plain_destination(text)
    assert not Checker("API", from_manifest=False).is_plain_destination(text)
