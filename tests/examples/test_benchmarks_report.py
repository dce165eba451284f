"""The report as text and as JSON, and the figures computed from a load."""

import re

import msgspec
import pytest

from examples.benchmarks.measure import Sample
from examples.benchmarks.report import METRICS, Report, make_report, to_json, to_text
from examples.benchmarks.scenarios import LoadResult, metrics_of, scenarios

SAMPLES = (
    Sample(1, "ours", {"keepalive_cpu_us": 8.0, "bulk_cpu_s_per_gb": 0.5}),
    Sample(1, "peer", {"keepalive_cpu_us": 16.0}),
    Sample(2, "ours", {"keepalive_cpu_us": 9.0, "bulk_cpu_s_per_gb": 0.7}),
    Sample(2, "peer", {"keepalive_cpu_us": 12.0}),
)


def report(*failures: str, quick: bool = False, subject: str = "ours", samples: tuple[Sample, ...] = SAMPLES) -> Report:
    return make_report(
        machine="Linux 6.1, 2 CPUs",
        rounds=2,
        quick=quick,
        subject=subject,
        versions={"ours": "ours 1.0", "peer": "peer 2.6"},
        samples=samples,
        left_out=("nginx is not installed.",),
        failures=failures,
    )


def test_text_shows_figures_ratios_and_gaps() -> None:
    lines = to_text(report()).splitlines()
    assert lines[0] == "Linux 6.1, 2 CPUs; 2 rounds, interleaved"
    tables = [re.split(r"  +", line) for line in lines[4:] if line]
    assert tables == [
        ["proxy", "CPU/request, us", "CPU/GB, s"],
        ["ours", "8.50 (8.00..9.00)", "0.600 (0.500..0.700)"],
        ["peer", "14.00 (12.00..16.00)", "-"],
        ["ours divided by (below 1: ours takes less)"],
        ["peer", "CPU/request", "CPU/GB"],
        ["peer", "0.62 (0.50..0.75)", "-"],
    ]


def test_limits_stand_beside_the_ratios_of_userproxy() -> None:
    values = {"userproxy": 12.0, "nginx": 12.0, "go": 16.0, "haproxy": 10.0}
    samples = tuple(Sample(1, name, {"udp_cpu_us": value}) for name, value in values.items())
    text = to_text(report(subject="userproxy", samples=samples))
    assert [re.split(r"  +", line) for line in text.splitlines()[-3:]] == [
        ["nginx", "1.00 (1.00..1.00) limit 1.1"],
        ["go", "0.75 (0.75..0.75) limit 0.85"],
        ["haproxy", "1.20 (1.20..1.20)"],
    ]
    assert "limit" not in to_text(report(subject="go", samples=samples))


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
        "udp": {"udp_cpu_us": 500.0},
        "latency": {"latency_p50_us": 40.0, "latency_p99_us": 90.0},
        "beside": {"beside_p50_us": 40.0, "beside_p99_us": 90.0},
    }
    found = metrics_of(scenario, load, 0.5)
    assert found == expected[scenario]
    assert found.keys() <= {metric.key for metric in METRICS}
