"""What the faults of a connection come to."""

import pytest

from tests.forwarding.faults.test_choice import fault
from userproxy.forwarding.faults.shape import Shape, Way, shape_of
from userproxy.model.faults import (
    Bandwidth,
    Blackhole,
    Direction,
    Drop,
    Effect,
    Latency,
    Refuse,
    ResetAfterBytes,
    ResetAfterSeconds,
)


@pytest.mark.parametrize(
    ("effects", "shape"),
    [
        ([], Shape()),
        ([Latency(0.2)], Shape(down=Way(0.2), text="fault 1: latency 200ms")),
        (
            [Latency(0.2, 0.05, Direction.UP)],
            Shape(up=Way(0.2, 0.05), text="fault 1: latency 200ms ± 50ms up"),
        ),
        (
            [Latency(0.25), Latency(0.5, 0.125, Direction.BOTH)],
            Shape(
                up=Way(0.5, 0.125),
                down=Way(0.75, 0.125),
                text="fault 1: latency 250ms; fault 1: latency 500ms ± 125ms both",
            ),
        ),
        (
            [Bandwidth(1_000_000), Bandwidth(64_000)],
            Shape(
                up=Way(rate=64_000),
                down=Way(rate=64_000),
                text="fault 1: bandwidth 1MB/s; fault 1: bandwidth 64KB/s",
            ),
        ),
        (
            [Blackhole()],
            Shape(up=Way(blocked=True, loss=1.0), down=Way(blocked=True, loss=1.0), text="fault 1: blackhole"),
        ),
        ([Refuse()], Shape(refused=True, text="fault 1: refuse")),
        (
            [ResetAfterBytes(65_536), ResetAfterBytes(1000), ResetAfterSeconds(2.0)],
            Shape(
                reset_bytes=1000,
                reset_seconds=2.0,
                text="fault 1: reset after 64KiB; fault 1: reset after 1KB; fault 1: reset after 2s",
            ),
        ),
    ],
)
def test_effects(effects: list[Effect], shape: Shape) -> None:
    assert shape_of([fault(each) for each in effects]) == shape


def test_losses_are_of_what_the_others_leave() -> None:
    found = shape_of([fault(Drop(), percent=50.0), fault(Drop(Direction.UP), percent=50.0)])
    assert (found.up.loss, found.down.loss) == (0.75, 0.5)
    assert found.text == "fault 1: drop of 50 %; fault 1: drop up of 50 %"


def test_what_has_something_to_do_once_the_connection_stands() -> None:
    lasting: list[Effect] = [Latency(0.2), Bandwidth(1), Blackhole(), ResetAfterBytes(1), ResetAfterSeconds(1.0)]
    assert all(shape_of([fault(each)]).is_lasting for each in lasting)
    assert not shape_of([fault(Refuse())]).is_lasting
    assert not Shape().is_lasting
