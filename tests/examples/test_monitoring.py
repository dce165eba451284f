"""The dashboard and the alert rules, as Grafana and Prometheus take them."""

import subprocess
from shutil import which

import pytest

from tests.examples.monitoring import DIRECTORY, alerts, dashboard, queries
from tests.examples.promql import Selector, faults, read
from tests.telemetry.exposition import parsed

TEXT = """\
# HELP a_total Things
# TYPE a_total counter
a_total{kind="x"} 1
# HELP b Seconds
# TYPE b histogram
b_bucket{le="+Inf"} 1
b_count 1
b_sum 1
# HELP c Now
# TYPE c gauge
c 1
"""


def test_each_panel_stands_alone_and_has_its_query() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, panel["title"]
                taken.add((x, y))
        assert place["x"] + place["w"] <= 24
        assert panel["type"] == "row" or panel["targets"]
        ids = [target["refId"] for target in panel.get("targets", ())]
        assert len(set(ids)) == len(ids)


def test_each_alert_says_what_and_how_bad() -> None:
    assert len({rule["alert"] for rule in alerts()}) == len(alerts())
    for rule in alerts():
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"].keys() == {"summary", "description"}


@pytest.mark.parametrize(("place", "query"), tuple(queries()), ids=lambda text: text if len(text) < 50 else "")
def test_every_query_can_be_read(place: str, query: str) -> None:
    assert read(query).selectors, place


def test_what_a_query_asks_for_is_found() -> None:
    found = read('topk(10, sum by (a, b) (rate(x_total{c="d", e=~"f"}[5m])) / on (a) y) > 0.1 unless z{}')
    assert found.selectors == (
        Selector("x_total", {"c": ("=", "d"), "e": ("=~", "f")}, "rate"),
        Selector("y"),
        Selector("z"),
    )
    assert found.grouped_by == {"a", "b"}


@pytest.mark.parametrize("text", ["sum(x", "sum(x))", "frobnicate(x)", "x{a=}"])
def test_what_is_no_query_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read(text)


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("rate(a_total[1m])", []),
        ("up == 0", []),
        ("histogram_quantile(0.9, sum by (le) (rate(b_bucket[1m])))", []),
        ("rate(b_sum[1m]) / rate(b_count[1m])", []),
        ("c", []),
        ("d", ["d: there is no such metric"]),
        ("a_total", ["a_total: a counter inside nothing"]),
        ("rate(c[1m])", ["c: a gauge inside rate"]),
        ('rate(a_total{kind="y"}[1m])', ["a_total: no sample has kind='y'"]),
        ('rate(a_total{sort="y"}[1m])', ["a_total: has no label sort"]),
        ('rate(a_total{kind=~"y", job="k"}[1m])', []),
        ("sum by (sort, instance) (rate(a_total[1m]))", ["a_total: has no ['sort']"]),
        ("histogram_quantile(0.9, sum(rate(b_bucket[1m])))", ["b_bucket: a quantile needs le"]),
    ],
)
def test_what_cannot_be_answered_is_found(query: str, fault: list[str]) -> None:
    assert list(faults(query, parsed(TEXT))) == fault


@pytest.mark.skipif(which("promtool") is None, reason="promtool is missing: it is in Debian's package prometheus")
def test_promtool_agrees_with_the_rules_and_what_they_say() -> None:
    for command in (["check", "rules", "alerts.yaml"], ["test", "rules", "alerts_test.yaml"]):
        done = subprocess.run(["promtool", *command], cwd=DIRECTORY, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
