"""What is learned of answers to clients' addresses: whether they come back.

It is learned of pairs, the interface of a client and the node of an endpoint, by each namespace for itself. As long as
nothing is known of a pair, one client at a time finds out: it dials from its own address, and if there is no answer
within the first time limit, the same endpoint from the node's. If that is answered, it serves, and beside it there is
one more look from the client's address, since a single packet may have been lost. The others wait for what the first
one finds, though only for moments: in a network where answers come back they do so within milliseconds, and
NetworkPolicies see the right address from the first connection on; in another one only the first client is slow.

A pair that has been answered once is trusted: what gets no answer then is the endpoint's own doing, or that of a filter
which is to refuse this client, and must not be gone around by the node's address. It begins anew when the routes of its
interface change.
"""

from collections.abc import Callable, Collection, Container, Iterator
from operator import itemgetter
from typing import Final

import structlog
from msgspec import Struct

from userproxy.forwarding.log_limit import LogLimit
from userproxy.model import Endpoint, IPFamily, Protocol

log = structlog.get_logger()

MOST_PAIRS: Final = 16_384
"""Pairs that something is known of. A node has at most some hundred interfaces."""

_LINES: Final = 10
"""Pairs that are logged one by one: where no answers come back at all there may be thousands."""

_FIRST_PAUSE: Final = 10.0
_LONGEST_PAUSE: Final = 3600.0
"""Seconds until a pair without answers is looked at again: twice as many each time. No client waits for that look."""


_MOST_VAIN: Final = 8
"""Clients who may look between two times of a pair."""

_REST_SECONDS: Final = 1.0
"""For how long others go before a client who has found out nothing while they waited."""


class PairState(Struct, frozen=True, gc=False, array_like=True):
    """What is known of a pair, as a value: `answered`, or lost since `lost_since`. `pause` is the next one."""

    interface: str
    node: str
    namespace: str
    answered: bool
    lost_since: float | None
    client: str
    endpoint: Endpoint | None
    look_at: float
    pause: float


class _Notes:
    """Says which of the pairs that lose their answers are logged: the first ones, and then one a minute.

    ``learned`` is called with a pair of which more is known than before.
    """

    def __init__(self) -> None:
        self.learned: Callable[[ReturnPair], None] = lambda _: None
        self._left = _LINES
        self._limit = LogLimit()

    def take(self, now: float) -> bool:
        """Whether another one is to be logged at `now`."""
        self._left -= 1
        return self._left >= 0 or self._limit.is_due(now)


class ReturnPair:
    """Clients of one interface, and the endpoints of one node.

    `answered` is whether an answer to a client's address has come back. If none has and one to the node's address did,
    `lost_since` is when that was found out, with `client` and `endpoint`. `is_probed` is whether a client, or a look
    that no client waits for, is finding out now. Those in `waiting` are to be called once it has.
    """

    __slots__ = (
        "_notes",
        "_pause",
        "_resting",
        "_rests_until",
        "_vain",
        "answered",
        "client",
        "endpoint",
        "interface",
        "is_probed",
        "look_at",
        "lost_since",
        "namespace",
        "node",
        "waiting",
    )

    def __init__(self, interface: str, node: str, namespace: str, notes: _Notes) -> None:
        self._notes = notes
        self.namespace = namespace
        self.interface = interface
        self.node = node
        self.answered = False
        self.is_probed = False
        self.lost_since: float | None = None
        self.client = ""
        self.endpoint: Endpoint | None = None
        self.look_at = 0.0
        self.waiting: list[Callable[[], None]] = []
        self._pause = _FIRST_PAUSE
        self._vain: set[str] = set()
        """Clients who have looked since `look_at` was set."""
        self._resting = ""
        self._rests_until = 0.0

    def state(self) -> PairState:
        """What is known, as a value."""
        known = (self.answered, self.lost_since, self.client, self.endpoint, self.look_at, self._pause)
        return PairState(self.interface, self.node, self.namespace, *known)

    def restore(self, state: PairState) -> None:
        """Know what another process does, too. An answer counts more than that there was none.

        Who waits goes on, also while somebody here is still finding out.
        """
        if state.answered:
            self.answered, self.lost_since = True, None
        elif not self.answered and state.lost_since is not None:
            self.lost_since, self.client, self.endpoint = state.lost_since, state.client, state.endpoint
            self.look_at, self._pause = state.look_at, state.pause
        self._resume()

    def is_open_to(self, client: str, now: float) -> bool:
        """Whether a client may find out now, if nothing is known of the pair.

        One whose endpoints answer nobody, or who is kept from them by a filter, must not keep others from it.
        """
        return not self.is_probed and not (client == self._resting and now < self._rests_until)

    def give_up(self, client: str, now: float) -> None:
        """A client has found out nothing: leave it to the next one."""
        if self.waiting:
            self._resting, self._rests_until = client, now + _REST_SECONDS
        self.end()

    def answer(self) -> None:
        """An answer to a client's address has come back."""
        if self.lost_since is not None:
            log.info(
                "Answers to clients' addresses come back again: endpoints see them from now on",
                interface=self.interface,
                node=self.node,
            )
        self.lost_since = None
        self._vain.clear()
        self._pause = _FIRST_PAUSE
        is_news, self.answered = not self.answered, True
        self.end()
        if is_news:
            self._notes.learned(self)

    def lose(self, now: float, client: str, endpoint: Endpoint, listener: str) -> None:
        """None has come back to `client`, while the endpoint has answered the node's address."""
        if self.lost_since is None:
            self.lost_since = now
            self.client, self.endpoint = client, endpoint
            if self._notes.take(now):
                self._tell(listener)
        if now >= self.look_at:
            self.look_at = now + self._pause
            self._pause = min(_LONGEST_PAUSE, 2 * self._pause)
            self._vain.clear()
            self._notes.learned(self)
        self._vain.add(client)
        self.end()

    def _tell(self, listener: str) -> None:
        log.warning(
            "Answers to clients' addresses do not come back: endpoints see the node's address instead;"
            " `userproxy doctor` says what may be in the way, and `--client-address node` asks for no other",
            interface=self.interface or "behind a gateway",
            node=self.node,
            client=self.client,
            endpoint=str(self.endpoint),
            service_port=listener,
        )

    def end(self) -> None:
        """Nobody is finding out any more, whether or not somebody has."""
        self.is_probed = False
        self._resume()

    def _resume(self) -> None:
        waiting, self.waiting = self.waiting, []
        for resume in waiting:
            resume()

    def is_due(self, now: float, client: str = "") -> bool:
        """Whether a pair without answers is to be looked at again: by a `client` who has not yet, also between times.

        Otherwise one whom a filter refuses, and who comes more often than others, could be the one who looks each time.
        """
        if self.is_probed:
            return False
        return now >= self.look_at or (client not in self._vain and bool(client) and len(self._vain) < _MOST_VAIN)


class ReturnPairs:
    """The pairs of one protocol and address family, for each namespace its own.

    Slices say on which node an endpoint is, and tenants may write them as they like, with endpoints that answer whom
    they like. So what one namespace has seen is not believed in another: it only lets a first connection come from the
    node's address, beside which there is a look at once.
    """

    def __init__(self, protocol: Protocol, family: IPFamily) -> None:
        self.protocol = protocol
        self.family = family
        self.learned: Callable[[PairState], None] = lambda _: None
        """Called with what is found out here; not with what another process has."""
        self._ways: dict[tuple[str, str], dict[str, ReturnPair]] = {}
        self._count = 0
        self._notes = _Notes()
        self._notes.learned = lambda pair: self.learned(pair.state())

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[ReturnPair]:
        return iter([pair for way in self._ways.values() for pair in way.values()])

    def states(self) -> list[PairState]:
        """All of which something is known, as values."""
        return [pair.state() for pair in self if pair.answered or pair.lost_since is not None]

    def restore(self, state: PairState) -> None:
        """Know of a pair what another process does."""
        self.of(state.interface, state.node, state.namespace).restore(state)

    def by_way(self) -> list[tuple[ReturnPair, ...]]:
        """Those that differ by their namespaces alone, together."""
        return [tuple(way.values()) for way in self._ways.values()]

    def within(self, namespace: str) -> "NamespacePairs":
        """Those of the Services of a namespace."""
        return NamespacePairs(self, namespace)

    def of(self, interface: str, node: str, namespace: str = "") -> ReturnPair:
        """What is known of clients of an interface and endpoints of a node, by the Services of a namespace."""
        way = self._ways.get((interface, node))
        pair = None if way is None else way.get(namespace)
        return pair or self._add(interface, node, namespace)

    def known(self, interface: str, node: str, namespace: str = "") -> ReturnPair | None:
        """As :meth:`of`, without remembering that it was asked for."""
        return self._ways.get((interface, node), _NO_PAIRS).get(namespace)

    def forget(self, interfaces: Container[str]) -> None:
        """Know nothing any more of the clients of these interfaces: their routes are others now."""
        self._ways = {key: way for key, way in self._ways.items() if key[0] not in interfaces}
        self._count = sum(map(len, self._ways.values()))

    def _add(self, interface: str, node: str, namespace: str) -> ReturnPair:
        while self._count >= MOST_PAIRS:
            self._drop_oldest()
        way = self._ways.setdefault((interface, node), {})
        pair = ReturnPair(interface, node, namespace, self._notes)
        # Another look costs a connection nothing, but a flow the time until its client asks again.
        if self.protocol is Protocol.TCP and not any(each.answered for each in way.values()):
            lost = next((each for each in way.values() if each.lost_since is not None), None)
            if lost is not None:
                pair.lost_since, pair.client, pair.endpoint = lost.lost_since, lost.client, lost.endpoint
        way[namespace] = pair
        self._count += 1
        return pair

    def _drop_oldest(self) -> None:
        key, way = next(iter(self._ways.items()))
        del way[next(iter(way))]
        self._count -= 1
        if not way:
            del self._ways[key]


def first_lost(pairs: Collection[ReturnPair]) -> ReturnPair | None:
    """The one that has found out first that answers do not come back; None if any has been answered."""
    lost = [(pair.lost_since, pair) for pair in pairs if pair.lost_since is not None]
    if not lost or any(pair.answered for pair in pairs):
        return None
    return min(lost, key=itemgetter(0))[1]


class NamespacePairs:
    """The pairs of one namespace."""

    __slots__ = ("_namespace", "_pairs")

    def __init__(self, pairs: ReturnPairs, namespace: str) -> None:
        self._pairs = pairs
        self._namespace = namespace

    def of(self, interface: str, node: str) -> ReturnPair:
        """As of all pairs."""
        return self._pairs.of(interface, node, self._namespace)

    def known(self, interface: str, node: str) -> ReturnPair | None:
        """As of all pairs."""
        return self._pairs.known(interface, node, self._namespace)


_NO_PAIRS: Final[dict[str, ReturnPair]] = {}
