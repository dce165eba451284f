"""The parts that are handed to a proxier have what it asks of them."""

import inspect

import pytest

from userproxy.cluster.nodes import NodeAddresses
from userproxy.cluster.store import Changes
from userproxy.forwarding.forwarder import Forwarder
from userproxy.portals.claims import PortClaims
from userproxy.portals.netlink.conntrack import Conntrack
from userproxy.proxier import interfaces
from userproxy.telemetry.syncs import SyncReporter


def members(protocol: type) -> dict[str, object]:
    """What a Protocol and those that it extends ask for."""
    found: dict[str, object] = {}
    for each in reversed(protocol.__mro__):
        if each.__module__ == interfaces.__name__:
            public = {name: value for name, value in vars(each).items() if not name.startswith("_")}
            found |= public | {name: value for name, value in vars(each).items() if name == "__contains__"}
    return found


@pytest.mark.parametrize(
    ("protocol", "part"),
    [
        (interfaces.PendingChanges, Changes),
        (interfaces.SyncObserver, SyncReporter),
        (interfaces.Nodes, NodeAddresses),
        (interfaces.Forwarding, Forwarder),
        (interfaces.ClosableClaims, PortClaims),
        (interfaces.Conntrack, Conntrack),
    ],
)
def test_a_part_has_every_method_with_the_same_parameters(protocol: type, part: type) -> None:
    asked = members(protocol)
    assert asked
    for name, member in asked.items():
        found = inspect.getattr_static(part, name)
        assert isinstance(found, property) == isinstance(member, property), name
        if inspect.isfunction(member):
            assert inspect.iscoroutinefunction(found) == inspect.iscoroutinefunction(member), name
            assert list(inspect.signature(found).parameters) == list(inspect.signature(member).parameters), name
