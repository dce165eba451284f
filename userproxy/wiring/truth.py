"""Where the truth comes from: manifests if any are given, else the API server."""

import socket
from collections.abc import Callable, Coroutine, Iterable
from random import Random
from typing import Any, Protocol

from userproxy.cluster.api import ApiSource
from userproxy.cluster.client import ApiClient, open_client
from userproxy.cluster.credentials import ApiAccess
from userproxy.cluster.manifests import ManifestSource
from userproxy.cluster.node import own_node_name, wait_for_addresses
from userproxy.cluster.store import Store
from userproxy.config import Settings
from userproxy.model import Node, Problem, ProblemKind
from userproxy.telemetry.events import Reason, Recorder
from userproxy.telemetry.moments import now
from userproxy.wiring.monitor import Monitor

_REASONS = {
    ProblemKind.PORT_CONFLICT: Reason.PORT_CONFLICT,
    ProblemKind.UNSUPPORTED_PROTOCOL: Reason.UNSUPPORTED_PROTOCOL,
}


class Truth(Protocol):
    """A source, and the Store that it keeps."""

    @property
    def store(self) -> Store:
        """What the source says."""

    def tasks(self) -> dict[str, Coroutine[Any, Any, None]]:
        """What has to run until the stop."""

    def report(self, problems: Iterable[Problem]) -> None:
        """Tell the source's users what is wrong with their objects now."""

    async def close(self) -> None:
        """Let go of connections."""


async def open_truth(settings: Settings, monitor: Monitor, request_sync: Callable[[], None]) -> Truth:
    """The source that `settings` ask for. Raises UsageError where it cannot be used at all."""
    name = own_node_name(settings.hostname_override or "", socket.gethostname())
    store = Store()

    def changed() -> None:
        node = store.nodes.get(name)
        if node is not None:
            monitor.node_seen(node)
        monitor.queued(store.events, store.pending)
        request_sync()

    if settings.manifests:
        manifests = ManifestSource(settings.manifests, store, changed)
        manifests.load()
        if name not in store.nodes:
            monitor.node_seen(Node(name))  # manifests need not have one, and then nobody is about to remove it
        changed()
        return _Manifests(store, manifests)
    access = ApiAccess(kubeconfig=settings.kubeconfig, context=settings.context, master=settings.master)
    client = await open_client(access)
    source = ApiSource(client, store, changed, name, settings.proxy_name)
    recorder = Recorder(client, name, socket.gethostname(), now, Random())  # noqa: S311 -- spreads load only
    recorder.about_node(Reason.STARTING)
    return _Api(store, client, source, recorder, name)


class _Manifests:
    def __init__(self, store: Store, source: ManifestSource) -> None:
        self.store = store
        self._source = source

    def tasks(self) -> dict[str, Coroutine[Any, Any, None]]:
        return {"watch manifests": self._source.watch()}

    def report(self, problems: Iterable[Problem]) -> None:
        """The log has them; manifests have nobody else to tell."""

    async def close(self) -> None:
        pass


class _Api:
    def __init__(self, store: Store, client: ApiClient, source: ApiSource, recorder: Recorder, node_name: str) -> None:
        self.store = store
        self._node_name = node_name
        self._client = client
        self._source = source
        self._recorder = recorder
        self._told: frozenset[Problem] = frozenset()

    def tasks(self) -> dict[str, Coroutine[Any, Any, None]]:
        return {
            "follow the API": self._source.run(),
            "send events": self._recorder.run(),
            "wait for our Node": self._wait_for_node(),
        }

    async def _wait_for_node(self) -> None:
        await wait_for_addresses(self.store, self._node_name)  # which says it, if none comes

    def report(self, problems: Iterable[Problem]) -> None:
        current = frozenset(problems)
        for problem in sorted(current - self._told, key=lambda each: each.text):
            self._recorder.about_service(problem.service, _REASONS[problem.kind], problem.text)
        self._told = current

    async def close(self) -> None:
        await self._client.close()
