"""Health and metrics of one running proxy, and the ports they are asked on."""

from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from userproxy import __version__
from userproxy.config import Settings, configz
from userproxy.model import IPFamily, Node, Problem, ProblemKind
from userproxy.routing.services import NoLocalEndpoints
from userproxy.telemetry.data_plane import DataPlane, DataPlaneCollector
from userproxy.telemetry.health import Health
from userproxy.telemetry.http_connections import ConnectionBudget
from userproxy.telemetry.http_servers import BindPolicy, HttpServer, health_app, metrics_app
from userproxy.telemetry.metrics import Metrics
from userproxy.telemetry.syncs import SyncReporter
from userproxy.telemetry.timestamps import now

_HEALTH_CONNECTIONS: Final = 64
_HEALTH_CHECK_CONNECTIONS: Final = 64
"""Of the health check node ports of all Services together."""

_METRICS_CONNECTIONS: Final = 16
_LEAST_CONNECTIONS: Final = 4


class Outcome:
    """How a sync went; bad until somebody says otherwise."""

    def __init__(self) -> None:
        self.ok = False


class FamilyMonitor:
    """Watches the syncs of one family. Made by :class:`Monitor`."""

    def __init__(
        self, family: IPFamily, health: Health, metrics: Metrics, health_check_connections: ConnectionBudget
    ) -> None:
        self.family = family
        self.health_check_connections = health_check_connections
        """The budget of both families' health check node ports together."""
        self.reporter = SyncReporter(health, metrics, now, family)
        self._health = health
        self._metrics = metrics.family(family)
        self._all_metrics = metrics

    def count_pending(self, pending: Callable[[], tuple[int, int]]) -> None:
        """Have `pending` asked, in another thread, how many Services and how many changes of slices wait for a sync."""
        self._all_metrics.count_pending(self.family, pending)

    def healthy(self) -> bool:
        """Whether the proxy, both families of it, does its work now."""
        return self._health.healthy(now())

    def stands(self, rule_counts: Mapping[str, int], no_local: NoLocalEndpoints) -> None:
        """What a sync has left: rules by table, and service ports whose policy leaves them no endpoint."""
        for table, count in rule_counts.items():
            self._metrics.rules_written(table, count)
        self._metrics.no_local_endpoints(internal=no_local.internal, external=no_local.external)

    @contextmanager
    def following(self, take_triggers: Callable[[], Iterable[float]]) -> Iterator[Outcome]:
        """Around taking over changes, which counts as a sync if there is nothing left for one to do.

        `take_triggers` gives the Unix times of what led to it.
        """
        outcome = Outcome()
        began = now()
        yield outcome
        if outcome.ok:
            self.reporter.followed(began, take_triggers())

    @contextmanager
    def syncing(self, triggers: Iterable[float]) -> Iterator[Outcome]:
        """Around a sync, which reports its outcome; `triggers` are the Unix times of what led to it."""
        outcome = Outcome()
        self.reporter.began()
        try:
            yield outcome
        finally:
            self.reporter.synced(ok=outcome.ok, triggers=triggers)
            if not outcome.ok:
                self._metrics.restore_failed()


class Monitor:
    """Watches syncs and the node, and answers for them.

    `descriptor_limit` is the process's limit of open files, of which its ports take at most a seventh.
    """

    def __init__(self, settings: Settings, families: Iterable[IPFamily], descriptor_limit: int = 1024) -> None:
        families = tuple(families)
        health, checks, metrics = (
            ConnectionBudget(max(_LEAST_CONNECTIONS, most * min(descriptor_limit, 1024) // 1024))
            for most in (_HEALTH_CONNECTIONS, _HEALTH_CHECK_CONNECTIONS, _METRICS_CONNECTIONS)
        )
        self._health_connections, self._metrics_connections = health, metrics
        self.most_connections = health.most + checks.most + metrics.most
        """How many connections all HTTP ports have at most."""
        self._settings = settings
        self._health = Health(settings.sync_period, families)
        self._metrics = Metrics(__version__, families)
        self._families = {family: FamilyMonitor(family, self._health, self._metrics, checks) for family in families}
        self._services = 0
        self._slices = 0

    def family(self, family: IPFamily) -> FamilyMonitor:
        """The part of one family; KeyError for one that is not served."""
        return self._families[family]

    def leave(self) -> None:
        """Have load balancers send elsewhere: ``/healthz`` and health checks say 503 from now on."""
        self._health.leave()

    def node_seen(self, node: Node) -> None:
        """Our own Node as it is now: it decides whether load balancers may send here."""
        self._health.node_seen(node)

    def watch(self, data_plane: DataPlane) -> None:
        """Show the figures of the data plane among the metrics."""
        self._metrics.registry.register(DataPlaneCollector(data_plane))

    def problems_are(self, problems: Collection[Problem]) -> None:
        """All that is wanted of Services and not served now."""
        counts = Counter(problem.kind for problem in problems)
        self._metrics.problems_are(counts)
        crowded = counts[ProblemKind.OUT_OF_DESCRIPTORS]
        text = f"{crowded} listeners and node ports are not served: the limit of open files is too low for so many"
        self._health.warn([text] if crowded else [])

    def ask_for_nodes(self, listed: Callable[[], bool]) -> None:
        """Have `listed` asked whether the source has told of Nodes at all."""
        self._health.ask_for_nodes(listed)

    def queued(self, events: Mapping[str, int]) -> None:
        """There are changes: `events` so far by kind of object."""
        services, slices = events["Service"], events["EndpointSlice"]
        self._metrics.services_changed(services - self._services)
        self._metrics.slices_changed(slices - self._slices)
        self._services, self._slices = services, slices

    def apply(self, settings: Settings) -> None:
        """Follow what of the settings may change while running."""
        self._settings = settings
        self._health.set_sync_period(settings.sync_period)

    def tasks(
        self, on_hard_failure: Callable[[str, str], None], may_have_predecessor: Callable[[], bool]
    ) -> dict[str, Coroutine[Any, Any, None]]:
        """The servers that are switched on, to be run until the stop.

        `on_hard_failure` gets the name of one that cannot have its address, and a sentence, before that ends the
        process. `may_have_predecessor` is asked whether a process may still hold them whose place we take.
        """
        for family in self._families.values():
            family.reporter.loop_started()
        policy = BindPolicy(self._settings.bind_address_hard_fail, may_have_predecessor=may_have_predecessor)
        metrics = metrics_app(self._metrics, lambda: configz(self._settings))
        servers = {"metrics": (self._settings.metrics_bind_address, metrics, self._metrics_connections)}
        if self._settings.healthz_bind_address is not None:
            health = health_app(self._health, self._metrics, now)
            servers["healthz"] = (self._settings.healthz_bind_address, health, self._health_connections)
        return {
            name: HttpServer(name, address, answer, budget, policy, partial(on_hard_failure, name)).run()
            for name, (address, answer, budget) in servers.items()
        }
