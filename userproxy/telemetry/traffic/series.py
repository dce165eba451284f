"""Which service ports have series of their own, and what each has counted since the process began. Pure.

Listeners come and go, and begin at zero. So what is shown is not what they say but the sum of how much more that is
than the last time. A series never goes back while it is there, and never jumps: what a Service did that is deleted is
not added to what is shown of the others, where it would look like traffic of now.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeAlias

from userproxy.model import ListenerName, Protocol, ServicePortName
from userproxy.model.reports import ListenerFigures
from userproxy.telemetry.traffic.families import COUNTERS, GAUGES, counts_of, gauges_of

REST_NAME: Final = "_rest"
"""Namespace, Service and port of those that have no series of their own. No object of Kubernetes can be called so."""

KEPT_SECONDS: Final = 900.0
"""How long a deleted Service's counters are still shown, so that rates over the last minutes can be had."""

_COUNTS: Final = sum(len(family.columns) for family in COUNTERS)
_GAUGES: Final = sum(len(family.columns) for family in GAUGES)


_Key: TypeAlias = tuple[ListenerName, int]
"""A listener: its name, and its number, which is another one when it is opened again."""


class Series:
    """What is shown of one service port, or of all those together that have none of their own.

    `counts` are the values of COUNTERS, `gauges` those of GAUGES. `present` is when it had a listener last.
    """

    __slots__ = ("counts", "gauges", "name", "present")

    def __init__(self, name: ServicePortName, now: float) -> None:
        self.name = name
        self.present = now
        self.counts = [0.0] * _COUNTS
        self.gauges = [0.0] * _GAUGES

    def count(self, added: Sequence[float]) -> None:
        """Count what has been done since the last time."""
        self.counts = [before + more for before, more in zip(self.counts, added, strict=True)]

    def add_gauges(self, gauges: Sequence[float]) -> None:
        """Include another service port in what is shown of now."""
        self.gauges = [before + more for before, more in zip(self.gauges, gauges, strict=True)]


class SeriesTable:
    """The series of at most `most` service ports, and of the rest.

    Where there are more service ports, those that have had clients come first, and keep their series as long as they
    exist. What the others do is added up, for each protocol.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._own: dict[ServicePortName, Series] = {}
        self._rest = {protocol: Series(_rest_of(protocol), 0.0) for protocol in (Protocol.TCP, Protocol.UDP)}
        self._last: dict[_Key, Sequence[float]] = {}
        self.shown_alone = 0
        """Service ports that there are, and that have series of their own."""
        self.in_rest = 0
        """Service ports that have none."""

    def __iter__(self) -> Iterator[Series]:
        """The series by name, the rest last."""
        yield from (self._own[name] for name in sorted(self._own))
        yield from self._rest.values()

    def take(self, figures: Iterable[ListenerFigures], now: float, closed: Iterable[ListenerFigures] = ()) -> None:
        """Count what the listeners have done since the last call. `now` is monotonic, in seconds.

        One that was just closed may be among both.
        """
        listeners = {_key(each): each for each in (*figures, *closed)}
        added = self._added(listeners)
        over = {_key(each) for each in closed if not each.active}
        by_name: dict[ServicePortName, list[ListenerFigures]] = {}
        for key, each in listeners.items():
            if key not in over:
                by_name.setdefault(each.listener.service_port, []).append(each)
        self._choose(by_name, added, now)
        for name, more in added.items():
            self._series_of(name).count(more)
        self._set_gauges(by_name)

    def _series_of(self, name: ServicePortName) -> Series:
        return self._own.get(name) or self._rest[name.protocol]

    def _added(self, listeners: Mapping[_Key, ListenerFigures]) -> dict[ServicePortName, list[float]]:
        """What each service port has counted since the last time; those that have nothing are left out."""
        added: dict[ServicePortName, list[float]] = {}
        last, self._last = self._last, {}
        for key, each in listeners.items():
            if not _has_counted(each):
                continue
            counts = counts_of(each)
            more = _growth(last.get(key), counts)
            self._last[key] = tuple(counts)
            if any(more):
                name = each.listener.service_port
                before = added.get(name)
                added[name] = more if before is None else [a + b for a, b in zip(before, more, strict=True)]
        return added

    def _choose(
        self, names: Mapping[ServicePortName, object], busy: Mapping[ServicePortName, object], now: float
    ) -> None:
        """Decide who has series of its own from now on. Whoever had clients comes before who had none."""
        for name, series in list(self._own.items()):
            if name in names:
                series.present = now
            elif now - series.present >= KEPT_SECONDS:
                del self._own[name]
        replaceable = self._replaceable(busy, now)
        for name in (name for name in busy if name not in self._own):
            if len(self._own) >= self._most:
                if not replaceable:
                    break
                del self._own[replaceable.popleft()]
            self._own[name] = Series(name, now)
        for name in names:
            if len(self._own) >= self._most:
                break
            if name not in self._own:
                self._own[name] = Series(name, now)

    def _replaceable(self, busy: Mapping[ServicePortName, object], now: float) -> deque[ServicePortName]:
        """Who has series and can do without: first who is gone, longest first, then who has never had clients."""
        gone = sorted((each for each in self._own.values() if each.present < now), key=lambda each: each.present)
        idle = [each for each in self._own.values() if each.present >= now and not any(each.counts)]
        return deque(each.name for each in (*gone, *idle) if each.name not in busy)

    def _set_gauges(self, by_name: Mapping[ServicePortName, Sequence[ListenerFigures]]) -> None:
        for series in self:
            series.gauges = [0.0] * _GAUGES
        self.shown_alone = self.in_rest = 0
        for name, listeners in by_name.items():
            self._series_of(name).add_gauges(gauges_of(listeners))
            if name in self._own:
                self.shown_alone += 1
            else:
                self.in_rest += 1


def _key(figures: ListenerFigures) -> _Key:
    return figures.listener, figures.number


def _has_counted(figures: ListenerFigures) -> bool:
    """Whether there can be anything but zeros. Of thousands of Services a node uses few."""
    return bool(figures.total or figures.failed or figures.refused or figures.datagrams)


def _growth(before: Sequence[float] | None, counts: list[float]) -> list[float]:
    """How much has been counted since `before`. What a figure was too high by before is not taken back."""
    if before is None:
        return counts
    return [max(0.0, new - old) for new, old in zip(counts, before, strict=True)]


def _rest_of(protocol: Protocol) -> ServicePortName:
    return ServicePortName(REST_NAME, REST_NAME, REST_NAME, protocol)
