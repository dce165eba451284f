"""What becomes of changes and syncs, told to health and metrics."""

from collections import deque
from collections.abc import Iterable
from typing import Final

from userproxy.model import IPFamily
from userproxy.telemetry.health import Health
from userproxy.telemetry.metrics import Metrics
from userproxy.telemetry.timestamps import Clock, Moment

_MOST_TRIGGERS: Final = 10_000
"""A proxy that never succeeds must not collect for ever; beyond this the oldest are forgotten."""


class SyncReporter:
    """Follows the syncs of one IP family's proxy."""

    def __init__(self, health: Health, metrics: Metrics, clock: Clock, family: IPFamily) -> None:
        self._health = health.family(family)
        self._metrics = metrics.family(family)
        self._clock = clock
        self._began: Moment | None = None
        self._triggers: deque[float] = deque(maxlen=_MOST_TRIGGERS)

    def loop_started(self) -> None:
        """The proxy has begun to wait for changes, and is up to date as long as there are none."""
        now = self._clock()
        self._health.updated(now)
        self._metrics.sync_queued(_unix_time(now))

    def queued(self) -> None:
        """A change asks for a sync; the periodic ones do not count."""
        now = self._clock()
        self._health.queued(now)
        self._metrics.sync_queued(_unix_time(now))

    def began(self) -> None:
        """A sync is about to take all changes queued so far."""
        self._began = self._clock()
        self._health.turned(self._began)

    def synced(self, *, ok: bool, triggers: Iterable[float] = ()) -> None:
        """The sync that last began has ended; `ok` if everything stands as it should.

        `triggers` are the Unix times of what led to the changes of EndpointSlices that this sync took. Those of a bad
        sync are kept: their changes are served once a sync is good.
        """
        now = self._clock()
        self._health.turned(now)
        self._triggers.extend(triggers)
        self._ended(now, self._began or now, ok=ok)

    def followed(self, began: Moment, triggers: Iterable[float] = ()) -> None:
        """All changes queued until it `began` are taken over without a sync, and everything stands as it should."""
        self._triggers.extend(triggers)
        self._ended(self._clock(), began, ok=True)

    def _ended(self, now: Moment, began: Moment, *, ok: bool) -> None:
        self._metrics.sync_ended(now.monotonic - began.monotonic)
        if ok:
            self._health.updated(now, began)
            unix_time = _unix_time(now)
            self._metrics.sync_succeeded(unix_time)
            # The trigger is another machine's clock, and a negative latency would make the sum go down.
            self._metrics.endpoints_programmed(max(0.0, unix_time - trigger) for trigger in self._triggers)
            self._triggers.clear()


def _unix_time(moment: Moment) -> float:
    return moment.wall_ns / 1e9
