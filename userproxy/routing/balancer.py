"""Who gets the next connection of a service port: the client's own endpoint, or the one that a balancer chooses."""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from itertools import repeat, starmap
from operator import itemgetter
from random import Random
from typing import Final

from userproxy.model import BalancerName, Ejection, Endpoint, ListenerName, Protocol, Snapshot
from userproxy.model.reports import Choice
from userproxy.routing.affinity import AffinityTable
from userproxy.routing.balancers.board import BalancerBoard
from userproxy.routing.balancers.custom import CustomBalancers, CustomMethod
from userproxy.routing.balancers.ejections import Ejected, Ejections
from userproxy.routing.balancers.interface import Loads, Method, Pool
from userproxy.routing.balancers.methods import METHODS
from userproxy.routing.balancers.round_robin import round_robin
from userproxy.routing.balancers.shared.mirror import Decider, MirroredEjections
from userproxy.routing.balancers.state import BalancerState

SUSPECT_SECONDS: Final = 5.0
"""How long an endpoint that could not be reached is passed over while another one is left.

The original gives a dead endpoint its turn each time, so with one black hole of two every second client waits.
About as long as a cluster needs to take a dead Pod out of the slice; then one client tries it again.
"""

_NO_ENDPOINTS: Final[frozenset[Endpoint]] = frozenset()
_NO_WEIGHTS: Final[Mapping[Endpoint, int]] = {}
_DRAWN: Final[Callable[[tuple[float, Endpoint]], Endpoint]] = itemgetter(1)
_NO_LOADS: Final[Loads] = {}


class Balancer:
    """Chooses endpoints for one listener from its latest snapshot.

    `affinity_table` is called for the listener's table when a snapshot first asks for affinity: balancers that are
    to share their clients' affinity get the same one. `board` is told of endpoints that are ejected and of faults, and
    `custom` has the balancers of other packages.
    """

    __slots__ = (
        "_affinity",
        "_affinity_table",
        "_board",
        "_choose",
        "_custom",
        "_ejected",
        "_ejections",
        "_endpoints",
        "_loads",
        "_members",
        "_method",
        "_name",
        "_random",
        "_suspects",
        "_usable",
        "_wary",
        "_weights",
        "ejections",
        "fault",
        "listener",
    )

    def __init__(
        self,
        random: Random,
        affinity_table: Callable[[ListenerName], AffinityTable] = lambda _: AffinityTable(),
        board: BalancerBoard | None = None,
        custom: CustomBalancers | None = None,
    ) -> None:
        self._board = board
        self._custom = custom
        self.fault = ""
        """Why what the Service asks for is not used, and round-robin in its place; empty if it is."""
        self.listener: ListenerName | None = None
        """Whose it is, once a snapshot says so."""
        self._random = random
        self._affinity_table = affinity_table
        self._affinity: AffinityTable | None = None
        self._endpoints: list[Endpoint] = []
        self._weights = _NO_WEIGHTS
        self._usable: list[Endpoint] = []
        """The endpoints that get new connections: those with a weight, or all if none has one."""
        self._members: frozenset[Endpoint] = _NO_ENDPOINTS
        """The same as the affinity table knows them, if there is one."""
        self._name: str = BalancerName.ROUND_ROBIN
        self._loads = _NO_LOADS
        self._method: Method | None = None
        self._choose: Callable[[str, float], Endpoint | None] = _nobody
        self._suspects: dict[Endpoint, float] = {}
        self._ejections: Ejections | MirroredEjections | None = None
        self._ejected: tuple[Ejected, ...] = ()
        """Those of another process, until a snapshot comes."""
        self._wary = False
        """Whether any endpoint may be a suspect or ejected."""
        self.ejections = 0
        """How many endpoints were ejected so far."""

    @property
    def name(self) -> str:
        """What the Service asks for."""
        return self._name

    @property
    def has_learned(self) -> bool:
        """Whether it may know more than its snapshot says, of one that nobody has had a connection by."""
        return self._wary or bool(self.ejections)

    def state(self) -> BalancerState:
        """Whose turn it is, as a value."""
        weights = tuple(self._weights[endpoint] for endpoint in self._endpoints) if self._weights else ()
        turn = () if self._method is None else self._method.turn
        suspects, ejected = tuple(self._suspects.items()), tuple(self._ejections or self._ejected)
        return BalancerState(tuple(self._endpoints), weights, self._name, turn, suspects, ejected, self.ejections)

    def restore(self, state: BalancerState) -> None:
        """Go on as the balancer of another process. A snapshot is to follow."""
        self._endpoints, self._name = list(state.endpoints), state.name
        self._weights = dict(zip(state.endpoints, state.weights, strict=True)) if state.weights else _NO_WEIGHTS
        self._suspects, self._ejected = dict(state.suspects), state.ejected
        self.ejections = max(self.ejections, state.ejections)
        self._wary = True
        self._renew()
        if self._affinity is not None:
            self._members = frozenset(self._usable)
        if self._method is not None:
            self._method.resume(state.turn)
        if self._ejections is not None:
            self._restore_ejected(self._ejections)

    def watch(self, loads: Loads) -> None:
        """Take what endpoints have to do from `loads`, which is as it is by then."""
        if loads is not self._loads:
            turn = () if self._method is None else self._method.turn
            self._loads = loads
            self._renew()
            if self._method is not None:
                self._method.resume(turn)
            if self._ejections is not None:
                self._ejections.loads = loads

    def update(self, snapshot: Snapshot) -> None:
        """Follow a new snapshot.

        Only another *set* of endpoints shuffles anew: an unchanged one keeps its turn. Clients of
        endpoints that stay keep them, and an edited timeout counts from their last connection.
        """
        self.listener = snapshot.listener
        endpoints = snapshot.endpoints
        changed = len(endpoints) != len(self._endpoints) or set(endpoints) != set(self._endpoints)
        if changed:
            # A shuffle without an instruction of our own for each endpoint: this is part of each change.
            draws = starmap(self._random.random, repeat((), len(endpoints)))
            self._endpoints = list(map(_DRAWN, sorted(zip(draws, endpoints, strict=True))))
            self._suspects.clear()
        weights = dict(zip(snapshot.endpoints, snapshot.weights, strict=True)) if snapshot.weights else _NO_WEIGHTS
        if changed or weights != self._weights or snapshot.balancer != self._name:
            if snapshot.balancer != self._name:
                self.fault = ""
            self._weights, self._name = weights, snapshot.balancer
            self._renew()
            changed = True
        self._eject_by(snapshot.ejection)
        if snapshot.affinity_timeout is None:
            self.leave_affinity()
            return
        if changed or self._affinity is None:
            self._members = frozenset(self._usable)
        if self._affinity is None:
            self._affinity = self._affinity_table(snapshot.listener)
        self._affinity.follow(self, self._members, snapshot.affinity_timeout)

    def _renew(self) -> None:
        """Make another balancer, for the endpoints as they are now."""
        weights, endpoints = self._weights, self._endpoints
        self._usable = endpoints
        of_usable = [1] * len(endpoints)
        if weights:
            self._usable = [endpoint for endpoint in endpoints if weights.get(endpoint, 1)] or endpoints
            of_usable = [weights.get(endpoint, 1) or 1 for endpoint in self._usable]
        if not endpoints:
            self._method, self._choose = None, _nobody
            return
        later = None if self._board is None or self._board.later is None else partial(self._board.later, self)
        self._method = self._made(Pool(self._usable, of_usable, self._random, self._loads, self._method, later))
        self._choose = self._method.choose

    def _made(self, pool: Pool) -> Method:
        """The balancer of the name that the Service gives; round-robin where it cannot be had, or not yet."""
        make = METHODS.get(self._name)
        if make is not None:
            return make(pool)
        custom = self._custom
        if custom is not None and not self.fault:
            found = custom.find(self._name, self._renew)
            if callable(found):
                return CustomMethod(found, pool, custom.clock, self._fail)
            if found is not None:
                self._fail(found)
        return round_robin(pool)

    def _fail(self, reason: str) -> None:
        self.fault = reason
        if self._board is not None:
            self._board.note_fault(self)

    def _eject_by(self, rule: Ejection | None) -> None:
        if rule is None or self.listener is None:
            self._ejections, self._ejected = None, ()
            return
        if self._ejections is None:
            decider, is_tcp = self._decider, self.listener.service_port.protocol is Protocol.TCP
            if decider is not None:
                self._ejections = MirroredEjections(self.listener, self._loads, decider)
            else:
                self._ejections = Ejections(self._loads, accepting_counts=is_tcp)
            self._restore_ejected(self._ejections)
        self._ejections.follow(self._usable, rule)

    @property
    def _decider(self) -> Decider | None:
        return None if self._board is None else self._board.decider

    @property
    def mirrored(self) -> MirroredEjections | None:
        """The endpoints that are ejected because another process says so; None where none does."""
        return self._ejections if isinstance(self._ejections, MirroredEjections) else None

    def eject(self, ejected: Ejected) -> None:
        """Another process says that an endpoint is ejected, which it has counted."""
        mirrored = self.mirrored
        if mirrored is not None and ejected.endpoint in self._usable:
            mirrored.eject(ejected)
            self._suspects.pop(ejected.endpoint, None)
            self._wary = True
            if self._board is not None:
                self._board.note(self)

    def pass_over(self, endpoint: Endpoint, until: float) -> None:
        """Another process could not reach an endpoint: pass over it until then."""
        if endpoint in self._usable:
            self._suspects[endpoint] = max(until, self._suspects.get(endpoint, 0.0))
            self._wary = True

    def _restore_ejected(self, ejections: Ejections | MirroredEjections) -> None:
        ejections.restore(self._ejected)
        self._ejected = ()
        if len(ejections) and self._board is not None:
            self._board.note(self)

    def retire(self) -> None:
        """Its listener is closed: tell of nothing more. Dials that are under way may still ask it."""
        self.leave_affinity()
        self.listener = None

    def leave_affinity(self) -> None:
        """Take no more part in the affinity of its clients, until a snapshot asks for it."""
        if self._affinity is not None:
            self._affinity.leave(self)
            self._affinity = None
            self._members = _NO_ENDPOINTS

    def pick(self, client: str, now: float, tried: Collection[Endpoint] = ()) -> Endpoint | None:
        """The endpoint for a new connection of `client`, or None if there is none.

        `tried` are the endpoints that this connection could not reach: it gets another one as long as
        there is another, and the client then sticks to that one. Ejected endpoints come last, and suspects
        before them, unless the client sticks to one of these. `now` is seconds, monotonic.
        """
        affinity = self._affinity
        if affinity is None and not tried and not self._wary:
            choose = self._choose
            return choose(client, now)
        ejections = self._ejections if self._wary else None
        if ejections is not None:
            ejections.refresh(now)
        endpoint = None
        if affinity is not None and not tried:
            endpoint = affinity.lookup(client, now, self._members)
            if endpoint is not None and ejections is not None and endpoint in ejections.avoided(now):
                endpoint = None
        if endpoint is None:
            if self._method is not None:
                endpoint = self._method.choose(client, now, self._avoided(tried, now))
            if affinity is not None and endpoint is not None:
                affinity.record(client, endpoint, now)
        if ejections is not None and endpoint is not None:
            ejections.chosen(endpoint, now)
        return endpoint

    def peek(self, client: str, now: float, tried: Collection[Endpoint] = ()) -> Choice:
        """What :meth:`pick` would return now, and why. Changes nothing."""
        if self._affinity is not None and not tried:
            endpoint = self._affinity.peek(client, now, self._members)
            if endpoint is not None and endpoint not in self._out(now):
                return Choice(endpoint, "the client sticks to it")
        if self._method is None:
            return Choice(None, "there is no endpoint")
        suspects = {endpoint for endpoint, until in self._suspects.items() if until > now}
        avoided, all_tried = self._least_avoided(suspects, self._out(now), tried)
        endpoint, reason = self._method.peek(client, now, avoided)
        if self._ejections is not None and self._ejections.get(endpoint) is not None:
            reason += ", and this will be its trial"
        return Choice(endpoint, f"{reason}, and all have been tried" if all_tried else reason)

    def passed_over(self, endpoint: Endpoint, now: float) -> float:
        """For how many seconds others go before an endpoint, because it could not be reached; 0 if they do not."""
        ejected = None if self._ejections is None else self._ejections.get(endpoint)
        until = self._suspects.get(endpoint, now)
        return max(0.0, until - now, 0.0 if ejected is None else ejected.until - now)

    def ejected(self, now: float) -> tuple[Ejected, ...]:
        """The endpoints that are ejected now."""
        if self._ejections is None:
            return ()
        self._ejections.refresh(now)
        return tuple(self._ejections)

    @property
    def affinity_entries(self) -> int:
        """Clients of the service port in this family who may stick to an endpoint, some of them no longer."""
        return 0 if self._affinity is None else len(self._affinity)

    def suspect(self, endpoint: Endpoint, now: float, reason: str = "it cannot be reached") -> str:
        """Take notice that an endpoint could not be reached: pass over it for SUSPECT_SECONDS.

        Where the Service says after how many failures endpoints are ejected, that counts in place of it. Returns a
        clause for people if the endpoint is ejected now.
        """
        if self._ejections is not None:
            return self._failed(self._ejections, endpoint, now, reason, by_reset=False)
        self._pass_over_for_now(endpoint, now)
        return ""

    def reset_early(self, endpoint: Endpoint, now: float) -> str:
        """Take notice that an endpoint has reset a connection before its first byte. As :meth:`suspect`, if at all."""
        if self._ejections is None:
            return ""
        return self._failed(self._ejections, endpoint, now, "connections are reset before a byte comes", by_reset=True)

    def _failed(
        self, ejections: Ejections | MirroredEjections, endpoint: Endpoint, now: float, reason: str, *, by_reset: bool
    ) -> str:
        if endpoint not in self._usable:
            return ""
        ejected = ejections.failed(endpoint, now, reason, by_reset=by_reset)
        if ejected is not None:
            self._wary = True
            if ejected.since == now:
                self.ejections += 1
            if self._board is not None:
                self._board.note(self)
            return f"ejected for {ejected.until - now:g} s"
        if ejections.is_spent(endpoint):  # half of all are ejected already
            self._pass_over_for_now(endpoint, now)
        return ""

    def _pass_over_for_now(self, endpoint: Endpoint, now: float) -> None:
        until, decider, listener = now + SUSPECT_SECONDS, self._decider, self.listener
        if decider is not None and listener is not None:
            decider.suspected(listener, endpoint, until)
        self._suspects[endpoint] = until
        self._wary = True

    def forget(self, client: str) -> None:
        """Let go of a client whose every dial failed: its next connection starts without a preference."""
        if self._affinity is not None:
            self._affinity.forget(client)

    def _out(self, now: float) -> Collection[Endpoint]:
        """The endpoints that get nobody because they are ejected."""
        return () if self._ejections is None else self._ejections.avoided(now)

    def _avoided(self, tried: Collection[Endpoint], now: float) -> Collection[Endpoint]:
        """What to pass over: suspects and ejected ones, too, as long as that leaves an endpoint."""
        if not self._wary:
            return self._least_avoided((), (), tried)[0]
        self._suspects = {endpoint: until for endpoint, until in self._suspects.items() if until > now}
        self._wary = bool(self._suspects) or bool(self._ejections)
        return self._least_avoided(self._suspects.keys(), self._out(now), tried)[0]

    def _least_avoided(
        self, suspects: Collection[Endpoint], out: Collection[Endpoint], tried: Collection[Endpoint]
    ) -> tuple[Collection[Endpoint], bool]:
        """What to pass over of these so that an endpoint is left, and whether all have been tried."""
        for others in (suspects, ()) if suspects else ((),):
            if others or out:
                avoided = {*others, *out, *tried}
                if not avoided.issuperset(self._usable):
                    return avoided, False
        if len(tried) >= len(self._usable) and set(tried).issuperset(self._usable):
            return (), True
        return tried, False


def _nobody(_client: str, _now: float) -> None:
    """Nobody gets a connection where there is no endpoint."""
