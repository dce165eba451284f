"""Pauses between tries: those of client-go, within their bounds whatever happens."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userproxy.cluster.backoff import Backoff, BackoffFigures


class _Fixed(Random):
    def __init__(self, value: float) -> None:
        super().__init__()
        self._value = value

    def random(self) -> float:
        return self._value


def _pauses(backoff: Backoff, count: int) -> list[float]:
    now, pauses = 0.0, []
    for _ in range(count):
        pauses.append(backoff.pause(now))
        now += pauses[-1]
    return pauses


@pytest.mark.parametrize(("jitter", "factor"), [(0.0, 1.0), (0.5, 1.5), (1.0, 2.0)], ids=["least", "middle", "most"])
def test_doubles_up_to_half_a_minute(jitter: float, factor: float) -> None:
    wanted = [0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]
    assert _pauses(Backoff(BackoffFigures(), _Fixed(jitter)), 8) == pytest.approx([w * factor for w in wanted])


@pytest.mark.parametrize(("quiet", "wanted"), [(119.9, 3.2), (120.0, 0.8)], ids=["before", "after two minutes"])
def test_begins_anew_after_two_quiet_minutes(quiet: float, wanted: float) -> None:
    backoff = Backoff(BackoffFigures(), _Fixed(0.0))
    now = sum(_pauses(backoff, 2))
    assert backoff.pause(now + quiet) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("asked", "wanted"), [(0.0, 0.8), (5.0, 5.0), (86400.0, 120.0)], ids=["less", "more", "beyond reason"]
)
def test_a_server_may_ask_for_more(asked: float, wanted: float) -> None:
    assert Backoff(BackoffFigures(), _Fixed(0.0)).pause(0.0, asked) == wanted


@given(st.integers(), st.lists(st.tuples(st.floats(0, 1000), st.none() | st.floats(0, 1e6)), max_size=30))
def test_never_outside_its_bounds(seed: int, failures: list[tuple[float, float | None]]) -> None:
    backoff, now = Backoff(BackoffFigures(), Random(seed)), 0.0
    for gap, asked in failures:
        now += gap
        pause = backoff.pause(now, asked)
        assert max(0.8, min(asked or 0.0, 120.0)) <= pause <= 120.0
        now += pause
