"""Histograms show what the library's do."""

import prometheus_client
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from userproxy.telemetry.histograms import Histogram

BOUNDS = (0.001, 0.25, 1, 60)
VALUES = st.lists(st.one_of(st.sampled_from((0.0, *map(float, BOUNDS), 60.1)), st.floats(0, 100)))


def text(registry: CollectorRegistry) -> list[str]:
    return [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]


@given(VALUES, VALUES)
def test_text_is_that_of_the_library(one: list[float], other: list[float]) -> None:
    registry, theirs = CollectorRegistry(), CollectorRegistry()
    ours = Histogram("waits_seconds", "How long", "kind", BOUNDS)
    registry.register(ours)
    library = prometheus_client.Histogram("waits_seconds", "How long", ["kind"], buckets=BOUNDS, registry=theirs)
    for kind, values in {"one": one, "other": other}.items():
        series, expected = ours.of(kind), library.labels(kind)
        for value in values:
            series.observe(value)
            expected.observe(value)
    assert text(registry) == text(theirs)


def test_a_series_is_shown_before_it_has_a_value_and_stays_the_same() -> None:
    registry = CollectorRegistry()
    ours = Histogram("waits_seconds", "How long", "kind", BOUNDS)
    registry.register(ours)
    ours.of("one").observe(2.0)
    ours.of("one").observe(3.0)
    ours.of("other")
    assert 'waits_seconds_count{kind="one"} 2.0' in text(registry)
    assert 'waits_seconds_sum{kind="one"} 5.0' in text(registry)
    assert 'waits_seconds_count{kind="other"} 0.0' in text(registry)
