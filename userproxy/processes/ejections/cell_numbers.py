"""Which cells of shared memory the endpoints of listeners that eject have."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from userproxy.forwarding.ejection.cells import CELLS
from userproxy.model import Endpoint, ListenerName

_NONE: Final[Mapping[Endpoint, int]] = MappingProxyType({})


class CellNumbers:
    """The cell of each endpoint that has one, for as long as its listener has the endpoint and ejects.

    Each cell is another endpoint's only after all others were somebody's: a data process that is slow to hear of a
    change then still writes where nobody reads.
    """

    def __init__(self, most: int = CELLS) -> None:
        self._taken: dict[ListenerName, dict[Endpoint, int]] = {}
        self._told: dict[ListenerName, tuple[Sequence[Endpoint], tuple[int, ...]]] = {}
        """What was asked last, and answered: each data process is told the same."""
        self._fresh = iter(range(most))
        self._free: deque[int] = deque()

    def __iter__(self) -> Iterator[ListenerName]:
        return iter(self._taken)

    def of(self, listener: ListenerName) -> Mapping[Endpoint, int]:
        """Those of a listener."""
        return self._taken.get(listener, _NONE)

    def follow(
        self, listener: ListenerName, endpoints: Sequence[Endpoint], begin: Callable[[Endpoint, int], None]
    ) -> tuple[int, ...]:
        """The cells of a listener's endpoints from now on, in their order; -1 where there is no room.

        `begin` is called for each that is new.
        """
        told = self._told.get(listener)
        if told is not None and told[0] is endpoints:
            return told[1]
        before = self._taken.get(listener, {})
        taken = {each: before.pop(each) for each in endpoints if each in before}
        self._free.extend(before.values())
        for endpoint in endpoints:
            number = -1 if endpoint in taken else self._next()
            if number >= 0:
                taken[endpoint] = number
                begin(endpoint, number)
        self._taken[listener] = taken
        numbers = tuple(taken.get(each, -1) for each in endpoints)
        self._told[listener] = endpoints, numbers
        return numbers

    def forget(self, listener: ListenerName) -> None:
        """A listener is closed, or ejects no more."""
        self._told.pop(listener, None)
        self._free.extend(self._taken.pop(listener, {}).values())

    def _next(self) -> int:
        number = next(self._fresh, None)
        if number is not None:
            return number
        return self._free.popleft() if self._free else -1
