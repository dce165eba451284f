"""What health and metrics learn of the syncs of one IP family."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from userproxy.addresses import IPFamily
from userproxy.routing.services import NoLocalEndpoints
from userproxy.telemetry.health import Health
from userproxy.telemetry.metrics import Metrics
from userproxy.telemetry.timestamps import Clock, Timestamp

_MOST_TRIGGERS: Final = 10_000
"""A proxy that never succeeds must not collect for ever; beyond this the oldest are forgotten."""


class SyncReporter:
    """Is told of each sync of one family, and passes it on to health and metrics."""

    def __init__(
        self,
        health: Health,
        metrics: Metrics,
        clock: Clock,
        family: IPFamily,
        on_success: Callable[[IPFamily], None] = lambda _: None,
    ) -> None:
        """`on_success` is called with the family after each sync that has succeeded."""
        self._family = family
        self._on_success = on_success
        self._health = health.family(family)
        self._metrics = metrics.family(family)
        self._clock = clock
        self._sync_began: Timestamp | None = None
        self._follow_began: Timestamp | None = None
        self._triggers: deque[float] = deque(maxlen=_MOST_TRIGGERS)
        self._no_local: NoLocalEndpoints | None = None
        """As it was shown last."""

    def loop_started(self) -> None:
        """The proxy has begun to wait for changes, and is up to date as long as there are none."""
        now = self._clock()
        self._health.updated(now)
        self._metrics.sync_queued(_unix_time(now))

    def queued(self) -> None:
        """A change requests a sync; the periodic ones do not count."""
        now = self._clock()
        self._health.queued(now)
        self._metrics.sync_queued(_unix_time(now))

    def sync_began(self) -> None:
        """A sync is about to take all changes queued so far."""
        self._sync_began = self._clock()
        self._health.turned(self._sync_began)

    def synced(
        self, triggers: Iterable[float], rule_counts: Mapping[str, int], no_local: NoLocalEndpoints, *, ok: bool
    ) -> None:
        """The sync that began last has ended; `ok` if everything stands as it should.

        `triggers` are the Unix times of what led to the changes of EndpointSlices that it took. Those of a failed sync
        are kept: their changes are served once a sync succeeds. `rule_counts` is by table, as of now.
        """
        now = self._clock()
        self._health.turned(now)
        self._triggers.extend(triggers)
        self._ended(now, self._sync_began or now, ok=ok)
        self._programmed(rule_counts, no_local)
        if ok:
            self._on_success(self._family)
        else:
            self._health.failed(self._sync_began or now)
            self._metrics.restore_failed()

    def follow_began(self) -> None:
        """Changes that need no other rules are about to be taken over."""
        self._follow_began = self._clock()

    def followed(self, triggers: Iterable[float], rule_counts: Mapping[str, int], no_local: NoLocalEndpoints) -> None:
        """All changes queued until `follow_began` are taken over without a sync, and everything stands as it should."""
        now = self._clock()
        self._triggers.extend(triggers)
        self._ended(now, self._follow_began or now, ok=True)
        self._programmed(rule_counts, no_local)

    def followed_at_once(self, triggers: Iterable[float]) -> None:
        """As :meth:`followed`, where nothing was queued: changes came at `follow_began`, and no figure is another."""
        now = self._clock()
        began = self._follow_began or now
        self._metrics.sync_queued(_unix_time(began))
        self._triggers.extend(triggers)
        self._ended(now, began, ok=True)

    def _ended(self, now: Timestamp, began: Timestamp, *, ok: bool) -> None:
        self._metrics.sync_ended(now.monotonic - began.monotonic)
        if ok:
            self._health.updated(now, began)
            unix_time = _unix_time(now)
            self._metrics.sync_succeeded(unix_time)
            if self._triggers:
                # The trigger is another machine's clock, and a negative latency would make the sum go down.
                self._metrics.endpoints_programmed(max(0.0, unix_time - trigger) for trigger in self._triggers)
                self._triggers.clear()

    def _programmed(self, rule_counts: Mapping[str, int], no_local: NoLocalEndpoints) -> None:
        for table, count in rule_counts.items():
            self._metrics.rules_written(table, count)
        if no_local is not self._no_local:
            self._no_local = no_local
            self._metrics.no_local_endpoints(internal=no_local.internal, external=no_local.external)


def _unix_time(timestamp: Timestamp) -> float:
    return timestamp.wall_ns / 1e9
