"""The picture of a report."""

import sys
from pathlib import Path

import pytest

from examples.benchmarks.measure import Sample
from examples.benchmarks.plot import PlotError, plot
from examples.benchmarks.report import METRICS, make_report

PNG = b"\x89PNG\r\n\x1a\n"
REPORT = make_report(
    machine="Linux 6.1, 2 CPUs",
    rounds=1,
    quick=False,
    subject="userproxy",
    versions={},
    samples=[
        Sample(1, "userproxy", {metric.key: 2.0 for metric in METRICS}),
        Sample(1, "haproxy", {METRICS[0].key: 1.0}),
    ],
    left_out=(),
    failures=(),
)


def test_a_picture_is_a_png_as_wide_as_its_panels(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install '.[plot]'")
    plot(REPORT, tmp_path / "report.png")
    drawn = (tmp_path / "report.png").read_bytes()
    assert drawn.startswith(PNG)
    assert int.from_bytes(drawn[16:20]) > 1000  # the width, in the header's first field (RFC 2083, 11.2.1)


def test_without_matplotlib_there_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(PlotError, match=r"pip install '\.\[plot\]'"):
        plot(REPORT, tmp_path / "report.png")
