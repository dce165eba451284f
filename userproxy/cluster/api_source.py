"""The Kubernetes API server as the source of Services, EndpointSlices and our own Node."""

import asyncio
from collections.abc import Callable

import structlog

from userproxy.cluster.api_errors import (
    FailureLog,
)
from userproxy.cluster.client import ApiClient
from userproxy.cluster.objects.resources import endpoint_slices, own_node, services
from userproxy.cluster.store import Store
from userproxy.cluster.watch import Reflector, Timing
from userproxy.model import Node
from userproxy.model.sources import WatchReport

log = structlog.get_logger()


class ApiSource:
    """Keeps a Store equal to what the API server holds of Services, EndpointSlices and our own Node.

    `on_change` is called on the loop's thread: first when Services and EndpointSlices have both been listed, then
    whenever the Store has changes to take. `proxy_name` selects the Services that are labelled with it; None selects
    those without such a label.
    """

    def __init__(
        self,
        client: ApiClient,
        store: Store,
        on_change: Callable[[], None],
        node_name: str,
        proxy_name: str | None,
        timing: Timing = Timing(),  # noqa: B008 -- a frozen value
    ) -> None:
        self._store = store
        self._on_change = on_change
        failures = FailureLog()
        resources = (services(proxy_name), endpoint_slices(), own_node(node_name))
        self._reflectors = tuple(
            Reflector(client, resource, store, self._changed, failures, timing) for resource in resources
        )
        self._serving = False

    @property
    def problems(self) -> tuple[str, ...]:
        """One sentence for each thing that is wrong with the cluster's objects now."""
        return tuple(problem for reflector in self._reflectors for problem in reflector.problems)

    @property
    def node_listed(self) -> bool:
        """Whether the server has said whether there is a Node of our name."""
        return all(reflector.listed for reflector in self._reflectors if reflector.resource.kind is Node)

    def watches(self) -> tuple[WatchReport, ...]:
        """How current each resource is."""
        now = asyncio.get_running_loop().time()
        return tuple(reflector.report(now) for reflector in self._reflectors)

    async def run(self) -> None:
        """Follow the API server until cancelled."""
        async with asyncio.TaskGroup() as group:
            for reflector in self._reflectors:
                group.create_task(reflector.run(), name=f"follow {reflector.resource.plural}")

    def _changed(self) -> None:
        if self._serving:
            if self._store.may_have_changes:
                self._on_change()
        elif all(reflector.listed for reflector in self._reflectors if reflector.resource.kind is not Node):
            self._serving = True
            log.info("Services and EndpointSlices are listed")
            self._on_change()
