"""What a process has to say and to know of the ejected endpoints of a listener, where another one decides. Pure."""

from collections.abc import Collection, Iterable, Iterator
from typing import Protocol

from userproxy.model import Ejection, Endpoint, ListenerName
from userproxy.model import Protocol as Transport
from userproxy.routing.balancers.ejections import TRIAL_SECONDS, Ejected
from userproxy.routing.balancers.interface import Loads
from userproxy.routing.balancers.shared.rows import Cells, SharedRows


class Decider(Protocol):
    """Who decides, for all processes."""

    @property
    def hears(self) -> bool:
        """Whether there is somebody to tell."""

    def cells(self, listener: ListenerName) -> Cells | None:
        """Where all processes count failures of a listener's endpoints; None before that is known."""

    def ejects(self, listener: ListenerName, ejected: Ejected) -> None:
        """An endpoint is ejected, by what all processes have counted."""

    def failed(self, listener: ListenerName, endpoint: Endpoint, reason: str, *, by_reset: bool) -> None:
        """An ejected endpoint has failed."""

    def suspected(self, listener: ListenerName, endpoint: Endpoint, until: float) -> None:
        """An endpoint is passed over here until then."""

    def tries(self, listener: ListenerName, endpoint: Endpoint) -> None:
        """An ejected endpoint gets a connection here, as its trial."""


class MirroredEjections:
    """The endpoints of one listener that are ejected, as :class:`Decider` says.

    It has what a balancer asks of :class:`~userproxy.routing.balancers.ejections.Ejections`. Failures are counted by
    all processes together, so it is known here at once if one of them ejects, and who decides is told.
    """

    __slots__ = ("_decider", "_listener", "_out", "_rows", "_tries", "_trying", "loads")

    def __init__(self, listener: ListenerName, loads: Loads, decider: Decider) -> None:
        self.loads = loads
        self._listener = listener
        self._decider = decider
        self._rows = SharedRows(accepting_counts=listener.service_port.protocol is Transport.TCP)
        self._out: dict[Endpoint, Ejected] = {}
        self._tries: set[Endpoint] = set()
        """Whose trial is to be here."""
        self._trying: dict[Endpoint, float] = {}
        """Whose trial is here, and until when."""

    def __len__(self) -> int:
        """How many endpoints are ejected now."""
        return len(self._out)

    def __iter__(self) -> Iterator[Ejected]:
        return iter(tuple(self._out.values()))

    def follow(self, endpoints: Collection[Endpoint], rule: Ejection) -> None:
        """Go on with other endpoints, or by another rule."""
        self._rows.rule, self._rows.count = rule, len(endpoints)
        if self._out:
            known = frozenset(endpoints)
            for endpoint in [each for each in self._out if each not in known]:
                self.take_back(endpoint)

    def restore(self, ejected: Iterable[Ejected]) -> None:
        """Take over what another process has ejected."""
        self._out = {each.endpoint: each for each in ejected}

    def failed(self, endpoint: Endpoint, now: float, reason: str, *, by_reset: bool) -> Ejected | None:
        """Count a failure of an endpoint. Returns what follows if it is ejected by this one, also once more."""
        if not self._decider.hears:
            return None
        before = self._out.get(endpoint)
        if before is not None:
            return self._failed_again(before, now, reason, by_reset=by_reset)
        cells = self._decider.cells(self._listener)
        if cells is None:
            return None
        ejected = self._rows.failed(cells, endpoint, now, reason, by_reset=by_reset)
        if ejected is not None:
            self._out[endpoint] = ejected
            self._decider.ejects(self._listener, ejected)
        return ejected

    def is_spent(self, endpoint: Endpoint) -> bool:
        """Whether an endpoint is to be passed over for a while: where nobody decides, each one that fails."""
        if not self._decider.hears:
            return True
        cells = self._decider.cells(self._listener)
        return endpoint not in self._out and (cells is None or self._rows.is_spent(cells, endpoint))

    def avoided(self, now: float) -> list[Endpoint]:
        """The endpoints that get nobody here now. Where nobody decides any more, each process tries for itself."""
        if self._decider.hears:
            return [each for each in self._out if each not in self._tries]
        return [each.endpoint for each in self._out.values() if now < each.until]

    def chosen(self, endpoint: Endpoint, now: float) -> None:
        """Take notice that an endpoint gets a connection: if it is ejected, that is its trial."""
        if endpoint in self._out:
            self._tries.discard(endpoint)
            self._trying[endpoint] = now + TRIAL_SECONDS
            self._decider.tries(self._listener, endpoint)

    def get(self, endpoint: Endpoint) -> Ejected | None:
        """How an endpoint is ejected, if it is."""
        return self._out.get(endpoint)

    def refresh(self, _now: float) -> None:
        """Nobody comes back before that is told."""

    def eject(self, ejected: Ejected) -> None:
        """An endpoint is ejected, or goes on to be."""
        self._leave_trial(ejected.endpoint)
        self._out[ejected.endpoint] = ejected

    def take_back(self, endpoint: Endpoint) -> None:
        """An endpoint is ejected no more."""
        self._leave_trial(endpoint)
        self._out.pop(endpoint, None)

    def have_trial(self, endpoint: Endpoint, *, here: bool) -> None:
        """The next connection that an ejected endpoint would get here is its trial, or is not any longer."""
        if here and endpoint in self._out:
            self._tries.add(endpoint)
        else:
            self._tries.discard(endpoint)

    def _failed_again(self, before: Ejected, now: float, reason: str, *, by_reset: bool) -> Ejected | None:
        """An ejected endpoint has failed: if that was its trial, and accepting was no success, it stays ejected."""
        endpoint = before.endpoint
        self._decider.failed(self._listener, endpoint, reason, by_reset=by_reset)
        if now >= self._trying.get(endpoint, now) or (by_reset and not before.by_reset):
            return None
        again = Ejected(endpoint, before.since, now + self._rows.rule.seconds, before.reason, by_reset)
        self.eject(again)
        return again

    def _leave_trial(self, endpoint: Endpoint) -> None:
        self._tries.discard(endpoint)
        self._trying.pop(endpoint, None)
