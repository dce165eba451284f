"""Decisions in one line each, as ``hubble observe`` has them."""

from datetime import UTC

import pytest

from tests.cli.items import decision
from userproxy.cli.output.decisions import COLOURS, compact

TRIED = [
    {"endpoint": "10.244.0.3:8080", "reason": "Connection refused"},
    {"endpoint": "10.244.0.4:8080", "reason": "no answer within 0.25 s"},
]


@pytest.mark.parametrize(
    ("made", "line"),
    [
        (
            decision(),
            "Nov 21 22:17:34.123: 10.244.0.9:40001 -> 10.96.0.10:80 -> default/web:http -> 10.244.0.2:8080 TCP SERVED"
            " (12.3ms, 120B up, 4.5KiB down)",
        ),
        (
            decision("retried", reason="Connection refused", tried=TRIED, duration_seconds=0.25),
            "Nov 21 22:17:34.123: 10.244.0.9:40001 -> 10.96.0.10:80 -> default/web:http -> 10.244.0.2:8080 TCP RETRIED"
            " (tried 10.244.0.3:8080: Connection refused, 10.244.0.4:8080: no answer within 0.25 s; 250ms)",
        ),
        (
            decision("refused", endpoint=None, portal=None, port="", reason="no endpoint is usable", bytes_down=0),
            "Nov 21 22:17:34.123: 10.244.0.9:40001 -> ? -> default/web -> none TCP REFUSED"
            " (no endpoint is usable; 12.3ms, 120B up, 0B down)",
        ),
        (
            decision("dropped", protocol="UDP", client="[fd00::9]:53", reason="made room\x1b[2J"),
            "Nov 21 22:17:34.123: [fd00::9]:53 -> 10.96.0.10:80 -> default/web:http -> 10.244.0.2:8080 UDP DROPPED"
            " (made room?[2J; 12.3ms, 120B up, 4.5KiB down)",
        ),
    ],
    ids=["served", "retried", "refused", "dropped"],
)
def test_a_decision_is_a_line(made: dict[str, object], line: str) -> None:
    assert "".join(compact(made, UTC)) == line


def test_every_verdict_has_a_colour() -> None:
    assert set(COLOURS) == {"served", "retried", "refused", "dropped", "reset", "timed-out"}
