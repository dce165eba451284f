"""What makes two objects the same one."""

import pytest

from tests.cluster.examples import (
    NODE,
    SERVICE,
    a_service,
    put,
)
from userproxy.cluster.objects.keys import ObjectKey, identify, object_key
from userproxy.model import Node, Service


@pytest.mark.parametrize(
    ("document", "key"),
    [
        (SERVICE, ObjectKey("Service", "shop", "web")),
        (a_service("web"), ObjectKey("Service", "default", "web")),
        (put(SERVICE, ("spec",), "broken"), ObjectKey("Service", "shop", "web")),
        (put(NODE, ("metadata", "namespace"), "shop"), ObjectKey("Node", "", "worker-1")),
        (put(SERVICE, ("metadata", "namespace"), 5), None),
        (put(SERVICE, ("metadata", "name"), None), None),
        (put(SERVICE, ("metadata",), []), None),
        (put(SERVICE, ("kind",), 5), None),
        ("text", None),
    ],
    ids=lambda value: str(value) if isinstance(value, ObjectKey) else "",
)
def test_identify(document: object, key: ObjectKey | None) -> None:
    assert identify(document) == key


def test_a_key_prints_as_people_write_it() -> None:
    assert str(object_key(Service("shop", "web"))) == "Service shop/web"
    assert str(object_key(Node("worker-1"))) == "Node worker-1"
