"""Which endpoints of a listener several processes have ejected, and what comes of trials, by what they tell. Pure."""

from collections.abc import Collection, Iterable, Sequence

from userproxy.model import Ejection, Endpoint
from userproxy.routing.balancers.ejections import Ejected, Ejections


class ToldLoad:
    """What an endpoint has done, as processes have told last: each at its place, and those that have ended."""

    __slots__ = ("_of_places", "active", "bytes_down", "total")

    def __init__(self) -> None:
        self.active = 0
        self.total = 0
        self.bytes_down = 0
        self._of_places: dict[int, tuple[int, int]] = {}

    def tell(self, place: int, total: int, bytes_down: int, *, counts: bool = True) -> None:
        """The process at a place has had so much. `counts` is whether what is new of it is to be seen."""
        total_before, size_before = self._of_places.get(place, (0, 0)) if counts else (total, bytes_down)
        self._of_places[place] = total, bytes_down
        self.total += total - total_before
        self.bytes_down += bytes_down - size_before

    def gone(self, place: int) -> None:
        """The process at a place has ended; another one begins with nothing."""
        self._of_places.pop(place, None)


class EjectionCase:
    """The ejected endpoints of one listener, of whose trials several processes tell.

    It goes by the rules of :class:`~userproxy.routing.balancers.ejections.Ejections`, over what all of them have had.
    """

    def __init__(self, *, accepting_counts: bool) -> None:
        self._told: dict[Endpoint, ToldLoad] = {}
        self._ejections = Ejections(self._told, accepting_counts=accepting_counts)
        self._tried_at: dict[Endpoint, int] = {}
        """Where the latest trials of ejected endpoints were."""
        self._endpoints: frozenset[Endpoint] = frozenset()
        """Others that processes tell of have left meanwhile."""

    def __len__(self) -> int:
        """How many endpoints are ejected now."""
        return len(self._ejections)

    @property
    def ejected(self) -> tuple[Ejected, ...]:
        """Those of now."""
        return tuple(self._ejections)

    def get(self, endpoint: Endpoint) -> Ejected | None:
        """How an endpoint is ejected, if it is."""
        return self._ejections.get(endpoint)

    def follow(self, endpoints: Collection[Endpoint], rule: Ejection) -> list[Endpoint]:
        """Go on with other endpoints, or by another rule; returns those that come back."""
        self._endpoints = known = frozenset(endpoints)
        before = [each.endpoint for each in self._ejections]
        self._ejections.follow(endpoints, rule)
        for endpoint in [each for each in self._told if each not in known]:
            del self._told[endpoint]
            self._tried_at.pop(endpoint, None)
        return [each for each in before if self._ejections.get(each) is None]

    def restore(self, ejected: Iterable[Ejected]) -> list[Ejected]:
        """Add what a process knows to be ejected, and return what is new."""
        new = [each for each in ejected if self._ejections.get(each.endpoint) is None]
        return [each for each in new if self.eject(each)]

    def eject(self, ejected: Ejected) -> bool:
        """Eject an endpoint; returns whether it may be: it has not left, and it is not one too many."""
        return ejected.endpoint in self._endpoints and self._ejections.eject(ejected) is not None

    def tell(self, place: int, endpoint: Endpoint, total: int, bytes_down: int) -> None:
        """What an endpoint has done for the process at a place.

        While it is tried elsewhere this says nothing of the trial: some of it may be from before it was ejected.
        """
        load = self._told.get(endpoint)
        if load is None:
            load = self._told[endpoint] = ToldLoad()
        is_ejected = self._ejections.get(endpoint) is not None
        load.tell(place, total, bytes_down, counts=not is_ejected or self._tried_at.get(endpoint, place) == place)

    def gone(self, place: int) -> None:
        """The process at a place has ended."""
        for load in self._told.values():
            load.gone(place)

    def failed(self, endpoint: Endpoint, now: float, reason: str, *, by_reset: bool) -> Ejected | None:
        """An ejected endpoint has failed. Returns what follows if it stays ejected because of that."""
        if self._ejections.get(endpoint) is None:
            return None
        return self._ejections.failed(endpoint, now, reason, by_reset=by_reset)

    def tries(self, endpoint: Endpoint, now: float, place: int) -> None:
        """An ejected endpoint gets a connection of the process at a place: its trial."""
        self._tried_at[endpoint] = place
        self._ejections.chosen(endpoint, now)

    def is_tried(self, endpoint: Endpoint, now: float) -> bool:
        """Whether a trial of an ejected endpoint is under way."""
        return self._ejections.is_tried(endpoint, now)

    def look(self, endpoint: Endpoint, now: float) -> bool:
        """Whether an endpoint is ejected still, by what is known of its trial."""
        self._ejections.refresh(now)
        return self._ejections.get(endpoint) is not None


def usable_of(endpoints: Sequence[Endpoint], weights: Sequence[int]) -> Sequence[Endpoint]:
    """Those of a snapshot's endpoints that get new connections: those with a weight, or all if none has one."""
    return [each for each, weight in zip(endpoints, weights, strict=False) if weight] or endpoints
