"""A Node's addresses, zone and networks, and what says that it is about to go."""

from typing import Any

import pytest

from tests.cluster.examples import NODE, Path, put
from userproxy.cluster.objects.documents import decode
from userproxy.errors import ObjectError
from userproxy.model import Node


def test_a_node() -> None:
    assert decode(NODE, "node.yaml").objects == (Node("worker-1", ("192.168.0.1",), "a", ("10.244.1.0/24",)),)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("metadata", "labels"), None, Node("worker-1", ("192.168.0.1",), None, ("10.244.1.0/24",))),
        (
            ("metadata", "labels"),
            {"userproxy.io/node": "true"},
            Node("worker-1", ("192.168.0.1",), None, ("10.244.1.0/24",), labelled=True),
        ),
        (("spec",), None, Node("worker-1", ("192.168.0.1",), "a")),
        (("spec", "podCIDRs"), None, Node("worker-1", ("192.168.0.1",), "a", ("10.244.1.0/24",))),
        (
            ("spec", "podCIDRs"),
            ["10.244.1.0/24", "fd00:1::/64"],
            Node("worker-1", ("192.168.0.1",), "a", ("10.244.1.0/24", "fd00:1::/64")),
        ),
        (("status",), None, Node("worker-1", (), "a", ("10.244.1.0/24",))),
        (
            ("status", "addresses"),
            [
                {"type": "Hostname", "address": "worker-1"},
                {"type": "ExternalIP", "address": "203.0.113.1"},
                {"type": "InternalIP", "address": "192.168.0.1"},
                {"type": "InternalIP", "address": "fd00::1"},
            ],
            Node("worker-1", ("192.168.0.1", "fd00::1", "203.0.113.1"), "a", ("10.244.1.0/24",)),
        ),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_a_field_of_a_node(path: Path, value: object, expected: Node) -> None:
    assert decode(put(NODE, path, value), "node.yaml").objects == (expected,)


def test_a_bad_address_or_network_of_a_node_costs_only_itself() -> None:
    addresses = [
        {"type": "InternalIP", "address": "worker-1"},
        {"type": "ExternalIP", "address": "203.0.113.1"},
        {"type": "InternalIP", "address": "192.168.0.1"},
        {"type": "InternalIP"},
    ]
    document = put(NODE, ("status", "addresses"), addresses)
    found = decode(put(document, ("spec", "podCIDRs"), ["10.244.1.0", "fd00:1::/64"]), "a.yaml")
    assert found.objects == (Node("worker-1", ("192.168.0.1", "203.0.113.1"), "a", ("fd00:1::/64",)),)
    assert set(found.problems) == {
        'a.yaml (Node worker-1): status.addresses[0].address: "worker-1" is not an IP address',
        'a.yaml (Node worker-1): status.addresses[3].address: "" is not an IP address',
        'a.yaml (Node worker-1): spec.podCIDRs[0]: "10.244.1.0" is not a network such as 10.244.0.0/24',
    }


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
