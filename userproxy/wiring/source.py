"""The source of Services: manifests if any are given, else the API server."""

import socket
from collections.abc import Callable, Coroutine, Iterable
from random import Random
from typing import Any, Final, Protocol

from userproxy.cluster.api_source import ApiSource
from userproxy.cluster.client import ApiClient, open_client
from userproxy.cluster.credentials import ApiAccess
from userproxy.cluster.manifests import ManifestSource
from userproxy.cluster.nodes import NodeAddresses, NodeLookup, wait_for_addresses
from userproxy.cluster.store import Store
from userproxy.config import Settings
from userproxy.model import Problem, ServicePortName
from userproxy.model.sources import WatchReport
from userproxy.telemetry.event_series import Reason
from userproxy.telemetry.events import Recorder
from userproxy.telemetry.problem_events import ProblemEvents
from userproxy.telemetry.timestamps import now

_SERVER_REASONS = {"healthz": Reason.HEALTH_SERVER_FAILED, "metrics": Reason.METRICS_SERVER_FAILED}


_NODE_SECONDS: Final = 10.0
"""How long the first sync waits for our Node. kube-proxy waits for 30 s."""


class Source(Protocol):
    """Keeps a Store up to date."""

    def tasks(self) -> dict[str, Coroutine[Any, Any, None]]:
        """The coroutines to run until the stop, by the names of their tasks."""

    def report(self, problems: Iterable[Problem]) -> None:
        """Report all problems of Services that there are now to whoever owns these."""

    def needs_pods(self, name: ServicePortName) -> None:
        """Report that clients of a Service without endpoints wait to whoever can start some."""

    def watches(self) -> tuple[WatchReport, ...]:
        """How current each of the things is that it is made of."""

    def problems(self) -> tuple[str, ...]:
        """One sentence for each thing that is wrong with the objects themselves now."""

    def nodes_listed(self) -> bool:
        """Whether the source has delivered its Nodes, so that a Node that is not among them does not exist."""

    def server_failed(self, name: str, text: str) -> None:
        """Report that our server `name`, "healthz" or "metrics", cannot listen, which ends the process."""

    async def close(self) -> None:
        """Let go of connections."""


async def open_source(
    settings: Settings,
    store: Store,
    nodes: NodeAddresses,
    node_name: str,
    changed: Callable[[], None],
    node_settled: Callable[[], None],
) -> Source:
    """The source that `settings` ask for. It updates `store`, answers `nodes`, and calls `changed` after each change.

    It calls `node_settled` once our Node has its addresses, or has been waited for in vain. Raises UsageError if it
    cannot be used at all.
    """
    if settings.manifests:
        manifests = ManifestSource(settings.manifests, store, changed)
        manifests.load()
        changed()
        return _Manifests(manifests)
    access = ApiAccess(kubeconfig=settings.kubeconfig, context=settings.context, master=settings.master)
    client = await open_client(access)
    source = ApiSource(client, store, changed, node_name, settings.proxy_name)
    random = Random()  # noqa: S311 -- spreads load only
    recorder = Recorder(client, node_name, socket.gethostname(), now, random, uid_of=store.uid)
    recorder.about_node(Reason.STARTING)
    lookup = NodeLookup(client, nodes, changed, random)
    return _Api(store, client, source, lookup, recorder, node_name, node_settled)


class _Manifests:
    def __init__(self, source: ManifestSource) -> None:
        self._source = source

    def tasks(self) -> dict[str, Coroutine[Any, Any, None]]:
        return {"watch manifests": self._source.watch()}

    def report(self, problems: Iterable[Problem]) -> None:
        """The log has them already."""

    def needs_pods(self, _name: ServicePortName) -> None:
        """The log says so already."""

    def watches(self) -> tuple[WatchReport, ...]:
        return (self._source.report,)

    def problems(self) -> tuple[str, ...]:
        return self._source.problems

    def nodes_listed(self) -> bool:
        return True

    def server_failed(self, name: str, text: str) -> None:
        """The error that ends the process is printed at its end."""

    async def close(self) -> None:
        pass


class _Api:
    def __init__(
        self,
        store: Store,
        client: ApiClient,
        source: ApiSource,
        lookup: NodeLookup,
        recorder: Recorder,
        node_name: str,
        node_settled: Callable[[], None],
    ) -> None:
        self._store = store
        self._node_settled = node_settled
        self._node_name = node_name
        self._client = client
        self._source = source
        self._lookup = lookup
        self._recorder = recorder
        self._problem_events = ProblemEvents(recorder)

    def tasks(self) -> dict[str, Coroutine[Any, Any, None]]:
        return {
            "follow the API": self._source.run(),
            "send events": self._recorder.run(),
            "look up Nodes": self._lookup.run(),
            "wait for our Node": self._wait_for_node(),
        }

    async def _wait_for_node(self) -> None:
        # It logs if none comes.
        await wait_for_addresses(self._store, self._node_name, self.nodes_listed, _NODE_SECONDS)
        self._node_settled()

    def watches(self) -> tuple[WatchReport, ...]:
        return self._source.watches()

    def problems(self) -> tuple[str, ...]:
        return self._source.problems

    def nodes_listed(self) -> bool:
        return self._source.node_listed

    def report(self, problems: Iterable[Problem]) -> None:
        self._problem_events.report(problems)

    def needs_pods(self, name: ServicePortName) -> None:
        note = f"The service-port {name.service.name}:{name.port} needs pods."
        self._recorder.about_service(name.service, Reason.NEED_PODS, note, here=True)

    def server_failed(self, name: str, text: str) -> None:
        self._recorder.about_node(_SERVER_REASONS[name], text)

    async def close(self) -> None:
        await self._client.close()


def source_name(settings: Settings) -> str:
    """The source of Services, as the first line of the log names it."""
    if settings.manifests:
        return ", ".join(map(str, settings.manifests))
    return "API server " + (settings.master or str(settings.kubeconfig or "of this cluster"))
