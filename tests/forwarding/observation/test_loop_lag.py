"""How late a loop is, is its worst of the last ten seconds."""

import pytest

from tests.forwarding.clocked import ClockedLoop
from userproxy.forwarding.observation.loop_lag import LoopLag


def test_the_worst_delay_of_the_last_seconds_is_told() -> None:
    loop = ClockedLoop()
    lag = LoopLag(loop)
    assert lag.worst == 0.0
    lag.start()
    loop.advance(1.0)
    assert lag.worst == 0.0
    loop.jump(0.75)
    assert lag.worst == pytest.approx(0.5)
    loop.advance(9.0)
    assert lag.worst == pytest.approx(0.5)
    loop.advance(2.0)
    assert lag.worst == 0.0
    lag.stop()
    assert loop._next_timer() is None
    loop.close()
