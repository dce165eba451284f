"""Holds back the first sync until our own Node is known, if anything depends on it."""

from collections.abc import Callable

from userproxy.cluster.store import Store
from userproxy.config import Settings
from userproxy.config.kubeproxy import LocalMode
from userproxy.model import IPFamily
from userproxy.routing.node_ports import PRIMARY


class NodeWait:
    """Calls `changed` after each change of the source, once `suffices` is true or the wait for our Node has ended.

    The Node usually comes with the first lists. If it comes later, that is a change like any other.
    """

    def __init__(self, suffices: Callable[[], bool], changed: Callable[[], None]) -> None:
        self._suffices = suffices
        self._changed = changed
        self._has_changes = False
        self._waits = True

    def source_changed(self) -> None:
        """The source has changes."""
        self._has_changes = True
        if self._waits:
            self._waits = not self._suffices()
        if not self._waits:
            self._changed()

    def end(self) -> None:
        """Wait no longer."""
        if self._waits:
            self._waits = False
            if self._has_changes:
                self._changed()


def depends_on_node(settings: Settings, store: Store) -> bool:
    """Whether our Node decides anything: the addresses of node ports, which Pods are local, or topology hints."""
    if settings.node_port_addresses == (PRIMARY,) or settings.detect_local_mode is LocalMode.NODE_CIDR:
        return True
    states = (store.state(name, family) for family in IPFamily for name in store.names(family))
    slices = (part for state in states if state is not None for part in state.slices)
    return any(endpoint.hints is not None for part in slices for endpoint in part.endpoints)
