"""What each client does: the connections that it has, and those that have ended between two looks at them. Pure."""

from collections.abc import Iterable
from statistics import median
from typing import Final, NamedTuple, TypeAlias

from userproxy.cli.output.tables import Item
from userproxy.cli.top.rates import Row

_ERRORS: Final = frozenset({"refused", "dropped", "reset", "timed-out"})

_Key: TypeAlias = tuple[str, str, str, str, str | None]


class _Bytes(NamedTuple):
    up: int = 0
    down: int = 0


class _Count:
    """What one client has done since the last look."""

    __slots__ = ("active", "dials", "down", "errors", "opened", "up")

    def __init__(self) -> None:
        self.active = self.opened = self.errors = self.up = self.down = 0
        self.dials: list[float] = []


class ClientTraffic:
    """Adds up by client's address. Holds no more than the clients since the last look, and the connections then."""

    def __init__(self) -> None:
        self._live: dict[_Key, _Bytes] = {}
        self._counts: dict[str, _Count] = {}

    def decided(self, decision: Item) -> None:
        """A decision has come. One that says `retried` is of a connection that goes on."""
        if decision["verdict"] == "retried":
            return
        count = self._count(decision)
        before = self._live.pop(_key(decision), None)
        count.opened += before is None
        count.errors += decision["verdict"] in _ERRORS
        self._add(count, decision, before)

    def rows(self, connections: Iterable[Item], seconds: float) -> list[Row]:
        """A row for each client that has or had connections since the last look, so many seconds ago."""
        live: dict[_Key, _Bytes] = {}
        for item in connections:
            count, key = self._count(item), _key(item)
            before = self._live.pop(key, None)
            count.active += 1
            count.opened += before is None
            if item["protocol"] == "TCP":  # a flow has nobody to wait for
                count.dials.append(item["dial_seconds"])
            self._add(count, item, before)
            live[key] = _Bytes(item["bytes_up"], item["bytes_down"])
        self._live = live
        counts, self._counts = self._counts, {}
        return [_row(client, count, max(seconds, 1e-6)) for client, count in counts.items()]

    def _count(self, item: Item) -> _Count:
        client = str(item["client"]).rpartition(":")[0].strip("[]")
        found = self._counts.get(client)
        if found is None:
            found = self._counts[client] = _Count()
        return found

    @staticmethod
    def _add(count: _Count, item: Item, before: _Bytes | None) -> None:
        before = before or _Bytes()
        count.up += max(0, item["bytes_up"] - before.up)
        count.down += max(0, item["bytes_down"] - before.down)


def _key(item: Item) -> _Key:
    """What no two connections at one time have in common."""
    return item["client"], item["protocol"], item["service"], item["port"], item["portal"]


def _row(client: str, count: _Count, seconds: float) -> Row:
    dials = sorted(count.dials)
    half = median(dials) if dials else None
    most = dials[int(len(dials) * 0.99)] if dials else None
    opened, up, down, errors = (each / seconds for each in (count.opened, count.up, count.down, count.errors))
    return Row(client, count.active, opened, up, down, errors, half, most)
