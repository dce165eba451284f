"""The report as text and as JSON, and the figures computed from a load."""

import re

import msgspec
import pytest

from examples.benchmarks.measure import Sample
from examples.benchmarks.report import METRICS, Report, make_report, to_json, to_text
from examples.benchmarks.scenarios import LoadResult, metrics_of, scenarios


def report(*failures: str, quick: bool = False) -> Report:
    return make_report(
        machine="Linux 6.1, 2 CPUs",
        rounds=2,
        quick=quick,
        subject="ours",
        versions={"ours": "ours 1.0", "peer": "peer 2.6"},
        samples=(
            Sample(1, "ours", {"keepalive_cpu_us": 8.0, "bulk_cpu_s_per_gb": 0.5}),
            Sample(1, "peer", {"keepalive_cpu_us": 16.0}),
            Sample(2, "ours", {"keepalive_cpu_us": 9.0, "bulk_cpu_s_per_gb": 0.7}),
            Sample(2, "peer", {"keepalive_cpu_us": 12.0}),
        ),
        left_out=("nginx is not installed.",),
        failures=failures,
    )


def test_text_shows_figures_ratios_and_gaps() -> None:
    lines = to_text(report()).splitlines()
    assert lines[0] == "Linux 6.1, 2 CPUs; 2 rounds, interleaved"
    tables = [re.split(r"  +", line) for line in lines[4:] if line]
    assert [row[:2] for row in tables] == [
        ["proxy", "CPU/request, us"],
        ["ours", "8.50 (8.00..9.00)"],
        ["peer", "14.00 (12.00..16.00)"],
        ["ours divided by (below 1: ours takes less)"],
        ["peer", "CPU/request"],
        ["peer", "0.62 (0.50..0.75)"],
    ]
    assert tables[1][3] == "0.600 (0.500..0.700)"
    assert tables[2][3] == "-"


def test_failures_are_printed() -> None:
    assert "FAILED peer, round 1, bulk: 3 of 8 requests failed: cut\n" in to_text(
        report("peer, round 1, bulk: 3 of 8 requests failed: cut")
    )


def test_a_quick_run_says_that_it_is_noisy() -> None:
    assert "noisy" in to_text(report(quick=True))
    assert "noisy" not in to_text(report())


def test_json_holds_everything() -> None:
    assert msgspec.json.decode(to_json(report("bad")), type=Report) == report("bad")


@pytest.mark.parametrize("scenario", [scenario.name for scenario in scenarios(quick=True)])
def test_every_scenario_yields_known_metrics(scenario: str) -> None:
    load = LoadResult(requests=1000, failed=0, first_error="", bytes=2 * 10**9, seconds=1.0, p50_us=40.0, p99_us=90.0)
    expected = {
        "keepalive": {"keepalive_cpu_us": 500.0},
        "connection": {"connection_cpu_us": 500.0},
        "bulk": {"bulk_cpu_s_per_gb": 0.25},
        "latency": {"latency_p50_us": 40.0, "latency_p99_us": 90.0},
    }
    found = metrics_of(scenario, load, 0.5)
    assert found == expected[scenario]
    assert found.keys() <= {metric.key for metric in METRICS}
