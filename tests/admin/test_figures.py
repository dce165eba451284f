"""Figures of several listeners, summed up."""

from typing import Any

from tests.admin.planes import ONE, TWO, WEB
from userproxy.addresses import IPFamily
from userproxy.admin.figures import EndpointTotals, Totals, by_endpoint, summed, totals
from userproxy.model import ListenerName
from userproxy.model.reports import DialTimes, EndpointFigures, ListenerFigures
from userproxy.model.snapshots import Verdict


def figures(family: IPFamily, *endpoints: EndpointFigures, **changed: Any) -> ListenerFigures:
    return ListenerFigures(ListenerName(WEB, family=family), Verdict.SERVE, endpoints=endpoints, **changed)


def test_nothing_has_done_nothing() -> None:
    assert totals(()) == Totals()
    assert by_endpoint(()) == {}


def test_both_families_are_one_service_port() -> None:
    ones = {"active": 1, "total": 2, "failed": 3, "retried": 4, "bytes_up": 5, "bytes_down": 6, "held": 8}
    four = figures(IPFamily.IPV4, **ones, limited=7, waiting=1)
    six = figures(IPFamily.IPV6, **{name: 10 * number for name, number in ones.items()}, queued=4)
    assert totals([four, six]) == Totals(11, 22, 33, 44, 55, 66, 7, 88, waiting=5)


def test_an_endpoint_that_is_ejected_counts_once() -> None:
    one, two = EndpointFigures(ONE, ejected="3 failures in a row"), EndpointFigures(TWO)
    listeners = [figures(IPFamily.IPV4, one, two), figures(IPFamily.IPV6, one, two)]
    assert totals(listeners).ejected == 1


def test_an_endpoint_of_two_listeners_is_passed_over_as_long_as_by_either() -> None:
    one = EndpointFigures(ONE, active=1, total=2, failed=3, bytes_up=4, bytes_down=5, passed_over_seconds=1.5)
    other = EndpointFigures(ONE, active=1, total=1, passed_over_seconds=0.5, ejected="why")
    found = by_endpoint([figures(IPFamily.IPV4, one), figures(IPFamily.IPV6, other)])
    assert found == {ONE: EndpointTotals(2, 3, 3, 4, 5, DialTimes(), 1.5, "why")}


def test_times_of_dials_are_added_up_by_their_bounds() -> None:
    one, other = DialTimes((0.1, 1.0), (1, 2, 3), 4.0), DialTimes((0.1, 1.0), (10, 20, 30), 40.0)
    assert summed(one, other) == DialTimes((0.1, 1.0), (11, 22, 33), 44.0)
    assert summed(DialTimes(), one) == summed(one, DialTimes()) == one
