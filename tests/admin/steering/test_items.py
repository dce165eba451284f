"""What may be asked of the admin API to be changed: what passes is what can be done."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from userproxy.admin.parameters import parse_endpoint
from userproxy.admin.steering.items import MOST_SECONDS, DrainRequest, FaultRequest
from userproxy.model.faults import MOST_FAULT_SECONDS

DRAIN: dict[str, Any] = {"service": "default/web", "endpoint": "10.0.0.1:80"}
FAULT: dict[str, Any] = {"service": "default/web", "effect": {"kind": "refuse"}, "for_seconds": 60}

labels = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)
names = st.lists(labels, min_size=1, max_size=3).map(".".join)
addresses = st.ip_addresses().map(lambda ip: f"[{ip}]" if ip.version == 6 else str(ip))


def drain(**fields: Any) -> DrainRequest:
    return msgspec.json.decode(json.dumps(DRAIN | fields), type=DrainRequest)


def fault(**fields: Any) -> FaultRequest:
    return msgspec.json.decode(json.dumps(FAULT | fields), type=FaultRequest)


@settings(deadline=None)
@given(labels, names, addresses, st.integers(1, 65_535))
def test_whatever_kubernetes_calls_its_objects_can_be_drained(
    namespace: str, name: str, address: str, port: int
) -> None:
    asked = drain(service=f"{namespace}/{name}", endpoint=f"{address}:{port}")
    assert asked.service.split("/") == [namespace, name]
    assert parse_endpoint(asked.endpoint).port == port


@settings(deadline=None)
@given(st.text(max_size=30))
def test_what_passes_as_an_endpoint_is_one(text: str) -> None:
    try:
        asked = drain(endpoint=text)
    except msgspec.ValidationError:
        return
    assert parse_endpoint(asked.endpoint.strip()).port > 0, "Python's $ admits a line feed at the end"


@pytest.mark.parametrize(
    "service", ["web", "default/", "/web", "a/b/c", "default/Web", "default/web:80", "default web", "é/web"]
)
def test_a_service_is_a_namespace_and_a_name(service: str) -> None:
    with pytest.raises(msgspec.ValidationError, match="service"):
        drain(service=service)
    with pytest.raises(msgspec.ValidationError, match="service"):
        fault(service=service)


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("for_seconds", [None, 1, MOST_SECONDS], [0, -1, 0.5, MOST_SECONDS + 1, "60", True]),
        ("close_after_seconds", [None, 0, MOST_SECONDS], [-1, MOST_SECONDS + 1, "0s"]),
        ("endpoint", ["[fd00::1]:80"], ["10.0.0.1", "10.0.0.1:0", "10.0.0.1:65536", "fd00::1:80", "web:80", None]),
    ],
)
def test_a_drain_has_bounds(field: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert getattr(drain(**{field: value}), field) == value
    for value in bad:
        with pytest.raises(msgspec.ValidationError, match=field):
            drain(**{field: value})


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("for_seconds", [1, MOST_FAULT_SECONDS], [None, 0, MOST_FAULT_SECONDS + 1]),
        ("percent", [0.001, 100], [0, -1, 100.1, None, "5%"]),
        ("client", [None, "10.0.0.1", "10.0.0.0/8", "fd00::/64"], ["", "10.0.0.0/33", "web", "10.0.0.1:80"]),
        ("port", [None, "http", "80"], ["", "Http", "a" * 64, 80]),
        ("endpoint", [None, "10.0.0.1:80"], ["10.0.0.1"]),
        ("effect", [], [None, {}, {"kind": "explode"}, {"kind": "latency"}]),
    ],
)
def test_a_fault_has_bounds(field: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert getattr(fault(**{field: value}), field) == value
    for value in bad:
        with pytest.raises(msgspec.ValidationError, match=field):
            fault(**{field: value})


@pytest.mark.parametrize("ask", [drain, fault])
def test_a_field_that_there_is_not_is_not_passed_over(ask: Any) -> None:
    """A slip in `close_after_seconds` would leave connections open for good."""
    with pytest.raises(msgspec.ValidationError, match="unknown field `closes_after`"):
        ask(closes_after=30)
