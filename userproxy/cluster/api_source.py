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
    whenever the Store has changes to take, or there is news of our Node. `proxy_name` selects the Services that are
    labelled with it; None selects those without such a label.
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
            Reflector(
                client,
                resource,
                store,
                self._node_changed if resource.kind is Node else self._changed,
                failures,
                timing,
            )
            for resource in resources
        )
        self._serving = False
        self._node_name = node_name
        self._node: Node | None = None
        """As it was when its watch was last heard of."""

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

    def _node_changed(self) -> None:
        """Tell of another Node also where the Store has no changes: a sync that was under way may have taken it.

        Whoever needs the Node, as health does, would not hear of it before something else changes.
        """
        before, self._node = self._node, self._store.node(self._node_name)
        if self._serving and self._node is not before:
            self._on_change()
        else:
            self._changed()

    def _changed(self) -> None:
        if self._serving:
            if self._store.may_have_changes:
                self._on_change()
        elif all(reflector.listed for reflector in self._reflectors if reflector.resource.kind is not Node):
            self._serving = True
            log.info("Services and EndpointSlices are listed")
            self._on_change()
