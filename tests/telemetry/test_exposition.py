"""The check of the metrics' text finds what Prometheus would find."""

import pytest

from tests.telemetry.exposition import faults

GOOD = """\
# HELP a_total Things
# TYPE a_total counter
a_total{x="1"} 1.0
a_total{x="2"} 2.0
# HELP b_seconds Seconds
# TYPE b_seconds histogram
b_seconds_bucket{le="0.5"} 1.0
b_seconds_bucket{le="+Inf"} 3.0
b_seconds_count 3.0
b_seconds_sum 2.0
# HELP c Now
# TYPE c gauge
c 1.0
"""


def test_nothing_is_wrong_with_a_good_text() -> None:
    assert faults(GOOD) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("# HELP c Now\n", "", "c: ['TYPE'] where HELP and TYPE belong"),
        ("# TYPE c gauge\n", "", "c: ['HELP'] where HELP and TYPE belong"),
        ("# HELP c Now", "# HELP c ", "c: an empty HELP"),
        ("a_total", "a", "a: a counter that is not called a total"),
        ('x="2"', 'x="1"', "a_total: twice with {'x': '1'}"),
        ("2.0\n# HELP b", "-2.0\n# HELP b", "a_total: -2.0"),
        ("# HELP c Now\n# TYPE c gauge\nc 1", "# HELP c_total X\n# TYPE c_total gauge\nc_total 1",
         "c_total: a gauge that is called a total"),
        ('b_seconds_bucket{le="0.5"} 1.0', 'b_seconds_bucket{le="0.5"} 4.0', "b_seconds: buckets out of order for []"),
        ('b_seconds_bucket{le="+Inf"} 3.0\n', "", "b_seconds: the last bucket is (0.5, 1.0), the count 3.0"),
        ("b_seconds_count 3.0", "b_seconds_count 2.0", "b_seconds: the last bucket is (inf, 3.0), the count 2.0"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found(old: str, new: str, fault: str) -> None:
    assert old in GOOD
    assert fault in faults(GOOD.replace(old, new))
