"""The annotation of slices by which endpoints get more or less."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cluster.examples import ENDPOINTS, SLICE, put
from userproxy.cluster.objects.documents import decode
from userproxy.cluster.objects.weights import MOST_ENTRIES, WEIGHTS, canonical, read_weights
from userproxy.model import EndpointSlice

NAME = "EndpointSlice shop/web-1"
FORM = "is not ADDRESS=WEIGHT or POD=WEIGHT with a weight between 0 and 1000, several separated by commas"


@pytest.mark.parametrize(
    ("value", "weights"),
    [
        ("10.0.0.1=3", {"10.0.0.1": 3}),
        ("10.0.0.1=3,web-2=0", {"10.0.0.1": 3, "web-2": 0}),
        (" web-2 = 1000 ,\n 10.0.0.9=007", {"web-2": 1000, "10.0.0.9": 7}),
        ("fd00::0001=2,FD00::2=1", {"fd00::1": 2, "fd00::2": 1}),
        ("::ffff:10.0.0.1=4", {"10.0.0.1": 4}),
    ],
)
def test_what_it_says(value: str, weights: dict[str, int]) -> None:
    assert read_weights(NAME, value) == (weights, "")


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("", f'"" {FORM}'),
        ("3", f'"3" {FORM}'),
        ("web-1=", f'"web-1=" {FORM}'),
        ("=3", f'"=3" {FORM}'),
        ("web-1=1001", f'"web-1=1001" {FORM}'),
        ("web-1=-1", f'"web-1=-1" {FORM}'),
        ("web-1=1.5", f'"web-1=1.5" {FORM}'),
        ("web-1=٣", f'"web-1=٣" {FORM}'),
        ("web-1=" + "9" * 5000, f'"web-1={"9" * 72}… {FORM}'),
        ("Web_1=1", f'"Web_1=1" {FORM}'),
        ("web-1=1,", f'"" {FORM}'),
        ("web-1=1;web-2=2", f'"web-1=1;web-2=2" {FORM}'),
        ("10.0.0.1=1,::ffff:10.0.0.1=2", '"10.0.0.1" is named twice'),
        ({"web-1": 3}, f"a mapping {FORM}"),
        (3, f"3 {FORM}"),
    ],
)
def test_a_bad_one_is_a_sentence_that_names_what_is_wrong_in_it(value: object, complaint: str) -> None:
    assert read_weights(NAME, value) == ({}, f"{NAME}: annotation userproxy.io/weights: {complaint}")


@given(st.one_of(st.text(), st.none(), st.integers(), st.lists(st.text()), st.from_regex(r"([a-z:.0-9]*=[0-9]*,?)*")))
def test_nothing_raises(value: object) -> None:
    weights, complaint = read_weights(NAME, value)
    assert bool(weights) is not bool(complaint)
    assert all(0 <= weight <= 1000 and canonical(key) == key for key, weight in weights.items())


def with_weights(document: dict[str, Any], value: object) -> tuple[EndpointSlice, ...]:
    """The slices of a document with the annotation; whatever it says, nothing else of it is reported."""
    found = decode(put(document, ("metadata", "annotations"), {"userproxy.io/weights": value}), "a.yaml")
    assert found.problems == ()
    return tuple(each for each in found.objects if isinstance(each, EndpointSlice))


def test_endpoints_have_weights_by_address_or_by_the_names_of_their_pods() -> None:
    endpoints = [
        {"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": "web-1"}},
        {"addresses": ["10.0.0.2"], "targetRef": {"kind": "Pod", "name": "web-2"}},
        {"addresses": ["not an address"], "targetRef": {"kind": "Pod", "name": "web-3"}},
        {"addresses": ["10.0.0.4"], "targetRef": None},
    ]
    document = {**SLICE, "endpoints": [*endpoints[:2], endpoints[3]]}
    (found,) = with_weights(document, "10.0.0.1=5,web-1=7,web-2=0,web-9=9")
    assert [each.weight for each in found.endpoints] == [5, 0, 1]
    assert found.weighted


def test_an_address_counts_however_it_is_written() -> None:
    endpoint = {"addresses": ["fd00:0::0005"], "targetRef": {"kind": "Pod", "name": "web-1"}}
    for value in ("fd00::5=3", "web-1=3"):
        (found,) = with_weights({**SLICE, "addressType": "IPv6", "endpoints": [endpoint]}, value)
        assert [each.weight for each in found.endpoints] == [3]


def test_a_bad_one_costs_weights_alone() -> None:
    (found,) = with_weights(SLICE, "everybody")
    assert [each.weight for each in found.endpoints] == [1]
    assert not found.weighted
    assert found.bad_annotations == (f'{NAME}: annotation userproxy.io/weights: "everybody" {FORM}',)


def test_endpoints_objects_have_them_too() -> None:
    found = with_weights(ENDPOINTS, "10.244.1.5=2")
    assert [each.weight for slice_ in found for each in slice_.endpoints] == [2, 1]
    (complaint,) = with_weights(ENDPOINTS, "x")[0].bad_annotations
    assert complaint.startswith("Endpoints shop/web: annotation userproxy.io/weights: ")


def test_a_list_of_more_entries_than_a_slice_has_use_for_is_refused_unread() -> None:
    """Each entry takes some 7 us, in which nobody is served, and 256 KB of annotation have room for 40,000."""
    entries = [f"web-{number}=1" for number in range(MOST_ENTRIES)]
    assert len(read_weights(NAME, ",".join(entries))[0]) == MOST_ENTRIES
    weights, complaint = read_weights(NAME, ",".join([*entries, "!"]))
    assert weights == {}
    assert complaint == f"{NAME}: annotation {WEIGHTS}: it has {MOST_ENTRIES + 1} entries, more than {MOST_ENTRIES}"


def test_endpoints_objects_with_many_subsets_have_it_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[object] = []

    def noting(name: str, value: object) -> tuple[Mapping[str, int], str]:
        read.append(value)
        return read_weights(name, value)

    monkeypatch.setattr("userproxy.cluster.objects.endpoints.read_weights", noting)
    subset = ENDPOINTS["subsets"][0]
    found = with_weights({**ENDPOINTS, "subsets": [subset, subset, subset]}, "10.244.1.5=2")
    assert [each.weight for slice_ in found for each in slice_.endpoints][:2] == [2, 1]
    assert read == ["10.244.1.5=2"]
