"""The annotations under userproxy.io/: what they set, and what is said of those that cannot be used."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.cluster.examples import SERVICE, put
from userproxy.cluster.objects.annotations import _KNOWN, MOST_COMPLAINTS, ServiceOptions, read_annotations
from userproxy.cluster.objects.documents import decode
from userproxy.model import BalancerName, ClientAddress, Ejection, Limits, Overflow, ProxyProtocol, Service

REMOVAL = "userproxy.io/on-endpoint-removal"
TIMEOUT = "userproxy.io/udp-timeout"
CLIENT = "userproxy.io/client-address"
PROXY = "userproxy.io/proxy-protocol"
ACCEPT = "userproxy.io/accept-proxy-protocol"
BALANCER = "userproxy.io/balancer"
MOST = "userproxy.io/max-connections"
OVERFLOW = "userproxy.io/overflow"
RATE = "userproxy.io/connection-rate"
IDLE = "userproxy.io/idle-timeout"
HOLD = "userproxy.io/hold"
IDLED = "idling.alpha.openshift.io/idled-at"
HINT_WEIGHT = "userproxy.io/hint-weight"
EJECT = "userproxy.io/eject"


@pytest.mark.parametrize(
    ("annotations", "settings"),
    [
        ({}, ServiceOptions()),
        ({REMOVAL: "close"}, ServiceOptions(close_removed_after=0.0)),
        ({REMOVAL: "drain:30s"}, ServiceOptions(close_removed_after=30.0)),
        ({REMOVAL: "drain:1h"}, ServiceOptions(close_removed_after=3600.0)),
        ({REMOVAL: "keep"}, ServiceOptions()),
        ({REMOVAL: None, TIMEOUT: None, "userproxy.io/x": None}, ServiceOptions()),
        ({TIMEOUT: "1s"}, ServiceOptions(udp_timeout=1.0)),
        ({TIMEOUT: "24h"}, ServiceOptions(udp_timeout=86400.0)),
        ({TIMEOUT: "1m30.5s"}, ServiceOptions(udp_timeout=90.5)),
        ({CLIENT: "auto"}, ServiceOptions(client_address=ClientAddress.AUTO)),
        ({CLIENT: "keep"}, ServiceOptions(client_address=ClientAddress.KEEP)),
        ({CLIENT: "node"}, ServiceOptions(client_address=ClientAddress.NODE)),
        ({PROXY: "v1"}, ServiceOptions(sends_proxy=ProxyProtocol.V1)),
        ({PROXY: "v2", ACCEPT: "v1"}, ServiceOptions(sends_proxy=ProxyProtocol.V2, accepts_proxy=ProxyProtocol.V1)),
        ({ACCEPT: "v2", CLIENT: None}, ServiceOptions(accepts_proxy=ProxyProtocol.V2)),
        ({BALANCER: "round-robin"}, ServiceOptions()),
        *(({BALANCER: str(name)}, ServiceOptions(balancer=name)) for name in BalancerName),
        ({BALANCER: "by-network.2"}, ServiceOptions(balancer="by-network.2")),
        ({HINT_WEIGHT: "1"}, ServiceOptions(hint_weight=1)),
        ({HINT_WEIGHT: "1000"}, ServiceOptions(hint_weight=1000)),
        ({EJECT: "3 failures, 30s"}, ServiceOptions(ejection=Ejection(3, 30.0))),
        ({EJECT: " 1  failure ,5s "}, ServiceOptions(ejection=Ejection(1, 5.0))),
        ({EJECT: "1000 failures,1h"}, ServiceOptions(ejection=Ejection(1000, 3600.0))),
        ({MOST: "1"}, ServiceOptions(max_connections=1)),
        ({MOST: "1000000", OVERFLOW: "refuse"}, ServiceOptions(max_connections=10**6, overflow=Overflow.REFUSE)),
        ({RATE: "100/s"}, ServiceOptions(connection_rate=100.0)),
        ({RATE: "30/m", OVERFLOW: "wait"}, ServiceOptions(connection_rate=0.5, overflow=Overflow.WAIT)),
        ({IDLE: "5m"}, ServiceOptions(idle_timeout=300.0)),
        ({HOLD: "120s"}, ServiceOptions(hold=120.0)),
        ({HOLD: "1h"}, ServiceOptions(hold=3600.0)),
        ({IDLED: "2026-11-22T00:00:00Z"}, ServiceOptions(hold=120.0)),
        ({IDLED: "", HOLD: "5s"}, ServiceOptions(hold=5.0)),
        ({IDLED: None}, ServiceOptions()),
        ({"userproxy.iox/udp-timeout": "x", "udp-timeout": "x", "a.userproxy.io/x": "x"}, ServiceOptions()),
    ],
    ids=str,
)
def test_what_is_set(annotations: dict[str, object], settings: ServiceOptions) -> None:
    assert read_annotations("shop/web", annotations) == settings


DURATION = "is not a duration such as 30s or 5m, between 1s and 24h"
CHOICE = "is not one of keep, close, and drain: with a duration between 1s and 1h, such as drain:30s"
ADDRESS = "is not one of auto, keep, node"
VERSION = "is not one of v1, v2"
NAMES = f"is not one of {', '.join(BalancerName)}, nor the name of another balancer"
ALL = (REMOVAL, TIMEOUT, CLIENT, PROXY, ACCEPT, BALANCER, HINT_WEIGHT, EJECT, MOST, OVERFLOW, RATE, IDLE, HOLD)
UNKNOWN = f"there is no such setting, only {', '.join(ALL)}"
EJECTION = 'is not a number of failures between 1 and 1000 and a duration between 5s and 1h, such as "3 failures, 30s"'
CONNECTIONS = "is not a number of connections between 1 and 1000000, in quotes"
SPEED = "is not a number of connections a second or a minute, such as 100/s or 30/m"
NUMBER = "is not a number between 1 and 1000, in quotes"


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        (REMOVAL, "Close", f'"Close" {CHOICE}'),
        (REMOVAL, "", f'"" {CHOICE}'),
        (REMOVAL, True, f"true {CHOICE}"),
        (REMOVAL, ["close"], f"a list {CHOICE}"),
        (REMOVAL, "drain", f'"drain" {CHOICE}'),
        (REMOVAL, "drain:", f'"drain:" {CHOICE}'),
        (REMOVAL, "drain:30", f'"drain:30" {CHOICE}'),
        (REMOVAL, "drain:999ms", f'"drain:999ms" {CHOICE}'),
        (REMOVAL, "drain:61m", f'"drain:61m" {CHOICE}'),
        (REMOVAL, "close:30s", f'"close:30s" {CHOICE}'),
        (TIMEOUT, "30", f'"30" {DURATION}'),
        (TIMEOUT, "", f'"" {DURATION}'),
        (TIMEOUT, "0", f'"0" {DURATION}'),
        (TIMEOUT, "999ms", f'"999ms" {DURATION}'),
        (TIMEOUT, "24h0m0.1s", f'"24h0m0.1s" {DURATION}'),
        (TIMEOUT, "-30s", f'"-30s" {DURATION}'),
        (TIMEOUT, "9" * 400 + "h", f'"{"9" * 78}… {DURATION}'),
        (TIMEOUT, 30, f"30 {DURATION}"),
        (TIMEOUT, {"s": 30}, f"a mapping {DURATION}"),
        (CLIENT, "Keep", f'"Keep" {ADDRESS}'),
        (CLIENT, "", f'"" {ADDRESS}'),
        (CLIENT, True, f"true {ADDRESS}"),
        (CLIENT, ["keep"], f"a list {ADDRESS}"),
        (PROXY, "V1", f'"V1" {VERSION}'),
        (PROXY, 2, f"2 {VERSION}"),
        (ACCEPT, "true", f'"true" {VERSION}'),
        (ACCEPT, {}, f"a mapping {VERSION}"),
        (BALANCER, "Maglev", f'"Maglev" {NAMES}'),
        (BALANCER, "", f'"" {NAMES}'),
        (BALANCER, "a" * 64, f'"{"a" * 64}" {NAMES}'),
        (BALANCER, "a b", f'"a b" {NAMES}'),
        (BALANCER, 1, f"1 {NAMES}"),
        (HINT_WEIGHT, "0", f'"0" {NUMBER}'),
        (HINT_WEIGHT, "1001", f'"1001" {NUMBER}'),
        (HINT_WEIGHT, "9" * 5000, f'"{"9" * 78}… {NUMBER}'),
        (HINT_WEIGHT, "-1", f'"-1" {NUMBER}'),
        (HINT_WEIGHT, "\u0663", f'"\u0663" {NUMBER}'),
        *((EJECT, text, f'"{text}" {EJECTION}') for text in ("3", "3,30s", "0 failures, 30s", "1001 failures, 30s")),
        *(
            (EJECT, text, f'"{text}" {EJECTION}')
            for text in ("3 failures", "3 failures, 4s", "3 failures, 61m", "x failures, 30s")
        ),
        *(
            (EJECT, text, f'"{text}" {EJECTION}')
            for text in ("3 failures, -30s", "3 failures, 30", "-3 failures, 30s", "")
        ),
        (EJECT, 3, f"3 {EJECTION}"),
        (HINT_WEIGHT, 5, f"5 {NUMBER}"),
        (MOST, "0", f'"0" {CONNECTIONS}'),
        (MOST, "1000001", f'"1000001" {CONNECTIONS}'),
        (MOST, "-1", f'"-1" {CONNECTIONS}'),
        (MOST, "\u0663", f'"\u0663" {CONNECTIONS}'),
        (MOST, 100, f"100 {CONNECTIONS}"),
        (OVERFLOW, "drop", '"drop" is not one of wait, refuse'),
        (RATE, "100", f'"100" {SPEED}'),
        (RATE, "0/s", f'"0/s" {SPEED}'),
        (RATE, "5/h", f'"5/h" {SPEED}'),
        (RATE, "1.5/s", f'"1.5/s" {SPEED}'),
        (RATE, 5, f"5 {SPEED}"),
        (IDLE, "500ms", f'"500ms" {DURATION}'),
        (HOLD, "500ms", '"500ms" is not a duration such as 120s, between 1s and 1h'),
        (HOLD, "61m", '"61m" is not a duration such as 120s, between 1s and 1h'),
        (HOLD, "true", '"true" is not a duration such as 120s, between 1s and 1h'),
        (HOLD, 120, "120 is not a duration such as 120s, between 1s and 1h"),
        ("userproxy.io/udp-time-out", "30s", UNKNOWN),
        ("userproxy.io/", "", UNKNOWN),
    ],
)
def test_a_bad_one_is_a_sentence_and_nothing_else(key: str, value: object, complaint: str) -> None:
    good = {TIMEOUT: "5s"} if key == REMOVAL else {REMOVAL: "close"}
    settings = read_annotations("shop/web", good)
    bad = replace(settings, complaints=(f"shop/web: annotation {key}: {complaint}",))
    assert read_annotations("shop/web", {key: value, **good}) == bad


EVERY: dict[str, tuple[str, str, str]] = {
    REMOVAL: ("drain:30s", "drain:1d", "keep"),
    TIMEOUT: ("5s", "five", "between 1s and 24h"),
    CLIENT: ("node", "mine", "auto, keep, node"),
    PROXY: ("v1", "v3", "v1, v2"),
    ACCEPT: ("v2", "on", "v1, v2"),
    BALANCER: ("maglev", "LEAST", "round-robin, random"),
    HINT_WEIGHT: ("4", "four", "between 1 and 1000"),
    EJECT: ("3 failures, 30s", "sometimes", "between 1 and 1000"),
    MOST: ("100", "many", "between 1 and 1000000"),
    OVERFLOW: ("refuse", "drop", "wait, refuse"),
    RATE: ("10/s", "10/h", "100/s or 30/m"),
    IDLE: ("5m", "0", "between 1s and 24h"),
    HOLD: ("2m", "2d", "between 1s and 1h"),
}
"""All annotations of a Service, each with a value that can be used, one that cannot, and what is said of what can."""


@pytest.mark.parametrize("key", _KNOWN)
def test_a_wrong_value_of_each_costs_that_one_alone_of_all(key: str) -> None:
    """The Service is as it would be without that annotation: whatever the others say counts."""
    assert EVERY.keys() == _KNOWN.keys(), "an annotation has come that is not tried here"
    good = {each: value for each, (value, _, _) in EVERY.items()}
    _, wrong, allowed = EVERY[key]
    document = put(SERVICE, ("metadata", "annotations"), good | {key: wrong})
    (service,) = decode(document, "a.yaml").objects
    without = {each: value for each, value in good.items() if each != key}
    (expected,) = decode(put(SERVICE, ("metadata", "annotations"), without), "a.yaml").objects
    (whole,) = decode(put(SERVICE, ("metadata", "annotations"), good), "a.yaml").objects
    assert isinstance(service, Service)
    (complaint,) = service.bad_annotations
    assert replace(service, bad_annotations=()) == expected != whole
    assert complaint.startswith(f'shop/web: annotation {key}: "{wrong}" is not ')
    assert allowed in complaint
    assert complaint.isprintable()


def test_wrong_values_of_all_leave_a_service_without_annotations() -> None:
    wrong = {key: value for key, (_, value, _) in EVERY.items()}
    (service,) = decode(put(SERVICE, ("metadata", "annotations"), wrong), "a.yaml").objects
    (plain,) = decode(put(SERVICE, ("metadata", "annotations"), {}), "a.yaml").objects
    assert isinstance(service, Service)
    assert replace(service, bad_annotations=()) == plain
    assert [each.split(":")[1] for each in service.bad_annotations] == [f" annotation {key}" for key in wrong]


def test_limits_are_those_that_are_set_and_there_are_none_without() -> None:
    assert ServiceOptions(overflow=Overflow.REFUSE).limits is None
    assert ServiceOptions(max_connections=5).limits == Limits(connections=5)
    limits = ServiceOptions(None, overflow=Overflow.REFUSE, connection_rate=2.0, idle_timeout=9.0).limits
    assert limits == Limits(None, Overflow.REFUSE, 2.0, 9.0)


def test_one_that_openshift_has_idled_is_held_also_if_its_own_time_is_wrong() -> None:
    settings = read_annotations("shop/web", {HOLD: "x", IDLED: "2026-11-22T00:00:00Z"})
    assert (settings.hold, len(settings.complaints)) == (120.0, 1)


def test_each_bad_one_is_told_on_one_line() -> None:
    complaints = read_annotations("a/b", {REMOVAL: "x", "userproxy.io/a\nb": "y", TIMEOUT: "z"}).complaints
    assert len(complaints) == 3
    assert all(complaint.isprintable() for complaint in complaints)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["close", "1h", "5s", "keep", "v1"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
KEYS = (
    st.sampled_from([REMOVAL, TIMEOUT, CLIENT, PROXY, ACCEPT])
    | st.text(max_size=8)
    | st.text(max_size=8).map("userproxy.io/".__add__)
)


@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_whatever_they_say_nothing_is_raised(annotations: dict[str, object]) -> None:
    settings = read_annotations("shop/web", annotations)
    assert settings.udp_timeout is None or 1 <= settings.udp_timeout <= 86400
    assert len(settings.complaints) <= len(annotations)


def test_of_very_many_that_cannot_be_used_a_few_are_named() -> None:
    """A Service has room for 14,000: each would be a line in the log, and an event."""
    annotations: dict[str, object] = {f"userproxy.io/x{number}": "" for number in range(14_000)}
    complaints = read_annotations("shop/web", {**annotations, TIMEOUT: "5s"}).complaints
    assert len(complaints) == MOST_COMPLAINTS + 1
    assert complaints[-1] == f"shop/web: {14_000 - MOST_COMPLAINTS} more annotations cannot be used"
