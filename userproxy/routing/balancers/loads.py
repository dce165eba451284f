"""What endpoints have to do, where that is counted at several places. Pure."""

from collections.abc import Iterator, Mapping, Sequence

from userproxy.model import Endpoint
from userproxy.routing.balancers.interface import Load, Loads


class _Sum:
    """Of what one endpoint has to do."""

    __slots__ = ("active", "bytes_down", "total")

    def __init__(self, loads: Sequence[Load]) -> None:
        self.active = sum(each.active for each in loads)
        self.total = sum(each.total for each in loads)
        self.bytes_down = sum(each.bytes_down for each in loads)


class LoadsOfSeveral(Mapping[Endpoint, Load]):
    """A live view of several places, none of which is there twice."""

    def __init__(self, places: Sequence[Loads]) -> None:
        self._places = places

    def __getitem__(self, endpoint: Endpoint) -> Load:
        found = [load for each in self._places if (load := each.get(endpoint)) is not None]
        if not found:
            raise KeyError(endpoint)
        return _Sum(found) if len(found) > 1 else found[0]

    def __iter__(self) -> Iterator[Endpoint]:
        return iter({endpoint for each in self._places for endpoint in each})

    def __len__(self) -> int:
        return len(set(self))


def of_all(places: Sequence[Loads]) -> Loads:
    """What endpoints have to do at all places together, of which there is at least one."""
    return places[0] if len(places) == 1 else LoadsOfSeveral(places)
