"""The result as a value, as text for people and as JSON."""

from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from examples.benchmarks.measure import Sample, Spread, ratios, spreads


class Metric(Struct, frozen=True):
    """One figure per proxy: its key in JSON, its heading, its unit and how many decimals say something.

    `limits` are the most that userproxy is to need of it, divided by what each peer needs.
    """

    key: str
    heading: str
    unit: str
    decimals: int
    limits: dict[str, float] = {}


LIMITED = "userproxy"
"""The proxy that the limits are meant for."""

METRICS = (
    Metric("keepalive_cpu_us", "CPU/request", "us", 2, {"haproxy": 1.25, "go": 0.9}),
    Metric("connection_cpu_us", "CPU/connection", "us", 1),
    Metric("bulk_cpu_s_per_gb", "CPU/GB", "s", 3),
    Metric("latency_p50_us", "latency p50", "us", 1),
    Metric("latency_p99_us", "latency p99", "us", 1),
    Metric("beside_p50_us", "beside bulk p50", "us", 0),
    Metric("beside_p99_us", "beside bulk p99", "us", 0, {"haproxy": 1.5}),
    Metric("udp_cpu_us", "CPU/UDP round trip", "us", 2, {"nginx": 1.1, "go": 0.85}),
)
_KEYS = tuple(metric.key for metric in METRICS)


class Report(Struct, frozen=True):
    """All that a run found. `subject` is the proxy that `ratios` compares with each other one.

    `failures` are sentences; where there is one, some figure is missing and the run has failed.
    """

    machine: str
    rounds: int
    quick: bool
    subject: str
    versions: dict[str, str]
    samples: tuple[Sample, ...]
    figures: dict[str, dict[str, Spread]]
    ratios: dict[str, dict[str, Spread]]
    left_out: tuple[str, ...]
    failures: tuple[str, ...]


def make_report(
    *,
    machine: str,
    rounds: int,
    quick: bool,
    subject: str,
    versions: Mapping[str, str],
    samples: Sequence[Sample],
    left_out: Sequence[str],
    failures: Sequence[str],
) -> Report:
    """Samples and circumstances, with the figures computed from them."""
    return Report(
        machine=machine,
        rounds=rounds,
        quick=quick,
        subject=subject,
        versions=dict(versions),
        samples=tuple(samples),
        figures=spreads(samples, _KEYS),
        ratios=ratios(samples, subject, _KEYS),
        left_out=tuple(left_out),
        failures=tuple(failures),
    )


def to_json(report: Report) -> bytes:
    """The report as indented JSON, samples of every round included."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def to_text(report: Report) -> str:
    """Two tables, the figures and the ratios, each as median and least..greatest over the rounds.

    Beside userproxy's ratios stand their limits. Metrics that no proxy has are left out.
    """
    metrics = [metric for metric in METRICS if any(metric.key in row for row in report.figures.values())]
    parts = [f"{report.machine}; {_rounds(report)}, interleaved", *_versions(report), ""]
    lines = [["proxy", *(f"{metric.heading}, {metric.unit}" for metric in metrics)]]
    lines += ([name, *(cell(row.get(m.key), m.decimals) for m in metrics)] for name, row in report.figures.items())
    parts += table(lines)
    if report.ratios:
        parts += ["", f"{report.subject} divided by (below 1: {report.subject} takes less)"]
        lines = [["peer", *(metric.heading for metric in metrics)]]
        for peer, row in report.ratios.items():
            lines.append([peer, *(cell(row.get(m.key), 2) + _limit(report, peer, m) for m in metrics)])
        parts += table(lines)
    parts += [f"FAILED {failure}" for failure in report.failures]
    return "\n".join(parts) + "\n"


def _rounds(report: Report) -> str:
    count = "1 round" if report.rounds == 1 else f"{report.rounds} rounds"
    return f"{count} of the quick kind (noisy)" if report.quick else count


def _versions(report: Report) -> list[str]:
    return [f"  {name}: {version}" for name, version in report.versions.items()]


def table(lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of text with columns of one width."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def _limit(report: Report, peer: str, metric: Metric) -> str:
    if report.subject != LIMITED or peer not in metric.limits or metric.key not in report.ratios[peer]:
        return ""
    return f" limit {metric.limits[peer]:g}"


def cell(spread: Spread | None, decimals: int) -> str:
    """A figure as ``median (least..greatest)``, or a dash."""
    if spread is None:
        return "-"
    return f"{spread.median:.{decimals}f} ({spread.least:.{decimals}f}..{spread.greatest:.{decimals}f})"
