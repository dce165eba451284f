"""What a process has to say and to know of the ejected endpoints of a listener, where another one decides. Pure."""

from collections.abc import Collection, Iterable, Iterator
from typing import Protocol

from userproxy.model import Ejection, Endpoint, ListenerName
from userproxy.routing.balancers.ejections import Ejected
from userproxy.routing.balancers.interface import Loads


class Decider(Protocol):
    """Who decides, for all processes."""

    @property
    def hears(self) -> bool:
        """Whether there is somebody to tell."""

    def failed(self, listener: ListenerName, endpoint: Endpoint, reason: str, *, by_reset: bool) -> None:
        """An endpoint has failed."""

    def suspected(self, listener: ListenerName, endpoint: Endpoint, until: float) -> None:
        """An endpoint is passed over here until then."""

    def tries(self, listener: ListenerName, endpoint: Endpoint) -> None:
        """An ejected endpoint gets a connection here, as its trial."""


class MirroredEjections:
    """The endpoints of one listener that are ejected, as :class:`Decider` says.

    It has what a balancer asks of :class:`~userproxy.routing.balancers.ejections.Ejections`; what that counts is told.
    """

    __slots__ = ("_decider", "_listener", "_out", "_tries", "loads")

    def __init__(self, listener: ListenerName, loads: Loads, decider: Decider) -> None:
        self.loads = loads
        self._listener = listener
        self._decider = decider
        self._out: dict[Endpoint, Ejected] = {}
        self._tries: set[Endpoint] = set()
        """Whose trial is to be here."""

    def __len__(self) -> int:
        """How many endpoints are ejected now."""
        return len(self._out)

    def __iter__(self) -> Iterator[Ejected]:
        return iter(tuple(self._out.values()))

    def follow(self, endpoints: Collection[Endpoint], _rule: Ejection) -> None:
        """Go on with other endpoints."""
        if self._out:
            known = frozenset(endpoints)
            for endpoint in [each for each in self._out if each not in known]:
                self.take_back(endpoint)

    def restore(self, ejected: Iterable[Ejected]) -> None:
        """Take over what another process has ejected."""
        self._out = {each.endpoint: each for each in ejected}

    def failed(self, endpoint: Endpoint, _now: float, reason: str, *, by_reset: bool) -> None:
        """Tell of a failure of an endpoint. What follows is told later."""
        self._decider.failed(self._listener, endpoint, reason, by_reset=by_reset)

    def is_spent(self, _endpoint: Endpoint) -> bool:
        """Whether an endpoint is to be passed over for a while: where nobody decides, each one that fails."""
        return not self._decider.hears

    def avoided(self, now: float) -> list[Endpoint]:
        """The endpoints that get nobody here now. Where nobody decides any more, each process tries for itself."""
        if self._decider.hears:
            return [each for each in self._out if each not in self._tries]
        return [each.endpoint for each in self._out.values() if now < each.until]

    def chosen(self, endpoint: Endpoint, _now: float) -> None:
        """Take notice that an endpoint gets a connection: if it is ejected, that is its trial."""
        if endpoint in self._out:
            self._tries.discard(endpoint)
            self._decider.tries(self._listener, endpoint)

    def get(self, endpoint: Endpoint) -> Ejected | None:
        """How an endpoint is ejected, if it is."""
        return self._out.get(endpoint)

    def refresh(self, _now: float) -> None:
        """Nobody comes back before that is told."""

    def eject(self, ejected: Ejected) -> None:
        """An endpoint is ejected, or goes on to be."""
        self._out[ejected.endpoint] = ejected
        self._tries.discard(ejected.endpoint)

    def take_back(self, endpoint: Endpoint) -> None:
        """An endpoint is ejected no more."""
        self._out.pop(endpoint, None)
        self._tries.discard(endpoint)

    def have_trial(self, endpoint: Endpoint, *, here: bool) -> None:
        """The next connection that an ejected endpoint would get here is its trial, or is not any longer."""
        if here and endpoint in self._out:
            self._tries.add(endpoint)
        else:
            self._tries.discard(endpoint)
