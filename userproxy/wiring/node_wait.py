"""What the source says, passed on once there is enough to serve by."""

from collections.abc import Callable

from userproxy.cluster.store import Store
from userproxy.config import Settings
from userproxy.config.kubeproxy import LocalMode
from userproxy.model import IPFamily
from userproxy.routing.node_ports import PRIMARY


class News:
    """Passes on that the source has news: from when `suffices` says so, or nobody waits for our Node any more.

    The Node mostly comes with the first lists. One that comes late is news like any other.
    """

    def __init__(self, suffices: Callable[[], bool], pass_on: Callable[[], None]) -> None:
        self._suffices = suffices
        self._pass_on = pass_on
        self._came = False
        self._waits = True

    def came(self) -> None:
        """The source has news."""
        self._came = True
        if self._waits:
            self._waits = not self._suffices()
        if not self._waits:
            self._pass_on()

    def wait_no_longer(self) -> None:
        """Serve what cannot be wrong without our Node."""
        if self._waits:
            self._waits = False
            if self._came:
                self._pass_on()


def depends_on_node(settings: Settings, store: Store) -> bool:
    """Whether anything would be served otherwise if our Node were known: where node ports are, or who is near."""
    if settings.node_port_addresses == (PRIMARY,) or settings.detect_local_mode is LocalMode.NODE_CIDR:
        return True
    states = (store.state(name, family) for family in IPFamily for name in store.names(family))
    slices = (part for state in states if state is not None for part in state.slices)
    return any(endpoint.hints is not None for part in slices for endpoint in part.endpoints)
