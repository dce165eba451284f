"""Builds health, metrics and their HTTP servers, and passes on to them what the other parts report."""

from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from userproxy import __version__
from userproxy.config import Settings, configz
from userproxy.model import IPFamily, Node, Problem, ProblemKind
from userproxy.model.data_plane import DataPlane
from userproxy.sockets import NamedSockets
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


class Monitor:
    """Health, metrics and their servers.

    `descriptor_limit` is the process's limit of open files, of which the servers' connections take at most a seventh.
    `sockets` may have listening sockets of a predecessor.
    """

    def __init__(
        self,
        settings: Settings,
        families: Iterable[IPFamily],
        descriptor_limit: int = 1024,
        sockets: NamedSockets | None = None,
        synced: Callable[[IPFamily], None] = lambda _: None,
    ) -> None:
        families = tuple(families)
        health, checks, metrics = (
            ConnectionBudget(max(_LEAST_CONNECTIONS, most * min(descriptor_limit, 1024) // 1024))
            for most in (_HEALTH_CONNECTIONS, _HEALTH_CHECK_CONNECTIONS, _METRICS_CONNECTIONS)
        )
        self._health_connections, self._metrics_connections = health, metrics
        self.most_connections = health.most + checks.most + metrics.most
        """The most connections that all HTTP ports have together."""
        self._settings = settings
        self._sockets = sockets
        self._health = Health(settings.sync_period, families)
        self._metrics = Metrics(__version__, families)
        self.health_check_budget = checks
        """For the health check node ports of both families together."""
        self._reporters = {
            family: SyncReporter(self._health, self._metrics, now, family, synced) for family in families
        }
        self._crowded: Sequence[str] = ()
        self._failing: Sequence[str] = ()

    def reporter(self, family: IPFamily) -> SyncReporter:
        """The object to be told of the syncs of one family. Raises KeyError for a family that is not served."""
        return self._reporters[family]

    def count_pending(self, family: IPFamily, pending: Callable[[], tuple[int, int]]) -> None:
        """`pending` says, in any thread, how many Services and how many changes of slices wait for a sync."""
        self._metrics.count_pending(family, pending)

    def healthy(self) -> bool:
        """Whether the proxy is healthy now, both families of it."""
        return self._health.healthy(now())

    def leave(self) -> None:
        """Answer 503 to ``/healthz`` and health checks from now on, so that load balancers send elsewhere."""
        self._health.leave()

    def node_seen(self, node: Node) -> None:
        """Our own Node as it is now, which decides whether load balancers may send here."""
        self._health.node_seen(node)

    def watch(self, data_plane: DataPlane) -> None:
        """Show the figures of the data plane among the metrics."""
        self._metrics.watch(data_plane, self._settings.metrics_services)

    def problems_are(self, problems: Collection[Problem]) -> None:
        """All problems that there are now."""
        counts = Counter(problem.kind for problem in problems)
        self._metrics.problems_are(counts)
        crowded = counts[ProblemKind.OUT_OF_DESCRIPTORS]
        text = f"{crowded} listeners and node ports are not served: the limit of open files is too low for so many"
        self._crowded = [text] if crowded else []
        self._health.warn([*self._crowded, *self._failing])

    def data_processes_are(self, failing: Sequence[str], *, down: bool) -> None:
        """What is to be said of data processes that die again and again; `down` is whether that leaves nobody."""
        self._failing = failing
        self._health.warn([*self._crowded, *self._failing])
        self._health.set_down("all data processes die again and again" if down else "")

    def ask_for_nodes(self, listed: Callable[[], bool]) -> None:
        """`listed` says whether the source has delivered its Nodes."""
        self._health.ask_for_nodes(listed)

    def count_events(self, events: Mapping[str, int]) -> None:
        """Show how many changes the source has told of, by kind of object: a live view."""
        self._metrics.count_events(events)

    def apply(self, settings: Settings) -> None:
        """Use other settings from now on, as far as they may change while running."""
        self._settings = settings
        self._health.set_sync_period(settings.sync_period)

    def tasks(
        self, on_hard_failure: Callable[[str, str], None], may_have_predecessor: Callable[[], bool]
    ) -> dict[str, Coroutine[Any, Any, None]]:
        """The servers that are switched on, as coroutines to run until the stop, by name.

        `on_hard_failure` gets the name of a server that cannot listen, and a sentence, before that ends the process.
        `may_have_predecessor` says whether the process that this one replaces may still have the ports.
        """
        for reporter in self._reporters.values():
            reporter.loop_started()
        policy = BindPolicy(self._settings.bind_address_hard_fail, may_have_predecessor=may_have_predecessor)
        metrics = metrics_app(self._metrics, lambda: configz(self._settings))
        servers = {"metrics": (self._settings.metrics_bind_address, metrics, self._metrics_connections)}
        if self._settings.healthz_bind_address is not None:
            health = health_app(self._health, self._metrics, now)
            servers["healthz"] = (self._settings.healthz_bind_address, health, self._health_connections)
        return {
            name: HttpServer(name, address, answer, budget, policy, partial(on_hard_failure, name), self._sockets).run()
            for name, (address, answer, budget) in servers.items()
        }
