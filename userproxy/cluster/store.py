"""All objects of the cluster as they are now, and for each address family which Services changed.

Pure: no source, file, clock or loop. Manifests and the API server feed the same Store.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, KeysView, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from userproxy.addresses import family_of
from userproxy.cluster.objects.keys import ClusterObject, ObjectKey, object_key
from userproxy.model import EndpointSlice, IPFamily, Node, Service, ServiceName, ServiceState


class Changes:
    """The changes of one address family that one consumer has not taken yet. Made by `Store.subscribe`.

    A Service whose cluster IPs are all of the other family does not exist for it, nor does a slice of the other family.
    """

    def __init__(self, store: "Store", family: IPFamily) -> None:
        self.family = family
        self._store = store
        self._before: dict[ServiceName, ServiceState | None] = dict.fromkeys(store.names(family))
        self._nodes_before: dict[str, Node] = {}
        self._triggers: dict[ServiceName, list[float]] = {}
        self._services = set(self._before)
        self._slices = 0

    @property
    def pending(self) -> tuple[int, int]:
        """How many Services have changed, and how many changes of slices there were. May be read from any thread."""
        return len(self._services), self._slices

    @property
    def waiting(self) -> KeysView[ServiceName]:
        """The Services that have changed, or whose slices have: a live view."""
        return self._before.keys()

    @property
    def may_have_changes(self) -> bool:
        """Whether a Service has changed, which may since be as it was, or a Node is different."""
        return bool(self._before) or self._store.nodes != self._nodes_before

    @property
    def has_changes(self) -> bool:
        """Whether a Service or a Node is now different from when it was last taken."""
        return self._store.nodes != self._nodes_before or any(
            self.state(name) != before for name, before in self._before.items()
        )

    def take_changes(self) -> Mapping[ServiceName, ServiceState | None]:
        """The new state of each Service that has changed since the last call; None for one that was deleted.

        The state at the last call is compared with the state now. So a change that was undone since is not reported,
        nor is a slice whose Service does not exist.
        """
        changes: dict[ServiceName, ServiceState | None] = {}
        for name, before in self._before.items():
            after = self.state(name)
            if after != before:
                changes[name] = after
        self._taken()
        return changes

    def take(self, name: ServiceName) -> None:
        """Take the change of one Service, whose :meth:`state` is in force."""
        self._before.pop(name, None)
        self._services.discard(name)
        if not self._before:
            self._slices = 0

    def everything(self) -> Mapping[ServiceName, ServiceState]:
        """All Services as they are now; this takes all changes, too. A Service that is not in it does not exist."""
        self._taken()
        states = ((name, self.state(name)) for name in self._store.names(self.family))
        return {name: state for name, state in states if state is not None}

    def state(self, name: ServiceName) -> ServiceState | None:
        """A Service as it is now, whether its changes are taken or not; None if it does not exist for the family."""
        return self._store.state(name, self.family)

    def take_triggers(self) -> Sequence[float]:
        """The trigger times of slices since the last call: for each new version when its cause happened, in Unix time.

        As for kube-proxy, triggers before the Store was started do not count, and the deletion of a slice drops all
        triggers of its Service. Slices whose Service does not exist have none, since nothing is programmed for them.
        """
        if not self._triggers:
            return []
        triggers, self._triggers = self._triggers, {}
        return [time for name, times in triggers.items() if self.state(name) is not None for time in times]

    def remember(self, name: ServiceName) -> None:
        """Called by the Store before a Service changes."""
        self._services.add(name)
        if name not in self._before:
            self._before[name] = self.state(name)

    def remember_slice(self, name: ServiceName, triggered: float | None = None) -> None:
        """Called by the Store before a slice of a Service changes; `triggered` is its trigger time."""
        self._slices += 1
        if triggered is not None:
            self._triggers.setdefault(name, []).append(triggered)
        if name not in self._before and (state := self.state(name)) is not None:
            self._before[name] = state

    def forget_triggers(self, name: ServiceName) -> None:
        """Called by the Store when a slice of a Service is deleted."""
        self._triggers.pop(name, None)

    def _taken(self) -> None:
        self._before = {}
        self._services, self._slices = set(), 0
        self._nodes_before = dict(self._store.nodes)


class Store:
    """All objects by key, and for each subscriber the Services that have changed.

    Objects may come in any order: a slice before its Service, a Service deleted before its slices. Slices are kept one
    by one, so an endpoint that moves from one to another is never lost. `started` is the Unix time from which trigger
    times count.
    """

    def __init__(self, started: float = 0.0) -> None:
        self._started = started
        self._objects: dict[ObjectKey, ClusterObject] = {}
        self._services: dict[ServiceName, Service] = {}
        self._nodes: dict[str, Node] = {}
        self._slices: dict[IPFamily, dict[ServiceName, tuple[EndpointSlice, ...]]] = {each: {} for each in IPFamily}
        self._subscribers: list[Changes] = []
        self._of: dict[IPFamily, list[Changes]] = {each: [] for each in IPFamily}
        self.events: Counter[str] = Counter()
        """How many objects of each kind were added, changed or deleted so far."""

    def subscribe(self, family: IPFamily) -> Changes:
        """The changes of one family for one consumer. They are kept until it takes them, so it must take them.

        The first changes are all Services that exist now.
        """
        subscriber = Changes(self, family)
        self._subscribers.append(subscriber)
        self._of[family].append(subscriber)
        return subscriber

    @property
    def nodes(self) -> Mapping[str, Node]:
        """All Nodes by name: a live view."""
        return MappingProxyType(self._nodes)

    def node(self, name: str) -> Node | None:
        """The Node of a name as it is now."""
        return self._nodes.get(name)

    @property
    def may_have_changes(self) -> bool:
        """Whether a subscriber has changes to take, which may turn out to be none: cheaper than `has_changes`."""
        for subscriber in self._subscribers:  # noqa: SIM110 -- asked at each change: without a generator
            if subscriber.may_have_changes:
                return True
        return False

    @property
    def has_changes(self) -> bool:
        """Whether there are changes that some subscriber has not taken."""
        return any(subscriber.has_changes for subscriber in self._subscribers)

    def get(self, key: ObjectKey) -> ClusterObject | None:
        """The object as it is now."""
        return self._objects.get(key)

    def upsert(self, item: ClusterObject, key: ObjectKey | None = None) -> None:
        """Add an object, or put it in the place of its previous version. `key` is its key, where that is known."""
        key = object_key(item) if key is None else key
        old = self._objects.get(key)
        if _is_same(old, item):
            return
        self.events[key.kind] += 1
        match item:
            case Service():
                self._remember(item, *([old] if isinstance(old, Service) else []))
                self._services[item.key] = item
            case EndpointSlice():
                self._put_slice(old if isinstance(old, EndpointSlice) else None, item)
            case Node():
                self._nodes[item.name] = item
        self._objects[key] = item

    def delete(self, key: ObjectKey) -> None:
        """Delete an object; nothing happens where there is none."""
        match self._objects.pop(key, None):
            case Service() as service:
                self._remember(service)
                del self._services[service.key]
            case EndpointSlice() as gone:
                self._remove_slice(gone)
            case Node() as node:
                del self._nodes[node.name]
            case None:
                return
        self.events[key.kind] += 1

    def count(self, kind: type[ClusterObject]) -> int:
        """How many objects of a kind there are."""
        numbers = {Service: len(self._services), Node: len(self._nodes)}
        return numbers[kind] if kind in numbers else len(self._objects) - sum(numbers.values())

    def keys(self, kind: type[ClusterObject]) -> Iterator[ObjectKey]:
        """The keys of all objects of a kind. Meanwhile none of them is added or deleted, but those of others may be."""
        if kind is EndpointSlice:
            of_all = self._slices.values()
            return (object_key(each) for named in of_all for parts in named.values() for each in parts)
        return map(object_key, (self._services if kind is Service else self._nodes).values())

    def state(self, name: ServiceName, family: IPFamily) -> ServiceState | None:
        """A Service with its slices of a family; None where it does not exist for that family."""
        service = self._services.get(name)
        if service is None:
            return None
        ipv6, addresses = family is IPFamily.IPV6, service.cluster_ips
        for address in addresses:  # as _concerns() says: asked twice at each change
            if (":" in address) is ipv6:
                break
        else:
            if addresses:
                return None
        return ServiceState(service, self._slices[family].get(name, ()))

    def uid(self, name: ServiceName) -> str:
        """The uid of a Service, empty where it has none or does not exist."""
        service = self._services.get(name)
        return service.uid if service else ""

    def names(self, family: IPFamily) -> Iterator[ServiceName]:
        """The names of all Services that exist for a family."""
        return (name for name, service in self._services.items() if _concerns(service, family))

    def _remember(self, *versions: Service) -> None:
        """Tell the subscribers concerned that a Service is about to change; `versions` are the old and the new one."""
        for subscriber in self._subscribers:
            if any(_concerns(version, subscriber.family) for version in versions):
                subscriber.remember(versions[0].key)

    def _put_slice(self, old: EndpointSlice | None, new: EndpointSlice) -> None:
        """Store a slice. One that now names another Service is deleted for the old one and added for the new one."""
        if old is not None and (old.service != new.service or old.address_type != new.address_type):
            self._remove_slice(old)
        name, kind = new.service_name, _FAMILIES[new.address_type]
        triggered = new.triggered if new.triggered is not None and new.triggered > self._started else None
        for subscriber in self._of[kind]:
            subscriber.remember_slice(name, triggered)
        siblings = self._slices[kind].get(name, ())
        if len(siblings) == 1 and siblings[0].name == new.name:
            self._slices[kind][name] = (new,)
            return
        start = bisect_left(siblings, new.name, key=_name_of)
        end = bisect_right(siblings, new.name, key=_name_of)
        self._slices[kind][name] = (*siblings[:start], new, *siblings[end:])

    def _remove_slice(self, gone: EndpointSlice) -> None:
        name, kind = gone.service_name, _FAMILIES[gone.address_type]
        for subscriber in self._of[kind]:
            subscriber.remember_slice(name)
            subscriber.forget_triggers(name)
        siblings = tuple(each for each in self._slices[kind][name] if each.name != gone.name)
        if siblings:
            self._slices[kind][name] = siblings
        else:
            del self._slices[kind][name]


_FAMILIES: Final[Mapping[str, IPFamily]] = {family.value: family for family in IPFamily}


def _concerns(service: Service, kind: IPFamily) -> bool:
    """Whether a Service exists for a family: it has a cluster IP of it, or none at all, which each family reports."""
    for address in service.cluster_ips:  # asked several times a change: without a generator
        if family_of(address) is kind:
            return True
    return not service.cluster_ips


def _is_same(old: ClusterObject | None, new: ClusterObject) -> bool:
    """Whether a version of an object says nothing new. That nearly all endpoints are equal need not be found out."""
    if type(old) is EndpointSlice and type(new) is EndpointSlice and len(old.endpoints) != len(new.endpoints):
        return False
    return old == new


def _name_of(part: EndpointSlice) -> str:
    return part.name
