"""ClientIP session affinity: which endpoint a client stuck to, and for how much longer."""

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from ipaddress import IPv6Address
from typing import Final

from msgspec import Struct

from userproxy.addresses import is_ipv6
from userproxy.model import Endpoint

_INDEX_BITS: Final = 22
_INDEX_MASK: Final = (1 << _INDEX_BITS) - 1
_TICKS: Final = 1000
"""Milliseconds: for 17 years of them and an index, 60 bits are enough, the largest int that takes 32 bytes."""

_SHARDS: Final = 17
"""Dictionaries of a generation. One of 100,000 entries takes 3 ms to grow. A prime, since dictionaries go by the
low bits."""

PlainClient = int | str
"""A client as messages have it, whose numbers have 64 bits at most: larger ones are `#` and hexadecimal digits."""

_Client = int | str
_Entries = dict[_Client, int]
_Generation = dict[int, _Entries]
_NOTHING: Final[_Entries] = {}


class DiscardedEntries:
    """Entries that no table needs any more, freed in steps: to free 100,000 at once takes 2 ms and more.

    `wake` is called when there is something to release after there was nothing.
    """

    __slots__ = ("_entries", "_wake")

    def __init__(self, wake: Callable[[], object]) -> None:
        self._wake = wake
        self._entries: list[_Entries] = []

    def add(self, entries: _Entries) -> None:
        if entries:
            self._entries.append(entries)
            if len(self._entries) == 1:
                self._wake()

    def release(self, count: int) -> bool:
        """Free `count` entries. True if there are more."""
        while self._entries:
            entries = self._entries[-1]
            for _ in range(min(count, len(entries))):
                entries.popitem()
                count -= 1
            if entries:
                return True
            self._entries.pop()
        return False


class AffinityState(Struct, frozen=True, gc=False, array_like=True):
    """What an affinity table has beside its entries."""

    timeout: int
    since: int
    endpoints: tuple[Endpoint | None, ...]
    dying: tuple[int, ...]
    dead: tuple[int, ...]
    reusable: tuple[int, ...]


class AffinityTable:
    """Clients of one service port in one address family, for all balancers that choose among its endpoints.

    An entry counts until `timeout` seconds after its client's last connection, to the millisecond; an edited
    timeout counts for all entries. An endpoint that no balancer's list has any more is forgotten by all its
    clients. `now` is seconds of any monotonic clock.

    There are two generations of entries. What is recorded goes to the young one. Once that has been written to for
    a whole timeout, all of the old one has expired and is let go of, and the young one becomes the old. So nothing
    is ever searched for what has expired, at most two timeouts' clients are held, and a client costs one entry of
    two integers. Entries name their endpoint by an index, so that of a gone endpoint only the index is struck out;
    it is used again when no entry can have it.
    """

    __slots__ = (
        "__weakref__",
        "_changed",
        "_dead",
        "_discarded",
        "_dying",
        "_endpoints",
        "_indices",
        "_lists",
        "_old",
        "_reusable",
        "_since",
        "_young",
        "timeout",
    )

    def __init__(self, discarded: DiscardedEntries | None = None) -> None:
        self.timeout = 0
        self._discarded = discarded
        self._lists: dict[Hashable, Collection[Endpoint]] = {}
        self._changed = False
        self._young: _Generation = {}
        self._old: _Generation = {}
        self._since = 0
        self._endpoints: list[Endpoint | None] = []
        self._indices: dict[Endpoint, int] = {}
        self._dying: list[int] = []
        self._dead: list[int] = []
        self._reusable: list[int] = []

    def __len__(self) -> int:
        """How many entries are held, expired ones included."""
        return sum(len(entries) for generation in (self._young, self._old) for entries in generation.values())

    def follow(self, balancer: Hashable, endpoints: Collection[Endpoint], timeout: int) -> None:
        """Take notice of the endpoints that `balancer` chooses from now on, and of the timeout in seconds.

        It counts when the table is next used: an endpoint that moves from one balancer's list to another's keeps its
        clients, in whatever order the lists change.
        """
        if self._lists.get(balancer) is not endpoints:
            self._lists[balancer] = endpoints
            self._changed = True
        self.timeout = timeout

    def leave(self, balancer: Hashable) -> None:
        """Take notice that `balancer` chooses no more. With the last one all entries go."""
        if self._lists.pop(balancer, None) is not None:
            self._changed = True
            if not self._lists:
                self._discard(self._young)
                self._discard(self._old)
                self._young, self._old = {}, {}

    def lookup(self, client: str, now: float, among: Collection[Endpoint]) -> Endpoint | None:
        """The endpoint that `client` still sticks to, if it is one of `among`; finding one starts its time afresh."""
        if self._changed:
            self._strike_out()
        key = _key(client)
        shard = hash(key) % _SHARDS
        entry = self._young.get(shard, _NOTHING).get(key)
        if entry is None:
            entry = self._old.get(shard, _NOTHING).get(key)
            if entry is None:
                return None
        ticks = int(now * _TICKS)
        if ticks - (entry >> _INDEX_BITS) >= self.timeout * _TICKS:
            return None
        endpoint = self._endpoints[entry & _INDEX_MASK]
        if endpoint is None or endpoint not in among:
            return None
        self._write(key, ticks, entry & _INDEX_MASK)
        return endpoint

    def peek(self, client: str, now: float, among: Collection[Endpoint]) -> Endpoint | None:
        """What :meth:`lookup` would return, without changing anything."""
        key = _key(client)
        shard = hash(key) % _SHARDS
        entry = self._young.get(shard, _NOTHING).get(key)
        if entry is None:
            entry = self._old.get(shard, _NOTHING).get(key)
        if entry is None or int(now * _TICKS) - (entry >> _INDEX_BITS) >= self.timeout * _TICKS:
            return None
        endpoint = self._endpoints[entry & _INDEX_MASK]
        return endpoint if endpoint in among else None

    def record(self, client: str, endpoint: Endpoint, now: float) -> None:
        """Let `client` stick to `endpoint`, which is in a balancer's list."""
        if self._changed:
            self._strike_out()
        self._write(_key(client), int(now * _TICKS), self._index(endpoint))

    def forget(self, client: str) -> None:
        key = _key(client)
        for generation in (self._young, self._old):
            generation.get(hash(key) % _SHARDS, _NOTHING).pop(key, None)

    def state(self) -> AffinityState:
        """All but the entries, as a value."""
        dying, dead, reusable = tuple(self._dying), tuple(self._dead), tuple(self._reusable)
        return AffinityState(self.timeout, self._since, tuple(self._endpoints), dying, dead, reusable)

    def restore(self, state: AffinityState) -> None:
        """Be as `state` says. The entries follow, and the balancers' lists are known already."""
        self.timeout, self._since = state.timeout, state.since
        self._endpoints = list(state.endpoints)
        self._indices = {endpoint: index for index, endpoint in enumerate(state.endpoints) if endpoint is not None}
        self._dying, self._dead, self._reusable = list(state.dying), list(state.dead), list(state.reusable)
        self._changed = True

    def entries(self, *, young: bool) -> Iterator[dict[PlainClient, int]]:
        """The entries of a generation, some thousands at a time. The table may be used meanwhile."""
        for shard in range(_SHARDS):
            found = (self._young if young else self._old).get(shard)
            if found:
                yield {_plain(key): entry for key, entry in found.items()}

    def written_since(self, now: float) -> dict[PlainClient, int]:
        """The young entries of clients who have come at `now` or later."""
        bound = int(now * _TICKS) << _INDEX_BITS
        shards = self._young.values()
        return {_plain(key): entry for shard in shards for key, entry in shard.items() if entry >= bound}

    def adopt(self, entries: Mapping[PlainClient, int], *, young: bool) -> None:
        """Take in entries of another process, as :meth:`entries` makes them."""
        for plain, entry in entries.items():
            key = _unplain(plain)
            shard = hash(key) % _SHARDS
            self._old.get(shard, {}).pop(key, None)
            (self._young if young else self._old).setdefault(shard, {})[key] = entry

    def merge(self, entries: Mapping[PlainClient, int], endpoints: Sequence[Endpoint | None]) -> None:
        """Take in entries of a further process, whose indices are of `endpoints`. A client's last connection counts."""
        for plain, entry in entries.items():
            endpoint = endpoints[entry & _INDEX_MASK]
            if endpoint is None:
                continue
            key = _unplain(plain)
            shard = hash(key) % _SHARDS
            known = self._young.get(shard, _NOTHING).get(key) or self._old.get(shard, _NOTHING).get(key) or 0
            ticks = entry >> _INDEX_BITS
            if ticks > known >> _INDEX_BITS:
                self._old.get(shard, {}).pop(key, None)
                self._young.setdefault(shard, {})[key] = ticks << _INDEX_BITS | self._index(endpoint)
        self._changed = True

    def clear(self) -> None:
        """Forget all entries."""
        self._young, self._old = {}, {}

    def expire(self, now: float) -> None:
        """Let go of what has expired. Using the table does so, too; this is for tables that nobody uses."""
        ticks = int(now * _TICKS)
        if (self._young or self._old) and ticks - self._since >= self.timeout * _TICKS:
            self._rotate(ticks)

    def _write(self, key: _Client, ticks: int, index: int) -> None:
        if ticks - self._since >= self.timeout * _TICKS:
            self._rotate(ticks)
        shard = hash(key) % _SHARDS
        old = self._old.get(shard)
        if old is not None:
            old.pop(key, None)
            if not old:
                del self._old[shard]
        young = self._young.get(shard)
        if young is None:
            young = self._young[shard] = {}
        young[key] = ticks << _INDEX_BITS | index

    def _rotate(self, ticks: int) -> None:
        """Nothing in the old generation was recorded after `_since`: all of it has expired."""
        self._discard(self._old)
        self._old, self._young = self._young, {}
        self._since = ticks
        self._reusable += self._dead
        self._dead, self._dying = self._dying, []

    def _discard(self, generation: _Generation) -> None:
        if self._discarded is not None:
            for entries in generation.values():
                self._discarded.add(entries)

    def _index(self, endpoint: Endpoint) -> int:
        index = self._indices.get(endpoint)
        if index is None:
            if self._reusable:
                index = self._reusable.pop()
                self._endpoints[index] = endpoint
            else:
                index = len(self._endpoints)
                self._endpoints.append(endpoint)
            self._indices[endpoint] = index
        return index

    def _strike_out(self) -> None:
        """Take the endpoints out that no list has any more."""
        self._changed = False
        for endpoint in self._indices.keys() - set().union(*self._lists.values()):
            index = self._indices.pop(endpoint)
            self._endpoints[index] = None
            self._dying.append(index)


def _key(client: str) -> _Client:
    """An address as a number, which takes a third of its text; anything else stays as it is."""
    if is_ipv6(client):
        return client if "%" in client else int(IPv6Address(client))
    try:
        a, b, c, d = client.split(".")
        return int(a) << 24 | int(b) << 16 | int(c) << 8 | int(d)
    except ValueError:
        return client


def _plain(key: _Client) -> PlainClient:
    return key if isinstance(key, str) or key < 1 << 64 else f"#{key:x}"


def _unplain(plain: PlainClient) -> _Client:
    return int(plain[1:], 16) if isinstance(plain, str) and plain.startswith("#") else plain
