"""The changes of each list, as they come."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Final, TypeAlias

from msgspec import Struct

from userproxy.admin import rows
from userproxy.admin.items import Change
from userproxy.admin.parameters import Filter
from userproxy.admin.rows import Planes, Rows
from userproxy.admin.streaming import told
from userproxy.model.reports import ChangeKind, Decision

Changes: TypeAlias = AsyncGenerator[Sequence[Change[Any]], None]
"""Changes in groups: what is written at once."""

_LOOK_SECONDS: Final = 1.0
_SHARE: Final = 10
"""Looking for changes takes at most one part in so many of the loop's time."""
_GROUP: Final = 64

_TYPES: Final = {ChangeKind.ADDED: "ADDED", ChangeKind.MODIFIED: "MODIFIED", ChangeKind.REMOVED: "DELETED"}
_SYNCED: Final[Change[Any]] = Change("SYNCED")


async def connections(planes: Planes, asked: Filter) -> Changes:
    """The connections that there are, and what becomes of them and of new ones."""
    async with planes.data.watch_connections(asked.query) as watch:
        async for group in _first(rows.connections(planes, asked)):
            yield group
        async for batch in told(watch):
            for start in range(0, len(batch), _GROUP):
                part = batch[start : start + _GROUP]
                yield [Change(_TYPES[each.kind], rows.connection(each.connection)) for each in part]  # type: ignore[arg-type]


async def decisions(planes: Planes, asked: Filter) -> Changes:
    """The last decisions, as many as are asked for, and all from then on."""
    async with planes.data.watch_decisions(asked.query) as watch:
        past = await planes.data.decisions(asked.query, asked.last) if asked.last else ()
        for group in _in_groups(past):
            yield group
        yield [_SYNCED]
        told_already = set(past)
        async for batch in told(watch):
            for group in _in_groups([each for each in batch if each not in told_already]):
                yield group
            told_already.clear()  # what was decided before the past was asked for is all in the first batch


def _in_groups(made: Sequence[Decision]) -> list[list[Change[Any]]]:
    return [
        [Change("ADDED", rows.decision(each)) for each in made[start : start + _GROUP]]
        for start in range(0, len(made), _GROUP)
    ]


def looked_for(make: Callable[[Planes, Filter], Rows]) -> Callable[[Planes, Filter], Changes]:
    """The changes of a list of which nobody tells: it is made again every second, and what differs is a change."""

    async def changes(planes: Planes, asked: Filter) -> Changes:
        known: dict[str, Struct] = {}
        synced = [_SYNCED]
        while True:
            began = time.monotonic()
            seen: dict[str, Struct] = {}
            group: list[Change[Any]] = []
            async for key, item in make(planes, asked):
                seen[key] = item
                before = known.pop(key, None)
                if before != item:
                    group.append(Change("ADDED" if before is None else "MODIFIED", item))
                if len(group) >= _GROUP:
                    yield group
                    group = []
            yield [*group, *synced]
            gone = list(known.values())
            for start in range(0, len(gone), _GROUP):
                yield [Change("DELETED", item) for item in gone[start : start + _GROUP]]
            known, synced = seen, []
            await asyncio.sleep(max(_LOOK_SECONDS, _SHARE * (time.monotonic() - began)))

    return changes


async def _first(found: Rows) -> Changes:
    """What there is, and the word that this is all."""
    group: list[Change[Any]] = []
    async for _, item in found:
        group.append(Change("ADDED", item))
        if len(group) >= _GROUP:
            yield group
            group = []
    yield [*group, _SYNCED]
