"""By which client and portal a service port's traffic comes: what connections and decisions add up to. Pure."""

from collections.abc import Iterable
from typing import Final, NamedTuple, TypeAlias

from userproxy.dashboard.figures.rates import Item, rounded

MOST_CLIENTS: Final = 8
"""Clients that are shown by themselves: those with most traffic."""

OTHERS: Final = ""
"""The client's name of all the others together."""

_Key: TypeAlias = tuple[str, str | None, str | None]
_Path: TypeAlias = tuple[str, str]


class _Known(NamedTuple):
    up: int = 0
    down: int = 0


class _Sums:
    __slots__ = ("active", "down", "failed", "opened", "up")

    def __init__(self) -> None:
        self.active = self.opened = self.failed = self.up = self.down = 0

    def add(self, other: "_Sums") -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Paths:
    """Adds up connections and bytes by client address and portal, between one look and the next."""

    def __init__(self) -> None:
        self._live: dict[_Key, _Known] = {}
        self._sums: dict[_Path, _Sums] = {}
        self._looked = False

    def decided(self, decision: Item) -> None:
        """A client's connection has ended, or was never served. One that was retried goes on."""
        if decision["verdict"] == "retried":
            return
        known = self._live.pop(_key(decision), None)
        sums = self._of(decision)
        sums.opened += known is None
        sums.failed += decision["verdict"] != "served"
        _grow(sums, decision, known)

    def rows(self, connections: Iterable[Item], seconds: float) -> list[Item]:
        """The paths since the last look: the busiest clients each with its portals, all others together.

        At the first call nothing has a rate: what there is has begun before.
        """
        live = {}
        for item in connections:
            key = _key(item)
            known = self._live.get(key)
            now = _Known(item["bytes_up"], item["bytes_down"])
            sums = self._of(item)
            sums.active += 1
            if self._looked:
                sums.opened += known is None
                _grow(sums, item, known)
            live[key] = now
        found, self._live, self._sums = self._sums, live, {}
        self._looked = True
        return _rows(found, max(seconds, 1e-3))

    def _of(self, item: Item) -> _Sums:
        path = _host(item["client"]), item["portal"] or ""
        sums = self._sums.get(path)
        if sums is None:
            sums = self._sums[path] = _Sums()
        return sums


def _grow(sums: _Sums, item: Item, known: _Known | None) -> None:
    up, down = known or _Known()
    sums.up += max(0, item["bytes_up"] - up)
    sums.down += max(0, item["bytes_down"] - down)


def _rows(found: dict[_Path, _Sums], seconds: float) -> list[Item]:
    weights: dict[str, tuple[int, int, int]] = {}
    for (client, _), sums in found.items():
        opened, active, moved = weights.get(client, (0, 0, 0))
        weights[client] = opened + sums.opened, active + sums.active, moved + sums.up + sums.down
    shown = set(sorted(weights, key=lambda client: (weights[client], client), reverse=True)[:MOST_CLIENTS])
    together: dict[_Path, _Sums] = {}
    for (client, portal), sums in found.items():
        together.setdefault((client if client in shown else OTHERS, portal), _Sums()).add(sums)
    others = len(weights) - len(shown)
    return [
        {
            "client": client,
            "clients": others if client == OTHERS else 1,
            "portal": portal or None,
            "active": sums.active,
            "opened_rate": rounded(sums.opened / seconds),
            "failed_rate": rounded(sums.failed / seconds),
            "up_rate": rounded(sums.up / seconds),
            "down_rate": rounded(sums.down / seconds),
        }
        for (client, portal), sums in sorted(together.items(), key=lambda each: (each[0][0] == OTHERS, *each[0]))
    ]


def _key(item: Item) -> _Key:
    """What no two connections of a service port at one time have in common."""
    return item["client"], item["portal"], item["protocol"]


def _host(client: str) -> str:
    return client.rpartition(":")[0].strip("[]")
