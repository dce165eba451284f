"""Passive ejection: endpoints that fail again and again get no new connections for a while. Pure.

A failure is a dial that fails, or a connection that the endpoint resets before its first byte. Nothing is counted where
connections succeed: whether one has succeeded since the last failure is seen in the endpoint's counters.
"""

from collections.abc import Collection, Iterable, Iterator
from typing import Final

from msgspec import Struct

from userproxy.model import Ejection, Endpoint
from userproxy.routing.balancers.interface import Loads

TRIAL_SECONDS: Final = 2.5
"""How long a trial connection may take until something is known of it: a dial is given up after 2 s."""


class Ejected(Struct, frozen=True, gc=False, array_like=True):
    """An endpoint that is ejected until its trial succeeds, which may begin at `until`. `since` is when this began.

    Times are of CLOCK_MONOTONIC. `reason` is a clause. `by_reset` is whether connections to it come about.
    """

    endpoint: Endpoint
    since: float
    until: float
    reason: str
    by_reset: bool = False


class _Streak:
    """Failures of one kind in a row: how many, when the last one was, and what the endpoint had done well by then."""

    __slots__ = ("count", "last", "well")

    def __init__(self) -> None:
        self.count = 0
        self.last = 0.0
        self.well = 0


class _Trial:
    """One connection that shows whether an endpoint is well again: until when, and what it had done well before."""

    __slots__ = ("accepted", "answered", "until")

    def __init__(self, until: float, accepted: int, answered: int) -> None:
        self.until = until
        self.accepted = accepted
        self.answered = answered


class Ejections:
    """The endpoints of one listener that are ejected, and the failures of the others.

    Failures in a row are those with no success between them, none more than the time of an ejection after the one
    before. A dial's success is that the endpoint accepts; a connection's that a byte of the endpoint has come. Of UDP
    only the latter says anything, since every dial succeeds. Never more than half of the endpoints are ejected.
    """

    __slots__ = ("_accepting_counts", "_count", "_out", "_rule", "_streaks", "_trials", "loads")

    def __init__(self, loads: Loads, *, accepting_counts: bool) -> None:
        self.loads = loads
        self._accepting_counts = accepting_counts
        self._rule = Ejection(1, 0.0)
        self._count = 0
        """How many endpoints there are."""
        self._out: dict[Endpoint, Ejected] = {}
        self._trials: dict[Endpoint, _Trial] = {}
        self._streaks: dict[tuple[Endpoint, bool], _Streak] = {}

    def __len__(self) -> int:
        """How many endpoints are ejected now."""
        return len(self._out)

    def __iter__(self) -> Iterator[Ejected]:
        return iter(tuple(self._out.values()))

    def follow(self, endpoints: Collection[Endpoint], rule: Ejection) -> None:
        """Go on with other endpoints, or by another rule. Where more than half would be out, the first come back."""
        self._rule, self._count = rule, len(endpoints)
        if not self._out and not self._streaks:
            return
        known = frozenset(endpoints)
        for endpoint in [each for each in self._out if each not in known]:
            self._come_back(endpoint)
        self._streaks = {key: streak for key, streak in self._streaks.items() if key[0] in known}
        for ejected in sorted(self._out.values(), key=lambda each: each.until):
            if len(self._out) <= self._count // 2:
                break
            self._come_back(ejected.endpoint)

    def restore(self, ejected: Iterable[Ejected]) -> None:
        """Take over what another process has ejected."""
        self._out = {each.endpoint: each for each in ejected}

    def failed(self, endpoint: Endpoint, now: float, reason: str, *, by_reset: bool) -> Ejected | None:
        """Count a failure of an endpoint. Returns what follows if it is ejected by this one, also once more."""
        self.refresh(now)
        before = self._out.get(endpoint)
        if before is not None:
            if endpoint not in self._trials and now < before.until:
                return None  # it is of a connection from before
            self._trials.pop(endpoint, None)
            again = Ejected(endpoint, before.since, now + self._rule.seconds, before.reason, by_reset)
            self._out[endpoint] = again
            return again
        streak = self._streaks.setdefault((endpoint, by_reset), _Streak())
        well = self._well(endpoint, by_reset=by_reset)
        if well != streak.well or now - streak.last > self._rule.seconds:
            streak.count = 0
        streak.count, streak.last, streak.well = streak.count + 1, now, well
        if streak.count < self._rule.failures or len(self._out) + 1 > self._count // 2:
            return None
        failures = f"{streak.count} failures in a row" if streak.count > 1 else "a failure"
        return self.eject(Ejected(endpoint, now, now + self._rule.seconds, f"{failures}: {reason}", by_reset))

    def is_spent(self, endpoint: Endpoint) -> bool:
        """Whether an endpoint would be ejected, were it not for the others that are."""
        streaks = (self._streaks.get((endpoint, by_reset)) for by_reset in (False, True))
        return any(each is not None and each.count >= self._rule.failures for each in streaks)

    def eject(self, ejected: Ejected) -> Ejected | None:
        """Eject an endpoint, unless that would be more than half of all."""
        if len(self._out) + 1 > self._count // 2:
            return None
        self._out[ejected.endpoint] = ejected
        self._forget_streaks(ejected.endpoint)
        return ejected

    def avoided(self, now: float) -> list[Endpoint]:
        """The endpoints that get nobody now: the ejected ones whose trial is not due and has not succeeded."""
        return [each.endpoint for each in self._out.values() if self._is_avoided(each, now)]

    def chosen(self, endpoint: Endpoint, now: float) -> None:
        """Take notice that an endpoint gets a connection: if it is ejected, that is its trial."""
        if endpoint in self._out:
            load = self.loads.get(endpoint)
            accepted, answered = (0, 0) if load is None else (load.total, load.bytes_down)
            self._trials[endpoint] = _Trial(now + TRIAL_SECONDS, accepted, answered)

    def is_tried(self, endpoint: Endpoint, now: float) -> bool:
        """Whether a trial of an ejected endpoint is under way."""
        trial = self._trials.get(endpoint)
        return trial is not None and now < trial.until

    def get(self, endpoint: Endpoint) -> Ejected | None:
        """How an endpoint is ejected, if it is."""
        return self._out.get(endpoint)

    def refresh(self, now: float) -> None:
        """Take those back whose trial has succeeded. One of which nothing was heard is tried once more."""
        for endpoint, trial in list(self._trials.items()):
            if self._has_succeeded(self._out[endpoint], trial, now):
                self._come_back(endpoint)
            elif now >= trial.until:
                del self._trials[endpoint]

    def _is_avoided(self, ejected: Ejected, now: float) -> bool:
        trial = self._trials.get(ejected.endpoint)
        if trial is None or now >= trial.until:
            return now < ejected.until and not (trial is not None and self._has_succeeded(ejected, trial, now))
        return not self._has_succeeded(ejected, trial, now)

    def _has_succeeded(self, ejected: Ejected, trial: _Trial, now: float) -> bool:
        """Whether a trial connection shows that the endpoint is well.

        Where accepting alone says nothing, no failure until its time is over is a success, too.
        """
        load = self.loads.get(ejected.endpoint)
        if load is None:
            return False
        if load.bytes_down > trial.answered:
            return True
        return load.total > trial.accepted and (now >= trial.until or (self._accepting_counts and not ejected.by_reset))

    def _well(self, endpoint: Endpoint, *, by_reset: bool) -> int:
        """What grows whenever something succeeds that a failure of this kind is not."""
        load = self.loads.get(endpoint)
        if load is None:
            return 0
        return load.bytes_down if by_reset or not self._accepting_counts else load.total

    def _come_back(self, endpoint: Endpoint) -> None:
        del self._out[endpoint]
        self._trials.pop(endpoint, None)
        self._forget_streaks(endpoint)

    def _forget_streaks(self, endpoint: Endpoint) -> None:
        for by_reset in (False, True):
            self._streaks.pop((endpoint, by_reset), None)
