"""All objects of the cluster as they are now, and which Services changed since somebody last asked.

Pure: no source, file, clock or loop. Manifests and the API server feed the same Store.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TypeAlias

from msgspec import Struct

from userproxy.model import EndpointSlice, Node, Service, ServiceName, ServiceState

ClusterObject: TypeAlias = Service | EndpointSlice | Node
"""An object that a source can deliver."""


class ObjectKey(Struct, frozen=True, order=True):
    """What makes two objects the same one. ``namespace`` is empty for a Node."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


def object_key(item: ClusterObject) -> ObjectKey:
    namespace = "" if isinstance(item, Node) else item.namespace
    return ObjectKey(type(item).__name__, namespace, item.name)


class Store:
    """Objects by key, with changes collapsed per Service.

    Objects come in any order: a slice before its Service, a Service deleted before its slices. Slices are
    tracked one by one, so an endpoint that moves from one to another is never lost.
    """

    def __init__(self) -> None:
        self._objects: dict[ObjectKey, ClusterObject] = {}
        self._slices: dict[ServiceName, dict[str, EndpointSlice]] = {}
        self._nodes: dict[str, Node] = {}
        self._before: dict[ServiceName, ServiceState | None] = {}
        self._nodes_before: dict[str, Node] = {}
        self.events: Counter[str] = Counter()
        """How many objects of each kind were added, changed or deleted so far."""

    @property
    def pending(self) -> int:
        """Services that changed, or whose slices did, since the last `take_changes`."""
        return len(self._before)

    @property
    def nodes(self) -> Mapping[str, Node]:
        """All Nodes by name: a live view."""
        return MappingProxyType(self._nodes)

    @property
    def has_changes(self) -> bool:
        """Whether a Service or a Node differs from what the last `take_changes` left."""
        return self._nodes != self._nodes_before or any(
            self._state(name) != before for name, before in self._before.items()
        )

    def get(self, key: ObjectKey) -> ClusterObject | None:
        """The object as it is now."""
        return self._objects.get(key)

    def upsert(self, item: ClusterObject) -> None:
        """Add an object, or put it in the place of its previous version."""
        key = object_key(item)
        if self._objects.get(key) == item:
            return
        self.events[key.kind] += 1
        self._forget(key)
        match item:
            case Service():
                self._remember(item.key)
            case EndpointSlice():
                self._remember(item.service_name)
                self._slices.setdefault(item.service_name, {})[item.name] = item
            case Node():
                self._nodes[item.name] = item
        self._objects[key] = item

    def delete(self, key: ObjectKey) -> None:
        """Remove an object; one that is not there is no error."""
        if key in self._objects:
            self.events[key.kind] += 1
            self._forget(key)

    def replace(self, kind: type[ClusterObject], items: Iterable[ClusterObject]) -> None:
        """Make `items` all objects of their kind, as after a new list: what is not among them is deleted."""
        wanted = {object_key(item): item for item in items}
        for key in [key for key in self._objects if key.kind == kind.__name__ and key not in wanted]:
            self.delete(key)
        for item in wanted.values():
            self.upsert(item)

    def take_changes(self) -> dict[ServiceName, ServiceState | None]:
        """What became of each Service that changed since the last call; None is a Service that is gone.

        The oldest state before and the newest after are compared, so a change that was undone never shows,
        nor does a slice whose Service is not there.
        """
        changes: dict[ServiceName, ServiceState | None] = {}
        for name, before in self._before.items():
            after = self._state(name)
            if after != before:
                changes[name] = after
        self._before = {}
        self._nodes_before = dict(self._nodes)
        return changes

    def _forget(self, key: ObjectKey) -> None:
        match self._objects.get(key):
            case Service() as service:
                self._remember(service.key)
            case EndpointSlice() as gone:
                self._remember(gone.service_name)
                siblings = self._slices[gone.service_name]
                del siblings[gone.name]
                if not siblings:
                    del self._slices[gone.service_name]
            case Node() as node:
                del self._nodes[node.name]
            case None:
                return
        del self._objects[key]

    def _remember(self, name: ServiceName) -> None:
        if name not in self._before:
            self._before[name] = self._state(name)

    def _state(self, name: ServiceName) -> ServiceState | None:
        service = self._objects.get(ObjectKey("Service", name.namespace, name.name))
        if not isinstance(service, Service):
            return None
        slices = self._slices.get(name, {})
        return ServiceState(service, tuple(slices[key] for key in sorted(slices)))
