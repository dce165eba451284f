"""The drains of one address family, as its proxier meets them."""

from collections.abc import Callable, Iterable, Iterator

from userproxy.model import Snapshot
from userproxy.model.cluster import ServicePortName
from userproxy.proxier.drains.table import DrainTable, Named
from userproxy.proxier.plan import Actual
from userproxy.proxier.wanted import Wanted
from userproxy.routing.drains import with_drains


class FamilyDrains:
    """Applies the drains of `table`, if there is one. `changed` is called when a proxier has something to take."""

    def __init__(self, table: DrainTable | None = None, changed: Callable[[], None] = lambda: None) -> None:
        self._table = table
        self._changes = None if table is None else table.subscribe(changed)

    def applied(self, snapshot: Snapshot) -> Snapshot:
        """What a snapshot is with the drains that there are now."""
        table, name = self._table, snapshot.listener.service_port
        if table is None:
            return snapshot
        drained, leaving = table.of(name.service), table.leaving(name)
        return with_drains(snapshot, drained, leaving) if drained or leaving else snapshot

    def concern(self, name: ServicePortName) -> bool:
        """Whether clients are kept from any endpoint of a service port, or may stay at one that has left."""
        return self._table is not None and self._table.concerns(name)

    def note(self, names: Iterable[ServicePortName], wanted: Wanted, actual: Actual) -> None:
        """Notice which endpoints slices have ceased to name, where their clients may stay for a while.

        To be called before the new routes of `names` are handed out.
        """
        if self._table is None:
            return
        for name in names:
            port = wanted.ports.get(name)
            if port is None:
                self._table.forget(name)
                continue
            family = port.listeners[0].family
            if port.known is not None and port.closes_after:
                told = (actual.snapshots.get(listener) for listener in port.listeners)
                before = {each for snapshot in told if snapshot is not None for each in snapshot.known or ()}
                before.update(self._table.named(name, family))  # a predecessor's snapshots are not among ours
                self._table.returned(name, port.known)
                self._table.leave(name, before.difference(port.known, self._table.leaving(name)), port.closes_after)
                self._table.name(Named(name, family, port.known, port.closes_after))
            else:
                self._table.forget_named(name, family)

    def take(self, wanted: Wanted, names_of: Callable[..., Iterable[ServicePortName]]) -> Iterator[ServicePortName]:
        """The service ports whose drains have changed since the last call."""
        for service in () if self._changes is None else self._changes.take():
            yield from (name for name in names_of(service) if name in wanted.ports)
