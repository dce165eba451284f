"""What sparklines and charts are drawn of."""

from userproxy.dashboard.figures.history import SAMPLES, History
from userproxy.dashboard.figures.rates import Item


def row(key: str, opened: float = 0, up: float = 0, down: float = 0, failed: float = 0, retried: float = 0) -> Item:
    rates = {"opened_rate": opened, "up_rate": up, "down_rate": down, "failed_rate": failed, "retried_rate": retried}
    return {"key": key, **rates}


def test_each_service_port_has_its_connections_and_bytes() -> None:
    history = History()
    history.add([row("a", 1, 10, 20), row("b")])
    history.add([row("a", 2), row("b")])
    assert history.of("a") == ([1, 2], [30, 0], [], [])
    assert history.of("b") == ([], [], [], [])


def test_traffic_that_begins_later_has_nothing_before_it() -> None:
    history = History()
    for rates in (0, 0, 5):
        history.add([row("a", rates)])
    assert history.of("a")[0] == [0, 0, 5]


def test_trouble_is_remembered_of_those_who_had_any() -> None:
    history = History()
    history.add([row("a", 1)])
    history.add([row("a", 2, failed=3)])
    history.add([row("a", 2, retried=1)])
    assert history.of("a") == ([1, 2, 2], [], [0, 3, 0], [0, 0, 1])


def test_all_together_are_summed_up_by_rate() -> None:
    history = History()
    history.add([row("a", 1, 10, 20), row("b", 2, 1, 1, 4)])
    assert history.of_all() == {
        "opened_rate": [3],
        "up_rate": [11],
        "down_rate": [21],
        "failed_rate": [4],
        "retried_rate": [0],
    }


def test_no_more_is_kept_than_is_shown() -> None:
    history = History()
    history.add([row("gone", 1)])
    for number in range(SAMPLES + 5):
        history.add([row("a", number)])
    assert history.of("a")[0] == list(range(5, SAMPLES + 5))
    assert len(history.of_all()["opened_rate"]) == SAMPLES
    assert history.of("gone") == ([], [], [], [])
    for _ in range(SAMPLES):
        history.add([row("a")])
    assert history.of("a") == ([], [], [], [])
