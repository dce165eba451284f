"""Who serves, and since when."""

from typing import Any

from userproxy.dashboard.successions import REMEMBERED_SECONDS, Successions


def status(*processes: tuple[int, str]) -> dict[str, Any]:
    return {"processes": [{"pid": pid, "role": role} for pid, role in processes]}


def test_the_first_one_succeeds_nobody() -> None:
    successions = Successions()
    successions.failed(1.0)
    successions.answered(status((7, "")), 2.0)
    successions.answered(status((7, "")), 3.0)
    assert successions.found == []


def test_a_successor_is_told_of_with_how_long_nobody_answered() -> None:
    successions = Successions()
    successions.answered(status((7, "control"), (8, "data 1")), 1.0)
    successions.answered(status((7, "control"), (9, "data 1")), 2.0)
    assert successions.found == [], "data processes come and go"
    successions.answered(status((10, "")), 3.0)
    successions.failed(4.0)
    successions.failed(5.0)
    successions.answered(status((11, "data 1"), (12, "control")), 6.5)
    assert successions.found == [
        {"time": 3.0, "pid": 10, "before": 7, "seconds": 0.0},
        {"time": 6.5, "pid": 12, "before": 10, "seconds": 2.5},
    ]


def test_a_proxy_that_was_silent_and_is_the_same_has_no_successor() -> None:
    successions = Successions()
    successions.answered(status((7, "")), 1.0)
    successions.failed(2.0)
    successions.answered({}, 3.0)
    successions.answered(status((7, "")), 4.0)
    successions.answered(status((8, "")), 5.0)
    assert [each["seconds"] for each in successions.found] == [0.0]


def test_it_is_forgotten_after_a_while() -> None:
    successions = Successions()
    for number in range(3):
        successions.answered(status((number + 1, "")), float(number))
    successions.answered(status((3, "")), 1.5 + REMEMBERED_SECONDS)
    assert [each["pid"] for each in successions.found] == [3]
