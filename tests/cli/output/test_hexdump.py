from typing import Any

import pytest

from userproxy.cli.output.hexdump import Hexdump, dump


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("userproxy.cli.output.hexdump.time_of_day", lambda text: text[11:23])


OPENED = {
    "type": "OPENED",
    "connection": 7,
    "time": "2026-01-02T03:04:05.123456Z",
    "service": "default/web",
    "port": "http",
    "protocol": "TCP",
    "client": "10.0.0.1:4000",
    "portal": "10.96.0.1:80",
    "node": "10.0.0.9:5000",
    "endpoint": "10.1.0.2:8080",
    "whole": True,
    "tried": [{"endpoint": "10.1.0.3:8080", "reason": "Connection refused"}],
}


def passed(leg: str, direction: str, kind: str = "data", data: str = "aGkK", size: int = 3) -> dict[str, Any]:
    at = {"connection": 7, "time": OPENED["time"], "leg": leg, "direction": direction}
    return {"type": "PASSED", **at, "kind": kind, "size": size, "data": data}


def ended(reason: str = "") -> dict[str, Any]:
    figures = {"duration_seconds": 0.25, "bytes_up": 3, "bytes_down": 2048}
    return {"type": "ENDED", "connection": 7, "time": OPENED["time"], "verdict": "served", "reason": reason, **figures}


def lines(*objects: dict[str, Any]) -> list[str]:
    shown = Hexdump()
    return [line for each in objects for line in shown.add(each)]


def test_a_connection() -> None:
    assert lines(OPENED, passed("client", "up"), passed("backend", "down", "fin", "", 0), ended()) == [
        "03:04:05.123 #7 10.0.0.1:4000 -> 10.96.0.1:80 -> default/web:http -> 10.0.0.9:5000 -> 10.1.0.2:8080 TCP"
        "; tried 10.1.0.3:8080: Connection refused",
        "03:04:05.123 #7 client 10.0.0.1:4000 > 10.96.0.1:80 3 bytes",
        "  00000000  68 69 0a                                          |hi.|",
        "03:04:05.123 #7 backend 10.1.0.2:8080 > 10.0.0.9:5000 FIN",
        "03:04:05.123 #7 served: 250ms, 3B up, 2.0KiB down",
    ]


def test_one_that_was_open_and_one_that_nobody_served() -> None:
    assert lines({**OPENED, "whole": False, "tried": []})[0].endswith("TCP; open already")
    refused = {**OPENED, "node": None, "endpoint": None, "tried": []}
    assert lines(refused, passed("backend", "up", "rst", "", 0)) == [
        "03:04:05.123 #7 10.0.0.1:4000 -> 10.96.0.1:80 -> default/web:http TCP",
        "03:04:05.123 #7 backend ? > ? RST",
    ]


def test_lines_of_sixteen_bytes_and_nothing_that_a_terminal_would_obey() -> None:
    assert list(dump(b"\x1b[2J" + bytes(range(65, 79)))) == [
        "  00000000  1b 5b 32 4a 41 42 43 44  45 46 47 48 49 4a 4b 4c  |.[2JABCDEFGHIJKL|",
        "  00000010  4d 4e                                             |MN|",
    ]
    assert list(dump(b"")) == []


def test_a_reason_cannot_break_the_line() -> None:
    assert lines(ended("a\nb\x1b[31m"))[0].endswith("served (a?b?[31m): 250ms, 3B up, 2.0KiB down")
