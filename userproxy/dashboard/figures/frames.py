"""What a tab is sent of a look: what has changed since the one that it was sent before. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from userproxy.dashboard.figures.history import History
from userproxy.dashboard.figures.looks import Look, Want
from userproxy.dashboard.figures.rates import Item

Frame = dict[str, Any]

_SLOW: Final = ("status", "problems", "drains", "faults", "successions")
"""Parts that are sent as a whole when they differ."""

MOST_ROWS: Final = 400
"""Rows of a frame: a page that reads one has the next one wait until it has answered whoever uses it."""


class Frames:
    """Makes the frames of one tab. Rows that are as they were are not sent again; `gone` names those that went."""

    def __init__(self, want: Want) -> None:
        self._want = want
        self._is_first = True
        self._services: Mapping[str, Item] = {}
        self._connections: Mapping[int, Item] = {}
        self._slow: dict[str, Any] = {}

    def look(self, look: Look, history: History) -> list[Frame]:
        """The frames of a look: first the rows for which the last one has no room, then that."""
        frame: Frame = {"kind": "look", "number": look.number, "time": look.time, "trouble": look.trouble}
        if look.trouble:
            return [frame]
        services = _changes(self._services, look.services)
        frame["services"], self._services = services, look.services
        if self._is_first:
            frame["history"] = {"all": history.of_all(), "services": _histories(look, history)}
            self._is_first = False
        for part in _SLOW:
            value = getattr(look, part)
            if self._slow.get(part) != value:
                frame[part] = self._slow[part] = value
        if self._want.subject is not None:
            detail = look.details.get(self._want.subject)
            if detail is not None:
                frame["detail"] = {
                    "key": self._want.subject.key,
                    "endpoints": list(detail.endpoints.values()),
                    "portals": detail.portals,
                    "paths": detail.paths,
                }
        if self._want.connections:
            connections = look.connections.get(self._want.subject, {})
            frame["connections"] = _changes(self._connections, connections)
            self._connections = connections
        return [*_rows_before(frame), frame]

    def decisions(self, items: list[Item], missing: int) -> Frame:
        """The frame of decisions, before which `missing` others were that are not known any more."""
        return {"kind": "decisions", "items": items, "missing": missing}


def _rows_before(frame: Frame) -> Iterator[Frame]:
    """Frames of rows of which the frame of a look has too many, and which it has no more afterwards."""
    for part in ("services", "connections"):
        changes = frame.get(part, {"changed": []})
        rows = changes["changed"]
        changes["changed"] = rows[:MOST_ROWS]
        for begin in range(MOST_ROWS, len(rows), MOST_ROWS):
            yield {"kind": "rows", part: {"changed": rows[begin : begin + MOST_ROWS], "gone": []}}
    if "history" in frame:
        series = list(frame["history"]["services"].items())
        frame["history"]["services"] = dict(series[:MOST_ROWS])
        for begin in range(MOST_ROWS, len(series), MOST_ROWS):
            yield {"kind": "rows", "history": dict(series[begin : begin + MOST_ROWS])}


def _changes(before: Mapping[Any, Item], now: Mapping[Any, Item]) -> dict[str, Any]:
    changed = [row for key, row in now.items() if before.get(key) is not row and before.get(key) != row]
    return {"changed": changed, "gone": [key for key in before if key not in now]}


def _histories(look: Look, history: History) -> dict[str, dict[str, Sequence[float]]]:
    """By service port and name, without series that there is nothing in."""
    found = {key: history.of(key)._asdict() for key in look.services}
    named = {key: {name: values for name, values in series.items() if values} for key, series in found.items()}
    return {key: series for key, series in named.items() if series}
