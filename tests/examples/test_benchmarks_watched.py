"""What watching costs: the table, and a short run."""

import pytest

from examples.benchmarks.measure import Sample
from examples.benchmarks.toolchain import find_go
from examples.benchmarks.watched import NOBODY, WATCHES, measure, to_text

TABLE = """\
watched by  connections/s              CPU/connection, us     connections/s: of nobody's  CPU/connection: of nobody's
nobody      4500 (4000..5000)          150.0 (100.0..200.0)
observe -f  4250 (4000..4500)          165.0 (110.0..220.0)   0.95 (0.90..1.00)           1.10 (1.10..1.10)
"""


def test_ratios_are_taken_within_a_round() -> None:
    samples = [
        Sample(1, NOBODY, {"rate": 4000.0, "cpu_us": 100.0}),
        Sample(1, "observe -f", {"rate": 4000.0, "cpu_us": 110.0}),
        Sample(2, NOBODY, {"rate": 5000.0, "cpu_us": 200.0}),
        Sample(2, "observe -f", {"rate": 4500.0, "cpu_us": 220.0}),
    ]
    assert [line.split() for line in to_text(samples).splitlines()] == [line.split() for line in TABLE.splitlines()]


def test_everybody_who_watches_has_a_turn_in_each_round() -> None:
    if find_go() is None:
        pytest.skip("needs the Go compiler: pip install '.[bench]'")
    samples = measure(rounds=2, connections=100)
    assert [(sample.round, sample.proxy) for sample in samples] == [(n, name) for n in (1, 2) for name in WATCHES]
    assert all(value > 0 for sample in samples for value in sample.values.values())
