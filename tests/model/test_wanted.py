"""What is wanted: targets that rules need not tell apart, and names as people read them."""

import pytest

from userproxy.model import Portal, PortalKind, Target, TrafficClass, Verdict, local_ports_of

HERE, THERE = Target(Verdict.SERVE, 40001), Target(Verdict.SERVE, 40002, TrafficClass.EXTERNAL)
REJECT, DROP = Target(Verdict.REJECT), Target(Verdict.DROP, traffic=TrafficClass.ON_NODE)


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        (HERE, HERE, True),
        (HERE, Target(Verdict.SERVE, 40001, TrafficClass.EXTERNAL), True),
        (HERE, THERE, False),
        (HERE, REJECT, False),
        (REJECT, DROP, False),
        (REJECT, Target(Verdict.REJECT, 40001), True),
    ],
)
def test_targets_are_alike_where_clients_fare_alike(one: Target, other: Target, *, alike: bool) -> None:
    assert one.is_like(other) is other.is_like(one) is alike


def test_local_ports_are_those_that_serve_in_order_and_each_once() -> None:
    assert local_ports_of([THERE, REJECT, HERE, DROP, THERE]) == [40002, 40001]


@pytest.mark.parametrize(
    ("portal", "text"),
    [
        (Portal(PortalKind.CLUSTER_IP, "10.96.0.10", 80), "cluster IP 10.96.0.10:80"),
        (Portal(PortalKind.EXTERNAL_IP, "2001:db8::5", 80), "external IP [2001:db8::5]:80"),
        (Portal(PortalKind.NODE_PORT, "", 30080), "node port 30080"),
    ],
)
def test_a_portal_is_shown_with_its_kind(portal: Portal, text: str) -> None:
    assert str(portal) == text
