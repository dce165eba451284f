"""What a connection from the client's address costs: the table, and a short run."""

import os

import pytest

from examples.benchmarks.client_address import CLIENT, METRICS, NODE, measure, to_text
from examples.benchmarks.measure import Sample
from examples.benchmarks.toolchain import find_go


def test_ratios_are_taken_within_a_round() -> None:
    samples = [
        Sample(1, NODE, {"connection_cpu_us": 100.0, "request_cpu_us": 10.0}),
        Sample(1, CLIENT, {"connection_cpu_us": 110.0, "request_cpu_us": 10.0}),
        Sample(2, NODE, {"connection_cpu_us": 200.0, "request_cpu_us": 20.0}),
        Sample(2, CLIENT, {"connection_cpu_us": 220.0, "request_cpu_us": 18.0}),
    ]
    head, *lines = to_text(samples).splitlines()
    assert "at most 1.15" in head
    assert lines[0].split()[:2] == ["the", "node's"]
    assert lines[1].split() == [
        *("the", "client's", "165.0", "(110.0..220.0)", "14.0", "(10.0..18.0)"),
        *("1.10", "(1.10..1.10)", "0.95", "(0.90..1.00)"),
    ]


@pytest.mark.slow
def test_both_have_their_turn_in_each_round() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: makes network namespaces")
    if find_go() is None:
        pytest.skip("needs the Go compiler: pip install '.[bench]'")
    samples = measure(rounds=2, connections=100, requests=200)
    assert sorted((sample.round, sample.proxy) for sample in samples) == [
        (number, name) for number in (1, 2) for name in (CLIENT, NODE)
    ]
    assert all(set(sample.values) == set(METRICS) for sample in samples)
