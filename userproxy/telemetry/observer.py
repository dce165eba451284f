"""What becomes of changes and syncs, told to health and metrics."""

from collections.abc import Iterable

from userproxy.telemetry.health import Health
from userproxy.telemetry.metrics import Metrics
from userproxy.telemetry.moments import Clock, Moment

_FAMILY = "IPv4"


class SyncReporter:
    """Follows the syncs of the IPv4 proxy."""

    def __init__(self, health: Health, metrics: Metrics, clock: Clock) -> None:
        self._health = health.family(_FAMILY)
        self._metrics = metrics
        self._clock = clock
        self._began: Moment | None = None

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
        self._metrics.changes_taken()

    def synced(self, *, ok: bool, latencies: Iterable[float] = ()) -> None:
        """The sync that last began has ended; `ok` if everything stands as it should.

        `latencies` are the seconds that each change of endpoints took until now, of a good sync.
        """
        now = self._clock()
        began = self._began or now
        self._metrics.sync_ended(now.monotonic - began.monotonic)
        if ok:
            self._health.updated(now, began)
            self._metrics.sync_succeeded(_unix_time(now))
            self._metrics.endpoints_programmed(latencies)


def _unix_time(moment: Moment) -> float:
    return moment.wall_ns / 1e9
