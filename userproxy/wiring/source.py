"""Where the truth comes from: manifests if any are given, else the API server."""

import socket
from collections.abc import Callable, Coroutine, Iterable, Iterator
from heapq import nsmallest
from random import Random
from typing import Any, Final, Protocol

from userproxy.cluster.api_source import ApiSource
from userproxy.cluster.client import ApiClient, open_client
from userproxy.cluster.credentials import ApiAccess
from userproxy.cluster.manifests import ManifestSource
from userproxy.cluster.nodes import NodeAddresses, NodeLookup, wait_for_addresses
from userproxy.cluster.store import Store
from userproxy.config import Settings
from userproxy.model import Problem, ProblemKind
from userproxy.telemetry.event_series import Reason
from userproxy.telemetry.events import Recorder
from userproxy.telemetry.timestamps import now

_REASONS = {
    ProblemKind.PORT_CONFLICT: Reason.PORT_CONFLICT,
    ProblemKind.UNSUPPORTED_PROTOCOL: Reason.UNSUPPORTED_PROTOCOL,
    ProblemKind.BAD_ANNOTATION: Reason.BAD_ANNOTATION,
    ProblemKind.HEALTH_CHECK: Reason.HEALTH_CHECK_FAILED,
    ProblemKind.PORTALS_REFUSED: Reason.PORTALS_REFUSED,
    ProblemKind.OUT_OF_DESCRIPTORS: Reason.OUT_OF_DESCRIPTORS,
}


_MOST_CROWDED: Final = 10
"""Services that Events say of that there is no descriptor for them: there may be thousands, all for one reason."""


def _told_of(problems: Iterable[Problem]) -> Iterator[Problem]:
    """Those of `problems` that become Events."""
    crowded = []
    for problem in problems:
        if problem.kind is ProblemKind.OUT_OF_DESCRIPTORS:
            crowded.append(problem)
        else:
            yield problem
    yield from nsmallest(_MOST_CROWDED, crowded, key=lambda each: each.text)


_SERVER_REASONS = {"healthz": Reason.HEALTH_SERVER_FAILED, "metrics": Reason.METRICS_SERVER_FAILED}


_NODE_SECONDS: Final = 10.0
"""How long nothing is served for want of our Node. kube-proxy waits for 30 s."""


class Truth(Protocol):
    """A source that keeps a Store up to date."""

    def tasks(self) -> dict[str, Coroutine[Any, Any, None]]:
        """What has to run until the stop."""

    def report(self, problems: Iterable[Problem]) -> None:
        """Tell the source's users what is wrong with their objects now."""

    def nodes_listed(self) -> bool:
        """Whether the source has told of Nodes at all, so that one that it did not name is not there."""

    def server_failed(self, name: str, text: str) -> None:
        """Tell that a server of ours, "healthz" or "metrics", cannot have its address, as the process ends for it."""

    async def close(self) -> None:
        """Let go of connections."""


async def open_truth(
    settings: Settings,
    store: Store,
    nodes: NodeAddresses,
    node_name: str,
    changed: Callable[[], None],
    node_settled: Callable[[], None],
) -> Truth:
    """The source that `settings` ask for, which feeds `store`, answers `nodes` and calls `changed` when it has news.

    It calls `node_settled` once our Node has its addresses or has been waited for in vain.

    Raises UsageError where it cannot be used at all.
    """
    if settings.manifests:
        manifests = ManifestSource(settings.manifests, store, changed)
        manifests.load()
        changed()
        return _Manifests(manifests)
    access = ApiAccess(kubeconfig=settings.kubeconfig, context=settings.context, master=settings.master)
    client = await open_client(access)
    source = ApiSource(client, store, changed, node_name, settings.proxy_name)
    recorder = Recorder(client, node_name, socket.gethostname(), now, Random())  # noqa: S311 -- spreads load only
    recorder.about_node(Reason.STARTING)
    lookup = NodeLookup(client, nodes, changed, Random())  # noqa: S311 -- spreads load only
    return _Api(store, client, source, lookup, recorder, node_name, node_settled)


class _Manifests:
    def __init__(self, source: ManifestSource) -> None:
        self._source = source

    def tasks(self) -> dict[str, Coroutine[Any, Any, None]]:
        return {"watch manifests": self._source.watch()}

    def report(self, problems: Iterable[Problem]) -> None:
        """The log has them; manifests have nobody else to tell."""

    def nodes_listed(self) -> bool:
        return True

    def server_failed(self, name: str, text: str) -> None:
        """What ends the process is said at its end."""

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
        self._told: frozenset[Problem] = frozenset()

    def tasks(self) -> dict[str, Coroutine[Any, Any, None]]:
        return {
            "follow the API": self._source.run(),
            "send events": self._recorder.run(),
            "look up Nodes": self._lookup.run(),
            "wait for our Node": self._wait_for_node(),
        }

    async def _wait_for_node(self) -> None:
        await wait_for_addresses(
            self._store, self._node_name, self.nodes_listed, _NODE_SECONDS
        )  # which says it, if none comes
        self._node_settled()

    def nodes_listed(self) -> bool:
        return self._source.node_listed

    def report(self, problems: Iterable[Problem]) -> None:
        current = frozenset(_told_of(problems))
        for problem in sorted(current - self._told, key=lambda each: each.text):
            self._recorder.about_service(problem.service, _REASONS[problem.kind], problem.text, here=problem.here)
        self._told = current

    def server_failed(self, name: str, text: str) -> None:
        self._recorder.about_node(_SERVER_REASONS[name], text)

    async def close(self) -> None:
        await self._client.close()
