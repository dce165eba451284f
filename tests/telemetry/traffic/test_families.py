"""What becomes of one listener's figures."""

from tests.telemetry.traffic.figures import POD_1, POD_2, endpoint, figures
from userproxy.forwarding.observation.counters import DIAL_BOUNDS
from userproxy.model import IPFamily, TrafficClass
from userproxy.model.reports import DialTimes
from userproxy.telemetry.traffic.families import COUNTERS, DIAL_BUCKETS, GAUGES, counts_of, gauges_of

DIALS = next(family for family in COUNTERS if family.name == "userproxy_dial_seconds")
ENDPOINTS = next(family for family in GAUGES if family.name == "userproxy_endpoints")
ENTRIES = next(family for family in GAUGES if family.name == "userproxy_affinity_entries")


def test_each_family_has_a_value_for_each_column() -> None:
    for family in COUNTERS:
        assert len(family.values(figures())) == len(family.columns), family.name
    for gauges in GAUGES:
        assert len(gauges.values([figures()])) == len(gauges.columns), gauges.name
    assert not any(counts_of(figures()))
    assert not any(gauges_of([figures()]))


def test_no_bucket_has_to_be_estimated() -> None:
    assert set(DIAL_BUCKETS) <= set(DIAL_BOUNDS)


def test_buckets_are_cumulative_and_the_bounds_between_them_go_to_the_next() -> None:
    bounds = (0.0004, 0.00063, 0.001, 0.0016)
    values = DIALS.values(figures(dial=DialTimes(bounds, (1, 2, 4, 8, 16), 0.5)))
    by_label = dict(zip((each.labels.get("le", each.suffix) for each in DIALS.columns), values, strict=True))
    assert (by_label["0.00016"], by_label["0.0004"], by_label["0.001"], by_label["0.0025"]) == (0, 1, 7, 15)
    assert (by_label["4"], by_label["+Inf"], by_label["_count"], by_label["_sum"]) == (15, 31, 31, 0.5)


def test_an_endpoint_counts_once_in_the_best_state_that_a_listener_has_it_in() -> None:
    passed_over, usable = endpoint(POD_1, passed_over_seconds=3.0), endpoint(POD_1)
    ejected = endpoint(POD_1, passed_over_seconds=3.0, ejected="3 failures in a row")
    gone, draining = endpoint(POD_2, usable=False), endpoint(POD_2, usable=False, active=1)
    external = TrafficClass.EXTERNAL
    for inner, outer, expected in (
        ((usable,), (), (1, 0, 0, 0)),
        ((usable,), (usable,), (1, 0, 0, 0)),
        ((passed_over,), (usable,), (1, 0, 0, 0)),
        ((passed_over, gone), (), (0, 1, 0, 0)),
        ((passed_over, draining), (draining,), (0, 1, 0, 1)),
        ((ejected,), (), (0, 0, 1, 0)),
        ((ejected,), (passed_over,), (0, 1, 0, 0)),
    ):
        listeners = [figures(endpoints=inner), figures(traffic=external, endpoints=outer)]
        assert tuple(ENDPOINTS.values(listeners)) == expected


def test_listeners_of_a_family_have_their_affinity_entries_in_common() -> None:
    listeners = [
        figures(affinity_entries=5),
        figures(traffic=TrafficClass.EXTERNAL, affinity_entries=5),
        figures(family=IPFamily.IPV6, affinity_entries=2),
    ]
    assert list(ENTRIES.values(listeners)) == [7]
