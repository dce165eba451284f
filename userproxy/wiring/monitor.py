"""Health and metrics of one running proxy, and the ports they are asked on."""

from collections import Counter
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from userproxy import __version__
from userproxy.config import Settings, configz
from userproxy.config.addresses import SocketAddress
from userproxy.model import Node
from userproxy.telemetry.health import Health
from userproxy.telemetry.metrics import Metrics
from userproxy.telemetry.moments import now
from userproxy.telemetry.observer import SyncReporter
from userproxy.telemetry.servers import BindAddress, BindPolicy, HttpServer, health_app, metrics_app


class Outcome:
    """How a sync went; bad until somebody says otherwise."""

    def __init__(self) -> None:
        self.ok = False


class Monitor:
    """Watches syncs and the node, and answers for them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._health = Health(settings.sync_period)
        self._metrics = Metrics(__version__)
        self._reporter = SyncReporter(self._health, self._metrics, now)
        self._counted: Counter[str] = Counter()

    def node_seen(self, node: Node) -> None:
        """Our own Node as it is now: it decides whether load balancers may send here."""
        self._health.node_seen(node)

    def queued(self, events: Mapping[str, int], pending: int) -> None:
        """Changes ask for a sync: `events` so far by kind of object, and how many Services now wait."""
        self._metrics.services_changed(events["Service"] - self._counted["Service"], pending)
        self._metrics.slices_changed(events["EndpointSlice"] - self._counted["EndpointSlice"])
        self._counted = Counter(events)
        self._reporter.queued()

    def rules_stand(self, counts: Mapping[str, int]) -> None:
        """How many portal rules each table has."""
        for table, count in counts.items():
            self._metrics.rules_written(table, count)

    @contextmanager
    def syncing(self) -> Iterator[Outcome]:
        """Around a sync, which reports its outcome."""
        outcome = Outcome()
        self._reporter.began()
        try:
            yield outcome
        finally:
            self._reporter.synced(ok=outcome.ok)
            if not outcome.ok:
                self._metrics.restore_failed()

    def tasks(self) -> dict[str, Coroutine[Any, Any, None]]:
        """The servers that are switched on, to be run until the stop."""
        self._reporter.loop_started()
        policy = BindPolicy(hard_fail=self._settings.bind_address_hard_fail)
        metrics = metrics_app(self._metrics, lambda: configz(self._settings))
        tasks = {"metrics": HttpServer("metrics", _bind(self._settings.metrics_bind_address), metrics, policy).run()}
        if self._settings.healthz_bind_address is not None:
            health = health_app(self._health, self._metrics, now)
            address = _bind(self._settings.healthz_bind_address)
            tasks["healthz"] = HttpServer("healthz", address, health, policy).run()
        return tasks


def _bind(address: SocketAddress) -> BindAddress:
    return BindAddress(address.host, address.port)
