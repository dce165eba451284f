"""Clocks that the test sets, and asyncio's loop with one: what is due runs when it is told to."""

import asyncio


class Clock:
    """Called for the time, as `loop.time` is."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class ClockedLoop(asyncio.SelectorEventLoop):
    """Runs in steps, never by itself; readers and timers are asyncio's own."""

    def __init__(self) -> None:
        self.now = 1000.0
        super().__init__()

    def time(self) -> float:
        return self.now

    def turn(self) -> None:
        """Run what is readable, what is due and what they ask for, until nothing is left."""
        self._step()
        self._step()  # what only became readable by the first
        while self._ready:  # type: ignore[attr-defined] # asyncio.BaseEventLoop's, which is all Python
            self._step()

    def advance(self, seconds: float) -> None:
        """Let time pass, with a turn at the moment of every timer: a loop wakes up for each."""
        target = self.now + seconds
        while (moment := self._next_timer()) is not None and moment <= target:
            self.now = max(self.now, moment)
            self.turn()
        self.jump(target - self.now)

    def jump(self, seconds: float) -> None:
        """Let time pass at once, as when the process was stopped for so long."""
        self.now += seconds
        self.turn()

    def _step(self) -> None:
        self.call_soon(self.stop)
        self.run_forever()

    def _next_timer(self) -> float | None:
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        return min((timer.when() for timer in timers if not timer.cancelled()), default=None)
