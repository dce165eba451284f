"""What a balancer is: it chooses among endpoints that do not change. For others, or other weights, another is made."""

from collections.abc import Callable, Collection, Mapping, Sequence
from random import Random
from typing import Protocol, TypeAlias

from msgspec import Struct

from userproxy.model import Endpoint


class Load(Protocol):
    """What an endpoint has to do for a listener: connections or flows now, and all that it has accepted so far.

    `bytes_down` are those of it that were counted: of connections and flows that have ended, and of others at times.
    """

    active: int
    total: int
    bytes_down: int


Loads: TypeAlias = Mapping[Endpoint, Load]
"""Of the endpoints that have been connected to; the others have none."""


Later: TypeAlias = Callable[[Callable[[], bool]], None]
"""Has something done when it is its turn, in place of what the same has asked for before; as often as that says that
there is more to do."""


class Pool(Struct, frozen=True):
    """What a balancer is made for: at least one endpoint, each with a weight of at least 1, in any order.

    `random` is for what should differ from node to node; `loads` is a live view. `previous` is what has chosen so far,
    among other endpoints; `later` can be asked where that may serve on for a while.
    """

    endpoints: Sequence[Endpoint]
    weights: Sequence[int]
    random: Random
    loads: Loads
    previous: "Method | None" = None
    later: Later | None = None

    @property
    def is_even(self) -> bool:
        """Whether all weights are alike."""
        return len(set(self.weights)) == 1


class Method(Protocol):
    """Chooses among the endpoints of a pool.

    `avoided` never has all of them: those that the connection could not reach, and those that are passed over for now.
    `now` is seconds, monotonic.
    """

    def choose(self, client: str, now: float, avoided: Collection[Endpoint] = ()) -> Endpoint:
        """The endpoint for a new connection of a client's address, none of `avoided`."""

    def peek(self, client: str, now: float, avoided: Collection[Endpoint] = ()) -> tuple[Endpoint, str]:
        """What :meth:`choose` would return, and why: a clause. Changes nothing."""

    @property
    def turn(self) -> tuple[int, ...]:
        """Where it is in its order, for :meth:`resume`; empty if that makes no difference."""

    def resume(self, turn: tuple[int, ...]) -> None:
        """Go on where another one was that had the same endpoints in the same order, with the same weights."""


MakeMethod: TypeAlias = Callable[[Pool], Method]
