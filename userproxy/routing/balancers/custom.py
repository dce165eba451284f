"""Balancers of other packages: what they have to be, and how one that is faulty costs its Service alone. Pure.

A package names one in its entry points of the group ``userproxy.balancers``: a class, or anything else that is called
with endpoints and their weights and returns what chooses among them.
"""

from collections.abc import Callable, Collection, Sequence
from copy import deepcopy
from typing import Final, Protocol, TypeAlias

from userproxy.model import Endpoint
from userproxy.routing.balancers.interface import Pool
from userproxy.routing.balancers.round_robin import round_robin

SLOW_SECONDS: Final = 0.02
"""A choice that takes longer is slow: nobody else is served meanwhile. A busy machine may make one look so."""

MOST_SLOW: Final = 3
"""So many slow ones in a row, and it is asked no more."""


class Chooser(Protocol):
    """What a package's balancer has to be."""

    def choose(self, client: str, avoided: Collection[Endpoint]) -> Endpoint:
        """The endpoint for a new connection of a client's address: any but those `avoided`, which are never all."""


MakeChooser: TypeAlias = Callable[[Sequence[Endpoint], Sequence[int]], Chooser]
"""Makes one for endpoints and their weights, which are at least 1. For others another one is made."""


class CustomBalancers(Protocol):
    """The balancers of other packages. `clock` is seconds, monotonic."""

    clock: Callable[[], float]

    def find(self, name: str, known: Callable[[], None]) -> MakeChooser | str | None:
        """What makes the balancer of that name; or why there is none: a clause.

        None where that is not known yet. Then `known` is called when it is.
        """


class CustomMethod:
    """Asks a package's balancer; once that is faulty, round-robin. `fail` is called then, with a clause, once."""

    __slots__ = ("_chooser", "_clock", "_endpoints", "_fail", "_fallback", "_slow")

    def __init__(self, make: MakeChooser, pool: Pool, clock: Callable[[], float], fail: Callable[[str], None]) -> None:
        self._endpoints = frozenset(pool.endpoints)
        self._clock = clock
        self._fail = fail
        self._fallback = round_robin(pool)
        self._slow = 0
        self._chooser: Chooser | None = None
        try:
            self._chooser = make(tuple(pool.endpoints), tuple(pool.weights))
        except (Exception, SystemExit) as error:  # noqa: BLE001 -- it is another package's code
            self._fail(f"it cannot be made: {_in_words(error)}")

    def choose(self, client: str, now: float, avoided: Collection[Endpoint] = ()) -> Endpoint:
        chooser = self._chooser
        if chooser is None:
            return self._fallback.choose(client, now, avoided)
        began = self._clock()
        try:
            endpoint = chooser.choose(client, avoided)
            complaint = self._wrong(endpoint, avoided)
        except (Exception, SystemExit) as error:  # noqa: BLE001 -- it is another package's code
            complaint = f"it raised {_in_words(error)}"
        complaint = complaint or self._too_slow(self._clock() - began)
        if not complaint:
            return endpoint
        self._chooser = None
        self._fail(complaint)
        return self._fallback.choose(client, now, avoided)

    def peek(self, client: str, now: float, avoided: Collection[Endpoint] = ()) -> tuple[Endpoint, str]:
        """As a copy of it chooses, since it may remember what it has chosen."""
        if self._chooser is not None:
            try:
                endpoint = deepcopy(self._chooser).choose(client, avoided)
                if not self._wrong(endpoint, avoided):
                    return endpoint, "the balancer of another package chooses it"
            except (Exception, SystemExit):  # noqa: BLE001, S110 -- it is another package's code, and nobody is served by this
                pass
        return self._fallback.peek(client, now, avoided)

    @property
    def turn(self) -> tuple[int, ...]:
        return self._fallback.turn

    def resume(self, turn: tuple[int, ...]) -> None:
        self._fallback.resume(turn)

    def _wrong(self, endpoint: object, avoided: Collection[Endpoint]) -> str:
        if not isinstance(endpoint, Endpoint) or endpoint not in self._endpoints:
            return f"it chose {_shown(endpoint)}, which is none of the endpoints"
        return f"it chose {endpoint}, which it was to avoid" if endpoint in avoided else ""

    def _too_slow(self, seconds: float) -> str:
        self._slow = self._slow + 1 if seconds > SLOW_SECONDS else 0
        if self._slow < MOST_SLOW:
            return ""
        return (
            f"its choices took more than {SLOW_SECONDS * 1000:g} ms, {MOST_SLOW} in a row, the last one {seconds:.3f} s"
        )


def _in_words(error: BaseException) -> str:
    return f"{type(error).__name__}: {_shown(error)}"


def _shown(value: object) -> str:
    """At most a line of it, whatever it does when it is asked for its text."""
    try:
        return str(value).replace("\n", " ")[:100]
    except Exception:  # noqa: BLE001 -- it is another package's code
        return f"a {type(value).__name__}"
