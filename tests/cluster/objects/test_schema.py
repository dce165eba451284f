"""The API's shape of objects: the same for plain values and for bytes, null anywhere, unknown fields skipped."""

from typing import Any

import msgspec
import pytest

from tests.cluster.examples import ENDPOINTS, NODE, SERVICE, SLICE, places, put
from userproxy.cluster.objects import schema
from userproxy.cluster.objects.schema import UNREADABLE

SHAPES: list[tuple[dict[str, Any], type[Any]]] = [
    (SERVICE, schema.RawService),
    (SLICE, schema.RawEndpointSlice),
    (ENDPOINTS, schema.RawEndpoints),
    (NODE, schema.RawNode),
]
NOT_READ = {"kind", "apiVersion"}
"""Fields of the examples that no shape has."""
each_shape = pytest.mark.parametrize(("document", "shape"), SHAPES, ids=lambda value: getattr(value, "__name__", ""))


@each_shape
def test_plain_values_and_bytes_have_the_same_shape(document: dict[str, Any], shape: type[Any]) -> None:
    assert msgspec.convert(document, shape) == msgspec.json.decode(msgspec.json.encode(document), type=shape)


@each_shape
def test_every_field_is_read_by_the_name_that_the_api_gives_it(document: dict[str, Any], shape: type[Any]) -> None:
    """A field with a wrong name would be read as null, and null in its place would change nothing."""
    found = msgspec.convert(document, shape)
    named = [path for path in places(document) if path and isinstance(path[-1], str) and path[-1] not in NOT_READ]
    assert [path for path in named if msgspec.convert(put(document, path, None), shape) == found] == []


@each_shape
def test_null_may_stand_in_every_field(document: dict[str, Any], shape: type[Any]) -> None:
    for path in places(document):
        if path and isinstance(path[-1], str):
            msgspec.convert(put(document, path, None), shape)


@each_shape
def test_other_fields_are_skipped_whatever_they_hold(document: dict[str, Any], shape: type[Any]) -> None:
    found = msgspec.convert(document, shape)
    for value in (5, "x", [1, {"a": None}], {"name": ["y"]}):
        assert msgspec.convert({**document, "other": value, "nameLike": value}, shape) == found


@pytest.mark.parametrize(
    ("shape", "document", "where"),
    [
        (schema.RawService, put(SERVICE, ("spec", "ports", 0, "port"), "80"), "$.spec.ports[0].port"),
        (schema.RawService, put(SERVICE, ("spec", "ports", 0, "port"), 80.5), "$.spec.ports[0].port"),
        (schema.RawService, put(SERVICE, ("spec", "externalIPs"), "203.0.113.5"), "$.spec.externalIPs"),
        (schema.RawEndpointSlice, put(SLICE, ("endpoints", 0, "conditions", "ready"), "True"), "conditions.ready"),
        (schema.RawEndpointSlice, put(SLICE, ("metadata", "labels"), ["a"]), "$.metadata.labels"),
        (schema.RawEndpoints, put(ENDPOINTS, ("subsets", 0, "addresses", 0, "ip"), 7), "subsets[0].addresses[0].ip"),
        (schema.RawNode, put(NODE, ("spec", "podCIDRs"), [5]), "$.spec.podCIDRs[0]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_type_is_named_by_its_place(shape: type[Any], document: dict[str, Any], where: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(document, shape)
    assert where in str(caught.value)


def test_annotations_may_hold_anything() -> None:
    """They are judged one by one: a wrong one must not cost its object."""
    for value in (5, None, ["x"], {"a": 1}):
        service = put(SERVICE, ("metadata", "annotations"), {"userproxy.io/udp-timeout": value})
        metadata = msgspec.convert(service, schema.RawService).metadata
        assert metadata is not None
        assert metadata.annotations == {"userproxy.io/udp-timeout": value}
        trigger = {"endpoints.kubernetes.io/last-change-trigger-time": value}
        part = msgspec.convert(put(SLICE, ("metadata", "annotations"), trigger), schema.RawEndpointSlice)
        assert part.metadata is not None
        assert part.metadata.annotations == schema.RawSliceAnnotations(value)


@pytest.mark.parametrize("data", [b"", b"{", b"7", b'{"metadata":{"name":"\xff"}}', b'{"other":' + b"[" * 100_000])
def test_bytes_that_are_no_object_raise_what_is_caught(data: bytes) -> None:
    with pytest.raises(UNREADABLE):
        msgspec.json.decode(data, type=schema.RawService)
