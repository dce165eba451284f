"""Which process of userproxy serves, and when another one came in its place. Pure."""

from collections.abc import Mapping
from typing import Any, Final

from userproxy.dashboard.figures.rates import Item

REMEMBERED_SECONDS: Final = 600.0
_MOST: Final = 20


class Successions:
    """Notes who answers. `found` are the changes of the last ten minutes, the newest last.

    Each has the Unix `time`, the process ids of who serves since, `pid`, and of who did, `before`, and for how many
    `seconds` nobody has answered meanwhile, as far as can be seen by looking now and then.
    """

    def __init__(self) -> None:
        self.found: list[Item] = []
        self._pid: int | None = None
        self._failed: float | None = None

    def failed(self, now: float) -> None:
        """Nobody has answered at the Unix time `now`."""
        if self._failed is None:
            self._failed = now

    def answered(self, status: Mapping[str, Any], now: float) -> None:
        """The status says who serves."""
        pid, before = _pid(status), self._pid
        if pid is not None:
            if before not in (None, pid):
                silent = 0.0 if self._failed is None else round(now - self._failed, 1)
                self.found.append({"time": now, "pid": pid, "before": before, "seconds": silent})
            self._pid = pid
        self._failed = None
        self.found = [each for each in self.found if each["time"] > now - REMEMBERED_SECONDS][-_MOST:]


def _pid(status: Mapping[str, Any]) -> int | None:
    """The process that everything hangs on: data processes come and go."""
    processes = status.get("processes", ())
    return next((each["pid"] for each in processes if not each["role"].startswith("data")), None)
