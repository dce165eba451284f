"""Counters of a listener and of its endpoints: plain numbers, which connections and flows write to."""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from itertools import count
from operator import attrgetter
from typing import Any, ClassVar, Final, Protocol

from msgspec import Struct

from userproxy.model import Endpoint
from userproxy.model.reports import DialFailure, DialTimes

DIAL_BOUNDS: Final = tuple(
    round(base * scale, 7) for scale in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0) for base in (1.0, 1.6, 2.5, 4.0, 6.3)
)
"""Seconds: five bounds for each power of ten, so a quantile is right to about a fourth. A dial takes 2 s at most."""


class DialCountsState(Struct, frozen=True, gc=False, array_like=True):
    """How long dials took, as a value."""

    counts: tuple[int, ...]
    sum_seconds: float


class EndpointCountersState(Struct, frozen=True, gc=False, array_like=True):
    """What was counted of an endpoint, as a value: without what is `active`."""

    total: int
    failed: int
    bytes_up: int
    bytes_down: int
    dial: DialCountsState


class CountersState(Struct, frozen=True, gc=False, array_like=True):
    """What a listener has counted, as a value: without what it is doing. `numbers` are by the names of the counters."""

    numbers: dict[str, int | float]
    retries: dict[DialFailure, int]
    endpoints: tuple[tuple[Endpoint, EndpointCountersState], ...]
    departed: DialCountsState


def total(states: Sequence[CountersState]) -> CountersState:
    """What several processes have counted of one listener, at least one."""
    if len(states) == 1:
        return states[0]
    numbers: dict[str, int | float] = {}
    retries: dict[DialFailure, int] = {}
    endpoints: dict[Endpoint, EndpointCountersState] = {}
    for state in states:
        for name, number in state.numbers.items():
            numbers[name] = numbers.get(name, 0) + number
        for kind, times in state.retries.items():
            retries[kind] = retries.get(kind, 0) + times
        for endpoint, counters in state.endpoints:
            before = endpoints.get(endpoint)
            endpoints[endpoint] = counters if before is None else _endpoint_total(before, counters)
    return CountersState(numbers, retries, tuple(endpoints.items()), _dial_total([each.departed for each in states]))


def _endpoint_total(one: EndpointCountersState, other: EndpointCountersState) -> EndpointCountersState:
    return EndpointCountersState(
        one.total + other.total,
        one.failed + other.failed,
        one.bytes_up + other.bytes_up,
        one.bytes_down + other.bytes_down,
        _dial_total((one.dial, other.dial)),
    )


def _dial_total(states: Sequence[DialCountsState]) -> DialCountsState:
    counts = tuple(map(sum, zip(*(each.counts for each in states), strict=True)))
    return DialCountsState(counts, sum(each.sum_seconds for each in states))


_NO_DIALS_COUNTED: Final = DialCountsState((0,) * (len(DIAL_BOUNDS) + 1), 0.0)
_NOTHING_OF_ONE: Final = EndpointCountersState(0, 0, 0, 0, _NO_DIALS_COUNTED)

NOTHING_COUNTED: Final = CountersState({}, {}, (), _NO_DIALS_COUNTED)

_NUMBERS: Final = count(1)
_NO_DIALS: Final = DialTimes(DIAL_BOUNDS, (0,) * (len(DIAL_BOUNDS) + 1))


class DialCounts:
    """How long dials took that succeeded."""

    __slots__ = ("counts", "sum_seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(DIAL_BOUNDS) + 1)
        self.sum_seconds = 0.0

    def add(self, other: "DialCounts") -> None:
        """Count the dials of `other`, too."""
        self.counts = [mine + its for mine, its in zip(self.counts, other.counts, strict=True)]
        self.sum_seconds += other.sum_seconds

    def state(self) -> DialCountsState:
        """The same as a value."""
        return DialCountsState(tuple(self.counts), self.sum_seconds)

    def restore(self, state: DialCountsState) -> None:
        """Be as `state` says."""
        self.counts, self.sum_seconds = list(state.counts), state.sum_seconds

    def times(self) -> DialTimes:
        """The same as a value."""
        return DialTimes(DIAL_BOUNDS, tuple(self.counts), self.sum_seconds) if any(self.counts) else _NO_DIALS


class SharedCount(Protocol):
    """Where other processes see what an endpoint does for this one."""

    def count(self, total: int = 0, bytes_down: int = 0) -> None:
        """It has done so much more."""


class SharedCounts(Protocol):
    """Where they see it of each endpoint of a listener."""

    def get(self, endpoint: Endpoint) -> SharedCount | None:
        """Of this one; None where there is no room."""


class EndpointCounters:
    """One endpoint of a listener: connections or flows now and in all, dials that failed, bytes of ended connections.

    `usable` is whether the listener has it among its endpoints now.
    """

    __slots__ = ("active", "bytes_down", "bytes_up", "dial", "failed", "in_time_wait", "shared", "total", "usable")

    def __init__(self) -> None:
        self.shared: SharedCount | None = None
        self.active = 0
        self.total = 0
        self.failed = 0
        self.bytes_up = 0
        self.bytes_down = 0
        self.usable = True
        self.in_time_wait = 0
        """Connections that have left a local port in TIME_WAIT, and that nobody was told of yet."""
        self.dial = DialCounts()

    def state(self) -> EndpointCountersState:
        """The same as a value, without what is active."""
        return EndpointCountersState(self.total, self.failed, self.bytes_up, self.bytes_down, self.dial.state())

    def restore(self, state: EndpointCountersState) -> None:
        """Have counted what `state` says."""
        self.total, self.failed, self.bytes_up, self.bytes_down = (
            state.total,
            state.failed,
            state.bytes_up,
            state.bytes_down,
        )
        self.dial.restore(state.dial)

    def connected(self, seconds: float) -> None:
        """Count a connection that was dialled within `seconds`."""
        self.active += 1
        self.total += 1
        dial = self.dial
        dial.counts[bisect_left(DIAL_BOUNDS, seconds)] += 1
        dial.sum_seconds += seconds


_TOTAL: Final[Any] = EndpointCounters.__dict__["total"]
_BYTES_DOWN: Final[Any] = EndpointCounters.__dict__["bytes_down"]


class SharedEndpointCounters(EndpointCounters):
    """Those whose connections and bytes other processes know of, by `shared`. An object becomes one, and none again."""

    __slots__ = ()

    @property
    def total(self) -> int:
        """As that of others."""
        counted: int = _TOTAL.__get__(self)
        return counted

    @total.setter
    def total(self, counted: int) -> None:
        if self.shared is not None:
            self.shared.count(total=counted - _TOTAL.__get__(self))
        _TOTAL.__set__(self, counted)

    @property
    def bytes_down(self) -> int:
        """As that of others."""
        counted: int = _BYTES_DOWN.__get__(self)
        return counted

    @bytes_down.setter
    def bytes_down(self, counted: int) -> None:
        if self.shared is not None:
            self.shared.count(bytes_down=counted - _BYTES_DOWN.__get__(self))
        _BYTES_DOWN.__set__(self, counted)


class EndpointTable(dict[Endpoint, EndpointCounters]):
    """The counters of the endpoints that a listener has had to do with, each made when it is first asked for.

    Those of endpoints that are gone go once no connection is left; `departed` keeps how long dialling them took.
    """

    __slots__ = ("_listed", "_shared", "departed")

    def __init__(self) -> None:
        super().__init__()
        self._listed: Collection[Endpoint] = ()
        self._shared: SharedCounts | None = None
        self.departed = DialCounts()

    def __missing__(self, endpoint: Endpoint) -> EndpointCounters:
        counters = self[endpoint] = EndpointCounters()
        counters.usable = endpoint in self._listed
        if self._shared is not None:
            _share(counters, self._shared.get(endpoint))
        return counters

    def share(self, shared: "SharedCounts | None") -> None:
        """Have other processes know from now on what endpoints have done, by `shared`; none, without it."""
        if shared is self._shared:
            return
        self._shared = shared
        for endpoint, counters in self.items():
            _share(counters, None if shared is None else shared.get(endpoint))

    def follow(self, endpoints: Collection[Endpoint]) -> None:
        """Take notice of the endpoints that the listener has from now on."""
        self._listed = endpoints
        if not self:
            return
        listed = frozenset(endpoints)
        for endpoint, counters in self.items():
            counters.usable = endpoint in listed
        self.forget_gone()

    def forget_gone(self) -> None:
        """Forget the endpoints that the listener no longer has, and that do nothing any more."""
        for endpoint, counters in list(self.items()):
            if not counters.usable and not counters.active:
                self.departed.add(counters.dial)
                del self[endpoint]

    def restore(self, states: Iterable[tuple[Endpoint, EndpointCountersState]], departed: DialCountsState) -> None:
        """Have counted what these say, and of other endpoints nothing: `departed` has what they did, too."""
        counted = dict(states)
        for endpoint in self.keys() - counted.keys():
            counters = self[endpoint]
            counters.restore(_NOTHING_OF_ONE)
            if not counters.usable and not counters.active:
                del self[endpoint]
        for endpoint, state in counted.items():
            self[endpoint].restore(state)
        self.departed.restore(departed)

    @property
    def dial_times(self) -> DialTimes:
        """How long dialling any of them took."""
        total = DialCounts()
        total.add(self.departed)
        for counters in self.values():
            total.add(counters.dial)
        return total.times()


def _share(counters: EndpointCounters, shared: SharedCount | None) -> None:
    counters.shared = shared
    counters.__class__ = EndpointCounters if shared is None else SharedEndpointCounters


class ListenerCounters:
    """What one listener has done so far; ``active`` is what it is doing.

    ``accepted`` counts clients, ``refused`` those who were not let in, ``limited`` those among them for whom a limit of
    their Service left no room; ``retried`` those who were served after another endpoint had failed, ``retries`` dials
    that failed, by reason. ``ended`` are those who were served, and ``seconds`` how long that took. No other listener
    of the process has the same ``number``.
    """

    __slots__ = (
        "accepted",
        "active",
        "bytes_down",
        "bytes_up",
        "dial_failures",
        "ended",
        "endpoints",
        "held",
        "limited",
        "number",
        "refused",
        "retried",
        "retries",
        "seconds",
        "unserved",
    )

    def __init__(self) -> None:
        self.number = next(_NUMBERS)
        self.accepted = 0
        self.active = 0
        self.refused = 0
        self.held = 0
        self.limited = 0
        self.unserved = 0
        self.retried = 0
        self.ended = 0
        self.seconds = 0.0
        self.dial_failures = 0
        self.bytes_up = 0
        self.bytes_down = 0
        self.retries: dict[DialFailure, int] = {}
        self.endpoints = EndpointTable()

    numbers: ClassVar[tuple[str, ...]] = (
        "accepted",
        "bytes_down",
        "bytes_up",
        "dial_failures",
        "ended",
        "limited",
        "refused",
        "retried",
        "seconds",
        "unserved",
    )
    """The counters, but for what is active, and what is counted by reason or endpoint."""

    _marked: "ClassVar[attrgetter[tuple[int | float, ...]]]" = attrgetter("active", *numbers)

    def __init_subclass__(cls) -> None:
        cls._marked = attrgetter("active", *cls.numbers)

    @property
    def mark(self) -> tuple[int | float, ...]:
        """What changes whenever something is counted."""
        return self._marked(self)

    def state(self) -> CountersState:
        """The same as a value, without what is active."""
        numbers = {name: getattr(self, name) for name in self.numbers}
        endpoints = tuple((endpoint, counters.state()) for endpoint, counters in self.endpoints.items())
        return CountersState(numbers, dict(self.retries), endpoints, self.endpoints.departed.state())

    def restore(self, state: CountersState) -> None:
        """Have counted what `state` says."""
        for name in self.numbers:
            setattr(self, name, state.numbers.get(name, 0))
        self.retries = dict(state.retries)
        self.endpoints.restore(state.endpoints, state.departed)

    def failed(self, endpoint: Endpoint, kind: DialFailure) -> None:
        """Count a dial that failed."""
        self.endpoints[endpoint].failed += 1
        self.retries[kind] = self.retries.get(kind, 0) + 1
