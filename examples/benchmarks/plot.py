"""The report as a picture: a panel for each figure, a bar for each proxy."""

from pathlib import Path
from typing import Any

from examples.benchmarks.report import METRICS, Report

_COLUMNS = 4
_COLOURS = {"userproxy": "#0072b2", "haproxy": "#e69f00", "nginx": "#009e73", "go": "#999999"}
"""Of Okabe and Ito's palette, which people with any kind of colour vision can tell apart."""


class PlotError(Exception):
    """There is no picture, because matplotlib is not installed."""


def plot(report: Report, file: Path) -> None:
    """Write a PNG: medians as bars, and the least and the greatest value over the rounds as whiskers.

    Raises PlotError and OSError.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PlotError("matplotlib is missing: pip install '.[plot]' brings it") from error
    metrics = [metric for metric in METRICS if any(metric.key in row for row in report.figures.values())]
    rows = -(-len(metrics) // _COLUMNS)
    figure = Figure(figsize=(3.2 * _COLUMNS, 2.6 * rows + 0.6), layout="constrained")
    panels = figure.subplots(rows, _COLUMNS, squeeze=False).flat
    for metric, panel in zip(metrics, panels, strict=False):
        _draw(panel, report, metric.key)
        panel.set_title(f"{metric.heading}, {metric.unit}", fontsize=10)
    for panel in list(panels):
        panel.set_visible(False)
    figure.suptitle(f"{report.machine}; median of {report.rounds}, less is better", fontsize=10)
    figure.savefig(file, dpi=120)


def _draw(panel: Any, report: Report, key: str) -> None:
    names = [name for name, row in report.figures.items() if key in row]
    spreads = [report.figures[name][key] for name in names]
    medians = [spread.median for spread in spreads]
    below = [spread.median - spread.least for spread in spreads]
    above = [spread.greatest - spread.median for spread in spreads]
    colours = [_COLOURS.get(name.partition(",")[0], "#cc79a7") for name in names]
    panel.bar(names, medians, yerr=(below, above), capsize=3, color=colours)
    panel.tick_params(labelsize=8)
    panel.tick_params(axis="x", rotation=30)  # or names of six proxies run into each other
    panel.spines[["top", "right"]].set_visible(False)
