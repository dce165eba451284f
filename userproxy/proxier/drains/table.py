"""Which endpoints are drained, and until when. The proxiers of all families look here for their snapshots."""

import asyncio
import heapq
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

import structlog
from msgspec import Struct, structs

from userproxy.errors import UserproxyError
from userproxy.model import Endpoint, IPFamily, ServiceName, ServicePortName
from userproxy.model.steering import Drain

log = structlog.get_logger()

MOST_DRAINS: Final = 1000
"""By request, at a time: each is looked at for each snapshot of its Service."""

MOST_LEAVING: Final = 1000
"""Endpoints of one service port that slices name no longer, at a time: a slice may name others every second."""

SLACK: Final = 1000
"""So many times more than twice as many as are of interest are planned at most."""

_NONE: Final[Mapping[Endpoint, Drain]] = {}
_NOBODY: Final[Mapping[IPFamily, "Named"]] = {}


class TooManyDrainsError(UserproxyError):
    """There is no room for another drain."""


class DrainChanges:
    """The Services of which drains have begun or ended since they were last taken, for one proxier."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self.changed = changed
        """Called when there are any."""
        self.services: dict[ServiceName, None] = {}

    def take(self) -> Collection[ServiceName]:
        """The Services, each once."""
        services, self.services = self.services, {}
        return services


class DrainTable:
    """Drains by Service and endpoint. `close` is called with one whose connections are to be closed now."""

    def __init__(self, loop: asyncio.AbstractEventLoop, close: Callable[[Drain], None] = lambda _: None) -> None:
        self._loop = loop
        self._close = close
        self._asked: dict[ServiceName, dict[Endpoint, Drain]] = {}
        self._leaving: dict[ServicePortName, dict[Endpoint, float]] = {}
        """Until when the clients of endpoints may stay that no slice names any more."""
        self._named: dict[ServicePortName, dict[IPFamily, Named]] = {}
        """Of service ports whose clients may do so, the endpoints that slices named last."""
        self._count = 0
        self._due: list[tuple[float, int, ServiceName, Endpoint, ServicePortName | None]] = []
        """What is to be looked at when, as a heap; some of it is of no interest by then."""
        self._most_planned = SLACK
        self._order = 0
        self._timer: asyncio.TimerHandle | None = None
        self._subscribers: list[DrainChanges] = []

    def subscribe(self, changed: Callable[[], None] = lambda: None) -> DrainChanges:
        """What tells one proxier of changes."""
        changes = DrainChanges(changed)
        self._subscribers.append(changes)
        return changes

    def all(self) -> list[Drain]:
        """Those by request, by Service and endpoint."""
        return [drains[endpoint] for _, drains in sorted(self._asked.items()) for endpoint in sorted(drains)]

    def of(self, service: ServiceName) -> Mapping[Endpoint, Drain]:
        """The endpoints of a Service that are drained by request."""
        return self._asked.get(service, _NONE)

    def leaving(self, name: ServicePortName) -> Collection[Endpoint]:
        """The endpoints of a service port that no slice names any more, and whose clients may stay for now."""
        return self._leaving.get(name, ())

    def concerns(self, name: ServicePortName) -> bool:
        """Whether there is anything that a change of a service port's endpoints is to respect."""
        return name.service in self._asked or name in self._leaving or name in self._named

    def put(self, drain: Drain) -> None:
        """Begin a drain, or go on with one on other terms. Raises TooManyDrainsError."""
        drains = self._asked.setdefault(drain.service, {})
        if drain.endpoint not in drains:
            if self._count >= MOST_DRAINS:
                raise TooManyDrainsError(f"{MOST_DRAINS} endpoints are drained already: end some drains first")
            self._count += 1
        drains[drain.endpoint] = drain
        self._plan(drain)
        self._tell(drain.service)

    def end(self, service: ServiceName, endpoint: Endpoint | None = None) -> list[Drain]:
        """End the drain of an endpoint of a Service, or of all its endpoints; returns those that were."""
        drains = self._asked.get(service, {})
        ended = [drains.pop(each) for each in list(drains) if endpoint in (None, each)]
        self._count -= len(ended)
        if not drains:
            self._asked.pop(service, None)
        if ended:
            self._tell(service)
        return ended

    def leave(self, name: ServicePortName, endpoints: Iterable[Endpoint], seconds: float) -> None:
        """Let the clients of endpoints stay for so long that no slice names any more."""
        found = self._leaving.setdefault(name, {})
        for endpoint in endpoints:
            if endpoint not in found and len(found) < MOST_LEAVING:
                found[endpoint] = until = self._loop.time() + seconds
                self._wake_at(until, name.service, endpoint, name)
        if not found:
            del self._leaving[name]

    def returned(self, name: ServicePortName, endpoints: Collection[Endpoint]) -> None:
        """Forget that endpoints have left which slices name again."""
        found = self._leaving.get(name)
        if found is not None:
            for endpoint in [each for each in found if each in endpoints]:
                del found[endpoint]
            if not found:
                del self._leaving[name]

    def name(self, named: "Named") -> None:
        """Take notice of the endpoints of a service port that slices name now, and whose clients may stay then."""
        self._named.setdefault(named.name, {})[named.family] = named

    def named(self, name: ServicePortName, family: IPFamily) -> tuple[Endpoint, ...]:
        """Those that slices have named last, which may have been in another process."""
        found = self._named.get(name, _NOBODY).get(family)
        return () if found is None else found.endpoints

    def forget_named(self, name: ServicePortName, family: IPFamily) -> None:
        """Clients of endpoints that leave a service port may not stay."""
        found = self._named.get(name)
        if found is not None:
            found.pop(family, None)
            if not found:
                del self._named[name]

    def forget(self, name: ServicePortName) -> None:
        """The service port is gone."""
        self._leaving.pop(name, None)
        self._named.pop(name, None)

    def state(self) -> "DrainState":
        """All there is, for another process of this node."""
        leaving = [(name, each, until) for name, found in self._leaving.items() for each, until in found.items()]
        named = (each for found in self._named.values() for each in found.values())
        return DrainState(tuple(self.all()), tuple(leaving), tuple(named))

    def restore(self, state: "DrainState") -> None:
        """Go on with the drains of another process."""
        for drain in state.asked[:MOST_DRAINS]:
            self.put(drain)
        for name, endpoint, until in state.leaving:
            self.leave(name, (endpoint,), until - self._loop.time())
        for each in state.named:
            self._restore_named(each)

    def _restore_named(self, before: "Named") -> None:
        """Take notice of what slices have named in another process, and of who has left since."""
        name = before.name
        now = self._named.get(name, _NOBODY).get(before.family)
        if now is None:
            self.name(before)
        elif left := set(before.endpoints).difference(now.endpoints, self.leaving(name)):
            self.leave(name, left, now.seconds)
            self._tell(name.service)

    def shut_down(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _plan(self, drain: Drain) -> None:
        times = [each for each in (drain.closes_at, drain.until) if each is not None]
        if times:
            self._wake_at(min(times), drain.service, drain.endpoint, None)

    def _wake_at(self, time: float, service: ServiceName, endpoint: Endpoint, name: ServicePortName | None) -> None:
        if self.planned > self._most_planned:
            self._clear_plan()
        self._order += 1
        heapq.heappush(self._due, (time, self._order, service, endpoint, name))
        if self._due[0][1] == self._order:
            self._set_timer()

    @property
    def planned(self) -> int:
        """How many times are planned, those included that are of no interest any more."""
        return len(self._due)

    def _clear_plan(self) -> None:
        """Drop the times that nothing is to be looked at any more: endpoints may come and go every second."""
        self._due = [each for each in self._due if self._is_of_interest(*each)]
        heapq.heapify(self._due)
        self._most_planned = 2 * self.planned + SLACK

    def _is_of_interest(
        self, time: float, _order: int, service: ServiceName, endpoint: Endpoint, name: ServicePortName | None
    ) -> bool:
        if name is not None:
            return self._leaving.get(name, {}).get(endpoint) == time
        drain = self._asked.get(service, _NONE).get(endpoint)
        return drain is not None and time in (drain.closes_at, drain.until)

    def _set_timer(self) -> None:
        self.shut_down()
        if self._due:
            self._timer = self._loop.call_at(self._due[0][0], self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._loop.time()
        try:
            while self._due and self._due[0][0] <= now:
                _, _, service, endpoint, name = heapq.heappop(self._due)
                if name is None:
                    self._look_at(service, endpoint, now)
                elif self._leaving.get(name, {}).get(endpoint, now + 1.0) <= now:
                    self._leaving[name].pop(endpoint)
                    if not self._leaving[name]:
                        del self._leaving[name]
                    self._tell(service)
        finally:  # what one drain raises, which the loop logs, costs no other one its time
            self._set_timer()

    def _look_at(self, service: ServiceName, endpoint: Endpoint, now: float) -> None:
        drain = self._asked.get(service, _NONE).get(endpoint)
        if drain is None:
            return
        if drain.until is not None and drain.until <= now:
            self.end(service, endpoint)
            log.info("A drain is over", service=str(service), endpoint=str(endpoint))
        elif drain.closes_at is not None and drain.closes_at <= now:
            self._asked[service][endpoint] = structs.replace(drain, closes_at=None)
            self._plan(self._asked[service][endpoint])
            self._close(drain)

    def _tell(self, service: ServiceName) -> None:
        for each in self._subscribers:
            each.services[service] = None
            each.changed()


class Named(Struct, frozen=True, gc=False):
    """The endpoints of a service port that slices name, whose clients may stay for so many seconds once none does."""

    name: ServicePortName
    family: IPFamily
    endpoints: tuple[Endpoint, ...]
    seconds: float


class DrainState(Struct, frozen=True, gc=False):
    """All drains as a value: those by request, and until when the clients of endpoints stay that have left.

    ``named`` are the endpoints that slices name, of service ports whose clients may stay: a successor that does not
    find one of them any more knows that it has left.
    """

    asked: tuple[Drain, ...] = ()
    leaving: tuple[tuple[ServicePortName, Endpoint, float], ...] = ()
    named: tuple[Named, ...] = ()
