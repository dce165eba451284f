"""What of a Node says that it is about to go."""

from typing import Any

import pytest

from tests.cluster.examples import NODE, put
from userproxy.cluster.objects.documents import decode
from userproxy.errors import ObjectError
from userproxy.model import Node


def node(document: dict[str, Any]) -> Node:
    (found,) = decode(document, "node.yaml").objects
    assert isinstance(found, Node)
    return found


@pytest.mark.parametrize(
    ("timestamp", "deleting"), [(None, False), ("", False), ("2026-01-31T12:00:00Z", True)], ids=repr
)
def test_a_deletion_timestamp_means_deleting(timestamp: str | None, deleting: bool) -> None:
    assert node(put(NODE, ("metadata", "deletionTimestamp"), timestamp)).deleting is deleting


@pytest.mark.parametrize(
    ("taints", "keys"),
    [
        (None, ()),
        ([], ()),
        ([{"key": "a", "effect": "NoSchedule"}, {"key": "b", "value": "x", "effect": "NoExecute"}], ("a", "b")),
        ([{"key": None}, {}, {"key": ""}, {"key": "a"}], ("a",)),
    ],
    ids=repr,
)
def test_taints_are_their_keys(taints: object, keys: tuple[str, ...]) -> None:
    assert node(put(NODE, ("spec", "taints"), taints)).taints == keys


def test_a_node_says_neither_by_default() -> None:
    found = node(NODE)
    assert (found.deleting, found.taints) == (False, ())


def test_a_taint_that_is_no_mapping_is_named() -> None:
    with pytest.raises(ObjectError, match=r"spec\.taints\[0\]"):
        node(put(NODE, ("spec", "taints"), ["a"]))
